"""vitlite: the Vision Transformer, small enough to read and complete enough to use."""

from vitlite.model import ViT, ViTConfig

__version__ = "0.1.0"
__all__ = ["ViT", "ViTConfig"]
