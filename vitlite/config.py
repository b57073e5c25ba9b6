"""What fixes the shape of a Vision Transformer, and the checks that numbers, sizes and images pass at the border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vitlite import position

__all__ = ["ViTConfig", "at_least", "check_images", "pair"]

Size = int | tuple[int, int]


def pair(size: Size, name: str = "size") -> tuple[int, int]:
    """A size as (height, width): a single number stands for a square.

    Args:
        size: One number, or two.
        name: What it is the size of, for the message.

    Raises:
        TypeError: If it is neither an int nor two.

    Example:
        >>> pair(32), pair((32, 48))
        ((32, 32), (32, 48))
    """
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise TypeError(f"{name} is {size!r}; expected an int, or two as (height, width)")
    return sides[0], sides[1]


def at_least(least: int, **numbers: int) -> None:
    """That every number, given by its name, is an int and not below ``least``.

    Raises:
        TypeError: If one is no int.
        ValueError: If one is smaller.

    Example:
        >>> at_least(1, depth=12, num_heads=0)
        Traceback (most recent call last):
        ValueError: num_heads is 0; it must be at least 1
    """
    for name, number in numbers.items():
        if not isinstance(number, int):
            raise TypeError(f"{name} is {number!r}; expected an int")
        if number < least:
            raise ValueError(f"{name} is {number}; it must be at least {least}")


def check_images(images: Tensor, in_channels: int, image_size: Size | None = None) -> None:
    """That a model can read these images.

    Args:
        images: ``[B, C, H, W]``, floating point.
        in_channels: Channels C that the model was built for.
        image_size: Size in pixels that it was built for; None where any size will do.

    Raises:
        TypeError: If they are no tensor, or not floating point.
        ValueError: If they do not have four axes, the channels second, or are of another size.

    Example:
        >>> check_images(torch.zeros(8, 3, 32, 32), in_channels=3, image_size=32)
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images are a {type(images).__name__}; expected a tensor [batch, channels, height, width]")
    height, width = ("height", "width") if image_size is None else pair(image_size)
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [batch, {in_channels}, {height}, {width}]: four axes, "
            "channels second; permute, or add a batch axis with images[None]"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}; expected floating point, normalised as in training: "
            "(images / 255 - mean) / std"
        )
    if image_size is not None and images.shape[2:] != (height, width):
        raise ValueError(
            f"image is {images.shape[2]}×{images.shape[3]}, the model was built for {height}×{width}; resize the "
            "image, or make the model fit it with model.at_resolution((height, width))"
        )


@dataclass(frozen=True)
class ViTConfig:
    """Everything that fixes the shape of a ViT. Sizes in pixels, as one number or (height, width).

    Attributes:
        image_size: Size of the input images (H, W).
        patch_size: Size of a patch (P); must divide the image size.
        in_channels: Channels of the images (C).
        num_classes: Number of classes, hence of logits.
        embed_dim: Width D of the tokens.
        depth: Number L of blocks.
        num_heads: Heads of each attention; must divide ``embed_dim``.
        mlp_dim: Hidden width of each MLP.
        pool: What represents the image: the class ``"token"`` (Eq. 4) or the ``"mean"`` of the patch tokens
            (App. D.3).
        class_token: Whether there is a class token; by default where it is pooled, and with the mean only on
            request.
        distillation: Whether a distillation token follows it, with a head of its own (DeiT); the logits are the
            mean of both heads', as in the released code.
        registers: How many register tokens come next: free tokens that no head reads.
        position: Kind of position embedding (App. D.4): ``"learned-1d"``, ``"learned-2d"``, ``"relative"``,
            ``"sincos-2d"`` or ``"none"``; see ``vitlite.position``.
        prefix_positions: Whether class, distillation and register tokens carry positions as well (with
            ``"sincos-2d"`` they never do).
        pool_norm: Final LayerNorm ``"before"`` pooling (the paper) or ``"after"`` (timm, for the mean).
        head: ``"linear"``, or ``"mlp"``: one tanh layer of width D in front, as in pre-training.
        zero_head: Whether a new head starts at zero, as in the official code; otherwise it starts normal with
            variance 1 / D.
        dropout: Dropout rate after the embeddings and after every dense layer but the qkv projection (App. B).
        drop_path: Stochastic depth: the rate at which the last block's branches are skipped, for each
            image alone; it grows linearly with depth from 0.
        layer_norm_eps: Epsilon of every LayerNorm.
        gelu: ``"exact"`` or ``"tanh"``, the approximation that the official code uses.

    Raises:
        TypeError: If a number, a size or a rate is of another type.
        ValueError: If a size does not fit another; the message says which and what to do.

    Example:
        >>> config = ViTConfig(image_size=(32, 48), patch_size=4, num_classes=10)
        >>> config.grid, config.num_patches, config.prefix_tokens
        ((8, 12), 96, 1)
    """

    image_size: Size = 224
    patch_size: Size = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: Literal["token", "mean"] = "token"
    class_token: bool | None = None
    distillation: bool = False
    registers: int = 0
    position: Literal["none", "learned-1d", "learned-2d", "relative", "sincos-2d"] = "learned-1d"
    prefix_positions: bool = True
    pool_norm: Literal["before", "after"] = "before"
    head: Literal["linear", "mlp"] = "linear"
    zero_head: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6
    gelu: Literal["exact", "tanh"] = "exact"

    def __post_init__(self) -> None:
        names = "in_channels", "num_classes", "embed_dim", "depth", "num_heads", "mlp_dim"
        at_least(1, **{name: getattr(self, name) for name in names})
        at_least(0, registers=self.registers)
        for name in ("image_size", "patch_size"):
            height, width = pair(getattr(self, name), name)
            at_least(1, **{f"height of {name}": height, f"width of {name}": width})
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, (height, width))
        for name in ("dropout", "drop_path", "layer_norm_eps"):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected a number")
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        choices = {"pool": ("token", "mean"), "pool_norm": ("before", "after"), "head": ("linear", "mlp"),
                   "gelu": ("exact", "tanh"), "position": position.KINDS}  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {known}")
        if self.pool == "token" and self.class_token is False:
            raise ValueError("pool is 'token', class_token is False: nothing to pool; pass pool='mean'")
        position.check_width(self.position, self.embed_dim)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim is {self.embed_dim}, num_heads is {self.num_heads}: every head needs the same whole "
                "number of channels; choose heads that divide the width"
            )
        (height, width), (patch_height, patch_width) = pair(self.image_size), pair(self.patch_size)
        patch = patch_height if patch_height == patch_width else f"{patch_height}×{patch_width}"
        for side, step in ((height, patch_height), (width, patch_width)):
            if side % step:
                raise ValueError(
                    f"image is {height}×{width}, patch size is {patch}: {side} is not a multiple of {step}; "
                    "crop, pad or resize the image, or pass another patch_size"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (patch_height, patch_width) = pair(self.image_size), pair(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def num_patches(self) -> int:
        """N = H · W / P²."""
        return self.grid[0] * self.grid[1]

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token: as asked for, or else where it is pooled."""
        return self.pool == "token" if self.class_token is None else self.class_token

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand in front of the patches: class token, distillation token, registers."""
        return self.has_class_token + self.distillation + self.registers

    @property
    def table_prefix(self) -> int:
        """How many rows of the position table belong to prefix tokens: all of these or none."""
        return self.prefix_tokens if self.prefix_positions and self.position != "sincos-2d" else 0
