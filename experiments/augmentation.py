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
             instructions, and 6 trials of the learning rate: about 50 minutes, 2 GB of memory. full: 54 runs
             of 9,000 or 27,000 steps at 32 pixels on one GPU; --jobs lets runs share it. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from experiments.data_size import drawn
from experiments.families import build
from experiments.measure import best, loaded, trained, tuned
from experiments.statistics import interval, paired
from vitlite.train import Recipe, Trainer

__all__ = ["DATASET", "SCALES", "points", "recipe", "run", "search", "summarise"]

DATASET = (
    "cifar10: 1,000 (class-balanced) or all 45,000 of the training images, 5,000 validation and 10,000 test images, at "
    "24 pixels (cpu) or 32 (full); quick: 640 scenes at 16 pixels"
)


def levels(padding: int) -> dict[str, dict]:
    """The three levels of augmentation as fields of ``Recipe``; ``padding`` of the crops, in pixels."""
    light = {"flip": True, "crop_padding": padding}
    full = {"trivial_augment": True, "erase": 0.25, "cutmix": 0.5, "mixup": 0.8}  # as in the recipe "cifar10"
    return {"none": {"flip": False}, "light": light, "full": light | full}


VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
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
        "vit": VIT | {"image_size": 24, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
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
        "vit": VIT | {"image_size": 32, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
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
    """The recipe of a level of augmentation; in all else the levels are trained alike.

    Raises:
        ValueError: If there is no such level.
    """
    if level not in config["levels"]:
        raise ValueError(f"augmentation is {level!r}; expected one of {', '.join(config['levels'])}")
    return Recipe(f"augmentation: {level}", steps, learning_rate=rate, warmup_steps=steps // 10,
                  **config["recipe"], **config["levels"][level])


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a family with a level of augmentation, at the rate that its trials chose with light augmentation.

    Returns:
        Beside the usual keys ``epochs`` (passes over the images), ``learning_rate`` and ``search`` (validation
        accuracy by rate). ``train_accuracy`` is that on augmented images.
    """
    family, size, level, seed = point["family"], point["train_images"], point["augmentation"], point["seed"]
    found = search(family, config, work)
    this = recipe(level, point["steps"], best(found), config)
    resume = work / f"{family}-{size}-{this.steps}-{level}-seed{seed}.safetensors"
    measured = trained(build(family, config, seed), drawn(loaded(**config["data"]), size, seed), this,
                       seed=seed, device=config["device"], checkpoint=resume)
    return measured | {
        "epochs": measured["images_seen"] / size,
        "learning_rate": this.learning_rate,
        "search": found,
    }


def search(family: str, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy after a short training at each rate, with light augmentation; noted for all runs to come."""

    def trial(rate: float) -> float:
        sets = drawn(loaded(**config["data"]), config["tuned_at"], seed=0)
        trainer = Trainer(build(family, config, seed=0), recipe("light", config["search_steps"], rate, config),
                          device=config["device"])
        return trainer.fit(sets)["val_accuracy"][-1]

    return tuned(config["learning_rates"], trial, work / f"{family}-search.json")


def summarise(runs: list[dict]) -> dict:
    """By family, number of images, steps and level: test accuracy, and how far it lies above that with none, by seed
    (None where there is nothing to compare), both with intervals; training accuracy, passes over the images, seconds.
    """
    told: dict = {}
    for family, size, steps in dict.fromkeys((run["family"], run["train_images"], run["steps"]) for run in runs):
        mine: dict[str, list[dict]] = {}
        for run in runs:
            if (run["family"], run["train_images"], run["steps"]) == (family, size, steps):
                mine.setdefault(run["augmentation"], []).append(run)
        told.setdefault(family, {}).setdefault(str(size), {})[str(steps)] = {
            level: {
                "test_accuracy": interval(run["test_accuracy"] for run in those),
                "over_none": None if level == "none" else paired(those, mine.get("none", [])),
                "train_accuracy": statistics.mean(run["train_accuracy"] for run in those),
                "epochs": those[0]["epochs"],
                "seconds": statistics.mean(run["seconds"] for run in those),
            }
            for level, those in mine.items()
        }
    return told
