"""The published ViT made ready at 112 pixels and used on larger and on wide images: at once, and fine-tuned there.

Question:    A published ViT-S/14 classifies CIFAR-10 at 112 pixels by a linear map. How much accuracy is left on images
             of 168 pixels, at once, when its position table is resampled by two conventions, copied by nearest
             neighbours, taken anew from the file or drawn anew? What does a short fine-tuning add there, beside one at
             112 pixels? And does it read wide images, and better than the same images squashed to a square?
Expectation: At once, 168 pixels cost a few points; the resampled tables differ by less than two, and the table drawn
             anew loses tens of points. Fine-tuned, 168 pixels are level with 112: there is no more to see in CIFAR-10's
             photographs. Wide images lose less as they are than squashed.
Command:     python -m experiments resolution
Cost:        cpu: 8 runs, about 12 minutes of processor time with bfloat16 instructions. full: 24 runs (three seeds,
             224 and 336 pixels) on one GPU, untried so far. It resumes when interrupted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import real_weights
from experiments.measure import UNTRAINED, once
from experiments.real_weights import accuracy, fine_tuned, resized, two_rates, with_a_linear_map
from experiments.statistics import grouped, interval
from vitlite import ViT, checks, cost, data, plots
from vitlite.position import CONVENTIONS

__all__ = ["DATASET", "SCALES", "enlarged", "points", "run", "show", "summarise"]

DATASET = (
    "cifar10: 50 images per class of its 45,000 training images and 1,000 test images (full: 10,000), enlarged, "
    "bicubic; wide: the middle two thirds of an enlarged image's rows; quick: scenes"
)
# The form of the images, and where the position table comes from.
PLACES = [
    ("square", "same"), ("larger", "deit"), ("larger", "new"), ("wide", "deit"), ("squashed", "same"),
    ("larger", "jax"), ("larger", "nearest"), ("larger", "file"),
]
GRID = {
    "l2": 0.1, "rates": {"body": 1e-5, "head": 5e-5},  # as in `real_weights`
    "weight_decay": 0.05, "label_smoothing": 0.1, "batch_size": 25, "device": "cpu",
    "fine_tuned": [["square", "same"], ["larger", "deit"]], "seeds": [0],
}
SCALES = {
    "quick": GRID | {"data": {"name_or_path": "scenes", "train_images": 100, "held_out": 40}, "image_size": 28,
                     "larger": 42, "most": 2, "validation": 10, "test": 20, "epochs": 1},
    "cpu": GRID | {"data": {"name_or_path": "cifar10"}, "image_size": 112, "larger": 168, "most": 50,
                   "validation": 50, "test": 1_000, "epochs": 2},
    "full": GRID | {"data": {"name_or_path": "cifar10"}, "image_size": 224, "larger": 336, "most": 50,
                    "validation": 500, "test": 10_000, "epochs": 10, "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """Every form and table with the first seed, then with the next."""
    return [{"form": form, "table": table, "seed": seed} for seed in config["seeds"] for form, table in PLACES]


def run(point: dict, config: dict, work: Path) -> dict:
    """Fit the linear map at the first size, and use it on images of another form; train there if that is asked for.

    Returns:
        The usual keys; ``at_once``, accuracy on the test images before any training there, and ``fine_tuned`` after it,
        where there is any; ``tokens`` and ``flops``, what one image costs.
    """
    form, table, seed = point["form"], point["table"], point["seed"]
    sets = real_weights.drawn(config, seed)
    model = real_weights.published(config).reset_head(len(sets.train.classes))

    def fit() -> dict:
        with_a_linear_map(model, sets.train, config["l2"])
        return {}

    once(model, work / f"map-{seed}.safetensors", fit)
    model = enlarged(model, form, table, config)
    at_once = _accuracy(model, sets.test, form, config)
    measured = {"parameters": cost.parameters(model), "train_images": len(sets.train), "at_once": at_once,
                "tokens": model.config.num_patches, "flops": cost.flops(model, model.config.image_size)}
    if [form, table] in config["fine_tuned"]:
        trained = fine_tuned(model, sets, config, two_rates(model, **config["rates"]), config["epochs"], seed)
        return measured | trained | {"fine_tuned": trained["test_accuracy"]}
    return measured | UNTRAINED | {"test_accuracy": at_once,
                                   "val_accuracy": _accuracy(model, sets.validation, form, config)}


def enlarged(model: ViT, form: str, table: str, config: dict) -> ViT:
    """The model for images of a form, its position table resampled, copied, taken from the file or drawn anew.

    Args:
        model: The published one, at the first size.
        form: ``"square"`` or ``"squashed"`` for the first size, ``"larger"`` or ``"wide"``.
        table: A convention of ``vitlite.position``, ``"nearest"``, ``"file"``, ``"new"``, or ``"same"`` where the size
            stays.
        config: Its ``image_size`` and ``larger`` are the two sizes, in pixels.
    """
    small, large = config["image_size"], config["larger"]
    size = {"larger": (large, large), "wide": (small, large)}.get(form, (small, small))
    new = model.at_resolution(size, table if table in CONVENTIONS else "deit")
    prefix, rows = model.config.table_prefix, new.position.data
    if table == "nearest":
        picture = model.position.detach()[:, prefix:].unflatten(1, model.config.grid).permute(0, 3, 1, 2)
        rows[:, prefix:] = F.interpolate(picture, new.config.grid).flatten(2).transpose(1, 2)
    elif table == "file":
        rows.copy_(real_weights.published(config | {"image_size": size}).position.data)
    elif table == "new":
        torch.manual_seed(0)
        nn.init.normal_(rows[:, prefix:], std=0.02)  # as before training
    return new


def _accuracy(model: ViT, split: data.Split, form: str, config: dict) -> float:
    return accuracy(model, split, partial(_formed, form=form, config=config))


def _formed(images: Tensor, form: str, config: dict) -> Tensor:
    """Images enlarged; wide and squashed ones have lost all but the middle of their rows."""
    small, large = config["image_size"], config["larger"]
    side, top = small if form == "square" else large, (large - small) // 2
    images = resized(images, (side, side))
    if form in ("wide", "squashed"):
        images = images[:, :, top:top + small]
    return resized(images, (small, small)) if form == "squashed" else images


def summarise(runs: list[dict]) -> list[dict]:
    """By form and table: what an image costs, and the accuracies with their intervals over the seeds."""
    return [{"form": form, "table": table, **{key: those[0][key] for key in ("tokens", "flops")},
             **{when: interval(run[when] for run in those) for when in ("at_once", "fine_tuned") if when in those[0]}}
            for (form, table), those in grouped(runs, "form", "table").items()]


def show(record: dict, what: str) -> Figure:
    """The record as chapter 9 shows it.

    Args:
        record: The record ``resolution``.
        what: ``"tables"``: accuracy at once by position table; ``"forms"``: by form of the images, also fine-tuned.
    """
    small, large = record["config"]["image_size"], record["config"]["larger"]
    views = {
        "tables": ("A table from the old one works, a new one does not", [
            (f"{small} px", "square", "same", "at_once"), *(
                (name, "larger", table, "at_once") for name, table in (
                    ("deit", "deit"), ("jax", "jax"), ("copied", "nearest"), ("from the file", "file"),
                    ("drawn anew", "new")))]),
        "forms": ("168 pixels do as well as 112, and no better", [
            (f"{small} px", "square", "same", "at_once"), (f"{small} px, trained", "square", "same", "fine_tuned"),
            (f"{large} px", "larger", "deit", "at_once"), (f"{large} px, trained", "larger", "deit", "fine_tuned"),
            ("wide", "wide", "deit", "at_once"), ("squashed", "squashed", "same", "at_once")]),
    }
    checks.choice(views, what=what)
    title, wanted = views[what]
    rows = {(row["form"], row["table"]): row for row in record["summary"]}
    return plots.bars({name: 100 * rows[form, table][when]["mean"] for name, form, table, when in wanted
                       if when in rows.get((form, table), {})}, "test accuracy (%)", title)
