"""Recipes: optimiser, schedule, augmentation and duration, as one named bundle that cannot change underfoot.

Each named recipe opens with its card: what it is for, on which hardware, how long it takes and how far it gets. Time
and accuracy are stated by the record that the card names; without one there is no promise.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vitlite import checks
from vitlite.train.muon import Muon, hidden_matrices

__all__ = ["RECIPES", "Recipe", "get", "learning_rate", "optimizer", "parameter_groups"]

# Fields, by what they may be: a whole number of at least so much, a share in [0, 1], a rate in [0, 1), a choice.
WHOLE = {"steps": 1, "batch_size": 1, "warmup_steps": 0, "crop_padding": 0, "validate_every": 1}
SHARES = ("cutmix", "erase")
RATES = ("label_smoothing", "average")
CHOICES = {"optimizer": ("adamw", "sgd", "muon"), "schedule": ("cosine", "linear", "constant")}


@dataclass(frozen=True)
class Recipe:
    """How to train, apart from what and on which data. Dropout and drop path belong to the model.

    Attributes:
        name: What the recipe is called.
        steps: Optimiser steps; a run's length is fixed in steps, never in seconds.
        batch_size: Images a step.
        micro_batch: Images at a time, if the batch does not fit at once: gradients are added up until the step's batch
            is through. It must divide the batch. Dropout and drop path are drawn for each micro-batch.
        optimizer: ``"adamw"``; ``"sgd"`` with momentum 0.9; or ``"muon"``, orthogonalised momentum for the matrices
            inside the network and AdamW for the rest.
        learning_rate: Peak of the schedule.
        schedule: What follows warmup: half a ``"cosine"`` or a ``"linear"`` fall to zero, or ``"constant"``.
        warmup_steps: Steps of linear rise to the peak.
        weight_decay: Decoupled decay of the weight matrices (for SGD coupled, as is custom); biases, norms, tokens and
            positions have none.
        betas: Adam's decay rates of the two running means.
        clip_norm: Largest global norm of the gradient, or None for no clipping.
        average: Decay a step of a running average of the weights (EMA), which is then what is validated and kept; 0
            for none. It rises to this value over the first steps.
        label_smoothing: Probability taken from the true class and spread over all.
        flip: Mirror each training image with probability one half.
        crop_padding: Padding in pixels of the random crop of each training image; 0 for none.
        trivial_augment: One random operation of random strength on each training image (TrivialAugment).
        erase: Share of the training images in which a random rectangle is erased.
        cutmix: Share of the training images into which CutMix pastes a piece of another one.
        mixup: Strength α of Mixup, which blends all other training images with one another; 0 for none.
        validate_every: Steps between two validations; the last step always has one.
        keep_best: Keep the weights of the best validation instead of the last.

    Example:
        >>> get("quick").replace(average=0.99).lasting(60).warmup_steps
        6
    """

    name: str
    steps: int
    batch_size: int = 128
    micro_batch: int | None = None
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    average: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = True
    crop_padding: int = 0
    trivial_augment: bool = False
    erase: float = 0.0
    cutmix: float = 0.0
    mixup: float = 0.0
    validate_every: int = 500
    keep_best: bool = False

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            checks.at_least(least, **{name: getattr(self, name)})
        for name, known in CHOICES.items():
            checks.choice(known, **{name: getattr(self, name)})
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share of the images, in [0, 1]")
        for name in RATES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies in [0, 1)")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps} of {self.steps} steps; it must end before the run "
                             "does")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.mixup < math.inf):
            raise ValueError(f"learning_rate is {self.learning_rate}, weight_decay is {self.weight_decay}, mixup is "
                             f"{self.mixup}; the first must be above 0, the others not below, and all finite")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; it must be above 0, or None for no clipping")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers in [0, 1)")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch is {self.micro_batch}, batch_size is {self.batch_size}; the first must "
                             "divide the second")

    def replace(self, **changes) -> Recipe:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def lasting(self, steps: int) -> Recipe:
        """A copy that takes ``steps`` steps; warmup and the time between validations keep their share of the run."""
        share = steps / self.steps
        every = max(1, round(self.validate_every * share))
        return self.replace(steps=steps, warmup_steps=int(self.warmup_steps * share), validate_every=every)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # For:      chapters on a CPU: scenes, a model of at most 0.5M parameters.
        # Hardware: two CPU cores.
        # Expected: the records `chapters` (time) and the chapters themselves (accuracy).
        Recipe("quick", steps=600, learning_rate=2e-3, warmup_steps=60, validate_every=100),
        # For:      CIFAR-10 from scratch on a CPU, in two stages: most steps on images shrunk to 24 pixels, where a
        #           step costs half, then the rest at 32 pixels. A model of about 0.8M parameters.
        # Hardware: one or two CPU cores with bfloat16 instructions.
        # Expected: the record `train_cifar10` at scale cpu, both time and accuracy.
        Recipe("cifar10-small", steps=17_500, learning_rate=2e-3, warmup_steps=1_000, label_smoothing=0.1,
               crop_padding=3, validate_every=700),
        Recipe("cifar10-small-finetune", steps=7_000, learning_rate=1e-3, warmup_steps=200, label_smoothing=0.1,
               crop_padding=4, cutmix=0.5, validate_every=700),
        # For:      CIFAR-10 from scratch at 32 pixels as far as a ViT of at most 3M parameters gets: 400 passes over
        #           45,000 images, strong augmentation, averaged weights.
        # Hardware: one GPU with bfloat16 (written for an H200).
        # Expected: no record yet; `python -m experiments train_cifar10 --scale full` makes it. The aim is
        #           93.6 % of the test images in 6 minutes.
        Recipe("cifar10", steps=35_200, batch_size=512, learning_rate=2e-3, warmup_steps=900, weight_decay=0.1,
               average=0.9995, label_smoothing=0.1, crop_padding=4, trivial_augment=True, erase=0.25, cutmix=0.5,
               mixup=0.8, validate_every=880, keep_best=True),
        # For:      pre-training as in Dosovitskiy et al. (2021), App. B, Table 3, the row of ImageNet: AdamW with
        #           strong decay, 10,000 steps of warmup, a batch of 4,096 by accumulation; the model has dropout 0.1.
        #           300 epochs of 1.28M images. (ImageNet-21k: weight_decay 0.03, schedule "linear".)
        # Hardware: several GPUs, through torchrun.
        # Expected: no record yet; the paper's figures are for the paper's pre-processing.
        Recipe("paper-pretrain", steps=93_800, batch_size=4_096, micro_batch=512, learning_rate=3e-3,
               warmup_steps=10_000, weight_decay=0.3, validate_every=2_500),
        # For:      fine-tuning as in the same appendix: SGD with momentum 0.9, cosine, no decay, clipping at 1,
        #           a batch of 512, on a model with a fresh head (`reset_head`). The step count is that for CIFAR, the
        #           warmup that of the released code; the paper sweeps the rate over 0.001, 0.003, 0.01 and 0.03.
        # Hardware: one GPU.
        # Expected: no record yet.
        Recipe("paper-finetune", steps=10_000, batch_size=512, micro_batch=128, optimizer="sgd", learning_rate=1e-2,
               warmup_steps=500, weight_decay=0.0, validate_every=500),
        # For:      ImageNet alone, as in DeiT (Touvron et al., 2021): 300 epochs of 1.28M images in batches of 1,024,
        #           a rate of 5e-4 for each 512 of them, strong augmentation; the model has drop path 0.1. DeiT takes
        #           RandAugment and repeated augmentation where this recipe takes TrivialAugment.
        # Hardware: several GPUs, through torchrun.
        # Expected: no record yet.
        Recipe("deit", steps=375_000, batch_size=1_024, micro_batch=256, learning_rate=1e-3, warmup_steps=6_250,
               clip_norm=None, label_smoothing=0.1, trivial_augment=True, erase=0.25, cutmix=0.5, mixup=0.8,
               validate_every=5_000, keep_best=True),
    )
}


def get(name: str) -> Recipe:
    """The recipe of that name.

    Example:
        >>> get("paper-finetune").optimizer
        'sgd'
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; known are {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise to the peak, then what the schedule says.

    Example:
        >>> recipe = Recipe("try", steps=100, learning_rate=1.0, schedule="linear", warmup_steps=20)
        >>> learning_rate(recipe, 9), learning_rate(recipe, 60)
        (0.5, 0.5)
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return recipe.learning_rate * left[recipe.schedule]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for the optimiser: weight matrices, which decay, and all other parameters, which do not.

    Biases, norms, class tokens and position tables stay free: pulling them to zero regularises nothing.

    Example:
        >>> decaying, free = parameter_groups(torch.nn.Linear(4, 2), weight_decay=0.05)
        >>> decaying["weight_decay"], decaying["params"][0].shape, free["params"][0].shape
        (0.05, torch.Size([2, 4]), torch.Size([2]))
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if name.endswith("weight") and p.ndim >= 2]
    others = [p for name, p in trained if not (name.endswith("weight") and p.ndim >= 2)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the two parameter groups: AdamW (decoupled weight decay), SGD with momentum, or Muon,
    which takes the hidden matrices out of the first group.

    Example:
        >>> optimizer(torch.nn.Linear(4, 2), get("paper-finetune")).defaults["momentum"]
        0.9
    """
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, fused=True)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    hidden = hidden_matrices(model)
    inside = {id(p) for p in hidden}
    groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in inside]
    matrices = {"params": hidden, "orthogonal": True, "weight_decay": recipe.weight_decay}
    return Muon([matrices, *(group for group in groups if group["params"])], recipe.learning_rate, recipe.betas)
