"""Augmentation of a whole batch at once, on the device it lives on, drawn for each image alone.

Every function takes images ``[B, C, H, W]`` and a ``torch.Generator`` and returns a new tensor; the same
generator state gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cutmix", "normalise", "random_crop", "random_flip"]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device) < 0.5
    return torch.where(flip.to(images.device), images.flip(-1), images)


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad each image with ``padding`` black pixels on every side and cut a random window of the old size.

    Raises:
        ValueError: If ``padding`` is negative.
    """
    if padding < 0:
        raise ValueError(f"padding is {padding} pixels; it must be at least 0")
    count, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=generator.device)
    rows = (shift[0] + torch.arange(height, device=shift.device)).to(images.device)  # [B, H]
    columns = (shift[1] + torch.arange(width, device=shift.device)).to(images.device)  # [B, W]
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutmix(
    images: Tensor, labels: Tensor, classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): paste a rectangle of another image of the batch, and mix the labels by area.

    The rectangle has the image's proportions, a uniformly drawn area and a uniformly drawn centre; what sticks out
    is cut off. torchvision's own draws one rectangle for the whole batch.

    Args:
        images: ``[B, C, H, W]``.
        labels: int64 ``[B]``.
        classes: Number of classes.
        share: Share of the images, between 0 and 1, into which something is pasted.
        generator: Where the randomness comes from.

    Returns:
        The images, and float targets ``[B, classes]`` that sum to 1.

    Raises:
        ValueError: If ``share`` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a share of the images between 0 and 1")
    count, _, height, width = images.shape
    partner = torch.randperm(count, generator=generator, device=generator.device).to(images.device)
    chosen, area, row, column = torch.rand(4, count, 1, generator=generator, device=generator.device).to(images.device)
    half = area.sqrt() / 2 * (chosen < share)
    rows = (torch.arange(height, device=images.device) + 0.5) / height  # centres of the pixels, from 0 to 1
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    pasted = ((rows - row).abs() < half)[:, :, None] & ((columns - column).abs() < half)[:, None, :]  # [B, H, W]
    foreign = pasted.float().mean(dim=(1, 2))[:, None]  # [B, 1]
    target = F.one_hot(labels, classes).float()
    return torch.where(pasted[:, None], images[partner], images), (1 - foreign) * target + foreign * target[partner]


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images to float32 with zero mean and unit variance for each channel, by the training set's figures.

    Args:
        images: uint8 ``[B, C, H, W]``.
        mean: Mean of each channel, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale.

    Raises:
        ValueError: If the number of figures is not the number of channels.
    """
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(f"images have {images.shape[1]} channels, mean has {len(mean)} and std {len(std)} figures")
    scale = torch.tensor(std, device=images.device).view(-1, 1, 1) * 255
    shift = torch.tensor(mean, device=images.device).view(-1, 1, 1) * 255
    return (images - shift) / scale
