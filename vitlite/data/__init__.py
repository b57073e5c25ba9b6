"""Image sets as uint8 tensors with labels, and masks where there are any: ``load`` them by name or path."""

from vitlite.data.datasets import Split, Splits, fitted, load, load_all
from vitlite.data.scenes import Cues

__all__ = ["Cues", "Split", "Splits", "fitted", "load", "load_all"]
