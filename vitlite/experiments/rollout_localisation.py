"""Do attention maps find the object? Scored against the masks of generated scenes.

Question:    How often does attention rollout point at the object, and is it better than the last layer's attention?
Expectation: Rollout above the last layer's attention alone, both far above a random map and above the middle of the
             image; gradient-weighted rollout best, since it knows the class. Blanking the patches that a map ranks
             first lowers the accuracy faster than blanking random ones.
Command:     python -m vitlite experiment rollout_localisation
Cost:        Some minutes on a CPU, 1 GB of memory. It needs the checkpoints of `bias`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from vitlite import ViT, analysis, data, records, weights
from vitlite.data.augment import normalise

__all__ = ["DATASET", "METHODS", "SCALES", "maps", "points", "run", "summarise"]

DATASET = "scenes at 32 px: test images with their masks"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"
SHARES = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75]

METHODS = {
    "rollout": "attention rollout of the paper, the class token's row",
    "rollout, max": "rollout with the largest head instead of the mean",
    "gradient rollout": "rollout weighted by the gradient of the answered class",
    "last layer": "the class token's attention in the last layer, heads averaged",
    "all layers": "the class token's attention, mean of all layers and heads",
    "centre": "a Gaussian in the middle of the image",
    "random": "uniform noise",
}

SCALES = {
    "quick": {"models": ["bias_vit"], "images": 100, "shares": SHARES, "seed": 0, "device": "cpu"},
    "cpu": {"models": ["bias_vit", "bias_hybrid"], "images": 1_000, "shares": SHARES, "seed": 0, "device": "cpu"},
}


def points(config: dict) -> list[dict]:
    """Each model."""
    return [{"model": model, "seed": config["seed"]} for model in config["models"]]


def maps(model: ViT, images: Tensor) -> dict[str, Tensor]:
    """Every method's map of each image, ``[B, rows, cols]``; images ``[B, C, H, W]`` normalised."""
    grid = model.config.grid
    with torch.inference_mode():
        rolled, largest = (analysis.attention_rollout(model.iter_attention(images), fusion=fusion)
                           for fusion in ("mean", "max"))  # fmt: skip
        looks = analysis.class_attention(model.iter_attention(images), grid)  # [layers, B, rows, cols]
    gradient = torch.cat([analysis.gradient_rollout(model, part) for part in images.split(100)])
    noise = torch.rand(len(images), *grid, generator=torch.Generator().manual_seed(0))
    return {
        "rollout": analysis.token_map(rolled, grid),
        "rollout, max": analysis.token_map(largest, grid),
        "gradient rollout": analysis.token_map(gradient, grid),
        "last layer": looks[-1],
        "all layers": looks.mean(dim=0),
        "centre": analysis.centre_prior(grid).expand(len(images), -1, -1),
        "random": noise,
    }


def run(point: dict, config: dict, work: Path) -> dict:
    """Score every method's maps on the test images.

    Returns:
        ``scores``: for each method and score the mean, and the ends of its 95 % bootstrap interval; ``deletion`` and
        ``insertion``: the accuracy at each of the shares of patches.
    """
    model = weights.load(CHECKPOINTS / f"{point['model']}.safetensors", device=config["device"])
    test = data.load("scenes", train_images=1_000, held_out=config["images"]).test
    began = time.perf_counter()
    images = normalise(test.images, test.mean, test.std).to(config["device"])
    parts = [maps(model, part) for part in images.split(500)]
    found = {method: torch.cat([part[method].cpu() for part in parts]) for method in METHODS}
    scores = {method: analysis.localisation(each, test.masks)._asdict() for method, each in found.items()}
    curves = {
        name: {method: curve(model, images, test.labels, each, config["shares"]).tolist()
               for method, each in found.items()}
        for name, curve in (("deletion", analysis.deletion_curve), ("insertion", analysis.insertion_curve))
    }  # fmt: skip
    return {
        "images": len(test),
        "object_share": test.masks.float().mean().item(),
        "scores": {method: {score: analysis.bootstrap(values) for score, values in each.items()}
                   for method, each in scores.items()},
        **curves,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def summarise(runs: list[dict]) -> dict:
    """By model and method: how often the map's largest value lies on the object."""
    return {run["model"]: {method: scores["pointing"][0] for method, scores in run["scores"].items()} for run in runs}
