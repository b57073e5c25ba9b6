"""Which tokens, and how many: class token or average pooling, and the size of the patch.

Question:    Is the class token needed, or will the mean of the patch tokens do? And what does a smaller patch buy?
Expectation: Class token and mean do equally well, each at its own learning rate; at one rate for both, one of them
             looks worse than it is (App. D.3 of the paper, whose mean wants the lower rate). A smaller patch is more
             accurate (App. D.2) and costs more: half the side makes four times the tokens and a little more than four
             times the FLOPs, since those of attention grow with the square of the tokens. From 8 to 4 pixels it pays
             several points. From 4 to 2 it pays less or nothing in so short a run, for the model has to put four times
             as many pieces together. The time of a step grows by less than the FLOPs, because small matrices keep no
             core busy.
Command:     python -m experiments tokens
Cost:        cpu: 30 runs (two poolings at four rates, two more patch sizes, three seeds) on two cores with bfloat16
             instructions: 50 seconds each, 30 with patches of 8 px and 190 with patches of 2 px, about 31 minutes in
             all, 2 GB of memory. full: 30 longer runs on one GPU, at 32 pixels. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from experiments import records
from experiments.measure import best, loaded, trained, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig, cost
from vitlite.train import Trainer

__all__ = ["BASE", "DATASET", "POOLS", "SCALES", "points", "run", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training images, shrunk to 24 pixels (cpu) or at 32 (full), 5,000 validation and 10,000 test "
    "images; quick: 640 scenes at 16 pixels"
)
POOLS = ("token", "mean")
# Where the two questions meet: other poolings and rates are tried at this patch size, other patch sizes at the rest.
BASE = {"pool": "mean", "learning_rate": 4.5e-3, "patch_size": 4}

GRID = {"pools": list(POOLS), "patch_sizes": [8, 4, 2], "base": BASE, "learning_rates": [1.5e-3, 4.5e-3, 0.013, 0.039],
        "seeds": [0, 1, 2]}
SCALES = {
    "quick": GRID | {
        "data": {"name_or_path": "scenes", "train_images": 640, "held_out": 200, "image_size": 16},
        "model": {"image_size": 16, "num_classes": 10, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64},
        "learning_rates": [4.5e-3, 0.013],
        "steps": 20,
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "optimizer": "muon"},
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": GRID | {
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "model": {"image_size": 24, "num_classes": 10, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192},
        "steps": 700,  # one pass
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "optimizer": "muon"},
        "device": "cpu",
    },
    "full": GRID | {
        "data": {"name_or_path": "cifar10"},
        "model": {"image_size": 32, "num_classes": 10, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "steps": 8_800,  # 100 passes
        "recipe": {"batch_size": 512, "weight_decay": 0.1, "flip": True, "crop_padding": 4, "label_smoothing": 0.1,
                   "trivial_augment": True, "optimizer": "muon"},
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Both poolings at every rate, then the other patch sizes, cheap ones first; with one seed after another."""
    base = config["base"]
    places = [base | {"pool": pool, "learning_rate": rate} for rate in config["learning_rates"]
              for pool in config["pools"]]
    places += [base | {"patch_size": size} for size in config["patch_sizes"] if size != base["patch_size"]]
    return [place | {"seed": seed} for seed in config["seeds"] for place in places]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one model, and count what its tokens cost.

    Returns:
        Beside the usual keys ``tokens``, the length of the sequence; ``flops``, forward, of one image; and
        ``seconds_per_step``, the median over the run.
    """
    pool, rate, size, seed = (point[name] for name in ("pool", "learning_rate", "patch_size", "seed"))
    torch.manual_seed(seed)
    shape = ViTConfig(**config["model"], pool=pool, patch_size=size)
    model, steps, paces = ViT(shape), config["steps"], []

    def note(trainer: Trainer, moment: str) -> None:
        if moment == "end":
            paces.append(recipe.batch_size / statistics.median(trainer.history["images_per_second"]))

    recipe = usual_recipe("tokens", config, steps, rate, validations=2)
    resume = work / f"{pool}-rate{rate}-patch{size}-seed{seed}.safetensors"
    measured = trained(model, loaded(**config["data"]), recipe, seed=seed, device=config["device"], checkpoint=resume,
                       callbacks=[note])
    return measured | {
        "tokens": shape.prefix_tokens + shape.num_patches,
        "flops": cost.flops(model, shape.image_size),
        "seconds_per_step": paces[0],
    }


def summarise(runs: list[dict]) -> dict:
    """What each pooling reaches, and what each patch size costs and reaches.

    Returns:
        ``pooling``: for each, its ``best_rate`` (by mean validation accuracy) with the test accuracy there, and
        ``by_rate`` the validation and test accuracies. ``mean_over_token``: how far the mean lies above the class token
        in test accuracy, seed by seed, ``each_at_its_best`` rate and ``by_rate``. ``patch_size``: by size, at the base
        rate, test accuracy, how far it lies above the base, tokens, FLOPs and seconds a step.
    """
    by_pool = grouped((run for run in runs if run["patch_size"] == BASE["patch_size"]), "pool")
    by_rate = {pool: dict(sorted(grouped(by_pool[pool], "learning_rate").items())) for pool in POOLS if pool in by_pool}
    at_best = {pool: rates[_best(rates)] for pool, rates in by_rate.items()}
    of_mean, of_token = (by_rate.get(pool, {}) for pool in ("mean", "token"))
    at_base = [run for run in runs if (run["pool"], run["learning_rate"]) == (BASE["pool"], BASE["learning_rate"])]
    sizes = dict(sorted(grouped(at_base, "patch_size").items()))
    return {
        "pooling": {pool: _pooling(rates) for pool, rates in by_rate.items()},
        "mean_over_token": {
            "each_at_its_best": paired(at_best.get("mean", []), at_best.get("token", [])),
            "by_rate": {str(rate): paired(of_mean.get(rate, []), of_token.get(rate, []))
                        for rate in sorted({*of_mean, *of_token})},
        },
        "patch_size": {str(size): _patches(ours, sizes.get(BASE["patch_size"], [])) for size, ours in sizes.items()},
    }


def _best(runs_by_rate: dict[float, list[dict]]) -> float:
    """The rate that did best on validation."""
    return best({str(rate): _mean(runs, "val_accuracy") for rate, runs in runs_by_rate.items()})


def _pooling(runs_by_rate: dict[float, list[dict]]) -> dict:
    rate = _best(runs_by_rate)
    return {
        "best_rate": rate,
        "test_accuracy": _accuracy(runs_by_rate[rate]),
        "by_rate": {str(rate): {"val_accuracy": _mean(runs, "val_accuracy"), "test_accuracy": _accuracy(runs)}
                    for rate, runs in runs_by_rate.items()},
    }


def _patches(runs: list[dict], base: list[dict]) -> dict:
    return {
        "test_accuracy": _accuracy(runs),
        "over_base": None if runs is base else paired(runs, base),
        "tokens": runs[0]["tokens"],
        "flops": runs[0]["flops"],
        "seconds_per_step": statistics.median(run["seconds_per_step"] for run in runs),
    }


def _accuracy(runs: list[dict]) -> dict:
    return interval(run["test_accuracy"] for run in runs)


def _mean(runs: list[dict], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


# ---- what chapter 8 shows

NAMES = {"token": "class token", "mean": "mean of the patches"}


def _pools(record: dict) -> str:
    pooling, over = record["summary"]["pooling"], record["summary"]["mean_over_token"]
    rates = list(pooling["token"]["by_rate"])
    rows = [[name, *(records.percent(pooling[pool]["by_rate"][rate]["test_accuracy"]) for rate in rates),
             f"{pooling[pool]['best_rate']:g}"] for pool, name in NAMES.items()]
    rows.append(["mean over token, points", *(records.percent(over["by_rate"][rate], "+") for rate in rates),
                 records.percent(over["each_at_its_best"], "+")])
    return records.table(["test accuracy (%) at rate", *(f"{float(rate):g}" for rate in rates), "best on validation"],
                         rows)


def _patch_sizes(record: dict) -> str:
    rows = [[size, str(one["tokens"]), f"{one['flops'] / 1e6:.1f}", f"{1e3 * one['seconds_per_step']:.0f}",
             records.percent(one["test_accuracy"]), records.percent(one["over_base"], "+") if one["over_base"] else ""]
            for size, one in record["summary"]["patch_size"].items()]
    return records.table(["patch, px", "tokens", "forward, MFLOP", "a step, ms", "test images (%)",
                          f"over patches of {record['config']['base']['patch_size']} px"], rows)


show = records.views(poolings=_pools, patch_sizes=_patch_sizes)  # chapter 8
