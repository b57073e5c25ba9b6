"""The published ViT that the chapters look into, and the photographs that they show it."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitlite import ViT, checks, weights
from vitlite.checks import Size

__all__ = ["NAME", "PHOTOGRAPHS", "model", "normalised", "photograph", "piece_folder", "standing_out"]

NAME = "dinov2-s14-focus"  # in ``weights.published()``

# The photographs of scikit-image that the pages show, all CC0 or in the public domain, with whom to thank.
PHOTOGRAPHS = {
    "cat": "Chelsea, by Stéfan van der Walt",
    "astronaut": "Eileen Collins, by NASA",
    "coffee": "by Rachel Michetti, courtesy of Pikolo Espresso Bar",
    "rocket": "the launch of DSCOVR, by SpaceX",
}


def model(image_size: Size = 224) -> ViT | None:
    """The published ViT for images of a size that its patches of 14 divide, ready to look into.

    Returns:
        A ViT in evaluation mode, whose head is zeros; or None, after a line that says how to get the file, where it
        cannot be had.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the head is new and the positions are resampled
        try:
            return weights.from_pretrained(NAME, image_size=image_size).eval()
        except (FileNotFoundError, ImportError) as error:
            print(error)
            return None


def photograph(name: str, size: tuple[int, int] = (336, 504)) -> Tensor:
    """A photograph in RGB, float ``[1, 3, H, W]`` from 0 to 1: the largest part of the wanted shape from its middle,
    resized.

    Args:
        name: One of ``PHOTOGRAPHS``.
        size: Height and width wanted, in pixels.
    """
    from skimage import data

    checks.choice(PHOTOGRAPHS, name=name)
    image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None] / 255
    height, width = image.shape[2:]
    scale = min(height / size[0], width / size[1])
    rows, columns = round(scale * size[0]), round(scale * size[1])
    top, left = (height - rows) // 2, (width - columns) // 2
    image = image[:, :, top:top + rows, left:left + columns]
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def piece_folder(folder: Path, train: int = 13, test: int = 12) -> Path:
    """Write pieces of the four photographs as a folder of pictures, one folder per photograph: a small task to learn.

    The pieces are grey squares of 48 to 95 pixels, all of one brightness and contrast, so that neither gives them away.
    Those in ``train`` come from the left half of each photograph, those in ``test`` from the right half.

    Args:
        folder: Where to; it is made.
        train: Pieces per photograph to train on.
        test: Pieces per photograph to test on.

    Returns:
        The folder, as ``vitlite.data.load`` takes it.
    """
    for number, name in enumerate(PHOTOGRAPHS):
        grey = photograph(name, (400, 600))[0].mean(dim=0)
        for part, half, count in (("train", grey[:, :300], train), ("test", grey[:, 300:], test)):
            place = Path(folder) / part / name
            place.mkdir(parents=True, exist_ok=True)
            for i, piece in enumerate(_pieces(half, count, number)):
                Image.fromarray(piece.mul(255).round().byte().numpy()).convert("RGB").save(place / f"{i:02}.png")
    return Path(folder)


def _pieces(grey: Tensor, count: int, seed: int) -> list[Tensor]:
    """Squares from random places of a grey picture ``[H, W]``, from 0 to 1."""
    random, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        share, down, along = torch.rand(3, generator=random).tolist()
        side = 48 + int(48 * share)
        y, x = int(down * (grey.shape[0] - side)), int(along * (grey.shape[1] - side))
        piece = grey[y:y + side, x:x + side]
        found.append((0.5 + 0.2 * (piece - piece.mean()) / (piece.std() + 0.01)).clamp(0, 1))
    return found


def normalised(images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` from 0 to 1, as the published ViT wants them: by ImageNet's mean and deviation."""
    entry = weights.published()[NAME]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (entry.mean, entry.std))
    return (images - mean) / std


def standing_out(states: Tensor, size: tuple[int, int]) -> Tensor:
    """The published model's own answer, by the decoder that its file holds: a map of what stands out in an image.

    Args:
        states: Final states of the patches, after the encoder's last norm, ``[B, N, 384]``.
        size: Height and width of the map, those of the image, in pixels.

    Returns:
        From 0 to 1, ``[B, H, W]``. Chapter 15 builds it line by line.
    """
    tensors = _decoder()
    rows, columns = size[0] // 14, size[1] // 14
    x = states.transpose(1, 2).unflatten(2, (rows, columns))
    for i in (1, 2, 3):
        weight, bias = (tensors[f"decoder.upconv{i}.{leaf}"] for leaf in ("weight", "bias"))
        norm = (tensors[f"decoder.bn{i}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(F.conv_transpose2d(x, weight, bias, stride=2, padding=1), *norm).relu()
    x = F.conv2d(x, tensors["decoder.final_conv.weight"], tensors["decoder.final_conv.bias"])
    return F.interpolate(x, size, mode="bilinear").sigmoid()[:, 0]


@cache
def _decoder() -> dict[str, Tensor]:
    """The decoder's tensors; the file of 97 MB is read and its hash verified once."""
    tensors = weights.onnx_tensors(weights.published_file())
    return {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
