"""Which images a step sees, and what is done to them: a function of the seed and the step, and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from vitlite.data import augment
from vitlite.data.datasets import Split
from vitlite.train.recipes import Recipe


class Batches:
    """The batches of a run, by their step: each epoch is a fresh permutation of the images, its rest dropped."""

    def __init__(self, train: Split, recipe: Recipe, seed: int) -> None:
        self.train, self.recipe, self.seed = train, recipe, seed
        self.size = min(recipe.batch_size, len(train))
        self.generator = torch.Generator()  # of the CPU, so that every device sees the same images
        self.epoch, self.order = -1, torch.empty(0)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images ``[B, C, H, W]`` of a step, and their targets."""
        epoch, index = divmod(step, len(self.train) // self.size)
        if epoch != self.epoch:
            self.generator.manual_seed(stream(self.seed, "epoch", epoch))
            order = torch.randperm(len(self.train), generator=self.generator)
            self.epoch, self.order = epoch, order.to(self.train.images.device)
        chosen = self.order[index * self.size : (index + 1) * self.size]
        self.generator.manual_seed(stream(self.seed, "step", step))
        images, labels = self.train.images[chosen], self.train.labels[chosen]
        return augmented(self.recipe, images, labels, self.train, self.generator)


def augmented(
    recipe: Recipe, images: Tensor, labels: Tensor, split: Split, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """All that a recipe does to a batch before the model sees it, drawn for each image alone.

    Images uint8 ``[B, C, H, W]`` and labels ``[B]`` of a split become normalised float images ``[B, C, H, W]`` and the
    targets: the labels, or probabilities ``[B, classes]`` once images are mixed.
    """
    targets = labels
    if recipe.crop_padding:
        images = augment.random_crop(images, recipe.crop_padding, generator)
    if recipe.flip:
        images = augment.random_flip(images, generator)
    if recipe.trivial_augment:
        images = augment.trivial_augment(images, generator)
    if recipe.erase:
        images = augment.random_erase(images, recipe.erase, generator)
    if recipe.mixup:
        images, targets = augment.mix(images, labels, len(split.classes), recipe.cutmix, recipe.mixup, generator)
    elif recipe.cutmix:
        images, targets = augment.cutmix(images, labels, len(split.classes), recipe.cutmix, generator)
    return augment.normalise(images, split.mean, split.std), targets


def stream(seed: int, what: str, number: int, piece: int = 0) -> int:
    """The seed of one stream of random numbers: another for each epoch, each step and each piece of a step.

    Torch refuses more than 64 bits, hence the remainder. Its generator on the CPU keeps the last 32, so seeds that
    differ by a multiple of 2**22 see the same batches.
    """
    whole = (seed * 2 + {"epoch": 0, "step": 1}[what]) * 10**9 + number + piece * 10**15
    return whole if -(2**63) <= whole < 2**64 else whole % (2**63 - 1)
