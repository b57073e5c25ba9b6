"""What numbers, sizes, grids and tensors must be: one check and one message for each.

The rule: a value is checked where a user hands it in, once, and nowhere behind. So a configuration checks its fields, a
model its images at the door of ``ViT``, an analysis its maps; what these call trusts them. ``PatchEmbed`` and
``Attention`` check their input where they stand alone, and not inside a ``ViT``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

Size = int | tuple[int, int]
Grid = tuple[int, int]


def at_least(least: int, **numbers: int) -> None:
    """Every number, given by its name, is an int and not below ``least``."""
    for name, number in numbers.items():
        if not isinstance(number, int):
            raise TypeError(f"{name} is {number!r}; expected an int")
        if number < least:
            raise ValueError(f"{name} is {number}; it must be at least {least}")


def choice(known: Iterable[str], **values: object) -> None:
    """Every value, given by its name, is one of the known."""
    known = list(known)
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} is {_short(value)}; expected one of {', '.join(map(repr, known))}")


def kind(kind: type, **values: object) -> None:
    """Every value, given by its name, is of this kind."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {_short(value)}; expected a {kind.__name__}")


def _short(value: object) -> str:
    return text if len(text := repr(value)) < 80 else f"a {type(value).__name__}"


def pair(size: Size, name: str = "size") -> tuple[int, int]:
    """A size in pixels as (height, width), both at least 1: a single number stands for a square."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise TypeError(f"{name} is {size!r}; expected an int, or two as (height, width)")
    if min(sides) < 1:
        raise ValueError(f"{name} is {size}; it must be at least 1 pixel")
    return sides[0], sides[1]


def grid(grid: Grid, name: str = "grid") -> tuple[int, int]:
    """Rows and columns of patches: two ints, both at least 1."""
    if not isinstance(grid, (tuple, list)) or len(grid) != 2 or not all(isinstance(side, int) for side in grid):
        raise TypeError(f"{name} is {grid!r}; expected two ints, (rows, columns)")
    if min(grid) < 1:
        raise ValueError(f"{name} is {grid[0]}×{grid[1]}: both sides must be at least 1")
    return grid[0], grid[1]


def divides(image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """Patches of this size fill an image of that size."""
    for side, step in zip(image_size, patch_size, strict=True):
        if side % step:
            patch = step if patch_size[0] == patch_size[1] else f"{patch_size[0]}×{patch_size[1]}"
            raise ValueError(f"image is {image_size[0]}×{image_size[1]}, patch size is {patch}: {side} is not a "
                             f"multiple of {step}; crop, pad or resize the image, or pass another patch_size")


def strides(size: tuple[int, int], stride: tuple[int, int]) -> None:
    """A convolution's stride divides both sides of what it reads."""
    if size[0] % stride[0] or size[1] % stride[1]:
        raise ValueError(f"input is {size[0]}×{size[1]}, stride is {stride[0]}: it must divide both; crop or pad")


def hidden(mask_ratio: float, patches: int) -> int:
    """How many of so many patches a ratio hides: at least one, and not all."""
    count = round(min(max(0.0, mask_ratio), 1.0) * patches)  # NaN becomes 0, which is refused
    if not 0 < count < patches:
        raise ValueError(f"mask_ratio is {mask_ratio}: of {patches} patches the encoder would see {patches - count}; "
                         "expected a ratio between 0 and 1 that leaves at least one seen and one hidden; change the "
                         "ratio, or make patches smaller")
    return count


def heads(embed_dim: int, num_heads: int) -> None:
    """The heads share the width evenly."""
    at_least(1, embed_dim=embed_dim, num_heads=num_heads)
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim is {embed_dim}, num_heads is {num_heads}: every head needs the same whole number "
                         "of channels; choose heads that divide the width")


def images(images: Tensor, in_channels: int, image_size: Size | None = None) -> None:
    """Floating-point images ``[B, C, H, W]`` of so many channels and of this size; None stands for any."""
    height, width = ("height", "width") if image_size is None else pair(image_size)
    kind(Tensor, images=images)
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise ValueError(f"images have shape {list(images.shape)}, expected [batch, {in_channels}, {height}, {width}]: "
                         "four axes, channels second; permute, or add a batch axis with images[None]")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; expected floating point, normalised as in training: "
                        "(images / 255 - mean) / std")
    if image_size is not None and images.shape[2:] != (height, width):
        raise ValueError(f"image is {images.shape[2]}×{images.shape[3]}, the model was built for {height}×{width}; "
                         "resize the image, or make the model fit it with model.at_resolution((height, width))")


def precision(images: Tensor, weight: Tensor) -> None:
    """Images of the weights' type; under autocast only not double precision on one side alone, as numpy has it."""
    if images.dtype == weight.dtype:
        return
    mends = torch.is_autocast_enabled(images.device.type) and torch.float64 not in (images.dtype, weight.dtype)
    if not mends:
        raise TypeError(f"images are {images.dtype}, the model's weights {weight.dtype}; pass "
                        f"images.to({weight.dtype})")


def tokens(tokens: Tensor, embed_dim: int, count: int | None = None, what: str = "tokens have shape") -> None:
    """Tokens ``[B, count, D]``; None stands for any number."""
    kind(Tensor, tokens=tokens)
    expected = ["batch", "tokens" if count is None else count, embed_dim]
    if tokens.ndim != 3 or tokens.shape[2] != embed_dim or count not in (None, tokens.shape[1]):
        hint = "" if count is None else "; the stride of patch_embed must equal patch_size, its width embed_dim"
        raise ValueError(f"{what} {list(tokens.shape)}, expected [{', '.join(map(str, expected))}]{hint}")


def queries(query: Tensor, count: int, width: int, of_each: bool = False) -> None:
    """Queries ``[B, h, T, D/h]`` of so many tokens, whose heads together, or each, have this width."""
    if query.ndim != 4 or query.shape[2] != count or query.shape[3] * (1 if of_each else query.shape[1]) != width:
        width = width if of_each else f"{width} / heads"
        raise ValueError(f"queries have shape {list(query.shape)}, expected [batch, heads, {count}, {width}]")


def no_maps(return_attention: bool) -> None:
    """A graph that torch.fx traced without knowing whether maps are wanted gives none, and is asked for none."""
    if return_attention:
        raise ValueError("this model was traced without attention maps; trace it with "
                         'concrete_args={"return_attention": True}')


for _check in ("images", "precision", "tokens", "divides", "strides", "queries", "no_maps"):
    torch.fx.wrap(_check)  # torch.fx takes a check as one step of the graph, and does not look inside
