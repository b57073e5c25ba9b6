"""What more computing buys each family, and in which direction a ViT should grow.

Question:    At fixed data, which family turns training FLOPs into accuracy best? And of depth, width and patch size,
             which is worth scaling?
Expectation: In each family a larger network is more accurate after equally many steps, and each further doubling buys
             less. The paper (Sec. 4.4, Fig. 5) finds that ViTs need two to four times less compute than ResNets, after
             pre-training on hundreds of millions of images. Here 45,000 are seen eleven times, and the paper's small
             data sets (Sec. 4.3) are the better guide: the ResNets lead at every size, and the frontier is made of
             them. The hybrids, with batch norm in their stem, lie between and lead the ViTs by less the larger they
             are. Shape (App. D.2, Fig. 8; scale full): at about twice the base's FLOPs depth and the smaller patch gain
             most, width least.
Command:     python -m experiments scaling
Cost:        cpu: 18 runs of 4,000 steps (three sizes of ViT, ResNet and hybrid, two seeds) of 3 to 50 minutes on one
             core with bfloat16 instructions, and about 40 trials of a learning rate of 400 steps; about 5 hours in
             all, 2 GB of memory. full: 60 longer runs on one GPU, at 32 pixels. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from experiments import records
from experiments.measure import best, bracketed, loaded, trained, tried, usual_recipe
from experiments.statistics import curve, grouped, interval, paired
from vitlite import ViT, ViTConfig, checks, plots
from vitlite.hybrid import ResNetStem
from vitlite.resnet import ResNet, ResNetConfig

__all__ = ["DATASET", "SCALES", "build", "frontier", "points", "run", "search", "show", "summarise"]

DATASET = (
    "cifar10: 45,000 training images, shrunk to 24 pixels (cpu) or at 32 (full), 5,000 validation and 10,000 test "
    "images; quick: 640 scenes at 16 pixels"
)
BASE = "base"  # the size whose ViT is scaled in one direction alone


def wide(embed_dim: int, depth: int, num_heads: int = 3, **stem: int) -> dict:
    """The fields of a ViT with MLPs twice as wide as its tokens; of a hybrid, its stem's width too."""
    return {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "mlp_dim": 2 * embed_dim} | stem


# A size is about the same number of FLOPs in each family, three to seven times that of the size before.
SIZES = {
    "vit": {"tiny": wide(48, 3), BASE: wide(96, 6), "large": wide(144, 8)},
    "resnet": {"tiny": {"width": 8, "blocks": 1}, BASE: {"width": 16, "blocks": 2},
               "large": {"width": 24, "blocks": 3}},
    "hybrid": {"tiny": wide(48, 1, stem_width=8), BASE: wide(96, 4, stem_width=16),
               "large": wide(144, 6, stem_width=24)},
}
LARGER = {
    "vit": {"tiny": wide(96, 4, 2), "small": wide(144, 6, 3), BASE: wide(192, 9, 4), "large": wide(288, 12, 6),
            "huge": wide(384, 16, 8)},
    "resnet": {"tiny": {"width": 12, "blocks": 3}, "small": {"width": 24, "blocks": 2},
               BASE: {"width": 32, "blocks": 3}, "large": {"width": 48, "blocks": 4},
               "huge": {"width": 64, "blocks": 6}},
    "hybrid": {"small": wide(144, 5, 3, stem_width=16), BASE: wide(192, 6, 4, stem_width=32),
               "large": wide(288, 9, 6, stem_width=48)},
}
# What alone is changed of the base ViT: the first of each to about half the FLOPs, the second to about twice as many.
ALONE = {
    "depth": [{"depth": 3}, {"depth": 12}],
    "width": [{"embed_dim": 72, "mlp_dim": 144}, {"embed_dim": 144, "mlp_dim": 288}],
    "patch size": [{"patch_size": 6}, {"patch_size": 3}],
}
VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
GRID = {"sizes": SIZES, "alone": ALONE, "seeds": [0, 1, 2], "device": "cpu"}
SCALES = {
    "quick": GRID | {
        "data": {"name_or_path": "scenes", "train_images": 640, "held_out": 200, "image_size": 16},
        "vit": VIT | {"image_size": 16},
        "sizes": {"vit": {"tiny": wide(16, 1, 2), BASE: wide(32, 2, 2)},
                  "resnet": {"tiny": {"width": 4, "blocks": 1}, BASE: {"width": 8, "blocks": 1}},
                  "hybrid": {BASE: wide(32, 1, 2, stem_width=4)}},
        "alone": {"depth": [{"depth": 1}, {"depth": 4}], "patch size": [{"patch_size": 8}, {"patch_size": 2}]},
        "learning_rates": [1e-3, 3e-3],
        "search_steps": 4,
        "steps": 20,
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True},
        "seeds": [0],
    },
    "cpu": GRID | {
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "vit": VIT | {"image_size": 24},
        "alone": {},
        "learning_rates": [1.5e-3, 4.5e-3],  # where the search begins
        "search_steps": 400,
        "steps": 4_000,  # 11 passes
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "optimizer": "muon"},
        "seeds": [0, 1],
    },
    "full": GRID | {
        "data": {"name_or_path": "cifar10"},
        "vit": VIT | {"image_size": 32},
        "sizes": LARGER,
        "alone": {"depth": [{"depth": 5}, {"depth": 18}],
                  "width": [{"embed_dim": 144, "mlp_dim": 288}, {"embed_dim": 288, "mlp_dim": 576}],
                  "patch size": [{"patch_size": 8}, {"patch_size": 2}]},
        "learning_rates": [5e-4, 1.5e-3, 4.5e-3],
        "search_steps": 400,
        "steps": 4_400,  # 50 passes
        "recipe": {"batch_size": 512, "weight_decay": 0.1, "flip": True, "crop_padding": 4, "label_smoothing": 0.1,
                   "trivial_augment": True},
        "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "scaling", validations=2)


def points(config: dict) -> list[dict]:
    """Every size of every family, from small to large, then the base scaled one way alone; seed after seed."""
    order = config["sizes"]["vit"]
    places = [{"scaled": "together", "family": family, "size": size} for size in order
              for family, sizes in config["sizes"].items() if size in sizes]
    places += [
        {"scaled": way, "family": "vit", "size": size} for way in config["alone"] for size in _alone(way, config)
    ]
    return [place | {"seed": seed} for seed in config["seeds"] for place in places]


def _alone(way: str, config: dict) -> dict[str, dict]:
    """By name, such as ``"depth 12"``, what is changed of the base ViT."""
    return {f"{way} {next(iter(change.values()))}": change for change in config["alone"][way]}


def build(place: dict, config: dict, seed: int) -> nn.Module:
    """A new model of a family and size, or the base ViT scaled one way alone.

    Args:
        place: A point, or its ``"scaled"``, ``"family"`` and ``"size"``.
        config: One of ``SCALES``.
        seed: Of the weights.

    Raises:
        ValueError: If the family has no such size, or the base is not scaled so; the message lists what there is.
    """
    way, family, size = place["scaled"], place["family"], place["size"]
    known = config["sizes"].get(family, {}) if way == "together" else _alone(way, config)
    if size not in known:
        raise ValueError(f"{family} has no size {size!r} (scaled: {way}); expected one of {', '.join(known) or 'none'}")
    torch.manual_seed(seed)
    if family == "resnet":
        return ResNet(ResNetConfig(num_classes=config["vit"]["num_classes"], **known[size]))
    fields = config["vit"] | config["sizes"]["vit"][BASE] | known[size]
    width = fields.pop("stem_width", None)
    shape = ViTConfig(**fields)
    return ViT(shape, ResNetStem(shape.embed_dim, width=width, blocks=1, norm="batch") if width else None)


def run(point: dict, config: dict, work: Path) -> dict:
    """Choose a learning rate for the size and train one model; a shape takes the rate of the base that it varies.

    Returns:
        Beside the usual keys ``learning_rate`` and ``search`` (validation accuracy by rate). ``train_flops`` are those
        of this run, without the trials.
    """
    seed = point["seed"]
    tried = point | {"size": BASE, "scaled": "together"} if point["scaled"] != "together" else point
    accuracy_by_rate = search(tried, config, work)
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

    return bracketed(config["learning_rates"], trial, work / f"{_file(place)}-search.json")


def _file(place: dict) -> str:
    return f"{place['family']}-{place['size']}".replace(" ", "-")


def summarise(runs: list[dict]) -> dict:
    """What each network costs and reaches, and which are worth their cost.

    Returns:
        ``sizes``: every family and size with its cost, test accuracy and ``over``: how far it lies above the ViT of
        the same size, seed by seed, and at how many times its FLOPs. ``alone``: by direction, the base ViT
        scaled so, from cheap to dear, with the base among them; ``over`` compares with the base. ``frontier``:
        the networks that no cheaper one reaches, from cheap to dear, as family and size.
    """
    models = grouped(runs, "scaled", "family", "size")
    base, sizes, alone = models.get(("together", "vit", BASE), []), [], {}
    for (way, family, size), ours in models.items():
        if way == "together":
            sizes.append(_reached(ours, [] if family == "vit" else models.get((way, "vit", size), [])))
        else:
            alone.setdefault(way, []).append(_reached(ours, base))
    for shapes in alone.values():
        shapes += [_reached(base, [])] if base else []
        shapes.sort(key=lambda shape: shape["train_flops"])
    every = [*sizes, *(shape for shapes in alone.values() for shape in shapes if shape["size"] != BASE)]
    return {"sizes": sizes, "alone": alone, "frontier": [[one["family"], one["size"]] for one in frontier(every)]}


def show(record: dict, what: str) -> Figure | str:
    """The record as chapter 8 shows it.

    Args:
        record: The record ``scaling``.
        what: ``"opening"``: question and scale, as Markdown. ``"accuracy"`` and ``"one_knob"``: figures
            over the FLOPs of training, of the families and of the base scaled one way alone. ``"sizes"`` and
            ``"shapes"``: the same in tables, as Markdown. ``"frontier"``: lines of text.

    Raises:
        ValueError: If it is none of these.
    """
    views = {"opening": _opening, "accuracy": _accuracy, "sizes": _sizes, "frontier": _frontier,
             "one_knob": _alone_by_cost, "shapes": _shapes}
    checks.choice(views, what=what)
    return views[what](record)


def _opening(record: dict) -> str:
    config, first = record["config"], record["runs"][0]
    passes = first["images_seen"] / first["train_images"]
    rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    side = config["vit"]["image_size"]
    return records.opening(record, f"{first['train_images']:,} training images of {side} pixels, "
                                   f"{first['steps']:,} steps of {config['recipe']['batch_size']}, so each image "
                                   f"{passes:.1f} times; for each size the learning rate is the best of {rates} on "
                                   f"validation after {config['search_steps']} steps, with one seed; the test images "
                                   "were read once, at the end")


def frontier(networks: list[dict]) -> list[dict]:
    """The networks that no cheaper one reaches in mean test accuracy, from cheap to dear.

    Args:
        networks: Dicts with ``train_flops`` and ``test_accuracy``, an ``interval``.
    """
    kept: list[dict] = []
    for network in sorted(networks, key=lambda one: (one["train_flops"], -one["test_accuracy"]["mean"])):
        if not kept or network["test_accuracy"]["mean"] > kept[-1]["test_accuracy"]["mean"]:
            kept.append(network)
    return kept


def _reached(runs: list[dict], others: list[dict]) -> dict:
    first = runs[0]
    over = paired(runs, others)
    return {
        **{key: first[key] for key in ("family", "size", "parameters", "train_flops", "learning_rate")},
        "seconds": statistics.mean(run["seconds"] for run in runs),
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "over": over and {"test_accuracy": over, "train_flops": first["train_flops"] / others[0]["train_flops"]},
    }


# ---- what chapter 8 shows

NAMES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "hybrid"}


def _by_cost(networks: list[dict]) -> tuple:
    """One curve: test accuracy over training FLOPs in TFLOP."""
    return curve({one["train_flops"] / 1e12: one["test_accuracy"] for one in networks})


def _accuracy(record: dict) -> Figure:
    families = grouped(record["summary"]["sizes"], "family")
    curves = {name: _by_cost(families[family]) for family, name in NAMES.items() if family in families}
    return plots.lines(curves, "FLOPs of the training (TFLOP)", "test accuracy (%)",
                       "In equally many steps, only the ResNets turn size into accuracy", logx=True)


def _over(over: dict | None) -> str:
    return f"{records.percent(over['test_accuracy'], '+')} at {over['train_flops']:.2f} × its FLOPs" if over else ""


def _sizes(record: dict) -> str:
    head = ("network", "parameters", "training, TFLOP", "learning rate", "time, s", "test images (%)",
            "over the ViT of its size")
    order = list(NAMES)
    networks = sorted(record["summary"]["sizes"], key=lambda one: (order.index(one["family"]), one["train_flops"]))
    rows = [[f"{NAMES[one['family']]}, {one['size']}", f"{one['parameters']:,}", f"{one['train_flops'] / 1e12:.2f}",
             f"{one['learning_rate']:g}", f"{one['seconds']:.0f}", records.percent(one["test_accuracy"]),
             _over(one["over"])] for one in networks]
    return records.table(head, rows)


def _frontier(record: dict) -> str:
    hardware, rates = record["hardware"], record["config"]["learning_rates"]
    edges = {str(min(rates)), str(max(rates))}
    at_edge = [f"{NAMES[one['family']]} {one['size']}" for one in record["summary"]["sizes"]
               if str(one["learning_rate"]) in edges]
    names = [f"{NAMES[family]} {size}" for family, size in record["summary"]["frontier"]]
    return (f"the frontier, from cheap to dear: {'; '.join(names)}\n"
            f"best learning rate at the edge of the range: {'; '.join(at_edge) or 'none'}\n"
            f"measured on {hardware.get('gpu', hardware['processor'])}, {hardware['threads']} thread(s)")


def _alone_by_cost(record: dict) -> Figure:
    curves = {way: _by_cost(shapes) for way, shapes in record["summary"]["alone"].items()}
    return plots.lines(curves, "FLOPs of the training (TFLOP)", "test accuracy (%)",
                       "After so few steps no knob of the ViT gains much", logx=True)


def _shapes(record: dict) -> str:
    rows = [[way, one["size"], f"{one['parameters']:,}", f"{one['train_flops'] / 1e12:.2f}",
             records.percent(one["test_accuracy"]), _over(one["over"])]
            for way, shapes in record["summary"]["alone"].items() for one in shapes]
    return records.table(["turned", "shape", "parameters", "training, TFLOP", "test images (%)", "over the base"], rows,
                         left=2)
