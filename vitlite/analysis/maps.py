"""What all analyses of attention ask of their maps, checked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["checked", "prefix_tokens"]


def checked(attention: Iterable[Tensor] | Tensor) -> Iterator[Tensor]:
    """The maps of one layer after the other, each checked; none is kept.

    Raises:
        ValueError: If a map is not ``[B, heads, T, T]``, its rows are no probabilities, or there is no layer.
    """
    number = 0
    for number, layer in enumerate(attention, start=1):
        if layer.ndim != 4 or layer.shape[-1] != layer.shape[-2]:
            raise ValueError(
                f"attention of layer {number} has shape {list(layer.shape)}; expected [batch, heads, tokens, tokens], "
                "one such tensor a layer (put a single layer into a list)"
            )
        sums = layer.sum(dim=-1, dtype=torch.float32)
        if layer.min() < 0 or (sums - 1).abs().max() > 0.02:
            raise ValueError(
                f"the rows of layer {number} are no probabilities: smallest weight {layer.min().item():.3g}, sums "
                f"from {sums.min().item():.3g} to {sums.max().item():.3g}; pass the weights after "
                "the softmax, before dropout"
            )
        yield layer
        del layer  # so that the caller's generator holds the only one
    if number == 0:
        raise ValueError("attention has no layers; a generator can be read once: make a new one")


def prefix_tokens(tokens: int, grid: tuple[int, int]) -> int:
    """How many tokens stand before the patches.

    Raises:
        ValueError: If there are fewer tokens than patches.
    """
    rows, cols = grid
    if rows < 1 or cols < 1 or tokens < rows * cols:
        raise ValueError(f"there are {tokens} tokens, and a grid of {rows}×{cols} has {rows * cols} patches; pass the "
                         "grid (rows, columns) of patches that the maps were made on")  # fmt: skip
    return tokens - rows * cols
