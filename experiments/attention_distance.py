"""How far the heads of our trained models look, over images they were not trained on.

Question:    How far does each head look, layer by layer, in a ViT and in a hybrid, before and after training?
Expectation: Before training, every head at the distance of uniform attention. After it, a spread: some heads of the
             lowest layers local, others global, distances growing with depth; local heads rarer in the hybrid.
Command:     python -m experiments attention_distance
Cost:        Below a minute on a CPU, 1 GB of memory. It needs the checkpoints of `train_cifar10` and `bias`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import records
from experiments.statistics import grouped
from vitlite import ViT, analysis, cost, data, hybrid, plots, weights

__all__ = ["DATASET", "SCALES", "fresh", "heads", "points", "run", "show", "summarise"]

DATASET = "test images of CIFAR-10 and of scenes, each for the models trained on it"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"

LOCAL = 0.75  # of a head's distance with the query forgotten: a head below it is local

MODELS = {"train_cifar10-plain": "cifar10", "bias_vit": "scenes", "bias_hybrid": "scenes"}

SCALES = {
    "quick": {"models": MODELS, "images": 128, "seed": 0, "device": "cpu"},
    "cpu": {"models": MODELS, "images": 1_000, "seed": 0, "device": "cpu"},
}


def points(config: dict) -> list[dict]:
    """Each model as trained, and with fresh weights."""
    return [{"model": model, "trained": trained, "seed": config["seed"]} for model in config["models"]
            for trained in (True, False)]


def fresh(path: Path, seed: int) -> ViT:
    """A new model of the form of a stored one: each part, a hybrid's stem too, as it is before training.

    Args:
        path: The stored model.
        seed: Of the new weights.
    """
    metadata = weights.info(path)
    torch.manual_seed(seed)
    stem = hybrid.build(metadata["patch_embed"]) if metadata["patch_embed"] else None
    return ViT(metadata["config"], patch_embed=stem).eval()


@torch.inference_mode()
def run(point: dict, config: dict, work: Path) -> dict:
    """Distances and entropies of every head.

    Returns:
        ``distance`` (pixels) and ``spread``, its standard deviation over images; ``without_query``, the distance if
        every patch looked where all patches look on average; ``entropy`` (nats); each ``[layers][heads]``; and
        ``uniform``, the distance of attention that does not choose, in pixels.
    """
    path = CHECKPOINTS / f"{point['model']}.safetensors"
    model = (weights.load(path) if point["trained"] else fresh(path, point["seed"])).to(config["device"])
    test = data.load(config["models"][point["model"]], train_images=1_000).test.subset(config["images"])
    shape = {"grid": model.config.grid, "patch_size": model.config.patch_size}
    began, distances, blind, entropies = time.perf_counter(), [], [], []
    for images in test.normalised().to(config["device"]).split(200):
        distances.append(analysis.mean_attention_distance(model.iter_attention(images), **shape, per_image=True))
        forgotten = analysis.without_query(model.iter_attention(images), shape["grid"])
        blind.append(analysis.mean_attention_distance(forgotten, **shape, per_image=True))
        entropies.append(analysis.attention_entropy(model.iter_attention(images)) * len(images))
    each = torch.cat(distances, dim=-1)  # [layers, heads, images]
    return {
        "images": len(test),
        "distance": each.mean(dim=-1).tolist(),
        "without_query": torch.cat(blind, dim=-1).mean(dim=-1).tolist(),
        "spread": each.std(dim=-1).tolist(),
        "entropy": (sum(entropies) / len(test)).tolist(),
        "uniform": analysis.uniform_attention_distance(**shape),
        "parameters": cost.parameters(model),
        "seconds": time.perf_counter() - began,
    }


def summarise(runs: list[dict]) -> dict:
    """By model: mean distance of each layer, also with the query forgotten, and the share of heads that are local."""
    return {model: {"trained" if run["trained"] else "fresh": _figures(run) for run in those}
            for model, those in grouped(runs, "model").items()}


def _figures(run: dict) -> dict:
    distance, blind = torch.tensor(run["distance"]), torch.tensor(run["without_query"])
    return {
        "by_layer": distance.mean(dim=1).tolist(),
        "by_layer_without_query": blind.mean(dim=1).tolist(),
        "local_share": (distance < LOCAL * blind).float().mean().item(),
    }


# ---- what a chapter shows


def heads(record: dict, model: str, trained: bool, measure: str = "distance") -> Tensor:
    """A measure of every head of a model, ``[layers, heads]``.

    Args:
        record: The record ``attention_distance``.
        model: Which.
        trained: As trained, or with fresh weights.
        measure: ``"distance"``, ``"without_query"`` or ``"spread"``, in pixels, or ``"entropy"``, in nats.
    """
    (run,) = grouped(record["runs"], "model", "trained")[model, trained]
    return torch.tensor(run[measure])


def _nearer(record: dict) -> Figure:
    names = {"train_cifar10-plain": "photographs", "bias_vit": "scenes", "bias_hybrid": "scenes, hybrid"}
    series = {name: heads(record, model, True) / heads(record, model, True, "without_query")
              for model, name in names.items()}
    figure = plots.distance_scatter(series, ylabel="distance ÷ control",
                                    title="On photographs four heads are local, on scenes none")
    axes = figure.axes[0]
    axes.axhline(LOCAL, color="0.3", linestyle=":", marker="", label="local below")
    axes.set_ylim(0.6, 1.05)
    axes.get_legend().remove()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


show = records.views(nearer=_nearer)  # chapter 13
