"""What is done to test images: shift, cut up and shuffle, cover; and how many answers are left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from vitlite import data
from vitlite.data import scenes
from vitlite.data.datasets import SCENES_START
from vitlite.train import predictions

__all__ = ["cover", "disturbed", "pan", "panned", "shuffle"]


def pan(images: int, shift: int, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """Test scenes seen through a window moved by some pixels; by turns left, right, up and down.

    The scene goes on beyond the frame, so nothing has to be made up at the border: at a shift of 0 these are the test
    images themselves, and what enters at one side is what had been there all along.

    Args:
        images: How many, from the first test image on.
        shift: Pixels.
        image_size: Side of the window, in pixels.

    Returns:
        Images uint8 ``[N, 3, H, W]`` and masks bool ``[N, H, W]``.
    """
    moved = (torch.empty(images, 3, image_size, image_size, dtype=torch.uint8),
             torch.empty(images, image_size, image_size, dtype=torch.bool))
    turn = torch.arange(images) // len(scenes.CLASSES) % 4  # the label repeats with every image of a new turn
    for way, (axis, sign) in enumerate([(-1, -1), (-1, 1), (-2, -1), (-2, 1)]):
        for whole, source in zip(moved, _beyond(images, axis, image_size), strict=True):
            whole[turn == way] = source[turn == way].narrow(axis, image_size // 2 + sign * shift, image_size)
    return moved


def shuffle(images: Tensor, tile: int, generator: torch.Generator, each: bool = False) -> Tensor:
    """Cut images ``[B, C, H, W]`` into tiles of so many pixels a side and permute them.

    Args:
        images: The images; ``tile`` divides their sides.
        tile: Side of a tile, in pixels.
        generator: Where the order comes from.
        each: Give each image an order of its own, instead of one order for all.
    """
    rows, columns = images.shape[2] // tile, images.shape[3] // tile
    tiles = images.unflatten(3, (columns, tile)).unflatten(2, (rows, tile))  # [B, C, rows, P, columns, P]
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, N, C, P, P]
    keys = torch.rand(len(images) if each else 1, tiles.shape[1], generator=generator)
    order = keys.argsort(dim=1).expand(len(images), -1).to(images.device)
    tiles = tiles[torch.arange(len(images), device=images.device)[:, None], order]
    return tiles.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def cover(images: Tensor, share: float, tile: int, colour: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Cover a share of the tiles of images ``[B, C, H, W]``, other ones in each image, with one colour.

    Args:
        images: uint8 images; ``tile`` divides their sides.
        share: Which share of the tiles. A larger share covers the same tiles and more, for one generator state.
        tile: Side of a tile, in pixels.
        colour: Of each channel, where white is 1; the training set's mean is zero after normalisation.
        generator: Where the choice comes from.
    """
    rows, columns = images.shape[2] // tile, images.shape[3] // tile
    rank = torch.rand(len(images), rows * columns, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = (rank < share * rows * columns).view(-1, 1, rows, columns)
    hidden = hidden.repeat_interleave(tile, dim=2).repeat_interleave(tile, dim=3).to(images.device)
    blank = (torch.tensor(colour, device=images.device) * 255).round().to(images.dtype).view(-1, 1, 1)
    return torch.where(hidden, blank, images)


def disturbed(
    model: nn.Module, test: data.Split, shifted: Iterable[tuple[dict, Tensor]], config: dict
) -> dict[str, list[dict]]:
    """Accuracy of a model on shifted, shuffled and covered test images; every model gets the same ones.

    Args:
        model: What to test.
        test: The test images as they are.
        shifted: The same images shifted, with what there is to say of each shift: how to shift depends on the images.
        config: Has ``tiles``, ``covered`` and the side of the patches that are covered.
    """
    plain = predictions(model, test)

    def measured(images: Tensor, **change) -> dict:
        given = predictions(model, dataclasses.replace(test, images=images))
        return change | {"accuracy": _share(given == test.labels), "consistency": _share(given == plain)}

    tile = config["vit"]["patch_size"]
    return {
        "shift": [measured(images, **where) for where, images in shifted],
        "shuffle": [measured(shuffle(test.images, side, _random(), each), tile=side, each=each)
                    for side in config["tiles"] for each in (False, True)],
        "cover": [measured(cover(test.images, share, tile, test.mean, _random()), share=share)
                  for share in config["covered"]],
    }


def panned(test: data.Split, shifts: list[int]) -> Iterable[tuple[dict, Tensor]]:
    """The test scenes at each shift, with the share of the object that is left in the frame."""
    for shift in shifts:
        images, masks = pan(len(test), shift)
        seen = masks.sum(dim=(1, 2)) / test.masks.sum(dim=(1, 2))
        yield {"pixels": shift, "object_in_frame": seen.mean().item()}, images


@cache
def _beyond(images: int, axis: int, image_size: int) -> tuple[Tensor, Tensor]:
    """The first test scenes, twice as long along the axis: the same scenes, and what lies beside the frame."""
    size = (image_size, 2 * image_size) if axis == -1 else (2 * image_size, image_size)
    images, _, masks = scenes.render(SCENES_START["test"] + np.arange(images), image_size=size)
    return torch.from_numpy(images), torch.from_numpy(masks)


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _share(yes: Tensor) -> float:
    return yes.double().mean().item()
