"""Position embeddings: the learned table of the paper, and what happens to it at another resolution.

A position table has shape ``[1, prefix + N, D]``: first the positions of the prefix tokens (the class
token, say), then one row for each patch, row by row from the top left of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CONVENTIONS", "interpolate", "learned_table"]

Grid = tuple[int, int]

# How each library resamples the grid of position embeddings: arguments of torch.nn.functional.interpolate.
CONVENTIONS: dict[str, dict] = {
    "jax": {"mode": "bilinear", "align_corners": True},  # the official code: scipy's linear zoom
    "torchvision": {"mode": "bicubic", "align_corners": True},
}


def learned_table(tokens: int, embed_dim: int) -> nn.Parameter:
    """A learned 1-D position table: one free vector for each token (Eq. 1, ``E_pos``).

    Args:
        tokens: How many tokens carry a position, prefix tokens included.
        embed_dim: Width D of the model.

    Returns:
        A parameter of shape ``[1, tokens, embed_dim]``, normal with standard deviation 0.02 as in the
        official code.
    """
    return nn.Parameter(torch.empty(1, tokens, embed_dim).normal_(std=0.02))


def interpolate(
    table: Tensor,
    old_grid: Grid,
    new_grid: Grid,
    prefix_tokens: int = 1,
    convention: str = "jax",
) -> Tensor:
    """Resample a position table for another grid of patches (Sec. 3.2).

    The patch positions are laid out as the image they came from, resized like a picture with D channels,
    and flattened again. Prefix positions belong to no place in the image and are copied unchanged.

    Args:
        table: ``[1, prefix_tokens + rows * columns, D]``.
        old_grid: Rows and columns of patches that ``table`` was learned for.
        new_grid: Rows and columns wanted.
        prefix_tokens: How many leading positions belong to no patch (class token and the like).
        convention: Whose way of resampling: one of ``CONVENTIONS``.

    Returns:
        ``[1, prefix_tokens + new_rows * new_columns, D]``; ``table`` itself, unchanged, if the grids agree.

    Raises:
        ValueError: If the table does not hold ``old_grid`` plus the prefix, or the convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; known are {', '.join(map(repr, CONVENTIONS))}")
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[1] != prefix_tokens + rows * columns:
        raise ValueError(
            f"position table has shape {list(table.shape)}, expected [1, {prefix_tokens + rows * columns}, D]: "
            f"{prefix_tokens} prefix tokens and a grid of {rows}×{columns}; check old_grid and prefix_tokens"
        )
    if min(new_grid) < 1:
        raise ValueError(f"new grid is {new_grid[0]}×{new_grid[1]}: both sides must be at least 1")
    if tuple(new_grid) == tuple(old_grid):
        return table
    prefix, patches = table[:, :prefix_tokens], table[:, prefix_tokens:]
    picture = patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    picture = F.interpolate(picture.float(), size=tuple(new_grid), **CONVENTIONS[convention])
    patches = picture.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # [1, new_rows * new_columns, D]
    return torch.cat([prefix, patches], dim=1)
