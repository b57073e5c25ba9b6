"""How much data a ViT needs, beside a hybrid and a ResNet of equally many parameters.

Question:    With how many images does a ViT overtake a ResNet of equal size, and where does a hybrid lie? Does it
             matter whether the runs are equally long in steps or in passes over their images?
Expectation: The ResNet leads where images are few. In the paper (Sec. 4.3, Fig. 4) the ViT overtakes between 9M and
             90M images, with far larger models: at every size of CIFAR-10 the ResNet stays ahead. Both curves rise
             steeply up to all 45,000 images; with 500 the ViT knows its training images by heart. On scenes both get
             far, and there the ViT comes nearest, with 100,000 images. The hybrid lies between the two, nearer to
             the ResNet.
Command:     python -m experiments data_size
Cost:        cpu: 48 runs of 6,000 steps (CIFAR-10 and scenes at 24 pixels, three seeds) of 13 to 19 minutes on two
             cores with bfloat16 instructions, and about 60 trials of a learning rate of 600 steps: about 14 hours in
             all, 3 GB of memory. full: 180 runs at 32 pixels on one GPU, 1.8 million steps of batch 128; --jobs lets
             runs share it. It resumes when interrupted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from experiments import records
from experiments.families import NAMES, RATES, SMALL, build
from experiments.measure import best, bracketed, trained, tried, tuned, unmasked, usual_recipe
from experiments.statistics import curve, grouped, interval, paired
from vitlite import cost, data, plots

__all__ = ["DATASET", "SCALES", "points", "run", "search", "show", "steps", "summarise"]

DATASET = (
    "cifar10: class-balanced, nested subsets of its 45,000 training images, 5,000 validation and 10,000 test images; "
    "scenes, seed 0: the same of 100,000 (full: 1,000,000) generated images, 5,000 validation and 5,000 test images. "
    "At 24 pixels (cpu) or 32 (full); quick: 1,000 scenes at 16 pixels"
)

VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
FAMILIES = list(RATES)
TWO = FAMILIES[:2]
# A grid is a list of blocks, the most telling first; so are the sizes in each. Its length is "steps" (all take
# config["steps"]) or "epochs" (all pass over their images as often as config["steps"] do over like["..."] images).
SCALES = {
    "quick": {
        "data": {"scenes": {"train_images": 1_000, "held_out": 200, "image_size": 16}},
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_dim": 112},
        "hybrid": {"depth": 1, "stem_width": 8, "stem_blocks": 1},
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "crop_padding": 1, "optimizer": "muon"},
        "steps": 40,
        "grid": [{"data": "scenes", "length": "steps", "train_images": [100, 1_000], "families": FAMILIES},
                 {"data": "scenes", "length": "epochs", "train_images": [500], "families": TWO}],
        "like": {"scenes": 1_000},
        "learning_rates": RATES,
        "tuned_at": {"scenes": [100, 1_000]},
        "search_steps": 5,
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": {
        "data": {"cifar10": {"image_size": 24},
                 "scenes": {"train_images": 100_000, "held_out": 5_000, "image_size": 24}},
        "vit": SMALL | {"image_size": 24, "pool": "mean"},
        "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1, "stem_norm": "batch"},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "optimizer": "muon"},
        "steps": 6_000,
        "grid": [
            {"data": "cifar10", "length": "steps", "train_images": [45_000, 500, 2_500, 10_000], "families": TWO},
            {"data": "scenes", "length": "steps", "train_images": [100_000, 1_000, 10_000], "families": TWO},
            {"data": "cifar10", "length": "steps", "train_images": [45_000, 500], "families": ["hybrid"]},
        ],
        "like": {},
        "learning_rates": RATES,
        "bracket": True,
        "tuned_at": {"cifar10": [500, 2_500, 10_000, 45_000], "scenes": [1_000, 10_000, 100_000]},
        "search_steps": 600,
        "seeds": [0, 1, 2],
        "device": "cpu",
    },
    "full": {
        "data": {"cifar10": {"image_size": 32},
                 "scenes": {"train_images": 1_000_000, "held_out": 5_000, "image_size": 32}},
        "vit": SMALL | {"image_size": 32, "pool": "mean"},
        "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1, "stem_norm": "batch"},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 4, "optimizer": "muon"},
        "steps": 9_000,
        "grid": [
            {"data": "cifar10", "length": "steps",
             "train_images": [45_000, 500, 5_000, 1_000, 2_500, 10_000, 25_000], "families": FAMILIES},
            {"data": "scenes", "length": "steps", "train_images": [1_000_000, 1_000, 100_000, 10_000],
             "families": FAMILIES},
            {"data": "cifar10", "length": "epochs", "train_images": [500, 5_000, 1_000, 2_500, 10_000, 25_000],
             "families": FAMILIES},
            {"data": "scenes", "length": "epochs", "train_images": [1_000, 10_000, 1_000_000], "families": FAMILIES},
        ],
        "like": {"cifar10": 45_000, "scenes": 100_000},  # 26 and 12 passes
        "learning_rates": RATES,
        "bracket": True,
        "tuned_at": {"cifar10": [1_000, 45_000], "scenes": [1_000, 1_000_000]},
        "search_steps": 1_000,
        "seeds": [0, 1, 2],
        "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "data_size", validations=2)


def points(config: dict) -> list[dict]:
    """The whole grid with the first seed, then with the next."""
    return [{"data": block["data"], "length": block["length"], "train_images": size, "family": family, "seed": seed}
            for seed in config["seeds"] for block in config["grid"] for size in block["train_images"]
            for family in block["families"]]


def steps(point: dict, config: dict) -> int:
    """How many steps a run takes: as many as all others, or so many that all see each of their images equally often."""
    if point["length"] == "steps":
        return config["steps"]
    return max(2, round(config["steps"] * point["train_images"] / config["like"][point["data"]]))


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a family on so many images, at the rate that its trials chose at the nearest of the tuned sizes.

    Returns:
        Beside the usual keys ``flops`` (of one image, forward), ``epochs`` (passes over the images),
        ``learning_rate``, ``tuned_at`` (the size of the trials) and ``search`` (their validation accuracy by rate).
    """
    name, size, family, seed = point["data"], point["train_images"], point["family"], point["seed"]
    lasting = steps(point, config)
    at = nearest(size, config["tuned_at"][name])
    accuracy_by_rate = search(name, at, family, config, work)
    model, recipe = build(family, config, seed), _recipe(config, lasting, best(accuracy_by_rate))
    resume = work / f"{name}-{point['length']}-{size}-{family}-seed{seed}.safetensors"
    measured = trained(model, _drawn(name, size, seed, config), recipe, seed=seed, device=config["device"],
                       checkpoint=resume)
    return measured | {
        "flops": cost.flops(model, config["vit"]["image_size"]),
        "epochs": measured["images_seen"] / size,
        "learning_rate": recipe.learning_rate,
        "tuned_at": at,
        "search": accuracy_by_rate,
    }


def _drawn(name: str, train_images: int, seed: int, config: dict) -> data.Splits:
    """A set with so many of its training images: balanced, nested for one seed, prepared alike."""
    sets = unmasked(name, **config["data"][name])
    return sets._replace(train=sets.train.subset(train_images, seed))


def nearest(size: int, sizes: Iterable[int]) -> int:
    """Of some sizes, the one with the smallest ratio to a size."""
    return min(sizes, key=lambda other: abs(math.log(other / size)))


def search(name: str, train_images: int, family: str, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy after a short training at each rate, for one seed; noted in ``work`` for all runs to come."""

    def trial(rate: float) -> float:
        recipe = _recipe(config, config["search_steps"], rate)
        return tried(build(family, config, seed=0), _drawn(name, train_images, 0, config), recipe, config["device"])

    choose = bracketed if config.get("bracket") else tuned
    return choose(config["learning_rates"][family], trial, work / f"{name}-{train_images}-{family}-search.json")


def summarise(runs: list[dict]) -> dict:
    """By set, length, size and family: test accuracy, and how far it lies above the ResNet's, by seed (None where there
    is nothing to compare), both with intervals; the learning rate, FLOPs of training, passes over the images, seconds.

    Where equal steps make the same number of passes as equal epochs, that run belongs to both.
    """
    summary: dict = {}
    for name, length in grouped(runs, "data", "length"):
        here = [run for run in runs if run["data"] == name and _belongs(run, name, length, runs)]
        for size, those in sorted(grouped(here, "train_images").items()):
            families = grouped(those, "family")
            summary.setdefault(name, {}).setdefault(length, {})[str(size)] = {
                family: _reached(ours, families.get("resnet", [])) for family, ours in families.items()}
    return summary


def _reached(runs: list[dict], resnets: list[dict]) -> dict:
    return {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "over_resnet": None if runs is resnets else paired(runs, resnets),
        **{key: runs[0][key] for key in ("learning_rate", "train_flops", "epochs", "parameters")},
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }


def _belongs(run: dict, name: str, length: str, runs: list[dict]) -> bool:
    passes = {other["epochs"] for other in runs if (other["data"], other["length"]) == (name, length)}
    return run["length"] == length or (length == "epochs" and run["epochs"] in passes)


# ---- what chapter 7 shows


def _accuracy(record: dict) -> Figure:
    places = record["summary"]["cifar10"]["steps"]
    curves = {name: curve({int(size): by[family]["test_accuracy"] for size, by in places.items() if family in by})
              for family, name in NAMES.items() if any(family in by for by in places.values())}
    return plots.lines(curves, "training images", "test accuracy (%)",
                       f"In {record['config']['steps']:,} steps the ResNet leads at every size", logx=True)


def _training(record: dict) -> Figure:
    runs = grouped((run for run in record["runs"] if (run["data"], run["length"]) == ("cifar10", "steps")),
                   "family", "train_images")
    sizes = sorted({size for family, size in runs if family == "vit"})

    def means(key: str, family: str) -> list[float]:
        return [100 * statistics.mean(run[key] for run in runs[family, size]) for size in sizes]

    both = {f"{NAMES[family]}, {split} images": (sizes, means(key, family))
            for split, key in (("test", "test_accuracy"), ("training", "train_accuracy"))
            for family in ("vit", "resnet")}
    figure = plots.lines(both, "training images", "accuracy (%)",
                         "By heart up to 10,000 images, not with 45,000", logx=True)
    (axes,) = figure.axes
    for test, training in zip(axes.lines[:2], axes.lines[2:], strict=True):  # one colour per network
        training.set_color(test.get_color())
    axes.legend(handlelength=3)
    return figure


show = records.views(accuracy=_accuracy, training_and_test=_training)  # chapter 7
