"""Augmentation of a whole batch at once, on the device it lives on, drawn for each image alone.

Every function takes images ``[B, C, H, W]`` and a ``torch.Generator`` and returns a new tensor; the same generator
state gives the same result. A generator on the CPU serves a batch on any device: only its few draws for each image
travel there, and nothing waits. While training, the order is

    random_crop, random_flip, trivial_augment, random_erase  ->  cutmix, mixup or mix  ->  normalise

What does not fit is refused, with a ``TypeError`` if it is of another type, else a ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

__all__ = ["OPERATIONS", "apply_operations", "cutmix", "mix", "mixup", "normalise", "random_crop", "random_erase",
           "random_flip", "trivial_augment"]

# TrivialAugment's wide space: each operation with its weakest and its strongest magnitude. Shears in pixels a row or
# column; shifts in pixels; the angle in degrees; blends as the distance of their factor from 1; then bits kept, and
# the brightness from which pixels are inverted, white being 1. Shears to sharpness take either sign.
_SPACE = {
    "shear x": (0, 0.99), "shear y": (0, 0.99), "shift x": (0, 32), "shift y": (0, 32), "rotate": (0, 135),
    "brightness": (0, 0.99), "colour": (0, 0.99), "contrast": (0, 0.99), "sharpness": (0, 0.99),
    "posterise": (8, 2), "solarise": (1, 0), "autocontrast": (0, 0), "equalise": (0, 0), "identity": (0, 0),
}
OPERATIONS = tuple(_SPACE)  # the groups below count on this order
_MOVES, _BLENDS = slice(0, 5), slice(5, 9)
_BLANDS = (vision.adjust_brightness, vision.adjust_saturation, vision.adjust_contrast, vision.adjust_sharpness)
_STRENGTHS = torch.stack([torch.linspace(*ends, 31) for ends in _SPACE.values()])  # [operations, strengths]
_STRENGTHS[2:4] = _STRENGTHS[2:4].trunc()  # shifts and bits are whole numbers
_STRENGTHS[9] = _STRENGTHS[9].round()


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half.

    Example:
        >>> rows = torch.arange(4).expand(50, 1, 1, 4)
        >>> random_flip(rows, torch.Generator().manual_seed(0)).unique(dim=0)[:, 0, 0].tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0]]
    """
    flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return _change(images, flip, lambda chosen: chosen.flip(-1))


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad each image with ``padding`` black pixels on every side and cut a random window of the old size.

    Example:
        >>> pixels = torch.tensor([[[[7]]]], dtype=torch.uint8).expand(50, 1, 1, 1)
        >>> random_crop(pixels, 1, torch.Generator().manual_seed(0)).unique().tolist()
        [0, 7]
    """
    if padding < 0:
        raise ValueError(f"padding is {padding} pixels; it must be at least 0")
    if not images.numel():
        return images.clone()
    count, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4).contiguous()
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=generator.device)
    down, right = _send(shift, images)  # [B, 1]
    # A row of a window is a run of W pixels of the flat batch: its start is all that is needed, and it moves as one.
    planes = torch.arange(count * channels, device=images.device).view(count, channels, 1) * padded.shape[2]
    rows = planes + (down + torch.arange(height, device=images.device))[:, None]  # [B, C, H]
    starts = rows * padded.shape[3] + right[:, None]
    return padded.flatten().unfold(0, width, 1).index_select(0, starts.flatten()).view(images.shape)


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """TrivialAugment (Müller & Hutter, 2021), its wide space: one random operation of random strength.

    Operation, strength and sign are drawn evenly and for each image alone; torchvision's ``TrivialAugmentWide`` draws
    one of each for the whole batch. Images are uint8, with one channel or three.

    Example:
        >>> images = torch.arange(0, 240, 5, dtype=torch.uint8).view(1, 3, 4, 4).expand(100, -1, -1, -1)
        >>> len(trivial_augment(images, torch.Generator().manual_seed(0)).unique(dim=0)) > 50
        True
    """
    shape, device = (len(images),), generator.device
    operation = torch.randint(len(OPERATIONS), shape, generator=generator, device=device)
    strength = torch.randint(_STRENGTHS.shape[1], shape, generator=generator, device=device)
    negative = torch.randint(2, shape, generator=generator, device=device).bool() & (operation < _BLENDS.stop)
    magnitude = _STRENGTHS.to(device)[operation, strength]
    return apply_operations(images, operation, torch.where(negative, -magnitude, magnitude))


def apply_operations(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Do to each image one of TrivialAugment's ``OPERATIONS``, with torchvision's results to within one grey level.

    The batch is sorted by operation, treated group by group, and put in order again. All that moves pixels is one
    resampling (nearest pixel, black outside); brightness, colour, contrast and sharpness are one blend.

    Args:
        images: uint8 ``[B, C, H, W]`` with one channel or three.
        operation: int64 ``[B]``, indices in ``OPERATIONS``; on the CPU, if nothing is to wait for the device.
        magnitude: float ``[B]``, beside it: shears in pixels a row or column, shifts in pixels, the angle in degrees
            against the clock, blends as the distance of their factor from 1, bits to keep, the brightness from which
            pixels are inverted (white is 1). The last three operations have none.

    Example:
        >>> picture = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
        >>> shift = torch.tensor([OPERATIONS.index("shift x")])
        >>> apply_operations(picture, shift, torch.tensor([1.0]))[0, 0].tolist()
        [[0, 0, 1], [0, 3, 4], [0, 6, 7]]
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}; expected uint8: augment colours before normalising")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {list(images.shape)}; expected [batch, 1 or 3 channels, height, width]")
    counts = operation.bincount(minlength=len(OPERATIONS)).tolist()
    order = operation.argsort()
    plan = _send(torch.stack([order, order.argsort(), operation[order], magnitude[order]]), images)
    order, back, operation = plan[:3].long()
    images = images.index_select(0, order)
    kinds = [sum(counts[_MOVES]), sum(counts[_BLENDS]), *counts[_BLENDS.stop :]]
    parts, magnitudes = images.split(kinds), plan[3].view(-1, 1, 1, 1).split(kinds)
    done = [
        _move(parts[0], operation[: kinds[0]], magnitudes[0]),
        _blend(parts[1], counts[_BLENDS], magnitudes[1]),
        parts[2] & (256 - 2 ** (8 - magnitudes[2])).to(torch.uint8),  # posterise
        torch.where(parts[3] >= 255 * magnitudes[3], 255 - parts[3], parts[3]),  # solarise
        vision.autocontrast(parts[4]),
        vision.equalize(parts[5]),
        parts[6],
    ]
    return torch.cat(done).index_select(0, back)


def _move(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Shear, shift or rotate: the first five operations as one map from each pixel to where it comes from."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # from the centre of the image
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    drawn = (operation == torch.arange(5, device=images.device)[:, None])[:, :, None, None, None]  # [5, b, 1, 1, 1]
    shear_x, shear_y, shift_x, shift_y, angle = torch.where(drawn, magnitude, 0.0)  # at most one is not 0
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    right, down = 2 / width, 2 / height  # a pixel, where the image is 2 wide and 2 high; shears keep its top left
    columns = right * cos * x + right * ((shear_x - sin) * y + shear_x * height / 2 - shift_x)  # [b, 1, H, W]
    rows = down * (shear_y + sin) * x + down * (cos * y + shear_y * width / 2 - shift_y)
    grid = torch.stack([columns, rows], dim=-1)[:, 0]
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _blend(images: Tensor, counts: list[int], magnitude: Tensor) -> Tensor:
    """Move away from the black, the colourless, the flat or the blurred image by a factor, or towards it."""
    bland = [adjust(part, 0.0) for adjust, part in zip(_BLANDS, images.split(counts), strict=True)]
    return torch.cat(bland).float().lerp_(images.float(), 1 + magnitude).clamp_(0, 255).to(torch.uint8)


def random_erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al., 2020): fill a rectangle with noise, each pixel and channel even in 0 to 255.

    The rectangle covers 2 to 33 % of the image, at a height of 0.3 to 3.3 times its width where that fits, anywhere
    inside. It comes before normalisation, so the noise has the range of pixels.

    Args:
        images: ``[B, C, H, W]``, uint8 or float, white being 255.

    Example:
        >>> black = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
        >>> erased = random_erase(black, 1.0, torch.Generator().manual_seed(0)).any(dim=1).flatten(1).sum(dim=1)
        >>> 1 <= erased.min() < erased.max() <= 24  # pixels of 64
        tensor(True)
    """
    _check_share("probability", probability)
    count, _, height, width = images.shape
    chosen, area, aspect, top, left = torch.rand(5, count, generator=generator, device=generator.device)
    area = 0.02 + 0.31 * area  # of the image
    low = (area * height / width).clamp(min=0.3).log()  # a flatter one would be wider than the image
    high = (height / width / area).clamp(max=3.3).log()
    aspect = (low + aspect * (high - low)).exp()
    tall = (area * height * width * aspect).sqrt().round().clamp(1, height)
    wide = (area * height * width / aspect).sqrt().round().clamp(1, width)
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    erased = chosen < probability
    box = _send(torch.stack([top, top + tall, left, left + wide])[:, erased], images)

    def erase(images: Tensor) -> Tensor:
        top, bottom, left, right = box[:, :, None]  # [erased, 1]
        y, x = (torch.arange(side, device=images.device) for side in (height, width))
        inside = _box((top <= y) & (y < bottom), (left <= x) & (x < right), images)
        return images * (1 - inside) + _noise(images, generator) * inside

    return _change(images, erased, erase)


def _noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Values of 0 to 255 in place of the images, drawn where they are: only a seed travels there."""
    if generator.device.type != images.device.type:
        seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        generator = torch.Generator(images.device).manual_seed(seed)
    noise = torch.randint(256, images.shape, generator=generator, device=images.device, dtype=torch.uint8)
    return noise.to(images.dtype)


def cutmix(
    images: Tensor, targets: Tensor, classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): paste a rectangle of another image of the batch, and mix the targets by area.

    The rectangle has the image's proportions, a uniformly drawn area and a uniformly drawn centre; what sticks out is
    cut off. torchvision's own draws one rectangle for the whole batch.

    Args:
        images: ``[B, C, H, W]``.
        targets: int64 labels ``[B]``, or probabilities ``[B, classes]``.
        share: Share of the images, between 0 and 1, into which something is pasted.

    Returns:
        The images, and float targets ``[B, classes]`` that sum to 1.

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> mixed, targets = cutmix(images, torch.tensor([0, 1]), 2, 1.0, torch.Generator().manual_seed(0))
        >>> torch.equal(targets[:, 1], (mixed == 255).float().mean(dim=(1, 2, 3)))  # the share of pixels of class 1
        True
    """
    _check_share("share", share)
    targets = _probabilities(targets, len(images), classes)
    count, _, height, width = images.shape
    partner = _send(torch.randperm(count, generator=generator, device=generator.device), images)
    chosen, area, row, column = _send(torch.rand(4, count, 1, generator=generator, device=generator.device), images)
    half = area.sqrt() / 2 * (chosen < share)
    rows = (torch.arange(height, device=images.device) + 0.5) / height  # centres of the pixels, from 0 to 1
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    pasted = _box((rows - row).abs() < half, (columns - column).abs() < half, images)
    own = 1 - pasted.float().mean(dim=(1, 2, 3))[:, None]  # [B, 1]
    mixed = images * (1 - pasted) + images.index_select(0, partner) * pasted
    return mixed, torch.lerp(targets[partner], targets, own)


def mixup(
    images: Tensor, targets: Tensor, classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018): blend each image, and its target, with another one of the batch.

    An image keeps the share λ ~ Beta(α, α), drawn for each alone: near 0 or 1 for a small α, near one half for a large
    one. Arguments and result are those of ``cutmix``, with ``alpha``, above 0, in place of ``share``.

    Example:
        >>> images = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1)
        >>> mixed, targets = mixup(images, torch.tensor([0, 1]), 2, 1.0, torch.Generator().manual_seed(0))
        >>> torch.allclose(targets[:, 1], mixed.flatten() / 255)
        True
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; it must be above 0 (near 0: hardly any mixing; 1: any share alike)")
    targets = _probabilities(targets, len(images), classes)
    partner = _send(torch.randperm(len(images), generator=generator, device=generator.device), images)
    own = _send(_beta(alpha, len(images), generator), images)
    mixed = images.index_select(0, partner).float().lerp_(images.float(), own.view(-1, 1, 1, 1))
    return mixed, torch.lerp(targets[partner], targets, own[:, None])


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """``[count]`` draws from Beta(α, α): X / (X + Y) for X, Y ~ Gamma(α).

    Gamma(α) is Gamma(α + 1) · U^(1/α), which for small α leaves the range of floats; so all in logarithms.
    """
    shape = torch.full((2, count), alpha + 1, device=generator.device)
    uniform = 1 - torch.rand(2, count, generator=generator, device=generator.device)  # never 0
    x, y = torch._standard_gamma(shape, generator=generator).log() + uniform.log() / alpha
    return torch.sigmoid(x - y)


def mix(
    images: Tensor, targets: Tensor, classes: int, share: float, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """CutMix for some images and Mixup for all others: the first ``share`` of the batch, and the rest.

    A training batch comes in random order, so every image may get either. Arguments and result are those of ``cutmix``
    and ``mixup``.

    Example:
        >>> images, labels = torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8)
        >>> mixed, targets = mix(images, labels, 8, 0.5, 0.8, torch.Generator().manual_seed(0))
        >>> mixed.shape, targets.shape
        (torch.Size([8, 3, 4, 4]), torch.Size([8, 8]))
    """
    _check_share("share", share)
    targets, first = _probabilities(targets, len(images), classes), round(share * len(images))
    cut, cut_targets = cutmix(images[:first], targets[:first], classes, 1.0, generator)
    blend, blend_targets = mixup(images[first:], targets[first:], classes, alpha, generator)
    return torch.cat([cut, blend]), torch.cat([cut_targets, blend_targets])


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images to float32 with zero mean and unit variance for each channel, by the training set's figures.

    Args:
        images: ``[B, C, H, W]``, uint8 or float, white being 255.
        mean, std: Mean and standard deviation of each channel, on the scale where white is 1.

    Example:
        >>> normalise(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2), mean=[0.5], std=[0.25])
        tensor([[[[-2.,  2.]]]])
    """
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(f"images have {images.shape[1]} channels, mean has {len(mean)} and std {len(std)} figures")
    shift, scale = _send(torch.tensor([[*mean], [*std]]) * 255, images)[:, :, None, None]
    return (images - shift).div_(scale)


def _change(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The images, those that were ``chosen`` (bool ``[B]``) changed; only they are touched, and move as a whole."""
    which, back = chosen.nonzero()[:, 0], torch.arange(len(images), device=chosen.device)
    back[which] = torch.arange(len(which), device=chosen.device) + len(images)
    changed = change(images.index_select(0, _send(which, images)))
    return torch.cat([images, changed]).index_select(0, _send(back, images))


def _box(rows: Tensor, columns: Tensor, images: Tensor) -> Tensor:
    """``[B, H]`` and ``[B, W]`` -> 1 inside the rectangle, 0 outside, ``[B, 1, H, W]`` of the images' type.

    To multiply by: on a CPU that is several times as fast as to choose pixel by pixel.
    """
    return rows[:, None, :, None].to(images.dtype) * columns[:, None, None, :].to(images.dtype)


def _send(small: Tensor, images: Tensor) -> Tensor:
    """To the images' device; a GPU goes on with its work meanwhile (the copy is complete when the call returns)."""
    return small.to(images.device, non_blocking=images.device.type == "cuda")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share}; expected a share of the images between 0 and 1")


def _probabilities(targets: Tensor, count: int, classes: int) -> Tensor:
    if targets.shape == (count,):
        return F.one_hot(targets, classes).float()
    if targets.shape == (count, classes):
        return targets.float()
    raise ValueError(f"targets have shape {list(targets.shape)}; "
                     f"expected labels [{count}] or probabilities [{count}, {classes}]")
