"""How far and how narrowly heads look (Sec. 4.5, Fig. 7 right, and App. D.7)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vitlite.analysis.maps import checked, prefix_tokens

__all__ = ["attention_entropy", "class_attention", "mean_attention_distance", "uniform_attention_distance"]


def mean_attention_distance(
    attention: Iterable[Tensor],
    grid: tuple[int, int],
    patch_size: int | tuple[int, int],
    *,
    per_image: bool = False,
    include_prefix: bool = False,
) -> Tensor:
    """How far each head looks: the distance between query and key patch, averaged with the attention weights.

    Distances are between the centres of patches, in pixels of the model's input. Queries are the patches. Tokens before
    the patches have no place: their columns are left out and the rest of each row is divided by its sum.

    Args:
        attention: ``[B, heads, T, T]`` for each layer.
        grid: Rows and columns of patches.
        patch_size: Side of a patch in pixels, or (height, width).
        per_image: Keep the images apart.
        include_prefix: Do not renormalise: looking at a prefix token counts as distance 0. The result is smaller by
            the share of attention that such tokens get.

    Returns:
        float32 ``[layers, heads]``, or ``[layers, heads, B]``; pixels.

    Raises:
        ValueError: If the maps are no probabilities ``[B, heads, T, T]``, or do not fit the grid.

    Example:
        >>> uniform = torch.full((1, 2, 4, 4), 1 / 4)
        >>> mean_attention_distance([uniform], grid=(2, 2), patch_size=4)  # (0 + 4 + 4 + 5.66) / 4
        tensor([[3.4142, 3.4142]])
    """
    distances = _distances(grid, patch_size)
    found = []
    for layer in checked(attention):
        prefix = prefix_tokens(layer.shape[-1], grid)
        among = layer[..., prefix:, prefix:].float()  # [B, heads, N, N]
        looked = torch.einsum("bhij,ij->bhi", among, distances.to(among.device))
        if not include_prefix:
            looked = looked / among.sum(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        found.append(looked.mean(dim=-1).T)  # [heads, B]
        del layer, among
    each = torch.stack(found)
    return each if per_image else each.mean(dim=-1)


def uniform_attention_distance(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> float:
    """The mean attention distance, in pixels, of attention that takes the same from every patch: the baseline.

    Example:
        >>> round(uniform_attention_distance((2, 2), 4), 4)
        3.4142
    """
    return _distances(grid, patch_size).mean().item()


def attention_entropy(attention: Iterable[Tensor]) -> Tensor:
    """How widely each head looks: the entropy of its rows in nats, averaged over queries and images.

    From 0, all weight on one token, to the logarithm of the number of tokens, all alike.

    Args:
        attention: ``[B, heads, T, T]`` for each layer.

    Returns:
        float32 ``[layers, heads]``.

    Raises:
        ValueError: If the maps are no probabilities ``[B, heads, T, T]``.

    Example:
        >>> attention_entropy([torch.eye(4).expand(1, 2, 4, 4), torch.full((1, 2, 4, 4), 1 / 4)])
        tensor([[0.0000, 0.0000],
                [1.3863, 1.3863]])
    """
    return torch.stack([torch.special.entr(layer.float()).sum(dim=-1).mean(dim=(0, 2)) for layer in checked(attention)])


def class_attention(attention: Iterable[Tensor], grid: tuple[int, int], token: int = 0) -> Tensor:
    """Where a token before the patches looks, layer by layer: its row of weights on the patches, heads averaged.

    Args:
        attention: ``[B, heads, T, T]`` for each layer.
        grid: Rows and columns of patches.
        token: Which of the tokens before the patches; 0 is the class token.

    Returns:
        float32 ``[layers, B, rows, cols]``; not renormalised, so the rest of the row went to the prefix tokens.

    Raises:
        ValueError: If there is no such token, or the maps do not fit the grid.

    Example:
        >>> class_attention([torch.full((1, 2, 5, 5), 1 / 5)], grid=(2, 2)).flatten()
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    found = []
    for layer in checked(attention):
        prefix = prefix_tokens(layer.shape[-1], grid)
        if not 0 <= token < prefix:
            raise ValueError(f"token is {token}; there are {prefix} tokens before the patches")
        found.append(layer[:, :, token, prefix:].float().mean(dim=1).unflatten(-1, grid))
        del layer
    return torch.stack(found)


def _distances(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> Tensor:
    """Pixels between the centres of any two patches, ``[N, N]``."""
    rows, cols = grid
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    if min(rows, cols, height, width) < 1:
        raise ValueError(f"grid is {rows}×{cols} and patch_size {height}×{width}; all must be at least 1")
    centres = torch.cartesian_prod(torch.arange(rows) * float(height), torch.arange(cols) * float(width))
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
