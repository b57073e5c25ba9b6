"""What all analyses of attention ask of their maps, checked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import Tensor

from vitlite import checks

TOLERANCE = 0.01  # how far a row's sum may be from 1: rounding to bfloat16 stays below


def checked(attention: Iterable[Tensor] | Tensor) -> Iterator[Tensor]:
    """The maps of one layer after the other, each checked; none is kept.

    Whoever takes a map must let go of it (``del``) before asking for the next, or two are in memory. ``map`` lets go of
    what it handed on; ``enumerate`` and ``zip`` do not.
    """
    if attention is None:
        raise TypeError("attention is None: fused attention forms no maps; ask the model's library for explicit "
                        "attention ('eager' in transformers)")
    if not isinstance(attention, Iterable):
        raise TypeError(f"attention is {type(attention).__name__}; expected tensors [batch, heads, tokens, tokens], "
                        "one a layer")
    if hasattr(attention, "__len__") and len(attention) == 0:
        raise ValueError("attention is empty: the model gave no maps, since fused attention forms none; ask its "
                         "library for explicit attention (attn_implementation='eager' in transformers)")
    first = None

    def check(layer: Tensor, number: int) -> Tensor:
        nonlocal first
        _check_shape(layer, number, first or getattr(layer, "shape", None))
        _check_rows(layer, number)
        first = layer.shape
        return layer

    yield from map(check, attention, count(1))
    if first is None:
        raise ValueError("attention has no layers; a generator can be read once: make a new one")


def _check_shape(layer: Tensor, number: int, first: torch.Size | None) -> None:
    if not isinstance(layer, Tensor):
        raise TypeError(f"attention of layer {number} is {type(layer).__name__}; expected a tensor [batch, heads, "
                        "tokens, tokens] (fused attention forms none: ask for explicit attention)")
    if layer.ndim != 4 or layer.shape[-1] != layer.shape[-2] or not layer.numel():
        raise ValueError(f"attention of layer {number} has shape {list(layer.shape)}; expected "
                         "[batch, heads, tokens, tokens], one such tensor a layer (put a single layer into a list)")
    if layer.shape != first:
        raise ValueError(f"attention of layer {number} has shape {list(layer.shape)}, of layer 1 {list(first)}; all "
                         "layers must agree")


def _check_rows(layer: Tensor, number: int) -> None:
    sums, least = layer.sum(dim=-1, dtype=precision(layer)), layer.min()
    if least >= 0 and (sums - 1).abs().max() <= TOLERANCE:  # false also where there is a NaN
        return
    if least.isnan():
        advice = "there are values that are no numbers: did the training diverge, or the logits overflow?"
    elif least < 0:
        advice = "these look like logits: pass logits.softmax(dim=-1)"
    elif (layer.sum(dim=-2, dtype=precision(layer)) - 1).abs().max() <= TOLERANCE:
        advice = "its columns do: pass attention.transpose(-2, -1)"
    else:
        advice = "pass the weights after the softmax, before dropout (model.eval()), with the columns of all tokens"
    raise ValueError(f"the rows of layer {number} do not sum to 1: sums from {sums.min().item():.3g} to "
                     f"{sums.max().item():.3g}, smallest weight {least.item():.3g}; {advice}")


def check_tensor(values: Tensor, name: str, expected: str) -> None:
    """A tensor, and no array or list."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is {type(values).__name__}; expected a tensor {expected}")


def check_values(values: Tensor, name: str, expected: str) -> None:
    """A tensor of finite numbers: one NaN would spread to all that is computed from it."""
    check_tensor(values, name, expected)
    if not values.isfinite().all():
        raise ValueError(f"{name} holds {(~values.isfinite()).sum().item()} values that are not finite; did the "
                         "training diverge?")


def precision(values: Tensor) -> torch.dtype:
    """The type to compute in: that of ``values``, or float32 if it is coarser."""
    return torch.promote_types(values.dtype, torch.float32)


def as_grid(grid: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches: a single number stands for a square."""
    return checks.grid((grid, grid) if isinstance(grid, int) else grid)


def prefix_tokens(tokens: int, grid: tuple[int, int]) -> int:
    """How many tokens stand before the patches."""
    rows, cols = as_grid(grid)
    if tokens < rows * cols:
        raise ValueError(f"there are {tokens} tokens, and a grid of {rows}×{cols} has {rows * cols} patches; pass the "
                         "grid (rows, columns) of patches that the maps were made on")
    return tokens - rows * cols


def token_rows(maps: Tensor, grid: tuple[int, int], token: int | None) -> Tensor:
    """The row of a prefix token, or the patches' mean row: ``[..., T, T]`` -> ``[..., rows, cols]``."""
    prefix = prefix_tokens(maps.shape[-1], grid)
    if token is None:
        rows = maps[..., prefix:, prefix:].mean(dim=-2, dtype=precision(maps))
    elif isinstance(token, int) and 0 <= token < prefix:
        rows = maps[..., token, prefix:].to(precision(maps))
    else:
        raise ValueError(f"token is {token!r}; there are {prefix} tokens before the patches: pass one of them, or "
                         "token=None for the mean of the patches' rows, which average pooling reads")
    return rows.unflatten(-1, as_grid(grid))
