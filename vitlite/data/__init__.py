"""Image sets as uint8 tensors with labels, and masks where there are any: ``load`` them by name or path."""

from .datasets import Split, Splits, load
from .scenes import Cues

__all__ = ["Cues", "Split", "Splits", "load"]
