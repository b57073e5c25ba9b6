"""How far and how narrowly heads look (Sec. 4.5, Fig. 7 right, and App. D.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vitlite import checks
from vitlite.analysis.maps import as_grid, checked, precision, prefix_tokens, token_rows


@torch.no_grad()
def mean_attention_distance(
    attention: Iterable[Tensor], grid: tuple[int, int], patch_size: int | tuple[int, int], *, per_image: bool = False
) -> Tensor:
    """How far each head looks: the distance between query and key patch, averaged with the attention weights.

    Distances are between the centres of patches, in pixels of the model's input. Queries are the patches. Tokens before
    the patches lie nowhere: their columns are left out and the rest of each row is divided by its sum. A row of which
    nothing is left has no distance and does not count.

    Args:
        attention: ``[B, heads, T, T]`` for each layer. A generator, such as ``model.iter_attention(images)``, runs
            here, without gradients and with one layer in memory.
        per_image: Keep the images apart, to see their spread, or to join batches: ``torch.cat(parts, dim=-1)``.

    Returns:
        ``[layers, heads]``, the mean over images, or ``[layers, heads, B]``; pixels; float32, or float64 as the maps.

    Example:
        >>> uniform = torch.full((1, 2, 4, 4), 1 / 4)
        >>> mean_attention_distance([uniform], grid=(2, 2), patch_size=4)  # (0 + 4 + 4 + 5.66) / 4
        tensor([[3.4142, 3.4142]])
    """
    distances, layers = _distances(grid, patch_size), []
    for layer in checked(attention):
        prefix = prefix_tokens(layer.shape[-1], grid)
        distances = distances.to(layer.device, precision(layer))
        images = layer[..., prefix:, prefix:]  # [B, heads, N, N]
        layers.append(torch.stack([_distance(image, distances) for image in images], dim=-1))
        del layer, images
    each = torch.stack(layers)
    return each if per_image else each.nanmean(dim=-1)


def _distance(image: Tensor, distances: Tensor) -> Tensor:
    """Of one image: ``[heads, N, N]`` -> ``[heads]``."""
    looked = (image * distances).sum(dim=-1) / image.sum(dim=-1, dtype=distances.dtype)  # [heads, N]
    return looked.nanmean(dim=-1)


def uniform_attention_distance(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> float:
    """The mean attention distance, in pixels, of attention that takes the same from every patch: the baseline.

    Example:
        >>> round(uniform_attention_distance((2, 2), 4), 4)
        3.4142
    """
    return _distances(grid, patch_size).mean().item()


@torch.no_grad()
def without_query(attention: Iterable[Tensor], grid: tuple[int, int]) -> Iterator[Tensor]:
    """The same heads with the query forgotten: every patch looks where all patches of the image look on average.

    The control for a mean attention distance. A head that looks at the middle of the image, whoever asks, lies below
    uniform attention without looking near. Its distance is the same on these maps; that of a head that looks near its
    query is smaller than on these.

    Yields:
        ``[B, heads, N, N]`` for each layer, among patches: tokens before them are left out, as in
        ``mean_attention_distance``. All rows of an image and head are the same, and sum to 1.

    Example:
        >>> looks_at_itself = torch.eye(4).expand(1, 1, 4, 4)
        >>> mean_attention_distance(without_query([looks_at_itself], (2, 2)), (2, 2), patch_size=4)
        tensor([[3.4142]])
    """
    for layer in checked(attention):
        prefix = prefix_tokens(layer.shape[-1], grid)
        among = layer[..., prefix:, prefix:].to(precision(layer))
        row = (among / among.sum(dim=-1, keepdim=True)).nanmean(dim=-2, keepdim=True)  # [B, heads, 1, N]
        del layer, among
        yield row.expand(-1, -1, row.shape[-1], -1)


@torch.no_grad()
def attention_entropy(attention: Iterable[Tensor]) -> Tensor:
    """How widely each head looks: the entropy of its rows in nats, averaged over all queries, prefix tokens included.

    From 0, all weight on one token, to the logarithm of the number of tokens, all alike.

    Returns:
        ``[layers, heads]``, the mean over images.

    Example:
        >>> attention_entropy([torch.eye(4).expand(1, 2, 4, 4), torch.full((1, 2, 4, 4), 1 / 4)])
        tensor([[0.0000, 0.0000],
                [1.3863, 1.3863]])
    """
    layers = []
    for layer in checked(attention):
        rows = [torch.special.entr(image.to(precision(layer))).sum(dim=-1) for image in layer]  # each [heads, T]
        layers.append(torch.stack(rows, dim=-1).mean(dim=1).mean(dim=-1))
        del layer
    return torch.stack(layers)


@torch.no_grad()
def class_attention(
    attention: Iterable[Tensor], grid: tuple[int, int], token: int | None = 0, *, per_head: bool = False
) -> Tensor:
    """Where the class token looks, layer by layer: its row of weights on the patches.

    Args:
        token: Which of the tokens before the patches; 0 is the class token. None is the mean of the patches' rows, for
            models that average the patches.
        per_head: Keep the heads apart; otherwise their mean.

    Returns:
        ``[layers, B, rows, cols]``, or ``[layers, B, heads, rows, cols]``; not renormalised, so the rest of the row
        went to the prefix tokens.

    Example:
        >>> class_attention([torch.full((1, 2, 5, 5), 1 / 5)], grid=(2, 2)).flatten()
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    layers = []
    for layer in checked(attention):
        looks = token_rows(layer, grid, token)  # [B, heads, rows, cols]
        layers.append(looks.clone() if per_head else looks.mean(dim=1))  # a view would keep the whole layer
        del layer, looks
    return torch.stack(layers)


def _distances(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> Tensor:
    """Pixels between the centres of any two patches, ``[N, N]``, float64."""
    steps = [torch.arange(count, dtype=torch.float64) * side
             for count, side in zip(as_grid(grid), checks.pair(patch_size, "patch_size"), strict=True)]
    centres = torch.cartesian_prod(*steps)
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
