"""Training: the loop, its recipes, and what is asked of the model."""

from vitlite.train import objectives, recipes
from vitlite.train.evaluation import evaluate, outputs, predictions
from vitlite.train.recipes import Recipe
from vitlite.train.trainer import Trainer

__all__ = ["Recipe", "Trainer", "evaluate", "objectives", "outputs", "predictions", "recipes"]
