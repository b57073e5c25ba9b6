"""Do attention maps find the object? Scored against the masks of generated scenes.

Question:    How often does attention rollout point at the object, and is it better than the last layer's attention?
Expectation: Rollout above the last layer's attention alone, both far above a random map and above the middle of the
             image; gradient-weighted rollout best, since it knows the class. Blanking the patches that a map ranks
             first lowers the accuracy faster than blanking random ones.
Command:     python -m experiments rollout_localisation
Cost:        About 5 minutes on a CPU core, 1 GB of memory. It needs the checkpoints of `bias`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import records
from vitlite import ViT, analysis, cost, data, weights

__all__ = ["DATASET", "METHODS", "OBJECT", "RANKINGS", "SCALES", "SCORES", "maps", "points", "run", "show", "summarise"]

DATASET = "scenes at 32 px: test images with their masks"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"
SHARES = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75]
BATCH = 100  # images whose maps of all layers are in memory at once

METHODS = {
    "rollout": "attention rollout of the paper, the class token's row",
    "rollout, min": "rollout with the smallest weight of all heads instead of their mean",
    "rollout, max": "rollout with the largest weight of all heads instead of their mean",
    "rollout, max, discard 0.9": "the same, with nine tenths of the weights set to zero, the smallest",
    "gradient rollout": "rollout weighted by the gradient of the answered class",
    "last layer": "the class token's attention in the last layer, heads averaged",
    "all layers": "the class token's attention, mean of all layers and heads",
    "centre": "a Gaussian in the middle of the image",
    "random": "uniform noise",
}

OBJECT = "object"  # no map: the patches in the order of how much of the object they show
RANKINGS = ["rollout", "gradient rollout", "last layer", "all layers", "centre", "random", OBJECT]

SCALES = {
    "quick": {"models": ["bias_vit"], "images": 100, "shares": SHARES, "seed": 0, "device": "cpu"},
    "cpu": {"models": ["bias_vit", "bias_hybrid"], "images": 1_000, "shares": SHARES, "seed": 0, "device": "cpu"},
}


def points(config: dict) -> list[dict]:
    """Each model."""
    return [{"model": model, "seed": config["seed"]} for model in config["models"]]


def maps(model: ViT, images: Tensor) -> dict[str, Tensor]:
    """Each image's map by every method that asks the model, ``[B, rows, cols]``; images ``[B, C, H, W]`` normalised.

    One forward pass for all: the gradients need the attention of all layers at once, so the other methods read it too.
    """
    grid = model.config.grid
    answered = model(images, return_attention=True)
    attention = answered[1]  # [B, heads, T, T] for each layer

    def rollout(**options) -> Tensor:
        return analysis.token_map(analysis.attention_rollout(attention, **options), grid)

    looks = analysis.class_attention(attention, grid)  # [layers, B, rows, cols]
    gradient = analysis.gradient_rollout(lambda *_, **__: answered, images)
    return {
        "rollout": rollout(),
        "rollout, min": rollout(fusion="min"),
        "rollout, max": rollout(fusion="max"),
        "rollout, max, discard 0.9": rollout(fusion="max", discard=0.9),
        "gradient rollout": analysis.token_map(gradient, grid),
        "last layer": looks[-1],
        "all layers": looks.mean(dim=0),
    }


def run(point: dict, config: dict, work: Path) -> dict:
    """Score every method's maps on the test images.

    Returns:
        ``scores``: for each method and score the mean, and the ends of its 95 % bootstrap interval; ``rollout_minus``:
        the same for rollout's score less the method's, image by image; ``pointing_by_size``: for each method the
        pointing score of the quarters of the images by the object's size, whose limits are ``object_shares``;
        ``answers``: how many images rollout hits and misses, and the model's accuracy on each; ``deletion``: the
        accuracy at each of the shares of patches, by ``RANKINGS``.
    """
    model = weights.load(CHECKPOINTS / f"{point['model']}.safetensors", device=config["device"])
    test = data.load("scenes", train_images=1_000, held_out=config["images"]).test
    began = time.perf_counter()
    images = test.normalised().to(config["device"])
    parts = [maps(model, part) for part in images.split(BATCH)]
    by_method = {method: torch.cat([part[method].cpu() for part in parts]) for method in parts[0]}
    grid, draws = model.config.grid, torch.Generator().manual_seed(config["seed"])
    by_method["centre"] = analysis.centre_prior(grid).expand(len(images), -1, -1)
    by_method["random"] = torch.rand(len(images), *grid, generator=draws)
    with torch.inference_mode():
        right = (model(images).argmax(dim=1).cpu() == test.labels).float()
    rankings = by_method | {OBJECT: F.adaptive_avg_pool2d(test.masks.float(), grid)}
    deletion = {method: analysis.deletion_curve(model, images, test.labels, rankings[method], config["shares"]).tolist()
                for method in RANKINGS}
    return {
        "images": len(test),
        **_against_masks({method: by_method[method] for method in METHODS}, test.masks, right),
        "deletion": deletion,
        "parameters": cost.parameters(model),
        "seconds": time.perf_counter() - began,
    }


def _against_masks(by_method: dict[str, Tensor], masks: Tensor, right: Tensor) -> dict:
    """Every method's scores, rollout's lead in each, what the object's size does, and the answers where it misses."""
    scores = {method: analysis.localisation(each, masks)._asdict() for method, each in by_method.items()}
    share = masks.float().mean(dim=(1, 2))
    limits = share.quantile(torch.linspace(0, 1, 5))
    quarter = torch.bucketize(share, limits[1:-1])  # 0 for the smallest objects, 3 for the largest
    hit = scores["rollout"]["pointing"] >= 0.5
    return {
        "object_share": share.mean().item(),
        "object_shares": limits.tolist(),
        "scores": {method: {score: analysis.bootstrap(values) for score, values in each.items()}
                   for method, each in scores.items()},
        "rollout_minus": {method: {score: analysis.bootstrap(scores["rollout"][score] - values)
                                   for score, values in each.items()}
                          for method, each in scores.items() if method != "rollout"},
        "pointing_by_size": {method: [each["pointing"][quarter == i].mean().item() for i in range(4)]
                             for method, each in scores.items()},
        "answers": {name: {"images": int(those.sum()), "accuracy": right[those].mean().item() if those.any() else None}
                    for name, those in (("hit", hit), ("missed", ~hit))},
    }


def summarise(runs: list[dict]) -> dict:
    """By model and method: how often the map's largest value lies on the object."""
    return {run["model"]: {method: scores["pointing"][0] for method, scores in run["scores"].items()} for run in runs}


# ---- what a chapter shows

SCORES = {"pointing": "pointing game", "energy": "energy", "average_precision": "average precision"}


def _scores(record: dict) -> str:
    run = next(run for run in record["runs"] if run["model"] == "bias_vit")
    rows = [[method, *(records.percent_between(*by_score[score]) for score in SCORES)]
            for method, by_score in run["scores"].items() if method != "rollout, max"]
    return records.table(["map", *SCORES.values()], rows)


show = records.views(scores=_scores)  # chapter 14
