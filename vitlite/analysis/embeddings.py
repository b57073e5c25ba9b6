"""What the two tables before the first block have learned (Sec. 4.5, Fig. 7 left and centre)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vitlite import checks
from vitlite.analysis.maps import as_grid, check_values, precision


class Filters(NamedTuple):
    """Principal components of filters.

    Example:
        >>> components, explained = embedding_filters(torch.randn(64, 3, 4, 4))
        >>> components.shape, explained.shape
        (torch.Size([28, 3, 4, 4]), torch.Size([28]))
    """

    components: Tensor  #: ``[count, C, P, P]``, each of length 1.
    explained: Tensor  #: ``[count]``, the share of the filters' variance along each.


@torch.no_grad()
def embedding_filters(weight: Tensor, patch_size: int | tuple[int, int] | None = None, count: int = 28) -> Filters:
    """Principal components of the patch projection's filters, as tiles of the form of a patch.

    The D filters are centred; the components are the right singular vectors, largest first. Their sign is arbitrary: it
    is chosen so that the weight of largest magnitude is positive.

    Args:
        weight: ``[D, C·P·P]``, channel by channel and row by row, as ``PatchEmbed`` has it, or a convolution's ``[D, C,
            P, P]``.
        patch_size: P, or (height, width); a convolution's weight tells it.
        count: How many components; the paper shows 28.

    Example:
        >>> embedding_filters(torch.randn(64, 48), patch_size=4, count=12).components.shape
        torch.Size([12, 3, 4, 4])
    """
    check_values(weight, "weight", "[D, C·P·P] or [D, C, P, P]")
    tile = _tile(weight, patch_size)
    rows = weight.double().flatten(1)
    if not isinstance(count, int) or not 1 <= count <= min(rows.shape):
        raise ValueError(f"count is {count!r}; {rows.shape[0]} filters of {rows.shape[1]} weights have from 1 to "
                         f"{min(rows.shape)} components")
    _, spread, directions = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    tiles = (directions * largest.sign())[:count].unflatten(1, tile)
    variance = spread.square()
    explained = variance / variance.sum().clamp(min=torch.finfo(variance.dtype).tiny)
    return Filters(tiles.to(precision(weight)), explained[:count].to(precision(weight)))


def _tile(weight: Tensor, patch_size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of the patch that each row of ``weight`` reads."""
    if patch_size is None and weight.ndim == 4:
        return tuple(weight.shape[1:])
    if patch_size is None:
        raise ValueError(f"weight has shape {list(weight.shape)}, which does not tell the patch; pass patch_size=")
    height, width = checks.pair(patch_size, "patch_size")
    if weight.ndim == 4 and tuple(weight.shape[2:]) == (height, width):
        return tuple(weight.shape[1:])
    if weight.ndim == 2 and weight.shape[1] % (height * width) == 0:
        return weight.shape[1] // (height * width), height, width
    raise ValueError(f"weight has shape {list(weight.shape)}; expected [D, C·{height}·{width}] or "
                     f"[D, C, {height}, {width}]")


@torch.no_grad()
def position_similarity(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosine similarity of each patch's position embedding with every other's, laid out by place twice.

    Any table will do: learned 1-D or 2-D, or sin-cos. Relative positions have none, see ``bias_by_offset``.

    Args:
        table: ``[prefix + N, D]`` or ``[1, prefix + N, D]``. Rows before the N patches belong to the class token and
            the like and are left out.

    Returns:
        ``[rows, cols, rows, cols]``: ``[r, c]`` is the map of the patch in row r and column c; from -1 to 1, and 0 for
        an embedding that is zero.

    Example:
        >>> position_similarity(torch.eye(4), grid=(2, 2))[0, 1]
        tensor([[0., 1.],
                [0., 0.]])
    """
    check_values(table, "table", "[prefix + N, D], such as model.position_table() (relative positions have none: see "
                 "bias_by_offset)")
    rows, cols = as_grid(grid)
    flat = table[0] if table.ndim == 3 and len(table) == 1 else table
    if flat.ndim != 2 or len(flat) < rows * cols:
        raise ValueError(f"table has shape {list(table.shape)}; expected [prefix + {rows * cols}, D]: a row for each "
                         f"of the {rows}×{cols} patches, after those of class token and the like")
    unit = torch.nn.functional.normalize(flat.to(precision(flat)), dim=-1)
    patches = unit[-rows * cols :].unflatten(0, (rows, cols))
    return torch.tensordot(patches, patches, dims=([2], [2]))


def bias_by_offset(bias: Tensor) -> Tensor:
    """What relative positions add to the logits, by how far the key stands behind the query in the sequence.

    A relative table has no vector for a place, so it has no similarity of places. Its effect is a matrix of logits that
    depend on the offset (and on the query).

    Args:
        bias: ``[..., N, N]`` logits that were added for query i and key j, tokens before the patches left out; leading
            axes are averaged. What a ``RelativeKeys`` gives when called with queries.

    Returns:
        ``[2N − 1]``: the mean over all pairs with offset j − i, from −(N − 1) to N − 1.

    Example:
        >>> bias_by_offset(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        tensor([-1.,  0.,  1.])
    """
    check_values(bias, "bias", "[..., N, N]")
    if bias.ndim < 2 or bias.shape[-1] != bias.shape[-2] or not bias.numel():
        raise ValueError(f"bias has shape {list(bias.shape)}; expected [..., N, N]")
    mean = bias.detach().to(precision(bias)).unflatten(0, (1, -1)).flatten(0, -3).mean(dim=0)  # [N, N]
    count = len(mean)
    return torch.stack([mean.diagonal(offset).mean() for offset in range(1 - count, count)])
