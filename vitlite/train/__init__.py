"""Training: the loop, its recipes, and what is asked of the model."""

from vitlite.train import objectives, recipes
from vitlite.train.recipes import Recipe
from vitlite.train.trainer import Trainer, evaluate

__all__ = ["Recipe", "Trainer", "evaluate", "objectives", "recipes"]
