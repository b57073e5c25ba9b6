"""What more computing buys each family of networks.

Question:    At fixed data, which family turns training FLOPs into accuracy best, and what does each gain with size?
Expectation: In each family a larger network is more accurate after equally many steps, and each further doubling buys
             less. The paper (Sec. 4.4, Fig. 5) finds that ViTs need two to four times less compute than ResNets, after
             pre-training on hundreds of millions of images. Here 45,000 are seen eleven times, and the paper's small
             data sets (Sec. 4.3) are the better guide: the ResNets lead at every size, and the frontier is made of
             them. The hybrids, with batch norm in their stem, lie between and lead the ViTs by less the larger they
             are. With group norm in its stem a hybrid is worse: in short trials it was five points behind.
Command:     python -m experiments scaling
Cost:        cpu: 20 runs of 4,000 steps (three sizes of ViT, ResNet and hybrid, one hybrid with group norm, two seeds)
             of 2 to 30 minutes on one core with bfloat16 instructions, and about 30 trials of a learning rate of 400
             steps; about 5 hours in all, 2 GB of memory. full: 42 longer runs on one GPU, at 32 pixels. It resumes
             when interrupted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from experiments import records
from experiments.families import RATES
from experiments.measure import best, bracketed, loaded, trained, tried, usual_recipe
from experiments.statistics import curve, grouped, interval, paired
from vitlite import ViT, ViTConfig, plots
from vitlite.hybrid import ResNetStem
from vitlite.resnet import ResNet, ResNetConfig

__all__ = ["DATASET", "SCALES", "build", "frontier", "points", "run", "search", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training images, shrunk to 24 pixels (cpu) or at 32 (full), 5,000 validation and 10,000 test "
    "images; quick: 640 scenes at 16 pixels"
)


def wide(embed_dim: int, depth: int, num_heads: int = 3, **stem: int | str) -> dict:
    """The fields of a ViT with MLPs twice as wide as its tokens; of a hybrid, its stem's width and norm too."""
    return {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "mlp_dim": 2 * embed_dim} | stem


# A size is about the same number of FLOPs in each family, three to seven times that of the size before.
SIZES = {
    "vit": {"tiny": wide(48, 3), "base": wide(96, 6), "large": wide(144, 8)},
    "resnet": {"tiny": {"width": 8, "blocks": 1}, "base": {"width": 16, "blocks": 2},
               "large": {"width": 24, "blocks": 3}},
    "hybrid": {"tiny": wide(48, 1, stem_width=8), "base": wide(96, 4, stem_width=16),
               "large": wide(144, 6, stem_width=24)},
    "hybrid_group": {"base": wide(96, 4, stem_width=16, stem_norm="group")},  # what the norm of the stem is worth
}
LARGER = {
    "vit": {"tiny": wide(96, 4, 2), "small": wide(144, 6, 3), "base": wide(192, 9, 4), "large": wide(288, 12, 6),
            "huge": wide(384, 16, 8)},
    "resnet": {"tiny": {"width": 12, "blocks": 3}, "small": {"width": 24, "blocks": 2},
               "base": {"width": 32, "blocks": 3}, "large": {"width": 48, "blocks": 4},
               "huge": {"width": 64, "blocks": 6}},
    "hybrid": {"small": wide(144, 5, 3, stem_width=16), "base": wide(192, 6, 4, stem_width=32),
               "large": wide(288, 9, 6, stem_width=48)},
    "hybrid_group": {"base": wide(192, 6, 4, stem_width=32, stem_norm="group")},
}
VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
GRID = {"sizes": SIZES, "learning_rates": RATES | {"hybrid_group": RATES["hybrid"]}, "seeds": [0, 1, 2],
        "device": "cpu"}
SCALES = {
    "quick": GRID | {
        "data": {"name_or_path": "scenes", "train_images": 640, "held_out": 200, "image_size": 16},
        "vit": VIT | {"image_size": 16},
        "sizes": {"vit": {"tiny": wide(16, 1, 2), "base": wide(32, 2, 2)},
                  "resnet": {"tiny": {"width": 4, "blocks": 1}, "base": {"width": 8, "blocks": 1}},
                  "hybrid": {"base": wide(32, 1, 2, stem_width=4)},
                  "hybrid_group": {"base": wide(32, 1, 2, stem_width=4, stem_norm="group")}},
        "search_steps": 4,
        "steps": 20,
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "optimizer": "muon"},
        "seeds": [0],
    },
    "cpu": GRID | {
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "vit": VIT | {"image_size": 24},
        "search_steps": 400,
        "steps": 4_000,  # 11 passes
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "optimizer": "muon"},
        "seeds": [0, 1],
    },
    "full": GRID | {
        "data": {"name_or_path": "cifar10"},
        "vit": VIT | {"image_size": 32},
        "sizes": LARGER,
        "search_steps": 400,
        "steps": 4_400,  # 50 passes
        "recipe": {"batch_size": 512, "weight_decay": 0.1, "flip": True, "crop_padding": 4, "label_smoothing": 0.1,
                   "trivial_augment": True, "optimizer": "muon"},
        "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "scaling", validations=2)


def points(config: dict) -> list[dict]:
    """Every size of every family, from small to large; seed after seed."""
    places = [{"family": family, "size": size} for size in config["sizes"]["vit"]
              for family, sizes in config["sizes"].items() if size in sizes]
    return [place | {"seed": seed} for seed in config["seeds"] for place in places]


def build(place: dict, config: dict, seed: int) -> nn.Module:
    """A new model of a family and size.

    Args:
        place: A point, or its ``"family"`` and ``"size"``.
        config: One of ``SCALES``.
        seed: Of the weights.
    """
    shape = config["sizes"][place["family"]][place["size"]]
    torch.manual_seed(seed)
    if place["family"] == "resnet":
        return ResNet(ResNetConfig(num_classes=config["vit"]["num_classes"], **shape))
    fields = config["vit"] | shape
    width, norm = fields.pop("stem_width", None), fields.pop("stem_norm", "batch")
    whole = ViTConfig(**fields)
    return ViT(whole, ResNetStem(whole.embed_dim, width=width, blocks=1, norm=norm) if width else None)


def run(point: dict, config: dict, work: Path) -> dict:
    """Choose a learning rate for the size, and train one model.

    Returns:
        Beside the usual keys ``learning_rate`` and ``search`` (validation accuracy by rate). ``train_flops`` are those
        of this run, without the trials.
    """
    seed = point["seed"]
    accuracy_by_rate = search(point, config, work)
    recipe = _recipe(config, config["steps"], best(accuracy_by_rate))
    resume = work / f"{_file(point)}-seed{seed}.safetensors"
    measured = trained(build(point, config, seed), loaded(**config["data"]), recipe, seed=seed, device=config["device"],
                       checkpoint=resume)
    return measured | {"learning_rate": recipe.learning_rate, "search": accuracy_by_rate}


def search(place: dict, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy of a size after a short training at each learning rate, for one seed; each is tried once."""

    def trial(rate: float) -> float:
        recipe = _recipe(config, config["search_steps"], rate)
        return tried(build(place, config, seed=0), loaded(**config["data"]), recipe, config["device"])

    return bracketed(config["learning_rates"][place["family"]], trial, work / f"{_file(place)}-search.json")


def _file(place: dict) -> str:
    return f"{place['family']}-{place['size']}"


def summarise(runs: list[dict]) -> dict:
    """What each network costs and reaches, and which are worth their cost.

    Returns:
        ``sizes``: every family and size with its cost, test accuracy and ``over``: how far it lies above the ViT of
        the same size, seed by seed. ``frontier``: the networks that no cheaper one reaches, as family and size, the
        cheapest first.
    """
    models = grouped(runs, "family", "size")
    sizes = [_reached(ours, [] if family == "vit" else models.get(("vit", size), []))
             for (family, size), ours in models.items()]
    return {"sizes": sizes, "frontier": [[one["family"], one["size"]] for one in frontier(sizes)]}


def frontier(networks: list[dict]) -> list[dict]:
    """The networks that no cheaper one reaches in mean test accuracy, the cheapest first.

    Args:
        networks: Dicts with ``train_flops`` and ``test_accuracy``, an ``interval``.
    """
    kept: list[dict] = []
    for network in sorted(networks, key=lambda one: (one["train_flops"], -one["test_accuracy"]["mean"])):
        if not kept or network["test_accuracy"]["mean"] > kept[-1]["test_accuracy"]["mean"]:
            kept.append(network)
    return kept


def _reached(runs: list[dict], others: list[dict]) -> dict:
    return {key: runs[0][key] for key in ("family", "size", "parameters", "train_flops", "learning_rate")} | {
        "test_accuracy": interval(run["test_accuracy"] for run in runs), "over": paired(runs, others)}


# ---- what chapter 8 shows

NAMES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "hybrid"}


def _accuracy(record: dict) -> Figure:
    families = grouped(record["summary"]["sizes"], "family")
    curves = {name: curve({one["train_flops"] / 1e12: one["test_accuracy"] for one in families[family]})
              for family, name in NAMES.items() if family in families}
    return plots.lines(curves, "FLOPs of the training (TFLOP)", "test accuracy (%)",
                       "Every family gains with size, the ResNets most", logx=True)


def _sizes(record: dict) -> str:
    by_size = grouped(record["summary"]["sizes"], "size")
    rows = []
    for size, networks in by_size.items():
        of = {one["family"]: one for one in networks}
        rows.append([size, f"{of['vit']['train_flops'] / 1e12:.1f}",
                     *(records.percent(of[family]["test_accuracy"]) if family in of else "" for family in NAMES),
                     *(records.percent(of[family]["over"], "+") if family in of else ""
                       for family in NAMES if family != "vit")])
    return records.table(["size", "TFLOP of the ViT", *NAMES.values(), "ResNet over ViT", "hybrid over ViT"], rows)


show = records.views(accuracy=_accuracy, sizes=_sizes)  # chapter 8
