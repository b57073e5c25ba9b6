"""What four architectures of equal size make of photographs that are shifted, shuffled or covered.

Question:    A ViT, a hybrid, a ResNet and a fully connected network of equally many parameters are trained on the same
             photographs, equally long: how well does each name them, and how much of it is left when the test images
             are shifted, cut up and shuffled, or covered?
Expectation: As on scenes, and all gaps smaller, because nobody gets as far. ResNet first, then the hybrid, the ViT and
             the fully connected network. Shifted by 4 pixels, the ResNet keeps most answers and the fully connected
             network fewest; the ViT keeps more at 4 pixels, a whole patch, than at 2. With the patches shuffled the
             ViT loses fewer points than ResNet and hybrid, and with three quarters of the patches covered too.
Command:     python -m experiments bias_photographs
Cost:        cpu: 12 runs, about 25 minutes on one core with bfloat16 instructions, 2 GB of memory. full: 12 runs of
             15,000 steps on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import bias, records
from experiments.disturb import disturbed
from experiments.families import FAMILIES, NAMES
from experiments.measure import best, loaded, trained, usual_recipe
from experiments.statistics import grouped, interval
from vitlite import cost, data, plots

__all__ = ["DATASET", "SCALES", "measures", "points", "run", "show", "summarise", "windows"]

DATASET = (
    "cifar10: 45,000 training, 5,000 validation and 10,000 test images, of each the 24×24 pixels in the middle; "
    "disturbed are 2,000 of the test images, class-balanced (full: all); quick: scenes"
)

PATCH = 4  # pixels
GRID = {
    "vit": {"image_size": 24, "patch_size": PATCH, "num_classes": 10, "embed_dim": 96, "depth": 6, "num_heads": 3,
            "mlp_dim": 192, "pool": "mean"},
    "hybrid": bias.GRID["hybrid"],
    "recipe": bias.RECIPE,
    "learning_rates": bias.GRID["learning_rates"],
    "shifts": [0, 1, 2, 3, 4],  # pixels: all the room that a window of 24 has in an image of 32
    "tiles": [12, 8, 4, 2],  # pixels
    "covered": bias.GRID["covered"],  # share of the 4×4 px patches
}

SCALES = {
    "quick": GRID | {"data": {"name_or_path": "scenes", "train_images": 1_000, "held_out": 200}, "test_images": 200,
                     "steps": 40, "search_steps": 10, "seeds": [0], "device": "cpu"},
    "cpu": GRID | {"data": {"name_or_path": "cifar10"}, "test_images": 2_000, "steps": 600, "search_steps": 100,
                   "seeds": [0, 1, 2], "device": "cpu"},
    "full": GRID | {"data": {"name_or_path": "cifar10"}, "test_images": 10_000, "steps": 15_000,
                    "search_steps": 1_000, "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """Every family with the first seed, then with the next."""
    return [{"seed": seed, "family": family} for seed in config["seeds"] for family in FAMILIES]


def run(point: dict, config: dict, work: Path) -> dict:
    """Choose a learning rate, train, and measure what was trained on test images, as they are and disturbed.

    Returns:
        Beside the usual keys ``flops``, ``learning_rate`` and ``search`` (validation accuracy by rate), and of the
        disturbed test images the lists ``shift``, ``shuffle`` and ``cover``, as in ``bias``.
    """
    family, seed, size = point["family"], point["seed"], config["vit"]["image_size"]
    whole = loaded(**config["data"])
    sets = data.Splits(*(_middle(split, size) for split in whole))
    by_rate = bias.search(family, sets, config, work)
    model = bias.build(family, config, seed)
    recipe = usual_recipe("bias", config, config["steps"], best(by_rate), validations=4)  # 5,000 images each time
    resume = work / f"{family}-seed{seed}.safetensors"
    measured = trained(model, sets, recipe, seed=seed, device=config["device"], checkpoint=resume)
    some = whole.test.subset(config["test_images"])
    shifted = [({"pixels": shift}, windows(some.images, shift, size)) for shift in config["shifts"]]
    return measured | {
        "flops": cost.flops(model, size),
        "learning_rate": recipe.learning_rate,
        "search": by_rate,
        **disturbed(model, _middle(some, size), shifted, config),
    }


def summarise(runs: list[dict]) -> dict:
    """The measures by family, with intervals over the seeds, and how much each lies above the ViT's, seed by seed."""
    rows = {family: {run["seed"]: measures(run) for run in those} for family, those in grouped(runs, "family").items()}
    vit = rows.get("vit", {})
    above = {family: [_minus(of[seed], vit[seed]) for seed in of if seed in vit] for family, of in rows.items()}
    return {
        "families": {family: _intervals(list(of.values())) for family, of in rows.items()},
        "above_vit": {family: _intervals(gaps) for family, gaps in above.items() if gaps and family != "vit"},
    }


def measures(run: dict) -> dict[str, float]:
    """What a run comes to, in a few figures: accuracies, what each disturbance takes from them, answers kept.

    Args:
        run: An entry of the record.

    Returns:
        ``test_accuracy`` on all test images; of those that are disturbed, ``plain`` as they are, ``shift`` at the
        largest shift, ``shuffle`` with the patches in an order of each image's own and ``cover`` with the most patches
        covered, and the points that each takes, ``lost_by_shift`` and so on; ``consistency``, the share of answers
        kept at the largest shift; ``whole_patch``, how much larger that share is at a shift of a patch than of half.
    """
    kept = {step["pixels"]: step["consistency"] for step in run["shift"]}
    plain = run["shift"][0]["accuracy"]
    left = {
        "shift": run["shift"][-1]["accuracy"],
        "shuffle": next(step["accuracy"] for step in run["shuffle"] if step["each"] and step["tile"] == PATCH),
        "cover": run["cover"][-1]["accuracy"],
    }
    return {
        "test_accuracy": run["test_accuracy"],
        "plain": plain,
        **left,
        **{f"lost_by_{what}": plain - accuracy for what, accuracy in left.items()},
        "consistency": run["shift"][-1]["consistency"],
        "whole_patch": kept[PATCH] - kept[PATCH // 2],
    }


def _minus(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {what: ours[what] - theirs[what] for what in ours}


def _intervals(rows: list[dict[str, float]]) -> dict[str, dict]:
    return {what: interval(row[what] for row in rows) for what in rows[0]}


# ---- windows


def windows(images: Tensor, shift: int, size: int) -> Tensor:
    """What square windows show of images, moved from the middle by some pixels; by turns left, right, up and down.

    A window is smaller than the image, so that nothing has to be made up at the border.

    Args:
        images: ``[N, C, H, W]``.
        shift: Pixels.
        size: Side of the window, in pixels.

    Returns:
        ``[N, C, size, size]``.

    Raises:
        ValueError: If the window would leave the image.
    """
    top, left = ((side - size) // 2 for side in images.shape[2:])
    if not 0 <= shift <= min(top, left):
        raise ValueError(
            f"shift is {shift} pixels; a window of {size} in an image of {images.shape[2]}×{images.shape[3]} has room "
            f"for 0 to {min(top, left)}: take a smaller shift or window"
        )
    moved = images.new_empty(*images.shape[:2], size, size)
    for way, (down, right) in enumerate([(0, -1), (0, 1), (-1, 0), (1, 0)]):
        row, column = top + down * shift, left + right * shift
        moved[way::4] = images[way::4, :, row : row + size, column : column + size]
    return moved


def _middle(split: data.Split, size: int) -> data.Split:
    return dataclasses.replace(split, images=windows(split.images, 0, size), masks=None)


# ---- what a chapter shows

SHOWN = {
    "test_accuracy": "test images (%)",
    "consistency": "keep their answer, moved 4 pixels (%)",
    "lost_by_shuffle": "points lost, patches shuffled",
}


def _table(record: dict) -> str:
    by_family = record["summary"]["families"]
    rows = [[name, *(records.percent(by_family[family][what]) for what in SHOWN)] for family, name in NAMES.items()]
    return records.table(["network", *SHOWN.values()], rows)


def _banded(record: dict, disturbance: str, measure: str) -> dict[str, tuple]:
    """Curves by the family's name: the mean over the seeds, the lowest seed and the highest."""
    return {name: (x, values.mean(0), values.amin(0), values.amax(0))
            for name, (x, values) in bias.curves(record["runs"], disturbance, measure).items()}


def _shuffle(record: dict) -> Figure:
    whole = _banded(record, "shift", "accuracy")  # at a shift of 0: the images as they are, one tile of 24 pixels
    shuffled = {}
    for name, (tiles, *values) in _banded(record, "shuffle", "accuracy").items():
        plain = whole[name][1:]
        joined = (torch.cat([start[:1], rest]) for start, rest in zip(plain, values, strict=True))
        shuffled[name] = ([record["config"]["vit"]["image_size"], *tiles], *joined)
    return plots.lines(shuffled, "side of the shuffled tiles (pixels; 24 is the whole image)", "test accuracy (%)",
                       "Photographs too: the ViT hardly needs the order", logx=True)


show = records.views(table=_table, shuffle=_shuffle)  # chapter 6
