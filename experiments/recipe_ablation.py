"""From the naive loop to the recipe, one change at a time.

Question:    How much of a ViT's accuracy on CIFAR-10 is the recipe, and which part of it gives how much?
Expectation: AdamW in place of SGD gives most; then the falling rate, and flips and crops. Stronger augmentation and
             mixing pay in long runs on many images and little in short ones. Clipping and averaged weights
             change little at the end. All together: more than ten points with the same model and the same steps.
Command:     python -m experiments recipe_ablation
Cost:        cpu: 27 runs (nine recipes, three seeds) of about 2 minutes on one core with bfloat16 instructions, on
             5,000 of the images, shrunk to 24 pixels. full: all images, 27 longer runs on one GPU. It resumes when
             interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from experiments import records
from experiments.measure import images_seen
from experiments.statistics import grouped
from vitlite import ViT, ViTConfig, checks, data
from vitlite.cost import parameters, train_flops
from vitlite.train import Recipe, Trainer, evaluate

__all__ = ["DATASET", "SCALES", "ladder", "points", "recipe", "run", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training images (full), or a class-balanced 5,000 of them shrunk to 24 pixels (cpu); 5,000 "
    "validation and 10,000 test images; quick: scenes"
)


def ladder(*, sgd: float, rate: float, decay: float, warmup: int, padding: int, cutmix: float, mixup: float,
           average: float) -> list[list]:
    """The recipes, as the change that each makes to the one before: a name, and fields of ``Recipe``."""
    return [
        ["naive: SGD, constant rate", {"optimizer": "sgd", "learning_rate": sgd, "weight_decay": 0.0,
                                       "schedule": "constant", "clip_norm": None, "flip": False}],
        ["AdamW", {"optimizer": "adamw", "learning_rate": rate, "weight_decay": decay}],
        ["warmup and cosine", {"warmup_steps": warmup, "schedule": "cosine"}],
        ["clipping", {"clip_norm": 1.0}],
        ["flips and crops", {"flip": True, "crop_padding": padding}],
        ["label smoothing", {"label_smoothing": 0.1}],
        ["TrivialAugment", {"trivial_augment": True}],
        ["CutMix and Mixup", {"cutmix": cutmix, "mixup": mixup}],
        ["averaged weights", {"average": average}],
    ]


MODEL = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
SCALES = {
    "quick": {
        "data": {"name_or_path": "scenes", "train_images": 640, "held_out": 200, "image_size": 16},
        "model": MODEL | {"image_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64},
        "steps": 20,
        "batch_size": 64,
        "ladder": ladder(sgd=0.03, rate=1e-3, decay=0.05, warmup=2, padding=2, cutmix=0.5, mixup=0.2, average=0.9),
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": {
        "data": {"name_or_path": "cifar10", "train_images": 5_000, "image_size": 24},
        "model": MODEL | {"image_size": 24, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
        "steps": 2_000,  # 26 passes
        "batch_size": 64,
        "ladder": ladder(sgd=0.03, rate=1e-3, decay=0.05, warmup=200, padding=3, cutmix=0.5, mixup=0.2, average=0.995),
        "seeds": [0, 1, 2],
        "device": "cpu",
    },
    "full": {
        "data": {"name_or_path": "cifar10"},
        "model": MODEL | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "steps": 8_800,  # 100 passes
        "batch_size": 512,
        "ladder": ladder(sgd=0.03, rate=2e-3, decay=0.1, warmup=450, padding=4, cutmix=0.5, mixup=0.8, average=0.9995),
        "seeds": [0, 1, 2],
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Every rung with the first seed, then with the next: the whole ladder stands early, its spread comes after."""
    return [{"variant": name, "seed": seed} for seed in config["seeds"] for name, _ in config["ladder"]]


def recipe(variant: str, config: dict) -> Recipe:
    """The recipe of one rung: all changes up to its own."""
    names = [name for name, _ in config["ladder"]]
    fields: dict = {}
    for _, change in config["ladder"][: names.index(variant) + 1]:
        fields |= change
    every = max(1, config["steps"] // 2)
    return Recipe(variant, config["steps"], config["batch_size"], validate_every=every, **fields)


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one model by one rung's recipe; the test images are read once, after the last step."""
    torch.manual_seed(point["seed"])
    model = ViT(ViTConfig(**config["model"]))
    sets, this = data.load(**config["data"]), recipe(point["variant"], config)
    checkpoint = work / f"{this.name.replace(' ', '-')}-seed{point['seed']}.safetensors"
    trainer = Trainer(model, this, seed=point["seed"], device=config["device"], checkpoint=checkpoint)
    history = trainer.fit(sets)
    checkpoint.unlink()
    tenth = {name: history[name][9::10] for name in ("step", "loss", "train_accuracy")}
    return {
        "parameters": parameters(model),
        "train_images": len(sets.train),
        "steps": this.steps,
        "images_seen": images_seen(this, sets.train),
        "seconds": history["seconds"],
        "images_per_second": statistics.median(history["images_per_second"]),
        "train_flops": images_seen(this, sets.train) * train_flops(model, config["model"]["image_size"]),
        "train_accuracy": evaluate(model, sets.train, dtype=trainer.dtype).accuracy,
        "val_accuracy": history["val_accuracy"][-1],
        "test_accuracy": evaluate(model, sets.test, dtype=trainer.dtype).accuracy,
        "history": tenth | {name: history[name] for name in ("val_step", "val_loss", "val_accuracy")},
    }


def summarise(runs: list[dict]) -> dict:
    """Each rung's accuracies: the mean over the seeds, the test accuracy's gain on the rung below, and their spread.

    A gain is taken between runs of the same seed; a spread is the standard deviation over the seeds, None for one seed.
    """
    summary, below = {}, []
    for variant, those in grouped(runs, "variant").items():
        accuracy_below = {run["seed"]: run["test_accuracy"] for run in below}
        gains = [run["test_accuracy"] - accuracy_below[run["seed"]] for run in those if run["seed"] in accuracy_below]
        means = {key: statistics.mean(run[key] for run in those)
                 for key in ("train_accuracy", "val_accuracy", "test_accuracy", "seconds")}
        spreads = {"test_spread": _spread([run["test_accuracy"] for run in those]), "gain_spread": _spread(gains)}
        summary[variant] = means | spreads | {"gain": statistics.mean(gains) if gains else None}
        below = those
    return summary


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def show(record: dict, what: str) -> str:
    """The record as chapter 5 shows it, as Markdown.

    Args:
        record: The record ``recipe_ablation``.
        what: ``"opening"``: question and scale. ``"table"``: a row for each recipe.

    Raises:
        ValueError: If it is none of these.
    """
    views = {"opening": _opening, "table": _table}
    checks.choice(views, what=what)
    return views[what](record)


def _opening(record: dict) -> str:
    run, config = record["runs"][0], record["config"]
    size = config["data"].get("image_size", 32)
    return records.opening(record, f"{run['train_images']:,} training images of {size}×{size} pixels, "
                                   f"{run['steps']:,} steps of {config['batch_size']}, so each image is seen "
                                   f"{run['images_seen'] / run['train_images']:.0f} times; "
                                   f"{run['parameters'] / 1e6:.2f}M parameters")


def _table(record: dict) -> str:
    rows = []
    for name, row in record["summary"].items():
        if name == "averaged weights":  # a sentence in the chapter
            continue
        gain = "" if row["gain"] is None else f"{100 * row['gain']:+.1f} ± {100 * row['gain_spread']:.1f}"
        rows.append([name, f"{100 * row['test_accuracy']:.1f} ± {100 * row['test_spread']:.1f}", gain,
                     f"{100 * row['train_accuracy']:.0f}"])
    return records.table(["up to and with", "test accuracy", "gain on the rung below", "on its training images"], rows)
