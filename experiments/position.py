"""How a ViT is told where each patch is: the kinds of position embedding side by side, and none.

Question:    What do position embeddings bring, and does it matter which kind?
Expectation: None does worst, on both sets. In the paper (App. D.4, Table 8) it lies 2.6 to 2.8 points below the
             others, with patches of 16 px; a patch of 4 px says less by itself, so its place says more: above 3 points
             on CIFAR-10, less on scenes, where colour and texture give half of the label away. The four kinds lie
             within a point of one another (0.2 in the paper). If one leads in a short run, then the sine-cosine waves,
             which are there before the first step and need not be learned. With their patches shuffled, the images are
             classified as well as before by the model without positions, up to rounding, and worse by every other.
Command:     python -m experiments position
Cost:        cpu: 30 runs (five kinds, two sets, three seeds) of 65 to 95 seconds on one core with bfloat16
             instructions, about 38 minutes in all, 2 GB of memory. full: 30 longer runs on one GPU, at 32 pixels. It
             resumes when interrupted.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import torch

from experiments import records
from experiments.disturb import shuffle
from experiments.measure import loaded, trained
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig
from vitlite.train import Recipe, evaluate
from vitlite.train.device import autocast_dtype

__all__ = ["DATASET", "SCALES", "new_model", "points", "run", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training, 5,000 validation and 10,000 test images; scenes, seed 0: 45,000 (full: 200,000) "
    "generated training images, 5,000 validation and 5,000 test images. At 24 pixels (cpu) or 32 (full); quick: 640 "
    "scenes at 16 pixels"
)

# Mean pooling: no class token, so that every kind says where the patches are and nothing else.
MODEL = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
KINDS = ["none", "learned-1d", "learned-2d", "relative", "sincos-2d"]
KEPT = {"positions": KINDS, "seeds": [0, 1, 2]}
SCALES = {
    "quick": KEPT | {
        "data": {"scenes": {"train_images": 640, "held_out": 200, "image_size": 16}},
        "model": MODEL | {"image_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64},
        "steps": 40,
        "recipe": {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05, "flip": True},
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": KEPT | {
        "data": {"cifar10": {"image_size": 24},
                 "scenes": {"train_images": 45_000, "held_out": 5_000, "image_size": 24}},
        "model": MODEL | {"image_size": 24, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
        "steps": 1_000,  # 1.4 passes: there is nothing to overfit, so no crops, which would blur the places
        "recipe": {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05, "flip": True},
        "device": "cpu",
    },
    "full": KEPT | {
        "data": {"cifar10": {"image_size": 32},
                 "scenes": {"train_images": 200_000, "held_out": 5_000, "image_size": 32}},
        "model": MODEL | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "steps": 8_800,  # 100 passes over CIFAR-10
        "recipe": {"batch_size": 512, "learning_rate": 2e-3, "weight_decay": 0.1, "flip": True, "crop_padding": 4,
                   "label_smoothing": 0.1, "trivial_augment": True},
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Every kind on every set with the first seed, then with the next."""
    return [{"data": name, "position": kind, "seed": seed} for seed in config["seeds"] for name in config["data"]
            for kind in config["positions"]]


def new_model(kind: str, config: dict, seed: int) -> ViT:
    """A new model with positions of that kind; all its other weights are those that every kind starts from.

    Args:
        kind: One of ``vitlite.position.KINDS``.
        config: One of ``SCALES``.
        seed: Of the weights.

    Raises:
        ValueError: If the kind is unknown, or does not go with the width.
    """
    torch.manual_seed(seed)
    model = ViT(ViTConfig(**config["model"], position=kind))
    torch.manual_seed(seed)
    model.load_state_dict(ViT(ViTConfig(**config["model"], position="none")).state_dict(), strict=False)
    return model


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a model with one kind of position, and ask it again with the patches of each test image shuffled.

    Returns:
        Beside the usual keys ``shuffled_accuracy``, on test images whose patches stand in a random order, each image's
        its own.
    """
    name, kind, seed, steps = point["data"], point["position"], point["seed"], config["steps"]
    model, sets = new_model(kind, config, seed), loaded(name, **config["data"][name])
    recipe = Recipe("position", steps, warmup_steps=steps // 10, validate_every=max(1, steps // 4), **config["recipe"])
    resume = work / f"{name}-{kind}-seed{seed}.safetensors"
    measured = trained(model, sets, recipe, seed=seed, device=config["device"], checkpoint=resume)
    shuffled = shuffle(sets.test.images, model.config.patch_size, torch.Generator().manual_seed(0), each=True)
    test = dataclasses.replace(sets.test, images=shuffled, masks=None)
    dtype = autocast_dtype(torch.device(config["device"]))  # as in training and in the other measures
    return measured | {"shuffled_accuracy": evaluate(model, test, dtype=dtype).accuracy}


def summarise(runs: list[dict]) -> dict:
    """By set and kind: test accuracy with its interval, how far it lies above none and above the learned 1-D table
    (differences by seed; None where there is nothing to compare), accuracy on shuffled patches, parameters, seconds."""
    kinds_of = {name: grouped(those, "position") for name, those in grouped(runs, "data").items()}
    return {name: {kind: _row(kind, kinds) for kind in kinds} for name, kinds in kinds_of.items()}


def _row(kind: str, kinds: dict[str, list[dict]]) -> dict:
    """What ``summarise`` says of one kind, beside the runs of the others on the same set."""
    runs = kinds[kind]
    return {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        **{f"over_{other}": None if kind == other else paired(runs, kinds.get(other, []))
           for other in ("none", "learned-1d")},
        "shuffled_accuracy": interval(run["shuffled_accuracy"] for run in runs),
        "parameters": runs[0]["parameters"],
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }


# ---- what a chapter shows

PAPER = {"none": 0.61382, "learned-1d": 0.64206, "learned-2d": 0.64001, "relative": 0.64032}  # its Table 8


def _table(record: dict) -> str:
    names = list(record["summary"])
    head = ("positions", *(f"{name}{more}" for name in names for more in (" (%)", ": over none")), "paper: over none")
    rows = []
    for kind in record["config"]["positions"]:
        row = [kind]
        for name in names:
            found = record["summary"][name][kind]
            gap = found["over_none"]
            row += [records.percent(found["test_accuracy"]), records.percent(gap, "+") if gap else ""]
        row.append(f"{100 * (PAPER[kind] - PAPER['none']):+.1f}" if kind in PAPER and kind != "none" else "")
        rows.append(row)
    return records.table(head, rows)


show = records.views(table=_table)  # chapter 3
