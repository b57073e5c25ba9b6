"""Does a map find the object, and do the patches it ranks high matter to the model?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Localisation", "bootstrap", "centre_prior", "deletion_curve", "insertion_curve", "localisation"]


class Localisation(NamedTuple):
    """Three scores of each map against its mask, each ``[B]`` and between 0 and 1.

    Attributes:
        pointing: Whether the largest value lies on the object ("pointing game", Zhang et al., 2018); where several
            pixels share it, the share of them that do.
        energy: Share of the map's sum that lies on the object.
        average_precision: Mean precision over all thresholds, weighted by the recall each adds.
    """

    pointing: Tensor
    energy: Tensor
    average_precision: Tensor


def localisation(maps: Tensor, masks: Tensor) -> Localisation:
    """Score maps against the masks of the objects they should find.

    Args:
        maps: ``[B, h, w]``, not negative; resampled bilinearly to the masks' size.
        masks: bool ``[B, H, W]``; true on the object.

    Raises:
        ValueError: If the shapes do not fit, a map is negative or all zero, or a mask is empty.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[:, :2] = True
        >>> localisation(mask.float(), mask)  # a map that is the mask
        Localisation(pointing=tensor([1.]), energy=tensor([1.]), average_precision=tensor([1.]))
    """
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(f"maps have shape {list(maps.shape)} and masks {list(masks.shape)}; expected [B, h, w] and "
                         "[B, H, W] of equal B")  # fmt: skip
    masks = masks.bool()
    if not masks.flatten(1).any(dim=1).all():
        raise ValueError("a mask is empty: there is no object to find; leave such images out")
    if (maps < 0).any() or (maps.flatten(1).sum(dim=1) <= 0).any():
        raise ValueError("a map is negative somewhere or zero everywhere; clamp it, or leave such images out")
    fitted = maps.float()
    if fitted.shape[1:] != masks.shape[1:]:
        fitted = F.interpolate(fitted[:, None], masks.shape[1:], mode="bilinear")[:, 0]
    flat, inside = fitted.flatten(1), masks.flatten(1).to(maps.device)
    largest = flat == flat.amax(dim=1, keepdim=True)
    pointing = (largest & inside).sum(dim=1) / largest.sum(dim=1)
    energy = (flat * inside).sum(dim=1) / flat.sum(dim=1)
    precision = torch.stack([_average_precision(*pair) for pair in zip(flat, inside, strict=True)])
    return Localisation(pointing, energy, precision)


def centre_prior(grid: tuple[int, int], width: float = 0.25) -> Tensor:
    """A map that knows nothing of the image: a Gaussian in its middle, to compare others with.

    Args:
        grid: Rows and columns.
        width: Standard deviation, as a share of each side.

    Returns:
        ``[rows, cols]``, with 1 at the middle.

    Example:
        >>> centre_prior((3, 3)).argmax().item()
        4
    """
    rows, cols = (((torch.arange(n) + 0.5) / n - 0.5) / width for n in grid)
    return torch.exp(-(rows[:, None].square() + cols[None].square()) / 2)


def bootstrap(values: Tensor, level: float = 0.95, draws: int = 2_000, seed: int = 0) -> tuple[float, float, float]:
    """The mean and its percentile bootstrap interval: means of as many values, drawn again with replacement.

    Args:
        values: ``[n]``, one an image.
        level: Share of the means that the interval holds.
        draws: How often to draw.
        seed: Of the draws.

    Returns:
        Mean, lower end and upper end.

    Example:
        >>> bootstrap(torch.ones(10))
        (1.0, 1.0, 1.0)
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values have shape {list(values.shape)}; expected one number an image")
    values = values.float().cpu()
    chosen = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(seed))
    means = values[chosen].mean(dim=1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    return values.mean().item(), low, high


@torch.no_grad()
def deletion_curve(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, ranking: Tensor, shares: Sequence[float],
    *, least_first: bool = False,
) -> Tensor:  # fmt: skip
    """Accuracy while patches are blanked, those with the largest values first: does the map say what matters?

    Patches become zero, which in normalised images is the mean colour.

    Args:
        model: Images to logits.
        images: ``[B, C, H, W]``, normalised.
        labels: int64 ``[B]``.
        ranking: ``[B, rows, cols]``, how important each patch is said to be.
        shares: Which shares of the patches to blank, each in [0, 1].
        least_first: Blank those with the smallest values first.

    Returns:
        float32 ``[len(shares)]``: accuracy at each share.

    Raises:
        ValueError: If the ranking does not fit the images, or a share is not in [0, 1].

    Example:
        >>> brightest = lambda images: images.mean(dim=1).flatten(1)  # "class": the brightest pixel
        >>> image = torch.tensor([[[[1.0, 0.2], [0.5, 0.1]]]])
        >>> deletion_curve(brightest, image, torch.tensor([0]), image[:, 0], shares=(0, 0.25))
        tensor([1., 0.])
    """
    rows, cols = ranking.shape[1:]
    height, width = images.shape[2:]
    if len(ranking) != len(images) or height % rows or width % cols:
        raise ValueError(f"ranking has shape {list(ranking.shape)}, images {list(images.shape)}; expected one ranking "
                         "an image, of a grid that divides its sides")  # fmt: skip
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares are {list(shares)}; each lies between 0 and 1")
    values = ranking.flatten(1) if least_first else -ranking.flatten(1)
    rank = values.argsort(dim=1, stable=True).argsort(dim=1)  # 0 is blanked first
    found = []
    for share in shares:
        gone = (rank < round(share * rows * cols)).view(-1, 1, rows, cols)
        gone = gone.repeat_interleave(height // rows, dim=2).repeat_interleave(width // cols, dim=3)
        answers = model(images.masked_fill(gone.to(images.device), 0.0)).argmax(dim=1)
        found.append((answers == labels.to(answers.device)).float().mean())
    return torch.stack(found).cpu()


def insertion_curve(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, ranking: Tensor, shares: Sequence[float]
) -> Tensor:
    """Accuracy while patches appear on a blank image, those with the largest values first; see ``deletion_curve``.

    Args:
        model: Images to logits.
        images: ``[B, C, H, W]``, normalised.
        labels: int64 ``[B]``.
        ranking: ``[B, rows, cols]``.
        shares: Which shares of the patches to show, each in [0, 1].

    Returns:
        float32 ``[len(shares)]``: accuracy at each share.

    Example:
        >>> brightest = lambda images: images.mean(dim=1).flatten(1)
        >>> image = torch.tensor([[[[0.1, 0.2], [0.5, 1.0]]]])
        >>> insertion_curve(brightest, image, torch.tensor([3]), image[:, 0], shares=(0, 0.25))
        tensor([0., 1.])
    """
    return deletion_curve(model, images, labels, ranking, [1 - share for share in shares], least_first=True)


def _average_precision(values: Tensor, inside: Tensor) -> Tensor:
    """Of one map ``[n]``; pixels of equal value pass the threshold together."""
    order = values.argsort(descending=True)
    hits = inside[order].float().cumsum(dim=0)
    last = torch.cat([values[order][1:] != values[order][:-1], values.new_ones(1, dtype=torch.bool)])
    hits, taken = hits[last], torch.arange(1, len(values) + 1, device=values.device)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / inside.sum()
    return (gained * hits / taken).sum()
