"""Does a map find the object, and do the patches it ranks high matter to the model?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlite.analysis.maps import as_grid, check_tensor


class Localisation(NamedTuple):
    """Three scores of each map against its mask, each ``[B]`` and between 0 and 1.

    A map that is the same everywhere scores the object's share of the image: the last two exactly, the first as seen at
    the centres of the patches.

    Example:
        >>> scores = localisation(torch.rand(5, 4, 4), torch.ones(5, 32, 32))  # the object is everywhere
        >>> scores.pointing
        tensor([1., 1., 1., 1., 1.])
    """

    #: Whether the patch with the largest value has its centre on the object, the "pointing game" (Zhang et al., arXiv
    #: 1608.00507, here without their margin): the mask as it stands there, so a fraction where the centre lies between
    #: pixels of both kinds; where several patches share the value, their mean. The map is not resampled for this: that
    #: would lower every peak but those at the border, and so move the largest value there.
    pointing: Tensor
    #: Share of the map's sum that lies on the object (Wang et al., arXiv 1910.01279).
    energy: Tensor
    #: Mean precision over all thresholds, weighted by the recall each adds.
    average_precision: Tensor


@torch.no_grad()
def localisation(maps: Tensor, masks: Tensor) -> Localisation:
    """Score maps against the masks of the objects they should find; float32, on the CPU.

    Args:
        maps: ``[B, h, w]``, not negative; resampled bilinearly to the masks' size for the last two scores (averaged
            where the mask is coarser). A map of zeros tells nothing, as one that is the same everywhere.
        masks: ``[B, H, W]``; true (or not 0) on the object.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[:, :2] = True
        >>> localisation(mask.float(), mask)  # a map that is the mask
        Localisation(pointing=tensor([1.]), energy=tensor([1.]), average_precision=tensor([1.]))
    """
    check_tensor(maps, "maps", "[B, h, w]")
    check_tensor(masks, "masks", "[B, H, W]")
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks) or not (maps.numel() and masks.numel()):
        raise ValueError(f"maps have shape {list(maps.shape)} and masks {list(masks.shape)}; expected [B, h, w] and "
                         "[B, H, W] of equal B, none of them 0")
    if not masks.isfinite().all():
        raise ValueError("a mask is not finite somewhere; pass what is the object as true, or not 0, and the rest as 0")
    if not masks.flatten(1).any(dim=1).all():
        raise ValueError("a mask is empty: there is no object to find; leave such images out")
    if not (maps.isfinite() & (maps >= 0)).all():
        raise ValueError("a map is negative or not finite somewhere; clamp it to 0, or leave such images out")
    scores = [torch.stack(_scores(*each)) for each in zip(maps.cpu(), masks.cpu().bool(), strict=True)]
    return Localisation(*torch.stack(scores, dim=1))


def _scores(picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pointing, energy and average precision of one map ``[h, w]`` against its mask ``[H, W]``."""
    picture = picture.double()
    if picture.max() == 0:
        picture = torch.ones_like(picture)
    at_centres = F.interpolate(mask[None, None].double(), picture.shape, mode="bilinear")[0, 0]  # [h, w]
    pointing = at_centres[picture == picture.max()].mean().float()
    # In float64 and then rounded, so that what is equal in the map is equal between its points, too.
    coarser = mask.shape[0] < picture.shape[0] or mask.shape[1] < picture.shape[1]  # or peaks would be stepped over
    fitted = F.interpolate(picture[None, None].contiguous(), mask.shape, mode="bilinear", antialias=coarser)[0, 0]
    fitted = fitted / picture.max()
    # Where the map is 0 on all sides the weights' rounding error remains; it would rank pixels that are equal.
    rounding = sum(picture.shape) * torch.finfo(picture.dtype).eps
    values, inside = F.threshold(fitted, rounding, 0).float().flatten(), mask.flatten()
    return pointing, values[inside].sum() / values.sum(), _average_precision(values, inside)


def centre_prior(grid: tuple[int, int]) -> Tensor:
    """A map ``[rows, cols]`` that knows nothing of the image: a Gaussian in its middle, to compare others with.

    It is 1 in the middle; its standard deviation is a quarter of each side.

    Example:
        >>> centre_prior((3, 3)).argmax().item()
        4
    """
    rows, cols = ((2 * torch.arange(n) + 1 - n) / (2 * n * 0.25) for n in as_grid(grid))
    return torch.exp(-(rows[:, None].square() + cols[None].square()) / 2)


def bootstrap(values: Tensor) -> tuple[float, float, float]:
    """The mean of values ``[n]``, and the ends of its 95 % interval by the percentile bootstrap.

    That is of the means of as many values, drawn again with replacement.

    Example:
        >>> bootstrap(torch.ones(10))
        (1.0, 1.0, 1.0)
    """
    check_tensor(values, "values", "[n], one number an image")
    if values.ndim != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"values have shape {list(values.shape)}; expected [n], one finite number an image")
    values = values.double().cpu()
    chosen = torch.randint(len(values), (2_000, len(values)), generator=torch.Generator().manual_seed(0))
    means = values[chosen].mean(dim=1)
    low, high = means.quantile(means.new_tensor([(1 - 0.95) / 2, (1 + 0.95) / 2])).tolist()
    return values.mean().item(), low, high


@torch.no_grad()
def deletion_curve(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, ranking: Tensor, shares: Sequence[float],
    *, least_first: bool = False,
) -> Tensor:
    """Accuracy while patches are blanked, those with the largest values first: does the map say what matters?

    The deletion curve of Petsiuk et al. (arXiv 1806.07421), of accuracy in place of the class's probability. Among
    equal values, the patch that comes first in the sequence counts as larger. A blank patch is zero, the mean colour
    where images are normalised with the mean of their data set.

    Args:
        model: Images to logits.
        images: ``[B, C, H, W]``, normalised.
        labels: int64 ``[B]``.
        ranking: ``[B, rows, cols]``, how important each patch is said to be.
        shares: Which shares of the patches to blank, each in [0, 1].
        least_first: Blank those with the smallest values first.

    Returns:
        float32 ``[len(shares)]``, the accuracy at each share.

    Example:
        >>> brightest = lambda images: images.mean(dim=1).flatten(1)  # "class": the brightest pixel
        >>> image = torch.tensor([[[[1.0, 0.2], [0.5, 0.1]]]])
        >>> deletion_curve(brightest, image, torch.tensor([0]), image[:, 0], shares=(0, 0.25))
        tensor([1., 0.])
    """
    rank, count = _ranks(images, labels, ranking), ranking[0].numel()
    shares = [float(share) for share in shares]
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares are {shares}; expected one or more, each between 0 and 1")
    steps = [round(share * count) for share in shares]
    if least_first:
        rank = count - 1 - rank
    right = []
    for step in steps:
        answers = model(images.where(rank >= step, 0)).argmax(dim=1)
        right.append((answers == labels.to(answers.device)).float())
    return torch.stack(right).cpu().mean(dim=1)


def _ranks(images: Tensor, labels: Tensor, ranking: Tensor) -> Tensor:
    """Of every pixel the place of its patch in the ranking, from 0 for the largest value: ``[B, 1, H, W]``."""
    check_tensor(ranking, "ranking", "[B, rows, cols]")
    check_tensor(images, "images", "[B, C, H, W]")
    check_tensor(labels, "labels", "[B]")
    shapes = ranking.shape, images.shape, labels.shape
    if [len(shape) for shape in shapes] != [3, 4, 1] or len({shape[0] for shape in shapes}) > 1 or not ranking.numel():
        raise ValueError(f"ranking has shape {list(ranking.shape)}, images {list(images.shape)}, labels "
                         f"{list(labels.shape)}; expected [B, rows, cols], [B, C, H, W] and [B], none 0")
    if ranking.isnan().any():
        raise ValueError("the ranking holds a NaN, which has no rank; leave such images out")
    (rows, cols), (height, width) = ranking.shape[1:], images.shape[2:]
    if height % rows or width % cols:
        raise ValueError(f"ranking is of a grid of {rows}×{cols}, which does not divide images of {height}×{width}; "
                         "pass one number a patch")
    order = ranking.to(images.device).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(-1, 1, rows, cols)
    return rank.repeat_interleave(height // rows, dim=2).repeat_interleave(width // cols, dim=3)


def _average_precision(values: Tensor, inside: Tensor) -> Tensor:
    """Of one map ``[n]``; pixels of equal value pass the threshold together."""
    order = values.argsort(descending=True)
    hits = inside[order].float().cumsum(dim=0)
    last = torch.cat([values[order][1:] != values[order][:-1], values.new_ones(1, dtype=torch.bool)])
    hits, taken = hits[last], torch.arange(1, len(values) + 1, device=values.device)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / inside.sum()
    return (gained * hits / taken).sum()
