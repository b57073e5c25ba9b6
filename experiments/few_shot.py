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
from torch import Tensor, nn

from experiments.families import build
from experiments.measure import best, loaded, once, trained, tuned, usual_recipe
from experiments.statistics import interval
from vitlite import cost, data
from vitlite.analysis import linear_probe
from vitlite.data.augment import normalise
from vitlite.train import evaluate
from vitlite.train.device import autocast_dtype

__all__ = ["DATASET", "SCALES", "draw", "features", "nearest", "points", "run", "summarise"]

DATASET = (
    "pre-training: scenes, seed 0; the few images: cifar10's 45,000 training images, shrunk to 24 pixels (cpu), and "
    "scenes of seed 1; choices on 1,000 validation images, accuracy on 1,000 test images (full: all there are)"
)
AXES = ("target", "source", "family", "method", "images")  # the grid; "images" a class
COMPARED = [("family", "vit", "resnet"), ("source", "scenes", "random"), ("method", "linear", "knn"),
            ("method", "linear", "fine-tuning")]

VIT = {"image_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 96, "depth": 6, "num_heads": 3,
       "mlp_dim": 192, "pool": "mean"}
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
    where, seed = "-".join(map(str, point.values())), point["seed"]
    model = build(point["family"], config, seed).to(config["device"])
    measured = _pretrained(model, point, config, work / f"{where}.safetensors")
    few, search = [], {}
    for target, told in config["targets"].items():
        sets = _held(told, config["held_out"])
        few += [{"target": target} | entry for entry in frozen(model, sets, config, seed)]

        def tune(images: int, rate: float, sets: data.Splits = sets, target: str = target) -> tuple[float, float]:
            mine = sets._replace(train=draw(sets.train, images, seed, 0))
            recipe = _recipe(config, config["steps"], rate, batch_size=config["batch_size"])
            head = copy.deepcopy(model).reset_head(len(mine.train.classes))
            resume = work / f"{where}-{target}-{images}-{rate}.safetensors"
            told = trained(head, mine, recipe, seed=seed, device=config["device"], checkpoint=resume)
            return told["val_accuracy"], told["test_accuracy"]

        notes = work / f"{where}-{target}-rates.json"
        search[target] = tuned(config["rates"], lambda rate, tune=tune: tune(config["rate_images"], rate)[0], notes)
        rate = best(search[target])
        few += [{"target": target, "method": "fine-tuning", "images": images, "chosen": rate,
                 "accuracy": [tune(images, rate)[1]]} for images in config["images"]]
    return measured | {"few": few, "search": search}


def summarise(runs: list[dict]) -> dict:
    """Test accuracies and their differences, each with its interval over the seeds; of a seed's draws, the mean counts.

    Returns:
        ``accuracy``, a row for each place on the grid, with ``spread``, the standard deviation from draw to draw;
        ``differences``, rows that compare two places that differ in one thing, ``ours`` minus ``theirs``, between runs
        of the same seed and on the same draws.
    """
    values: dict[tuple, dict[int, list[float]]] = {}
    for run in runs:
        for entry in run["few"]:
            key = tuple((run | entry)[axis] for axis in AXES)
            values.setdefault(key, {})[run["seed"]] = entry["accuracy"]
    rows = [dict(zip(AXES, key, strict=True)) | interval(map(statistics.mean, of.values())) | {"spread": _spread(of)}
            for key, of in values.items()]
    differences = []
    for axis, ours, theirs in COMPARED:
        for key in (key for key in values if key[AXES.index(axis)] == ours):
            where = dict(zip(AXES, key, strict=True))
            other = values.get(tuple((where | {axis: theirs}).values()), {})
            gains = [_gain(of, other[seed]) for seed, of in values[key].items() if seed in other]
            if gains:
                del where[axis]
                differences.append({"ours": ours, "theirs": theirs} | where | interval(gains))
    return {"accuracy": rows, "differences": differences}


def _gain(ours: list[float], theirs: list[float]) -> float:
    """The mean difference, over the draws that both have."""
    return statistics.mean(one - other for one, other in zip(ours, theirs, strict=False))


def _spread(seeds: dict[int, list[float]]) -> float | None:
    spreads = [statistics.stdev(draws) for draws in seeds.values() if len(draws) > 1]
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


def _held(told: dict, held_out: int) -> data.Splits:
    """A target's splits, with so many images, class-balanced, to choose on and to measure on."""
    sets = loaded(**told)
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


@torch.inference_mode()
def features(model: nn.Module, split: data.Split) -> Tensor:
    """The frozen model's representation of every image, float32 ``[N, D]``, on the CPU."""
    where = next(model.parameters()).device
    dtype, told = autocast_dtype(where), []
    for images in split.images.split(500):
        with torch.autocast(where.type, dtype, enabled=dtype is not None):
            told.append(model.eval().features(normalise(images.to(where), split.mean, split.std)).float().cpu())
    return torch.cat(told)


def frozen(model: nn.Module, sets: data.Splits, config: dict, seed: int) -> list[dict]:
    """Test accuracies of the linear map and of the neighbours; the strength of each is chosen on validation images."""
    classes = len(sets.train.classes)
    held = [(features(model, split), split.labels) for split in (sets.validation, sets.test)]
    drawn = [draw(sets.train, max(config["images"]), seed, number) for number in range(config["draws"])]
    drawn = [(features(model, split), split.labels) for split in drawn]

    def accuracies(method: str, images: int, strength: float) -> list[tuple[float, float]]:
        few = [(x[: images * classes], y[: images * classes]) for x, y in drawn]  # draws are nested
        if method == "linear":
            probes = [linear_probe(x, y, classes, l2=strength) for x, y in few]
            return [tuple(probe.accuracy(*where) for where in held) for probe in probes]
        return [tuple((nearest(x, y, to, strength) == labels).double().mean().item() for to, labels in held)
                for x, y in few]

    told = []
    for method, strengths in (("linear", config["l2"]), ("knn", config["neighbours"])):
        for images in config["images"]:
            usable = strengths if method == "linear" else [k for k in strengths if k <= images * classes]
            found = {strength: accuracies(method, images, strength) for strength in usable}
            chosen = max(found, key=lambda strength: statistics.mean(val for val, _ in found[strength]))
            told.append({"method": method, "images": images, "chosen": chosen,
                         "accuracy": [test for _, test in found[chosen]]})
    return told


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
