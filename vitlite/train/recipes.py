"""Recipes: optimiser, schedule, augmentation and duration, as one named bundle that cannot change underfoot."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["RECIPES", "Recipe", "get", "learning_rate", "optimizer", "parameter_groups"]


@dataclass(frozen=True)
class Recipe:
    """How to train, apart from what and on which data.

    Attributes:
        name: What the recipe is called.
        steps: Optimiser steps; a run's length is fixed in steps, never in seconds.
        batch_size: Images a step.
        learning_rate: Peak of the schedule.
        warmup_steps: Steps of linear rise to the peak; then half a cosine down to zero.
        weight_decay: Decoupled decay of the weight matrices (AdamW); biases, norms, tokens and positions have none.
        betas: Adam's decay rates of the two running means.
        clip_norm: Largest global norm of the gradient, or None for no clipping.
        label_smoothing: Probability taken from the true class and spread over all.
        flip: Mirror each training image with probability one half.
        crop_padding: Padding in pixels of the random crop of each training image; 0 for none.
        cutmix: Share of the training images into which CutMix pastes a piece of another one.
        validate_every: Steps between two validations; the last step always has one.
    """

    name: str
    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    flip: bool = True
    crop_padding: int = 0
    cutmix: float = 0.0
    validate_every: int = 500

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("warmup_steps", 0),
            ("crop_padding", 0),
            ("validate_every", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} of {self.steps} steps; it must end before the run does"
            )
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, weight_decay is {self.weight_decay}; "
                             "the first must be above 0, the second not below")  # fmt: skip
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix is {self.cutmix}; it is a share of the images, in [0, 1]")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it lies in [0, 1)")

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
        # For chapters on a CPU: scenes, a model of at most 0.5M parameters, about a minute on two cores.
        Recipe("quick", steps=600, learning_rate=2e-3, warmup_steps=60, validate_every=100),
        # CIFAR-10 from scratch on a CPU, in two stages: most steps on images shrunk to 24 pixels, where a step costs
        # half, then the rest at 32 pixels. Accuracy and time stand in the record `train_cifar10`.
        Recipe("cifar10-small", steps=17_500, learning_rate=2e-3, warmup_steps=1_000, label_smoothing=0.1,
               crop_padding=3, cutmix=0.5, validate_every=700),
        Recipe("cifar10-small-finetune", steps=7_000, learning_rate=1e-3, warmup_steps=200, label_smoothing=0.1,
               crop_padding=4, cutmix=0.5, validate_every=700),
    )
}  # fmt: skip


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; known are {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise to the peak, then half a cosine to zero."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for the optimiser: weight matrices, which decay, and all other parameters, which do not.

    Biases, norms, class tokens and position tables stay free: pulling them to zero regularises nothing.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if name.endswith("weight") and p.ndim >= 2]
    others = [p for name, p in trained if not (name.endswith("weight") and p.ndim >= 2)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Adam with decoupled weight decay) over the two parameter groups."""
    groups = parameter_groups(model, recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
