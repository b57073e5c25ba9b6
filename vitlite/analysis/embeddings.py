"""What the two tables before the first block have learned (Sec. 4.5, Fig. 7 left and centre)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Filters", "bias_by_offset", "embedding_filters", "position_similarity"]


class Filters(NamedTuple):
    """Principal components ``[count, C, P, P]``, of length 1 each, and the share of the variance along each."""

    components: Tensor
    explained: Tensor


def embedding_filters(weight: Tensor, patch_size: int | tuple[int, int], count: int = 28, channels: int = 3) -> Filters:
    """Principal components of the patch projection's filters, as tiles of the form of a patch.

    The D filters are centred; the components are the right singular vectors, largest first. Their sign is arbitrary:
    it is chosen so that the weight of largest magnitude is positive.

    Args:
        weight: ``[D, C·P·P]``, channel by channel and row by row, as ``PatchEmbed`` has it, or a convolution's
            ``[D, C, P, P]``.
        patch_size: P, or (height, width).
        count: How many components.
        channels: C.

    Raises:
        ValueError: If the weight is not of that form, or has fewer than ``count`` components.

    Example:
        >>> embedding_filters(torch.randn(64, 48), patch_size=4, count=12).components.shape
        torch.Size([12, 3, 4, 4])
    """
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows = weight.detach().float().flatten(1) if weight.ndim >= 2 else weight
    if rows.ndim != 2 or rows.shape[1] != channels * height * width:
        raise ValueError(f"weight has shape {list(weight.shape)}; expected [D, {channels * height * width}] for "
                         f"patches of {height}×{width} pixels with {channels} channels")  # fmt: skip
    if not 1 <= count <= min(rows.shape):
        raise ValueError(f"count is {count}; {rows.shape[0]} filters of {rows.shape[1]} weights have from 1 to "
                         f"{min(rows.shape)} components")  # fmt: skip
    _, spread, directions = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    directions = directions[:count]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    tiles = (directions * largest.sign()).unflatten(1, (channels, height, width))
    return Filters(tiles, (spread.square() / spread.square().sum())[:count])


def position_similarity(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosine similarity of each position embedding with every other, laid out by place twice.

    Args:
        table: ``[N, D]``, one row a patch; class token and other rows before the patches are left out by the caller.
        grid: Rows and columns of patches.

    Returns:
        ``[rows, cols, rows, cols]``: ``[r, c]`` is the map of the patch in row r and column c.

    Raises:
        ValueError: If the table has another number of rows than the grid has patches.

    Example:
        >>> position_similarity(torch.eye(4), grid=(2, 2))[0, 1]
        tensor([[0., 1.],
                [0., 0.]])
    """
    rows, cols = grid
    if table.ndim != 2 or len(table) != rows * cols:
        raise ValueError(
            f"table has shape {list(table.shape)}, the grid {rows}×{cols} has {rows * cols} patches: expected one "
            "row a patch; leave out the rows of class token, distillation token and registers, which come first"
        )
    unit = torch.nn.functional.normalize(table.detach().float(), dim=-1)
    return (unit @ unit.T).unflatten(1, grid).unflatten(0, grid)


def bias_by_offset(bias: Tensor) -> Tensor:
    """What relative positions add to the logits, by how far the key stands behind the query in the sequence.

    A relative table has no vector for a place, so it has no similarity of places. Its effect is a matrix of logits that
    depend on the offset (and on the query).

    Args:
        bias: ``[..., N, N]`` logits that were added for query i and key j; leading axes are averaged.

    Returns:
        ``[2N − 1]``: the mean over all pairs with offset j − i, from −(N − 1) to N − 1.

    Raises:
        ValueError: If the last two axes differ.

    Example:
        >>> bias_by_offset(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        tensor([-1.,  0.,  1.])
    """
    if bias.ndim < 2 or bias.shape[-1] != bias.shape[-2]:
        raise ValueError(f"bias has shape {list(bias.shape)}; expected [..., N, N]")
    mean = bias.detach().float().flatten(0, -3).mean(dim=0) if bias.ndim > 2 else bias.detach().float()
    count = len(mean)
    return torch.stack([mean.diagonal(offset).mean() for offset in range(1 - count, count)])
