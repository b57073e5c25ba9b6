"""Whether a ViT needs augmentation: none, light and full, on few images and on many, in short runs and longer ones.

Question:    Does a ViT need data augmentation, more than a ResNet does, and how does that depend on the number of
             images and on the length of the run?
Expectation: With few images, seen often, light augmentation (flips and crops) helps both families, the ResNet
             more: a shifted object is what its convolutions are made for. Full augmentation (TrivialAugment,
             CutMix and Mixup, erasing) makes every image new, which is worth most to the ViT, but takes many steps to
             learn from: in the short run it costs accuracy at both sizes. Three times longer, on few images,
             no augmentation gains nothing more, light a little and full most: it draws level with none or overtakes
             it. With all images no image comes twice in the short run, so there is nothing for augmentation
             to give: none does best.
Command:     python -m experiments augmentation
Cost:        cpu: 45 runs (CIFAR-10 at 24 pixels, three seeds) of 35 to 115 seconds on one core with bfloat16
             instructions, and 7 trials of the learning rate: about 50 minutes, 2 GB of memory. full: 54 runs
             of 9,000 or 27,000 steps at 32 pixels on one GPU; --jobs lets runs share it. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from experiments import records
from experiments.families import NAMES, SMALL, build
from experiments.measure import best, bracketed, loaded, trained, tried
from experiments.statistics import grouped, interval, paired
from vitlite import plots
from vitlite.train import Recipe

__all__ = ["DATASET", "SCALES", "points", "recipe", "run", "show", "summarise"]

DATASET = (
    "cifar10: 1,000 (class-balanced) or all 45,000 of the training images, 5,000 validation and 10,000 test images, at "
    "24 pixels (cpu) or 32 (full); quick: 640 scenes at 16 pixels"
)


def levels(padding: int) -> dict[str, dict]:
    """The three levels of augmentation as fields of ``Recipe``; ``padding`` of the crops, in pixels."""
    light = {"flip": True, "crop_padding": padding}
    full = {"trivial_augment": True, "erase": 0.25, "cutmix": 0.5, "mixup": 0.8}  # as in the recipe "cifar10"
    return {"none": {"flip": False}, "light": light, "full": light | full}


VIT = SMALL | {"pool": "mean"}
KEPT = {"learning_rates": [5e-4, 1.5e-3, 4.5e-3], "seeds": [0, 1, 2]}
# A grid is a list of a family, a number of images and a number of steps, the most telling first.
SCALES = {
    "quick": KEPT | {
        "data": {"name_or_path": "scenes", "train_images": 640, "held_out": 200, "image_size": 16},
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_dim": 112},
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "validate_every": 10},
        "levels": levels(padding=1),
        "grid": [["vit", 100, 10], ["vit", 100, 30], ["resnet", 100, 10]],
        "tuned_at": 100,
        "search_steps": 5,
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": KEPT | {
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "vit": VIT | {"image_size": 24},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "validate_every": 300},
        "levels": levels(padding=2),
        "grid": [["vit", 1_000, 300], ["vit", 1_000, 900], ["resnet", 1_000, 300], ["vit", 45_000, 300],
                 ["resnet", 45_000, 300]],
        "tuned_at": 1_000,
        "search_steps": 100,
        "device": "cpu",
    },
    "full": KEPT | {
        "data": {"name_or_path": "cifar10", "image_size": 32},
        "vit": VIT | {"image_size": 32},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "validate_every": 3_000},
        "levels": levels(padding=4),
        "grid": [["vit", 1_000, 9_000], ["vit", 45_000, 9_000], ["resnet", 1_000, 9_000], ["resnet", 45_000, 9_000],
                 ["vit", 1_000, 27_000], ["vit", 45_000, 27_000]],
        "tuned_at": 1_000,
        "search_steps": 1_000,
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Every level of every entry of the grid with the first seed, then with the next."""
    return [{"family": family, "train_images": size, "steps": steps, "augmentation": level, "seed": seed}
            for seed in config["seeds"] for family, size, steps in config["grid"]
            for level in config["levels"]]


def recipe(level: str, steps: int, rate: float, config: dict) -> Recipe:
    """The recipe of a level of augmentation; in all else the levels are trained alike."""
    return Recipe(f"augmentation: {level}", steps, learning_rate=rate, warmup_steps=steps // 10,
                  **config["recipe"], **config["levels"][level])


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a family with a level of augmentation, at the rate that its trials chose with light augmentation.

    Returns:
        Beside the usual keys ``epochs`` (passes over the images), ``learning_rate`` and ``search`` (validation
        accuracy by rate). ``train_accuracy`` is that on augmented images.
    """
    family, size, level, seed = point["family"], point["train_images"], point["augmentation"], point["seed"]
    whole = loaded(**config["data"])

    def trial(rate: float) -> float:
        short = recipe("light", config["search_steps"], rate, config)
        few = whole._replace(train=whole.train.subset(config["tuned_at"]))
        return tried(build(family, config, seed=0), few, short, config["device"])

    accuracy_by_rate = bracketed(config["learning_rates"], trial, work / f"{family}-search.json")  # once for all runs
    this = recipe(level, point["steps"], best(accuracy_by_rate), config)
    resume = work / f"{family}-{size}-{this.steps}-{level}-seed{seed}.safetensors"
    measured = trained(build(family, config, seed), whole._replace(train=whole.train.subset(size, seed)), this,
                       seed=seed, device=config["device"], checkpoint=resume)
    return measured | {
        "epochs": measured["images_seen"] / size,
        "learning_rate": this.learning_rate,
        "search": accuracy_by_rate,
    }


def summarise(runs: list[dict]) -> dict:
    """By family, number of images, steps and level: test accuracy, and how far it lies above that with none, by seed
    (None where there is nothing to compare), both with intervals; training accuracy, passes over the images, seconds.
    """
    summary: dict = {}
    for (family, size, steps), here in grouped(runs, "family", "train_images", "steps").items():
        levels = grouped(here, "augmentation")
        summary.setdefault(family, {}).setdefault(str(size), {})[str(steps)] = {
            level: _reached(ours, levels.get("none", [])) for level, ours in levels.items()}
    return summary


def _reached(runs: list[dict], without: list[dict]) -> dict:
    return {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "over_none": None if runs is without else paired(runs, without),
        "train_accuracy": statistics.mean(run["train_accuracy"] for run in runs),
        "epochs": runs[0]["epochs"],
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }


# ---- what chapter 7 shows


def _entries(record: dict) -> list[tuple[str, int, int, dict]]:
    """Family, number of images, steps, and the summary by level."""
    return [(family, int(size), int(steps), by) for family, sizes in record["summary"].items()
            for size, lengths in sizes.items() for steps, by in lengths.items()]


def _levels(record: dict) -> str:
    levels = list(record["config"]["levels"])
    head = ["network", "images", "steps", "epochs", *(f"{level} (%)" for level in levels),
            *(f"{level} − none" for level in levels[1:]), "training images, none → full (%)"]
    rows = []
    for family, size, steps, by in _entries(record):
        cells = [NAMES[family], f"{size:,}", f"{steps:,}", f"{by['none']['epochs']:.1f}"]
        cells += [f"{100 * by[level]['test_accuracy']['mean']:.1f}" for level in levels]
        cells += [records.percent(by[level]["over_none"], "+") for level in levels[1:]]
        cells.append(" → ".join(f"{100 * by[level]['train_accuracy']:.0f}" for level in levels))
        rows.append(cells)
    return records.table(head, rows)


def _gains(record: dict) -> Figure:
    levels = list(record["config"]["levels"])
    nothing = {"mean": 0, "low": 0, "high": 0}  # none over none
    gains = {f"{NAMES[family]}, {size:,} images, {steps:,} steps": (range(len(levels)), *(
        [100 * (by[level]["over_none"] or nothing)[end] for level in levels] for end in ("mean", "low", "high")))
        for family, size, steps, by in _entries(record)}
    figure = plots.lines(gains, "augmentation", "gain over none (points)",
                         "Flips and crops help if images come again", legend_columns=2)
    figure.axes[0].set_xticks(range(len(levels)), levels)
    return figure


show = records.views(levels=_levels, gains=_gains)  # chapter 7
