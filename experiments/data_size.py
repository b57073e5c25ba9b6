"""How much data a ViT needs, beside a hybrid and a ResNet of equally many parameters.

Question:    With how many images does a ViT overtake a ResNet of equal size, and where does a hybrid lie? Does it
             matter whether the runs are equally long in steps or in passes over their images?
Expectation: The ResNet leads where images are few. In the paper (Sec. 4.3, Fig. 4) the ViT overtakes between 9M and
             90M images, with far larger models: at every size of CIFAR-10 the ResNet stays ahead. Both curves rise
             steeply up to all 45,000 images; with 500 the ViT knows its training images by heart. On scenes both get
             far, and there the ViT comes nearest, with 100,000 images. The hybrid lies between the two, nearer to
             the ResNet.
Command:     python -m experiments data_size
Cost:        cpu: 48 runs of 6,000 steps (CIFAR-10 and scenes at 24 pixels, three seeds) of 12 to 25 minutes on one
             core with bfloat16 instructions, and about 60 trials of a learning rate of 600 steps: about 16 hours in
             all, 3 GB of memory. full: 180 runs at 32 pixels on one GPU, 1.8 million steps of batch 128; --jobs lets
             runs share it. It resumes when interrupted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from experiments import records
from experiments.families import SMALL, build
from experiments.measure import best, bracketed, trained, tried, tuned, unmasked, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import checks, cost, data, plots

__all__ = ["DATASET", "SCALES", "points", "run", "search", "show", "steps", "summarise"]

DATASET = (
    "cifar10: class-balanced, nested subsets of its 45,000 training images, 5,000 validation and 10,000 test images; "
    "scenes, seed 0: the same of 100,000 (full: 1,000,000) generated images, 5,000 validation and 5,000 test images. "
    "At 24 pixels (cpu) or 32 (full); quick: 1,000 scenes at 16 pixels"
)

VIT = {"patch_size": 4, "num_classes": 10, "pool": "mean"}
RATES = [5e-4, 1.5e-3, 4.5e-3]
FAMILIES = ["vit", "resnet", "hybrid"]
TWO = FAMILIES[:2]
# A grid is a list of blocks, the most telling first; so are the sizes in each. Its length is "steps" (all take
# config["steps"]) or "epochs" (all pass over their images as often as config["steps"] do over like["..."] images).
SCALES = {
    "quick": {
        "data": {"scenes": {"train_images": 1_000, "held_out": 200, "image_size": 16}},
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_dim": 112},
        "hybrid": {"depth": 1, "stem_width": 8, "stem_blocks": 1},
        "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "crop_padding": 1},
        "steps": 40,
        "grid": [{"data": "scenes", "length": "steps", "train_images": [100, 1_000], "families": FAMILIES},
                 {"data": "scenes", "length": "epochs", "train_images": [500], "families": TWO}],
        "like": {"scenes": 1_000},
        "learning_rates": RATES[1:],
        "tuned_at": {"scenes": [100, 1_000]},
        "search_steps": 5,
        "seeds": [0],
        "device": "cpu",
    },
    "cpu": {
        "data": {"cifar10": {"image_size": 24},
                 "scenes": {"train_images": 100_000, "held_out": 5_000, "image_size": 24}},
        "vit": SMALL | {"image_size": 24, "pool": "mean"},
        "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1, "stem_norm": "batch"},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "optimizer": "muon"},
        "steps": 6_000,
        "grid": [
            {"data": "cifar10", "length": "steps", "train_images": [45_000, 2_500, 500, 10_000], "families": TWO},
            {"data": "scenes", "length": "steps", "train_images": [100_000, 1_000, 10_000], "families": TWO},
            {"data": "cifar10", "length": "steps", "train_images": [45_000, 500], "families": ["hybrid"]},
        ],
        "like": {},
        "learning_rates": RATES[1:],
        "bracket": True,
        "tuned_at": {"cifar10": [500, 2_500, 10_000, 45_000], "scenes": [1_000, 10_000, 100_000]},
        "search_steps": 600,
        "seeds": [0, 1, 2],
        "device": "cpu",
    },
    "full": {
        "data": {"cifar10": {"image_size": 32},
                 "scenes": {"train_images": 1_000_000, "held_out": 5_000, "image_size": 32}},
        "vit": SMALL | {"image_size": 32, "pool": "mean"},
        "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1, "stem_norm": "batch"},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 4, "optimizer": "muon"},
        "steps": 9_000,
        "grid": [
            {"data": "cifar10", "length": "steps",
             "train_images": [45_000, 500, 5_000, 1_000, 2_500, 10_000, 25_000], "families": FAMILIES},
            {"data": "scenes", "length": "steps", "train_images": [1_000_000, 1_000, 100_000, 10_000],
             "families": FAMILIES},
            {"data": "cifar10", "length": "epochs", "train_images": [500, 5_000, 1_000, 2_500, 10_000, 25_000],
             "families": FAMILIES},
            {"data": "scenes", "length": "epochs", "train_images": [1_000, 10_000, 1_000_000], "families": FAMILIES},
        ],
        "like": {"cifar10": 45_000, "scenes": 100_000},  # 26 and 12 passes
        "learning_rates": RATES[1:],
        "bracket": True,
        "tuned_at": {"cifar10": [1_000, 45_000], "scenes": [1_000, 1_000_000]},
        "search_steps": 1_000,
        "seeds": [0, 1, 2],
        "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "data_size", validations=2)


def points(config: dict) -> list[dict]:
    """The whole grid with the first seed, then with the next."""
    return [{"data": block["data"], "length": block["length"], "train_images": size, "family": family, "seed": seed}
            for seed in config["seeds"] for block in config["grid"] for size in block["train_images"]
            for family in block["families"]]


def steps(point: dict, config: dict) -> int:
    """How many steps a run takes: as many as all others, or so many that all see each of their images equally often.

    Raises:
        ValueError: If the point's ``length`` is neither ``"steps"`` nor ``"epochs"``.
    """
    if point["length"] == "steps":
        return config["steps"]
    if point["length"] == "epochs":
        return max(2, round(config["steps"] * point["train_images"] / config["like"][point["data"]]))
    raise ValueError(f"length is {point['length']!r}; expected 'steps' or 'epochs', what the runs have in common")


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a family on so many images, at the rate that its trials chose at the nearest of the tuned sizes.

    Returns:
        Beside the usual keys ``flops`` (of one image, forward), ``epochs`` (passes over the images),
        ``learning_rate``, ``tuned_at`` (the size of the trials) and ``search`` (their validation accuracy by rate).
    """
    name, size, family, seed = point["data"], point["train_images"], point["family"], point["seed"]
    lasting = steps(point, config)
    at = nearest(size, config["tuned_at"][name])
    accuracy_by_rate = search(name, at, family, config, work)
    model, recipe = build(family, config, seed), _recipe(config, lasting, best(accuracy_by_rate))
    resume = work / f"{name}-{point['length']}-{size}-{family}-seed{seed}.safetensors"
    measured = trained(model, _drawn(name, size, seed, config), recipe, seed=seed, device=config["device"],
                       checkpoint=resume)
    return measured | {
        "flops": cost.flops(model, config["vit"]["image_size"]),
        "epochs": measured["images_seen"] / size,
        "learning_rate": recipe.learning_rate,
        "tuned_at": at,
        "search": accuracy_by_rate,
    }


def _drawn(name: str, train_images: int, seed: int, config: dict) -> data.Splits:
    """A set with so many of its training images: balanced, nested for one seed, prepared alike."""
    sets = unmasked(name, **config["data"][name])
    return sets._replace(train=sets.train.subset(train_images, seed))


def nearest(size: int, sizes: Iterable[int]) -> int:
    """Of some sizes, the one with the smallest ratio to a size."""
    return min(sizes, key=lambda other: abs(math.log(other / size)))


def search(name: str, train_images: int, family: str, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy after a short training at each rate, for one seed; noted in ``work`` for all runs to come."""

    def trial(rate: float) -> float:
        recipe = _recipe(config, config["search_steps"], rate)
        return tried(build(family, config, seed=0), _drawn(name, train_images, 0, config), recipe, config["device"])

    choose = bracketed if config.get("bracket") else tuned
    return choose(config["learning_rates"], trial, work / f"{name}-{train_images}-{family}-search.json")


def summarise(runs: list[dict]) -> dict:
    """By set, length, size and family: test accuracy, and how far it lies above the ResNet's, by seed (None where there
    is nothing to compare), both with intervals; the learning rate, FLOPs of training, passes over the images, seconds.

    Where equal steps make the same number of passes as equal epochs, that run belongs to both.
    """
    summary: dict = {}
    for name, length in grouped(runs, "data", "length"):
        here = [run for run in runs if run["data"] == name and _belongs(run, name, length, runs)]
        for size, those in sorted(grouped(here, "train_images").items()):
            families = grouped(those, "family")
            summary.setdefault(name, {}).setdefault(length, {})[str(size)] = {
                family: _reached(ours, families.get("resnet", [])) for family, ours in families.items()}
    return summary


def show(record: dict, what: str) -> Figure | str:
    """The record as chapter 7 shows it.

    Args:
        record: The record ``data_size``.
        what: ``"accuracy"``, ``"training_and_test"``, ``"steps_and_epochs"``, ``"scenes"``, ``"vit_over_resnet"`` and
            ``"by_rate"``: figures. ``"rates"``, ``"leads_equal_steps"``, ``"leads_equal_epochs"``,
            ``"leads_on_scenes"``, ``"hybrid"`` and ``"beside_the_paper"``: tables, as Markdown. ``"gains"``,
            ``"gains_on_scenes"``, ``"losses_equal_epochs"`` and ``"one_rate"``: lines of text.

    Raises:
        ValueError: If it is none of these.
    """
    views = {
        "accuracy": _accuracy,
        "rates": _rates,
        "leads_equal_steps": partial(_leads, name="cifar10", length="steps"),
        "leads_equal_epochs": partial(_leads, name="cifar10", length="epochs"),
        "leads_on_scenes": partial(_leads, name="scenes", length="steps"),
        "gains": _gains,
        "gains_on_scenes": _gains_on_scenes,
        "losses_equal_epochs": _losses,
        "training_and_test": _training,
        "steps_and_epochs": _epochs,
        "scenes": _scenes,
        "vit_over_resnet": _distance,
        "hybrid": _hybrid,
        "by_rate": _by_rate,
        "one_rate": _one_rate,
        "beside_the_paper": _beside_the_paper,
    }
    checks.choice(views, what=what)
    return views[what](record)


def _reached(runs: list[dict], resnets: list[dict]) -> dict:
    return {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "over_resnet": None if runs is resnets else paired(runs, resnets),
        **{key: runs[0][key] for key in ("learning_rate", "train_flops", "epochs", "parameters")},
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }


def _belongs(run: dict, name: str, length: str, runs: list[dict]) -> bool:
    passes = {other["epochs"] for other in runs if (other["data"], other["length"]) == (name, length)}
    return run["length"] == length or (length == "epochs" and run["epochs"] in passes)


# ---- what chapter 7 shows

NAMES = {"resnet": "ResNet", "vit": "ViT", "hybrid": "hybrid"}
SETS = {"cifar10": "CIFAR-10", "scenes": "scenes"}

_points = partial(records.percent, sign="+")  # a difference in points, and its interval


def _curve(record: dict, name: str, length: str, family: str, key: str = "test_accuracy") -> tuple:
    """Per cent over the number of images: (x, y), or (x, y, low, high) where every point has several seeds."""
    places = record["summary"].get(name, {}).get(length, {})
    values = {int(size): by[family][key] for size, by in places.items() if family in by and by[family][key]}
    sizes = sorted(values)
    ends = ("mean",) if any(values[size]["low"] is None for size in sizes) else ("mean", "low", "high")
    return (sizes, *([100 * values[size][end] for size in sizes] for end in ends))


def _curves(
    record: dict, name: str, *lengths: str, families: Iterable[str] = ("resnet", "vit"), label: str = "{family}"
) -> dict[str, tuple]:
    """One curve per length and family, without those that have no point."""
    curves = {label.format(family=NAMES[family], length=f"equal {length}"): _curve(record, name, length, family)
              for length in lengths for family in families}
    return {label: parts for label, parts in curves.items() if parts[0]}


def _accuracy(record: dict) -> Figure:
    return plots.lines(_curves(record, "cifar10", "steps", families=NAMES), "training images", "test accuracy (%)",
                       f"In {record['config']['steps']} steps, more images help the ResNet more", logx=True)


def _rates(record: dict) -> str:
    trials = _trials(record)
    rates, rows = sorted({rate for tries in trials.values() for rate in tries}, key=float), []
    for (name, size, family), accuracies in sorted(trials.items()):
        chosen = str(best(accuracies))
        cells = {rate: f"**{share:.1%}**" if rate == chosen else f"{share:.1%}" for rate, share in accuracies.items()}
        rows.append([SETS[name], f"{size:,}", NAMES[family], *(cells.get(rate, "") for rate in rates)])
    return records.table(["set", "images", "family", *(f"rate {rate}" for rate in rates)], rows, left=3)


def _trials(record: dict) -> dict[tuple[str, int, str], dict[str, float]]:
    """Validation accuracy by rate, of each set, tuned size and family."""
    return {(run["data"], run["tuned_at"], run["family"]): run["search"] for run in record["runs"]}


def _leader(over: dict) -> str:
    """Whose lead the interval of (ViT - ResNet) carries."""
    if over["low"] is None:
        return "nobody (one seed)"
    return "ViT" if over["low"] > 0 else "ResNet" if over["high"] < 0 else "neither"


def _leads(record: dict, name: str, length: str) -> str:
    rows = []
    for size, by in record["summary"].get(name, {}).get(length, {}).items():
        if by.get("vit", {}).get("over_resnet"):
            both = [f"{100 * by[family]['test_accuracy']['mean']:.1f}" for family in ("vit", "resnet")]
            over = by["vit"]["over_resnet"]
            rows.append([f"{int(size):,}", f"{by['vit']['epochs']:.1f}", *both, _points(over), _leader(over)])
    return records.table(["images", "epochs", "ViT (%)", "ResNet (%)", "ViT − ResNet (points)", "lead carried"], rows,
                         left=0)


def _by_place(record: dict) -> dict[tuple, list[dict]]:
    return grouped(record["runs"], "data", "length", "train_images", "family")


def _distances(runs: dict[tuple, list[dict]], *place: object) -> list[dict]:
    """How far the ViT lies above the ResNet at a place, seed by seed."""
    resnets = {run["seed"]: run["test_accuracy"] for run in runs.get((*place, "resnet"), [])}
    return [{"seed": run["seed"], "distance": run["test_accuracy"] - resnets[run["seed"]]}
            for run in runs.get((*place, "vit"), []) if run["seed"] in resnets]


def _gains(record: dict) -> str:
    runs, lines = _by_place(record), []
    for small, large in ((500, 2_500), (2_500, 45_000), (500, 45_000)):
        before, after = (("cifar10", "steps", size) for size in (small, large))
        for family in ("vit", "resnet"):
            gain = _points(paired(runs[*after, family], runs[*before, family]))
            lines.append(f"from {small:>5,} to {large:>6,} photographs the {NAMES[family]:6} gains {gain} points")
        moved = paired(_distances(runs, *after), _distances(runs, *before), "distance")
        lines.append(f"{'':32} and ViT − ResNet moves by {_points(moved)}")
    return "\n".join(lines)


def _gains_on_scenes(record: dict) -> str:
    runs, lines = _by_place(record), []
    for small, large in ((1_000, 10_000), (10_000, 100_000), (1_000, 100_000)):
        gain = paired(*(runs["scenes", "steps", size, "vit"] for size in (large, small)))
        lines.append(f"from {small:>6,} to {large:>7,} scenes the ViT gains {_points(gain)} points")
    return "\n".join(lines)


def _losses(record: dict) -> str:
    runs, lines = _by_place(record), []
    for size in sorted({size for name, length, size, _ in runs if (name, length) == ("cifar10", "epochs")}):
        short, long = ("cifar10", "epochs", size), ("cifar10", "steps", size)
        for family in ("vit", "resnet"):
            change = _points(paired(runs[*short, family], runs[*long, family]))
            lines.append(f"{size:>5,} images: {runs[*short, family][0]['steps']:>3} steps instead of "
                         f"{record['config']['steps']} change the {NAMES[family]:6} by {change} points")
        moved = paired(_distances(runs, *short), _distances(runs, *long), "distance")
        lines.append(f"{'':13} and ViT − ResNet by {_points(moved)}")
    return "\n".join(lines)


def _training(record: dict) -> Figure:
    runs, sizes = _by_place(record), _curve(record, "cifar10", "steps", "vit")[0]

    def means(key: str, family: str) -> list[float]:
        return [100 * statistics.mean(run[key] for run in runs["cifar10", "steps", size, family]) for size in sizes]

    both = {f"{NAMES[family]}, {split} images": (sizes, means(key, family)) for family in ("resnet", "vit")
            for split, key in (("training", "train_accuracy"), ("test", "test_accuracy"))}
    return plots.lines(both, "training images", "accuracy (%)",
                       "Where both curves of a network meet, images are not missing", logx=True)


def _epochs(record: dict) -> Figure:
    curves = _curves(record, "cifar10", "steps", "epochs", label="{family}, {length}")
    return plots.lines(curves, "training images", "test accuracy (%)", "With equal epochs the curves are steeper",
                       logx=True)


def _scenes(record: dict) -> Figure:
    return plots.lines(_curves(record, "scenes", "steps"), "training images", "test accuracy (%)",
                       "On scenes the ResNet has nothing left to learn", logx=True)


def _distance(record: dict) -> Figure:
    curves = {f"{SETS[name]}, equal {length}": _curve(record, name, length, "vit", "over_resnet")
              for name, length in (("cifar10", "steps"), ("scenes", "steps"), ("cifar10", "epochs"))}
    leaders = [_leader(by["vit"]["over_resnet"]) for lengths in record["summary"].values()
               for places in lengths.values() for by in places.values() if by.get("vit", {}).get("over_resnet")]
    figure = plots.lines({label: parts for label, parts in curves.items() if parts[0]}, "training images",
                         "ViT − ResNet (percentage points)",
                         "The ViT leads " + ("somewhere" if "ViT" in leaders else "nowhere"), logx=True)
    figure.axes[0].axhline(0, color="0.4", linewidth=1, linestyle="-", marker="")
    figure.axes[0].set_ylim(top=3)
    return figure


def _hybrid(record: dict) -> str:
    runs, rows = _by_place(record), []
    for size, by in record["summary"]["cifar10"]["steps"].items():
        if "hybrid" in by:
            here = {family: runs["cifar10", "steps", int(size), family] for family in ("vit", "hybrid", "resnet")}
            rows.append([f"{int(size):,}", *(f"{100 * by[family]['test_accuracy']['mean']:.1f}" for family in here),
                         *(_points(paired(here["hybrid"], here[other])) for other in ("vit", "resnet"))])
    return records.table(["images", "ViT (%)", "hybrid (%)", "ResNet (%)", "hybrid − ViT (points)",
                          "hybrid − ResNet (points)"], rows, left=0)


def _larger_trials(record: dict) -> dict[tuple[str, str], dict[str, float]]:
    """Validation accuracy by rate at the larger of the two tuned sizes, of each set and family."""
    return {(name, family): by for (name, _, family), by in sorted(_trials(record).items())}


def _by_rate(record: dict) -> Figure:
    curves = {}
    for name in SETS:
        for family in ("resnet", "vit"):
            tries = sorted((float(rate), 100 * share) for rate, share in _larger_trials(record)[name, family].items())
            curves[f"{NAMES[family]}, {SETS[name]}"] = tuple(zip(*tries, strict=True))
    return plots.lines(curves, "learning rate", "validation accuracy (%)", "The lead depends on the rate", logx=True)


def _one_rate(record: dict) -> str:
    trials, lines = _larger_trials(record), []
    for name in SETS:
        vit, resnet = (trials[name, family] for family in ("vit", "resnet"))
        over = [f"{100 * (vit[rate] - resnet[rate]):+.1f} points at {rate}"
                for rate in sorted(vit.keys() & resnet.keys(), key=float)]
        lines.append(f"{SETS[name]:9} ViT − ResNet: {', '.join(over)}")
    return "\n".join(lines)


def _beside_the_paper(record: dict) -> str:
    runs = record["runs"]
    sizes, seen = [run["train_images"] for run in runs], max(run["images_seen"] for run in runs)
    leaders = [_leader(by["vit"]["over_resnet"]) for name in SETS for by in record["summary"][name]["steps"].values()
               if by.get("vit", {}).get("over_resnet")]
    counted = [f"{who} at {leaders.count(who)} of {len(leaders)} sizes" for who in dict.fromkeys([*leaders, "ViT"])]
    parameters = next(run["parameters"] for run in runs if run["family"] == "vit")
    return ("| | the paper, Sec. 4.3 (Fig. 4) | this record |\n|---|---|---|\n"
            f"| images | 9 to 300 million | {min(sizes):,} to {max(sizes):,} |\n"
            f"| network | ViT-B has 86 million parameters (Table 1) | {parameters / 1e6:.2f} million |\n"
            "| measured | few-shot accuracy after pre-training | test accuracy on the same task |\n"
            "| who leads | ResNets at 9M, ViTs from 90M on | carried by its interval, at equal steps: "
            f"{'; '.join(counted)} |\n\n"
            f"The paper's smallest subset is {9e6 / max(sizes):.0f} times our largest, and {9e6 / seen:.0f} times "
            "as many images as any of our runs has looked at in all.")
