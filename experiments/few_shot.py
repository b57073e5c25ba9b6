"""What few labels give: a linear map on frozen features, nearest neighbours, and fine-tuning.

Question:    With 1 to 100 labelled images a class, how well do a ViT and a ResNet of equal size, pre-trained on
             labelled scenes, classify new scenes and CIFAR-10, and which use of the few labels does best?
Expectation: On new scenes one image a class is enough to come within ten points of what the network reaches with its
             own head, and fine-tuning adds nothing. On CIFAR-10, which looks otherwise, pre-training on scenes gives
             a few points over the same network with random weights, more with more images, and the ResNet is ahead:
             so few steps on so little data favour convolutions. The linear map is ahead of the neighbours from five
             images a class on. Fine-tuning is behind the linear map at one image a class and ahead at 100, where
             the network was pre-trained; with random weights it is training from scratch.
Command:     python -m experiments few_shot
Cost:        cpu: 12 runs (two networks, pre-trained or not, three seeds), about 27 minutes on one core with bfloat16
             instructions. full: 20 runs, longer and at 32 pixels, on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

import copy
import statistics
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import records
from experiments.families import SMALL, build
from experiments.measure import best, loaded, once, trained, tried, tuned, usual_recipe
from experiments.statistics import grouped, interval
from vitlite import checks, cost, data, plots
from vitlite.analysis import linear_probe
from vitlite.train import evaluate, outputs

__all__ = ["DATASET", "SCALES", "draw", "nearest", "points", "run", "show", "summarise"]

DATASET = (
    "pre-training: scenes, seed 0; the few images: cifar10's 45,000 training images, shrunk to 24 pixels (cpu), and "
    "scenes of seed 1; choices on 1,000 validation images, accuracy on 1,000 test images (full: all there are)"
)
AXES = ("target", "source", "family", "method", "images")  # the grid; "images" a class
COMPARED = [("family", "vit", "resnet"), ("source", "scenes", "random"), ("method", "linear", "knn"),
            ("method", "linear", "fine-tuning")]

VIT = SMALL | {"image_size": 24, "pool": "mean"}
GRID = {
    "families": ["vit", "resnet"],
    "sources": ["scenes", "random"],
    "images": [1, 5, 10, 25, 100],  # a class
    "draws": 5,
    "l2": [1e-3, 1e-2, 1e-1, 1.0],
    "neighbours": [1, 5, 20],
    "recipe": {"weight_decay": 0.05, "flip": True, "crop_padding": 2},
    "pretraining": {"batch_size": 128, "label_smoothing": 0.1},
    "pretraining_rates": {"vit": 1.5e-3, "resnet": 4.5e-3},  # near the best of those that `bias` tried
    "rates": [3e-4, 1e-3],
    "rate_images": 10,  # a class, where the rate of fine-tuning is chosen
    "device": "cpu",
}
SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "source": {"train_images": 500, "held_out": 100, "image_size": 16},
        "targets": {"scenes": {"name_or_path": "scenes", "seed": 1, "train_images": 200, "held_out": 100,
                               "image_size": 16}},
        "held_out": 100, "images": [1, 5, 10], "draws": 2, "pretraining_steps": 20, "steps": 5, "batch_size": 64,
        "seeds": [0],
    },
    "cpu": GRID | {
        "vit": VIT,
        "source": {"train_images": 20_000, "image_size": 24},
        "targets": {"cifar10": {"name_or_path": "cifar10", "image_size": 24},
                    "scenes": {"name_or_path": "scenes", "seed": 1, "train_images": 5_000, "image_size": 24}},
        "held_out": 1_000, "pretraining_steps": 500, "steps": 60, "batch_size": 64, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "vit": VIT | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "source": {"train_images": 200_000, "image_size": 32, "held_out": 10_000},
        "targets": {"cifar10": {"name_or_path": "cifar10"},
                    "scenes": {"name_or_path": "scenes", "seed": 1, "train_images": 5_000, "held_out": 10_000}},
        "held_out": 10_000, "pretraining": {"batch_size": 512, "label_smoothing": 0.1}, "pretraining_steps": 10_000,
        "steps": 500, "batch_size": 128, "rates": [1e-4, 3e-4, 1e-3], "seeds": [0, 1, 2, 3, 4], "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "few_shot")


def points(config: dict) -> list[dict]:
    """Every network of the first seed, pre-trained and not; then of the next."""
    return [{"source": source, "family": family, "seed": seed} for seed in config["seeds"]
            for source in config["sources"] for family in config["families"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Pre-train a network, and classify each target from few of its images, by every method.

    Images are normalised by the mean and standard deviation of the set that they are from.

    Returns:
        The usual keys, of the pre-training (with random weights there is none, and the accuracies are those of a
        network that knows nothing); ``few``, a list: by target, method and images a class the test accuracy of each
        draw (fine-tuning has one) and what was chosen on validation images; and ``search``, validation accuracy by
        the rate of fine-tuning and target.
    """
    name, seed = "-".join(map(str, point.values())), point["seed"]
    model = build(point["family"], config, seed).to(config["device"])
    measured = _pretrained(model, point, config, work / f"{name}.safetensors")
    few, search = [], {}
    for target, source in config["targets"].items():
        sets = _held(source, config["held_out"])
        few += [{"target": target} | entry for entry in frozen(model, sets, config, seed)]
        search[target], tuned_accuracies = _fine_tuned(model, sets, config, seed, work / f"{name}-{target}")
        few += [{"target": target} | entry for entry in tuned_accuracies]
    return measured | {"few": few, "search": search}


def summarise(runs: list[dict]) -> dict:
    """Test accuracies and their differences, each with its interval over the seeds; of a seed's draws, the mean counts.

    Returns:
        ``accuracy``, a row for each place on the grid, with ``spread``, the standard deviation from draw to draw;
        ``differences``, rows that compare two places that differ in one thing, ``ours`` minus ``theirs``, between runs
        of the same seed and on the same draws.
    """
    entries = [run | entry for run in runs for entry in run["few"]]
    places = grouped(entries, *AXES)
    rows = [dict(zip(AXES, place, strict=True)) | interval(statistics.mean(one["accuracy"]) for one in those)
            | {"spread": _spread(those)} for place, those in places.items()]
    differences = []
    for axis, ours, theirs in COMPARED:
        for place, those in places.items():
            fields = dict(zip(AXES, place, strict=True))
            others = {one["seed"]: one for one in places.get(tuple((fields | {axis: theirs}).values()), [])}
            gains = [_gain(one, others[one["seed"]]) for one in those if one["seed"] in others]
            if fields.pop(axis) == ours and gains:
                differences.append({"ours": ours, "theirs": theirs} | fields | interval(gains))
    return {"accuracy": rows, "differences": differences}


def show(record: dict, what: str) -> Figure | str:
    """The record as chapter 10 shows it.

    Args:
        record: The record ``few_shot``.
        what: ``"on_scenes"`` and ``"differences"``: tables, as Markdown. ``"own_heads"``: lines of text on the networks
            with the heads of their pre-training. ``"gains"``: a figure of what pre-training adds on photographs.

    Raises:
        ValueError: If it is none of these.
    """
    views = {"on_scenes": _on_scenes, "own_heads": _own_heads, "gains": _gains, "differences": _differences}
    checks.choice(views, what=what)
    return views[what](record)


def _gain(ours: dict, theirs: dict) -> float:
    """The mean difference, over the draws that both have."""
    return statistics.mean(a - b for a, b in zip(ours["accuracy"], theirs["accuracy"], strict=False))


def _spread(entries: list[dict]) -> float | None:
    spreads = [statistics.stdev(one["accuracy"]) for one in entries if len(one["accuracy"]) > 1]
    return statistics.mean(spreads) if spreads else None


# ---- before the few images


def _pretrained(model: nn.Module, point: dict, config: dict, path: Path) -> dict:
    """Pre-train on labelled scenes, or leave the weights as they are; gives the usual keys."""
    sets = loaded("scenes", **config["source"])
    if point["source"] == "random":
        nothing = dict.fromkeys(("train_images", "steps", "images_seen", "seconds", "train_flops"), 0)
        accuracies = {f"{name}_accuracy": evaluate(model, split).accuracy
                      for name, split in (("val", sets.validation), ("test", sets.test))}
        return {"parameters": cost.parameters(model)} | nothing | accuracies
    recipe = _recipe(config, config["pretraining_steps"], config["pretraining_rates"][point["family"]],
                     **config["pretraining"])
    resume = path.with_suffix(".part.safetensors")
    return once(model, path, lambda: trained(model, sets, recipe, seed=point["seed"], device=config["device"],
                                             checkpoint=resume))


def _held(source: dict, held_out: int) -> data.Splits:
    """A target's splits, with so many images, class-balanced, to choose on and to measure on."""
    sets = loaded(**source)
    held = (split.subset(min(held_out, len(split))) for split in (sets.validation, sets.test))
    return data.Splits(sets.train, *held)


# ---- the few images


def draw(train: data.Split, images: int, seed: int, number: int) -> data.Split:
    """So many images of each class; every seed and every draw has others, and more images are those and further ones.

    Raises:
        ValueError: If that is less than one image a class, or more than there are.
    """
    classes = len(train.classes)
    most = train.labels.bincount(minlength=classes).min().item()
    if not 1 <= images <= most:
        raise ValueError(
            f"{images} images a class were asked for; expected at least 1 and at most the {most} that there are of "
            "the rarest class"
        )
    return train.subset(images * classes, seed * 1_000 + number)


def _fine_tuned(
    model: nn.Module, sets: data.Splits, config: dict, seed: int, path: Path
) -> tuple[dict[str, float], list[dict]]:
    """The search of a rate, and what fine-tuning at the best one reaches with each number of images, of one draw."""

    def start(images: int, rate: float) -> tuple:
        few = sets._replace(train=draw(sets.train, images, seed, 0))
        recipe = _recipe(config, config["steps"], rate, batch_size=config["batch_size"])
        return copy.deepcopy(model).reset_head(len(few.train.classes)), few, recipe

    def trial(rate: float) -> float:
        return tried(*start(config["rate_images"], rate), config["device"], seed)

    search = tuned(config["rates"], trial, path.with_name(f"{path.name}-rates.json"))
    rate, entries = best(search), []
    for images in config["images"]:
        resume = path.with_name(f"{path.name}-{images}-{rate}.safetensors")
        measured = trained(*start(images, rate), seed=seed, device=config["device"], checkpoint=resume)
        entries.append({"method": "fine-tuning", "images": images, "chosen": rate,
                        "accuracy": [measured["test_accuracy"]]})
    return search, entries


def frozen(model: nn.Module, sets: data.Splits, config: dict, seed: int) -> list[dict]:
    """Test accuracies of the linear map and of the neighbours; the strength of each is chosen on validation images."""
    classes = len(sets.train.classes)
    held = [(outputs(model, split, model.features), split.labels) for split in (sets.validation, sets.test)]
    drawn = [draw(sets.train, max(config["images"]), seed, number) for number in range(config["draws"])]
    drawn = [(outputs(model, split, model.features), split.labels) for split in drawn]

    def accuracies(method: str, images: int, strength: float) -> list[tuple[float, float]]:
        few = [(x[: images * classes], y[: images * classes]) for x, y in drawn]  # draws are nested
        if method == "linear":
            probes = [linear_probe(x, y, classes, l2=strength) for x, y in few]
            return [tuple(probe.accuracy(*features_and_labels) for features_and_labels in held) for probe in probes]
        return [tuple((nearest(x, y, to, strength) == labels).double().mean().item() for to, labels in held)
                for x, y in few]

    entries = []
    for method, strengths in (("linear", config["l2"]), ("knn", config["neighbours"])):
        for images in config["images"]:
            usable = strengths if method == "linear" else [k for k in strengths if k <= images * classes]
            by_strength = {strength: accuracies(method, images, strength) for strength in usable}
            chosen = max(by_strength, key=lambda strength: statistics.mean(val for val, _ in by_strength[strength]))
            entries.append({"method": method, "images": images, "chosen": chosen,
                            "accuracy": [test for _, test in by_strength[chosen]]})
    return entries


def nearest(known: Tensor, labels: Tensor, asked: Tensor, k: int) -> Tensor:
    """The class that most of the k nearest known features have, by cosine similarity.

    Args:
        known: ``[n, D]``.
        labels: int64 ``[n]``.
        asked: ``[m, D]``.
        k: How many have a vote; a nearer one counts a thousandth more at most, which settles ties.

    Returns:
        int64 ``[m]``.

    Example:
        >>> known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> nearest(known, torch.tensor([4, 4, 7]), torch.tensor([[3.0, 1.0], [0.1, 5.0]]), k=1)
        tensor([4, 7])
    """
    near = (F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T).topk(k, dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1)
    return votes.scatter_add(1, labels[near.indices], 1 + near.values / 1_000).argmax(dim=1)


# ---- what chapter 10 shows

NETWORKS = {"vit": "ViT", "resnet": "ResNet"}
METHODS = {"linear": "linear map", "knn": "nearest neighbours", "fine-tuning": "fine-tuning"}


def _rows(record: dict, of: str, **place: str) -> dict[int, dict]:
    """The rows of the summary for one place on its grid, by images per class."""
    return {row["images"]: row for row in record["summary"][of] if place.items() <= row.items()}


def _on_scenes(record: dict) -> str:
    sizes, rows = record["config"]["images"], []
    for family, network in NETWORKS.items():
        for method, name in METHODS.items():
            here = _rows(record, "accuracy", target="scenes", source="scenes", family=family, method=method)
            rows.append([network, name, *(records.percent(here[n]) for n in sizes)])
    return records.table(["pre-trained", "method", *(f"{n} a class" for n in sizes)], rows, left=2)


def _own_heads(record: dict) -> str:
    lines = []
    for family, network in NETWORKS.items():
        own = [run["test_accuracy"] for run in record["runs"] if (run["source"], run["family"]) == ("scenes", family)]
        lines.append(f"{network}, with the head of its pre-training: {100 * sum(own) / len(own):.1f} %")
    return "\n".join(lines)


def _gains(record: dict) -> Figure:
    sizes, curves = record["config"]["images"], {}
    for method in ("linear", "fine-tuning"):
        for family, network in NETWORKS.items():
            gain = _rows(record, "differences", ours="scenes", theirs="random", target="cifar10", family=family,
                         method=method)
            curves[f"{network}, {METHODS[method]}"] = (sizes, *([100 * gain[n][end] for n in sizes]
                                                                for end in ("mean", "low", "high")))
    figure = plots.lines(curves, "labelled photographs a class", "pre-trained − random weights (points)",
                         "For the linear map no gain from drawings is shown", logx=True)
    figure.axes[0].axhline(0, color="0.6", linewidth=0.8, zorder=0)
    return figure


def _differences(record: dict) -> str:
    pretraining = ("scenes", "random", "pre-trained − random weights")
    compared = [(*pretraining, {"family": family, "method": method}) for method in ("linear", "fine-tuning", "knn")
                for family in NETWORKS]
    compared += [("vit", "resnet", "ViT − ResNet", {"source": "scenes", "method": method})
                 for method in ("linear", "fine-tuning")]
    compared += [("linear", other, f"linear map − {METHODS[other]}", {"source": source, "family": family})
                 for source, other in (("scenes", "knn"), ("scenes", "fine-tuning"), ("random", "fine-tuning"))
                 for family in NETWORKS]
    sizes, rows, names = record["config"]["images"], [], NETWORKS | METHODS | {"random": "random weights"}
    for ours, theirs, difference, place in compared:
        gain = _rows(record, "differences", ours=ours, theirs=theirs, target="cifar10", **place)
        of = ", ".join(names[name] for name in place.values() if name != "scenes")
        rows.append([difference, of, *(f"**{records.percent(gain[n], '+')}**" if gain[n]["low"] * gain[n]["high"] > 0
                                       else records.percent(gain[n], "+") for n in sizes)])
    return records.table(["difference", "with", *(f"{n} a class" for n in sizes)], rows, left=2)
