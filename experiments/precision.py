"""The same training in float32 and in the 16 bits that the Trainer chooses.

Question:    Does a ViT that is trained in mixed precision end at the accuracy that it has in float32?
Expectation: Yes: the difference by seed is as small as that between two seeds, and its interval contains 0. Weights,
             their averages and the loss stay in float32, so no update is rounded away. The step is faster where the
             device has instructions for 16 bits; where it has none, the Trainer computes in float32 too, and both
             runs are the same.
Command:     python -m experiments precision
Cost:        cpu: six runs of 1 to 3 minutes on one core with bfloat16 instructions, 2 GB of memory. full: six runs of
             some minutes on one GPU, untried so far.
"""

from __future__ import annotations

from pathlib import Path

from experiments import records
from experiments.families import build
from experiments.measure import loaded, trained
from experiments.statistics import grouped, interval, paired
from vitlite import checks
from vitlite.train import Recipe
from vitlite.train.device import autocast_dtype

__all__ = ["DATASET", "SCALES", "points", "run", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training images, 5,000 validation and 10,000 test images, shrunk to 24 pixels (cpu) or at 32 "
    "(full); quick: scenes"
)
VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
SCALES = {
    "quick": {
        "data": {"name_or_path": "scenes", "train_images": 200, "held_out": 100, "image_size": 16},
        "vit": VIT | {"image_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64},
        "recipe": {"steps": 6, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 1},
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": {
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "vit": VIT | {"image_size": 24, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
        "recipe": {"steps": 600, "batch_size": 128, "learning_rate": 2e-3, "warmup_steps": 60, "crop_padding": 2},
        "seeds": [0, 1, 2],
        "device": "cpu",
    },
    "full": {
        "data": {"name_or_path": "cifar10"},
        "vit": VIT | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "recipe": {"steps": 9_000, "batch_size": 512, "learning_rate": 2e-3, "warmup_steps": 450, "crop_padding": 4},
        "seeds": [0, 1, 2],
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Both precisions with the first seed, then with the next."""
    return [{"precision": name, "seed": seed} for seed in config["seeds"] for name in ("float32", "autocast")]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one model.

    Returns:
        Beside the usual keys ``dtype``, the format of the matrix products.
    """
    autocast, seed = point["precision"] == "autocast", point["seed"]
    recipe = Recipe("precision", validate_every=max(1, config["recipe"]["steps"] // 3), **config["recipe"])
    resume = work / f"{point['precision']}-seed{seed}.safetensors"
    model = build("vit", config, seed)
    measured = trained(model, loaded(**config["data"]), recipe, seed=seed, device=config["device"], checkpoint=resume,
                       autocast=autocast)
    reduced = autocast_dtype(next(model.parameters()).device) if autocast else None
    return measured | {"dtype": str(reduced or "torch.float32").removeprefix("torch.")}


def summarise(runs: list[dict]) -> dict:
    """For each precision its test accuracy and seconds, and how far autocast lies above float32 by seed; intervals."""
    by_name = grouped(runs, "precision")
    summary: dict = {name: {key: interval(run[key] for run in those) for key in ("test_accuracy", "seconds")}
                     for name, those in by_name.items()}
    return summary | {"autocast_over_float32": paired(by_name.get("autocast", []), by_name.get("float32", []))}


def show(record: dict, what: str) -> str:
    """The record as chapter 5 shows it, as Markdown.

    Args:
        record: The record ``precision``.
        what: ``"table"``: the expectation, a row for each precision, and the difference.

    Raises:
        ValueError: If it is not.
    """
    views = {"table": _table}
    checks.choice(views, what=what)
    return views[what](record)


def _table(record: dict) -> str:
    formats, summary, rows = {run["precision"]: run["dtype"] for run in record["runs"]}, record["summary"], []
    for name, dtype in formats.items():
        accuracy, seconds = summary[name]["test_accuracy"], summary[name]["seconds"]["mean"]
        rows.append([dtype, records.percent_between(accuracy["mean"], accuracy["low"], accuracy["high"]),
                     f"{seconds:.0f}"])
    table = records.table(["matrix products in", "test accuracy (%)", "seconds of training"], rows)
    gain = summary["autocast_over_float32"]
    return (f"**Expectation, written before.** {record['expectation']}\n\n{table}\n\n{formats['autocast']} above "
            f"float32, seed by seed: {100 * gain['mean']:+.2f} points ({100 * gain['low']:+.2f} to "
            f"{100 * gain['high']:+.2f}).")
