"""Five ways to make a published ViT classify 500 photographs: what each is worth, and what it costs.

Question:    A published ViT-S/14 is to classify CIFAR-10 after 50 images per class. How far does it get with a
             linear map alone, with a head of zeros and one rate for everything, and with fine-tuning that begins at
             the linear map: everything, with rates that fall from layer to layer, or low-rank updates (LoRA) alone?
Expectation: One rate from a head of zeros stays below the linear map, even at the best rate of three; at 1e-4 it is
             lost. The three that begin at the linear map end above it, within a few points of each other. LoRA trains
             less than one parameter in fifty, and takes about two thirds of the processor time of training everything.
Command:     python -m experiments finetune
Cost:        cpu: 5 runs of five epochs, after trials of two epochs at three to five rates each, about 75 minutes of
             processor time, 25 with bfloat16 instructions. full: 15 runs (three seeds, 224 pixels) on one GPU,
             untried so far. It resumes when interrupted.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import real_weights, records
from experiments.measure import UNTRAINED, best, bracketed
from experiments.real_weights import accuracy, epochs_of, fine_tuned, two_rates, with_a_linear_map
from experiments.statistics import grouped, interval
from vitlite import ViT, cost, data, plots

__all__ = ["DATASET", "SCALES", "LowRank", "groups", "points", "run", "show", "summarise", "with_low_rank"]

DATASET = (
    "cifar10: 50 images per class of its 45,000 training images, rates chosen on 200 validation images (full: 500), "
    "2,000 test images (full: 10,000), enlarged to 112 pixels (full: 224), bicubic; quick: scenes"
)
WAYS = {
    "one_rate": "head of zeros, one rate", "map": "linear map alone", "all": "linear map, then everything",
    "decay": "the same, rates by layer", "lora": "linear map, then LoRA",
}
GRID = {
    "l2": 0.1, "weight_decay": 0.05, "label_smoothing": 0.1, "batch_size": 25, "device": "cpu",
    "head": 5e-5,  # the head's rate, where it begins at the linear map
    "rates": {"one_rate": [1e-4], "all": [1e-5], "decay": [3e-5], "lora": [1e-3]},  # several: chosen by trials
    "layer_decay": 0.75, "rank": 8, "trial_epochs": 1,
}
SCALES = {
    "quick": GRID | {"data": {"name_or_path": "scenes", "train_images": 100, "held_out": 40}, "image_size": 28,
                     "most": 2, "validation": 10, "test": 20, "epochs": 1, "seeds": [0],
                     "rates": {"one_rate": [1e-4, 1e-3], "all": [1e-5], "decay": [3e-5], "lora": [1e-3]}},
    "cpu": GRID | {"data": {"name_or_path": "cifar10"}, "image_size": 112, "most": 50, "validation": 200,
                   "test": 2_000, "epochs": 5, "trial_epochs": 2, "seeds": [0],
                   "rates": {"one_rate": [3e-6, 1e-5, 1e-4], "all": [3e-6, 1e-5, 3e-5],
                             "decay": [1e-5, 3e-5, 1e-4], "lora": [3e-4, 1e-3, 3e-3]}},
    "full": GRID | {"data": {"name_or_path": "cifar10"}, "image_size": 224, "most": 50, "validation": 500,
                    "test": 10_000, "epochs": 10, "trial_epochs": 3, "seeds": [0, 1, 2], "device": "cuda",
                    "rates": {"one_rate": [1e-6, 1e-5, 1e-4], "all": [3e-6, 1e-5, 3e-5],
                              "decay": [1e-5, 3e-5, 1e-4], "lora": [1e-4, 3e-4, 1e-3]}},
}


def points(config: dict) -> list[dict]:
    """Every way with the first seed, the most telling first, then with the next."""
    ways = ("all", "one_rate", "lora", "decay", "map")
    return [{"way": way, "seed": seed} for seed in config["seeds"] for way in ways]


def run(point: dict, config: dict, work: Path) -> dict:
    """Make the published ViT classify in one way, at the best rate of short trials, with a worse one on either side.

    Returns:
        The usual keys; ``trained``, how many parameters move; ``cpu_seconds``, processor time of the chosen training,
        the linear map included where it begins there; ``search``, validation accuracy by rate, where there are several.
    """
    way, seed = point["way"], point["seed"]
    sets = real_weights.drawn(config, seed)
    started = time.process_time()
    ready = begun(way, sets.train, config)
    began = time.process_time() - started
    if way == "map":
        return {"parameters": cost.parameters(ready), "trained": cost.parameters(ready.head), "search": {},
                "train_images": len(sets.train), "cpu_seconds": began, "val_accuracy": accuracy(ready, sets.validation),
                "test_accuracy": accuracy(ready, sets.test)} | UNTRAINED

    def trial(rate: float) -> float:
        model = begun(way, sets.train, config)
        for _ in epochs_of(model, sets.train, config, groups(way, model, rate, config), config["trial_epochs"], seed):
            pass
        return accuracy(model, sets.validation)

    rates = config["rates"][way]
    search = bracketed(rates, trial, work / f"{way}-{seed}-rates.json") if len(rates) > 1 else {}
    parts = groups(way, ready, best(search) if search else rates[0], config)
    measured = fine_tuned(ready, sets, config, parts, config["epochs"], seed)
    measured["cpu_seconds"] += began
    return measured | {"trained": sum(p.numel() for part in parts for p in part["params"]), "search": search}


def summarise(runs: list[dict]) -> dict:
    """By way: test accuracy with its interval over the seeds, parameters trained, and mean processor time."""
    return {way: interval(run["test_accuracy"] for run in those) | {
        "trained": those[0]["trained"], "cpu_seconds": sum(run["cpu_seconds"] for run in those) / len(those)}
        for way, those in sorted(grouped(runs, "way").items(), key=lambda each: list(WAYS).index(each[0]))}


def _ways(record: dict) -> str:
    rows = [[WAYS[way], records.percent(row), f"{row['trained']:,}", f"{row['cpu_seconds']:.0f}"]
            for way, row in record["summary"].items()]
    return records.table(["way", "accuracy (%)", "parameters trained", "CPU seconds"], rows)


def _rates(record: dict) -> Figure:
    first = {run["way"]: run for run in reversed(record["runs"])}
    tried = {way: first[way]["search"] or dict.fromkeys(rates, first[way]["val_accuracy"])
             for way, rates in record["config"]["rates"].items() if way in first}
    every = sorted({float(rate) for search in tried.values() for rate in search})
    curves = {WAYS[way]: ([float(rate) for rate in search], [100 * right for right in search.values()])
              for way, search in tried.items()}
    if "map" in first:
        curves[WAYS["map"]] = every, [100 * first["map"]["val_accuracy"]] * len(every)
    return plots.lines(curves, "learning rate of the body", "validation accuracy (%)",
                       "A head of zeros stays far below the linear map", logx=True, legend_columns=2)


show = records.views(ways=_ways, rates=_rates)  # chapter 9


# ---- the pieces


class LowRank(nn.Module):
    """A frozen linear layer and a trained update of low rank beside it, which begins at zero (LoRA)."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear, self.in_features = linear.requires_grad_(False), linear.in_features
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


def with_low_rank(model: ViT, rank: int) -> ViT:
    """Freeze a model's body, and give each query, key and value layer an update of low rank, in place."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    for block in model.blocks:
        block.attention.qkv = LowRank(block.attention.qkv, rank)
    return model


def begun(way: str, train: data.Split, config: dict) -> ViT:
    """The published model as a way begins: with a head of zeros, or with the linear map in its head."""
    torch.manual_seed(0)
    model = real_weights.published(config).reset_head(len(train.classes))
    if way == "one_rate":
        return model
    model = with_a_linear_map(model, train, config["l2"])
    return with_low_rank(model, config["rank"]).to(config["device"]) if way == "lora" else model


def groups(way: str, model: ViT, rate: float, config: dict) -> list[dict]:
    """What moves at which highest rate, as AdamW takes it."""
    if way == "one_rate":
        return two_rates(model, rate, rate)
    if way == "all":
        return two_rates(model, rate, config["head"])
    head = {"params": list(model.head.parameters()), "peak": config["head"]}
    if way == "lora":
        inside = {id(p) for p in head["params"]}
        return [{"params": [p for p in model.parameters() if p.requires_grad and id(p) not in inside], "peak": rate},
                head]
    body = dict.fromkeys(range(len(model.blocks) + 2))  # the embedding, the blocks, the last norm
    named = [(_layer(name, len(model.blocks)), p) for name, p in model.named_parameters() if "head" not in name]
    return [{"params": [p for layer, p in named if layer == each],
             "peak": rate * config["layer_decay"] ** (len(model.blocks) + 1 - each)} for each in body] + [head]


def _layer(name: str, depth: int) -> int:
    """0 for what comes before the blocks, 1 to ``depth`` for a block, and one more for what comes after."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1 if name.startswith("norm") else 0
