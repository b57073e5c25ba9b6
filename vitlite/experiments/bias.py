"""What four architectures of equal size know of images before they see one, and what becomes of it in training.

Question:    How well do a ViT, a hybrid, a ResNet and a fully connected network of equally many parameters classify
             small images, and how much of it is left when the images are shifted, cut up and shuffled, or covered?
Expectation: Convolutions first: ResNet and hybrid above the ViT, all three far above the fully connected network, whose
             answers also change most under a shift. The ResNet's change least. Shuffled tiles cost every network
             most of its accuracy, because the outline goes, and the ViT loses least when the tiles are its patches;
             it is also the one that bears covered patches best. Trained on images whose patches are permuted once and
             for all, the ViT and the fully connected network do as well as before and the ResNet worse; with
             all pixels permuted, the fully connected network alone does as well as before.
Command:     python -m vitlite experiment bias
Cost:        About 30 minutes on one CPU core with bfloat16 instructions, 2 GB of memory. It resumes when interrupted.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitlite import ViT, cost, data, records, resnet, weights
from vitlite.data import scenes
from vitlite.data.datasets import SCENES_START
from vitlite.experiments import _shared
from vitlite.experiments._shared import FAMILIES, best, loaded, mlp, trained, tuned
from vitlite.train import Trainer, evaluate, predictions
from vitlite.train.recipes import Recipe

__all__ = ["DATASET", "FAMILIES", "SCALES", "build", "cover", "disturbed", "mlp", "pan", "points", "recipe", "run",
           "search", "shuffle", "summarise"]  # fmt: skip

DATASET = "scenes at 32 px, seed 0: generated training images, 2,000 validation and 2,000 test images"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"
IMAGE_SIZE = 32

VIT = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "num_classes": len(scenes.CLASSES),
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 4,
    "mlp_dim": 192,
}
RECIPE = {
    "batch_size": 128,
    "weight_decay": 0.05,
    "flip": True,
    "crop_padding": 2,
    "label_smoothing": 0.1,
}
GRID = {
    "vit": VIT,
    "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1},  # the stem's parameters are those of one block
    "recipe": RECIPE,
    "learning_rates": [5e-4, 1.5e-3, 4.5e-3],
    "shifts": list(range(9)),  # pixels
    "tiles": [16, 8, 4, 2],  # pixels
    "covered": [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75],  # share of the 4×4 px patches
}

# An order other than "image" permutes the input once and for all, by patches or by pixels, in training and test alike.
SCALES = {
    "quick": GRID | {"train_images": 2_000, "steps": 60, "search_steps": 20, "orders": ["image", "patches"],
                     "seeds": [0], "device": "cpu", "publish": False},
    "cpu": GRID | {"train_images": 50_000, "steps": 1_500, "search_steps": 150, "orders": ["image"], "seeds": [0],
                   "device": "cpu", "publish": True},
    "full": GRID | {"train_images": 200_000, "steps": 15_000, "search_steps": 1_000,
                    "orders": ["image", "patches", "pixels"], "seeds": [0, 1, 2], "device": "cuda",
                    "publish": True},
}  # fmt: skip


def points(config: dict) -> list[dict]:
    """Every family on images as they are, seed after seed; then on permuted ones."""
    return [{"order": order, "seed": seed, "family": family} for order in config["orders"] for seed in config["seeds"]
            for family in FAMILIES]  # fmt: skip


def run(point: dict, config: dict, work: Path) -> dict:
    """Choose a learning rate, train, and measure what was trained on the test images, as they are and disturbed.

    Returns:
        Beside the usual keys ``learning_rate`` and ``search`` (validation accuracy by rate); and of the test images,
        a list each, ``shift`` (accuracy and ``consistency``, the share of images that keep the answer they get
        unshifted, by pixels), ``shuffle`` (by tile, each image in an order of its own or all in one) and ``cover``
        (by share of patches).
    """
    family, seed, order = point["family"], point["seed"], point["order"]
    sets = loaded("scenes", train_images=config["train_images"], image_size=IMAGE_SIZE)
    found = search(family, sets, config, work)
    model = build(family, config, seed, order)
    long = recipe(config, config["steps"], best(found))
    resume = work / f"{family}-{order}-seed{seed}.safetensors"
    measured = trained(model, sets, long, seed=seed, device=config["device"], checkpoint=resume)
    saved = keep(model, point, config, sets, work)
    return measured | {
        "flops": cost.flops(model, IMAGE_SIZE),
        "val_accuracy": evaluate(saved, sets.validation).accuracy,
        "test_accuracy": evaluate(saved, sets.test).accuracy,
        "learning_rate": long.learning_rate,
        "search": found,
        **disturbed(saved, sets.test, _panned(sets.test, config["shifts"]), config),
    }


def summarise(runs: list[dict]) -> dict:
    """By order and family, means over the seeds: test accuracy; at the largest shift, with the answers kept; with each
    image's patches shuffled; with the most patches covered."""
    told: dict = {}
    for order, family in dict.fromkeys((run["order"], run["family"]) for run in runs):
        here = [run for run in runs if (run["order"], run["family"]) == (order, family)]
        told.setdefault(order, {})[family] = {
            "seeds": len(here),
            "test_accuracy": statistics.mean(run["test_accuracy"] for run in here),
            "shift": statistics.mean(run["shift"][-1]["accuracy"] for run in here),
            "consistency": statistics.mean(run["shift"][-1]["consistency"] for run in here),
            "shuffle": statistics.mean(
                step["accuracy"] for run in here for step in run["shuffle"] if _own_patches(step)
            ),
            "cover": statistics.mean(run["cover"][-1]["accuracy"] for run in here),
        }
    return told


def _own_patches(step: dict) -> bool:
    return step["each"] and step["tile"] == VIT["patch_size"]


# ---- a network that sees permuted images


class Reordered(nn.Module):
    """A model that sees every image with its pixels in another order, always the same.

    Args:
        model: Any model of images.
        order: int64 ``[H · W]``: for each place, which pixel stands there.
    """

    def __init__(self, model: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("order", order)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> logits ``[B, classes]``."""
        return self.model(images.flatten(2)[:, :, self.order].unflatten(2, images.shape[2:]))


def build(family: str, config: dict, seed: int, order: str = "image") -> nn.Module:
    """A new model of the family; with an order other than ``"image"``, one that sees permuted images."""
    model = _shared.build(family, config, seed)
    if order == "image":
        return model
    tile = {"patches": config["vit"]["patch_size"], "pixels": 1}[order]
    places = torch.arange(IMAGE_SIZE**2).view(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    return Reordered(model, shuffle(places, tile, torch.Generator().manual_seed(0)).flatten())


# ---- training


def search(family: str, sets: data.Splits, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy after a short training at each learning rate, for one seed; kept for the next seeds."""

    def trial(rate: float) -> float:
        short = recipe(config, config["search_steps"], rate).replace(validate_every=config["search_steps"])
        return Trainer(build(family, config, seed=0), short, device=config["device"]).fit(sets)["val_accuracy"][-1]

    return tuned(config["learning_rates"], trial, work / f"{family}-search.json")


def recipe(config: dict, steps: int, rate: float) -> Recipe:
    """The recipe that every family is trained by, so many steps long and at a rate."""
    tenth = max(1, steps // 10)
    return Recipe("bias", steps, learning_rate=rate, warmup_steps=tenth, validate_every=tenth, **config["recipe"])


def keep(model: nn.Module, point: dict, config: dict, sets: data.Splits, work: Path) -> nn.Module:
    """Save the first seed's weights in bfloat16, and give back the model as saved; others come back as they are."""
    if not isinstance(model, (ViT, resnet.ResNet)) or point["seed"] != config["seeds"][0]:
        return model.eval()
    path = (CHECKPOINTS if config["publish"] else work) / f"bias_{point['family']}.safetensors"
    weights.save(model, path, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std, record="bias",
                 dtype=torch.bfloat16)  # fmt: skip
    return weights.load(path, device=config["device"])


# ---- what is done to the test images


def pan(images: int, shift: int, image_size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
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
             torch.empty(images, image_size, image_size, dtype=torch.bool))  # fmt: skip
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

    def told(images: Tensor, **where) -> dict:
        given = predictions(model, dataclasses.replace(test, images=images))
        return where | {"accuracy": _share(given == test.labels), "consistency": _share(given == plain)}

    tile = config["vit"]["patch_size"]
    return {
        "shift": [told(images, **where) for where, images in shifted],
        "shuffle": [told(shuffle(test.images, side, _random(), each), tile=side, each=each)
                    for side in config["tiles"] for each in (False, True)],
        "cover": [told(cover(test.images, share, tile, test.mean, _random()), share=share)
                  for share in config["covered"]],
    }  # fmt: skip


def _panned(test: data.Split, shifts: list[int]) -> Iterable[tuple[dict, Tensor]]:
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
