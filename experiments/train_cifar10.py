"""A ViT trained from scratch on CIFAR-10.

Question:    How far does a small ViT get on 45,000 real photographs: plain, and with a convolutional stem?
Expectation: On a CPU plain, at least 85 % test accuracy within 100 minutes on two cores, and at least 88 % with the
             stem. On one H200 at most 3M parameters reach 93.6 % within 6 minutes, and 96 % with the stem. Tutorials
             that stop at 75 to 80 % use a weaker recipe, not another architecture.
Command:     python -m experiments train_cifar10
Cost:        cpu: below 100 minutes a run on two cores with bfloat16 instructions, 2 GB of memory. full: six runs of
             minutes on one GPU, untried so far. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from experiments import records
from vitlite import ViT, ViTConfig, data, hybrid, weights
from vitlite.cost import parameters, train_flops
from vitlite.train import Trainer, evaluate, predictions, recipes
from vitlite.train.device import peak_flops

__all__ = ["DATASET", "SCALES", "points", "run", "summarise"]

DATASET = "cifar10: 45,000 training, 5,000 validation and 10,000 test images"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"

MODEL = {
    "patch_size": 4,
    "num_classes": 10,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "mlp_dim": 256,
    "pool": "mean",
}

# What turns pixels into tokens: the paper's patches, or a small ResNet, whose map of 8×8 (from 32 pixels) is cut into
# 2×2 patches: 16 tokens instead of 64 pay for the convolutions. In trials of 3 minutes at 24 pixels it gave 55 % on
# validation, without the cut 52 %, and with group norm in the place of batch norm less than 50 %.
CONV = {"stem": "resnet", "embed_dim": 128, "width": 32, "blocks": 1, "norm": "batch", "map_patch": 2}

# Stages of each stem: image size, recipe and steps. The second one goes on from the first, with its positions
# interpolated.
SCALES = {
    "cpu": {
        "model": MODEL,
        "stems": {"plain": None, "conv": CONV},
        "stages": {
            "plain": [[24, "cifar10-small", 17_500], [32, "cifar10-small-finetune", 13_000]],
            "conv": [[24, "cifar10-small", 10_000], [32, "cifar10-small-finetune", 6_000]],
        },
        "seeds": [0],
        "device": "cpu",
    },
    "full": {
        "model": MODEL | {"embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384, "drop_path": 0.1},
        "stems": {"plain": None, "conv": CONV | {"embed_dim": 192, "width": 24, "map_patch": 1}},
        "stages": {stem: [[32, "cifar10", 35_200]] for stem in ("plain", "conv")},
        "seeds": [0, 1, 2],
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """One run a seed and stem."""
    return [{"stem": stem, "seed": seed} for seed in config["seeds"] for stem in config["stems"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train through all stages, save the weights in bfloat16, and evaluate exactly what was saved."""
    seed, stages, name = point["seed"], config["stages"][point["stem"]], f"train_cifar10-{point['stem']}"
    torch.manual_seed(seed)
    model = build(point["stem"], config, stages[0][0])
    told = []
    for image_size, recipe_name, steps in stages:
        recipe = recipes.get(recipe_name).lasting(steps)
        sets = data.load("cifar10", image_size=image_size)
        model = model.at_resolution(image_size)
        trainer = Trainer(model, recipe, seed=seed, device=config["device"],
                          checkpoint=work / f"{name}-seed{seed}-{image_size}px.safetensors")
        history = trainer.fit(sets)
        told.append({"image_size": image_size, "recipe": recipe_name, "steps": recipe.steps,
                     "images_seen": recipe.steps * recipe.batch_size, "train_flops": train_flops(model, image_size),
                     "share_of_peak": share_of_peak(model, trainer), "history": history})
    path = CHECKPOINTS / f"{name}.safetensors"
    if seed != config["seeds"][0]:
        path = work / f"{name}-seed{seed}.safetensors"
    weights.save(model, path, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std,
                 record="train_cifar10", dtype=torch.bfloat16)
    saved = weights.load(path, config["device"])
    return {
        "parameters": parameters(model),
        "train_images": len(sets.train),
        "steps": sum(stage["steps"] for stage in told),
        "images_seen": sum(stage["images_seen"] for stage in told),
        "seconds": sum(stage["history"]["seconds"] for stage in told),
        "train_flops": sum(stage["images_seen"] * stage["train_flops"] for stage in told),
        "val_accuracy": evaluate(saved, sets.validation).accuracy,
        "test_accuracy": evaluate(saved, sets.test).accuracy,
        "test_confusion": confusion(saved, sets.test),
        "stages": told,
    }


def build(stem: str, config: dict, image_size: int) -> ViT:
    """The model of one stem, for images of one size."""
    spec, vit = config["stems"][stem], config["model"]
    patch_embed = hybrid.build(spec) if spec else None
    if patch_embed:
        vit = vit | {"patch_size": patch_embed.patch_size}
    return ViT(ViTConfig(image_size=image_size, **vit), patch_embed=patch_embed)


def share_of_peak(model: ViT, trainer: Trainer) -> float | None:
    """FLOPs of the model over time, validation left out, over what the device could do; None where that is not listed.

    Below its peak a small model is bound by memory traffic and by the many small kernels, not by arithmetic.
    """
    peak = peak_flops(trainer.device)
    speed = statistics.median(trainer.history["images_per_second"])
    return None if peak is None else speed * train_flops(model, model.config.image_size) / peak


def confusion(model: ViT, split: data.Split) -> list[list[int]]:
    """How many images of each class (row) were taken for each class (column)."""
    classes = len(split.classes)
    pairs = split.labels * classes + predictions(model, split)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).tolist()


def summarise(runs: list[dict]) -> dict:
    """Mean accuracies over the seeds, for each stem."""
    return {
        stem: {
            key: statistics.mean(run[key] for run in runs if run["stem"] == stem)
            for key in ("val_accuracy", "test_accuracy", "seconds")
        }
        for stem in dict.fromkeys(run["stem"] for run in runs)
    }
