"""Augmentation of a whole batch at once, on the device it lives on, drawn for each image alone.

Every function takes images ``[B, C, H, W]`` and a ``torch.Generator`` and returns a new tensor; the same
generator state gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["normalise", "random_crop", "random_flip"]


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
