"""Pre-training on generated images: when it helps a ViT, when a ResNet.

Question:    A ViT and a ResNet of equal size are pre-trained on 10,000 to a million labelled scenes and fine-tuned on
             some of CIFAR-10's images. How far above training from scratch do they end, for equally long fine-tuning,
             and if training from scratch may take all the steps that pre-training had too?
Expectation: Against scratch of equal fine-tuning, pre-training helps both families at 500 and at 5,000 labels, the ViT
             more: it learns slowest from nothing, and scenes teach it what a ResNet has built in, that near pixels
             belong together. Against scratch of all the steps, what is left of the gain at 500 labels is positive,
             since there more steps only learn the same few images by heart; at 5,000 labels it is gone, or turned
             into a loss, for the ResNet first: real images are then worth more than generated ones. Ten times as many
             scenes add little: a run this short (cpu) sees 38,400 images, so 100,000 not even once.
Command:     python -m experiments pretrain
Cost:        cpu: 24 runs (two networks; from scratch, pre-trained on 10,000 and on 100,000 scenes, and from scratch for
             all the steps; three seeds; each on 500 and on 5,000 labels), about 45 minutes on one core with bfloat16
             instructions, reckoned from 30 steps of each. full: 30 runs, with a million scenes and all labels too,
             much longer and at 32 pixels, on one GPU, untried so far. It resumes when interrupted.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

from torch import nn

from experiments import records
from experiments.families import SMALL, build
from experiments.measure import best, loaded, once, trained, tried, tuned, unmasked, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import checks, data

__all__ = ["DATASET", "SCALES", "points", "run", "show", "summarise"]

DATASET = (
    "pre-training: scenes, seed 0; fine-tuning: class-balanced subsets of cifar10's 45,000 training images, shrunk to "
    "24 pixels (cpu), 10,000 test images, rates chosen on 1,000 validation images (full: 5,000); quick: other scenes"
)

VIT = SMALL | {"image_size": 24, "pool": "mean"}
GRID = {
    "families": ["vit", "resnet"],
    "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": True, "crop_padding": 2},
    "pretraining_rate": 3e-3,  # on scenes, with twice the batch, `data_size` found 4.5e-3 best for both
    "rates": [5e-4, 1.5e-3, 4.5e-3],  # of fine-tuning and of scratch: both choose among these, by equal trials
    "device": "cpu",
}
SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "scenes": {"held_out": 100, "image_size": 16}, "pretraining_images": [100, 1_000],
        "data": {"name_or_path": "scenes", "seed": 1, "train_images": 400, "held_out": 200, "image_size": 16},
        "labels": [50, 400], "validation_images": 100,
        "pretraining_steps": 20, "search_steps": 3, "steps": 10, "rates": [1.5e-3, 4.5e-3], "seeds": [0],
    },
    "cpu": GRID | {
        "vit": VIT,
        "scenes": {"held_out": 1_000, "image_size": 24}, "pretraining_images": [10_000, 100_000],
        "data": {"name_or_path": "cifar10", "image_size": 24}, "labels": [500, 5_000], "validation_images": 1_000,
        "pretraining_steps": 600, "search_steps": 40, "steps": 180, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "vit": VIT | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 4},
        "scenes": {"held_out": 10_000, "image_size": 32}, "pretraining_images": [10_000, 100_000, 1_000_000],
        "data": {"name_or_path": "cifar10"}, "labels": [500, 5_000, 45_000], "validation_images": 5_000,
        "pretraining_rate": 1.5e-3, "pretraining_steps": 20_000, "search_steps": 400, "steps": 4_000,
        "seeds": [0, 1, 2], "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "pretrain")


def points(config: dict) -> list[dict]:
    """For each seed: both networks from scratch, pre-trained on each number of scenes, and from scratch for long."""
    short, whole = config["steps"], config["pretraining_steps"] + config["steps"]
    starts = [(0, short), *((images, short) for images in config["pretraining_images"]), (0, whole)]
    return [{"pretraining_images": images, "steps": steps, "family": family, "seed": seed}
            for seed in config["seeds"] for images, steps in starts for family in config["families"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Pre-train a network on so many scenes (or none), and fine-tune it on each number of labels.

    Images are normalised by the mean and standard deviation of the set that they are from.

    Returns:
        The usual keys, of the fine-tuning on most labels; ``fine_tuned``, these keys for each number of labels (their
        ``train_images``), with the ``learning_rate`` and its ``search``, validation accuracy by rate; ``pretrained``,
        the usual keys of pre-training (None if there is none).

    Raises:
        ValueError: If the labels are fewer than one a class, or more than there are; before anything is trained.
    """
    sets, seed = loaded(**config["data"]), point["seed"]
    sets = sets._replace(validation=sets.validation.subset(config["validation_images"]))
    few = [sets._replace(train=sets.train.subset(labels, seed)) for labels in sorted(config["labels"])]
    model = build(point["family"], config, seed).to(config["device"])
    before = _pretrained(model, point, config, work) if point["pretraining_images"] else None
    fine_tuned = [_fine_tuned(model, those, point, config, work) for those in few]
    return fine_tuned[-1] | {"fine_tuned": fine_tuned, "pretrained": before}


def summarise(runs: list[dict]) -> dict:
    """Test accuracies, and what pre-training adds, in rows with intervals over the seeds.

    Returns:
        ``accuracy``, a row for each family, number of labels (``train_images``), of scenes (``pretraining_images``, 0
        from scratch) and of fine-tuning's ``steps``; ``gain``, how far pre-training on so many scenes ends above
        ``other_images`` scenes (0 from scratch) fine-tuned for ``other_steps``, between runs of the same seed and
        labels; ``vit_gains_more``, the ViT's gain less the ResNet's.
    """
    axes = ("family", "train_images", "pretraining_images", "steps")
    tuned = [{"family": run["family"], "pretraining_images": run["pretraining_images"], "seed": run["seed"]} | one
             for run in runs for one in run["fine_tuned"]]
    names = (*axes[:3], "other_images", "other_steps")
    gain = grouped(_gains(tuned), *names)
    more = {place[1:]: paired(those, gain.get(("resnet", *place[1:]), []), "gain")
            for place, those in gain.items() if place[0] == "vit"}
    return {
        "accuracy": [_row(axes, place) | interval(one["test_accuracy"] for one in those)
                     for place, those in grouped(tuned, *axes).items()],
        "gain": [_row(names, place) | interval(one["gain"] for one in those) for place, those in gain.items()],
        "vit_gains_more": [_row(names[1:], place) | over for place, over in more.items() if over],
    }


def show(record: dict, what: str) -> str:
    """The record as chapter 9 shows it; ``what`` is ``"gains"``: lines of text, of most scenes and fewest labels."""
    checks.choice(["gains"], what=what)
    labels, scenes = min(record["config"]["labels"]), max(record["config"]["pretraining_images"])
    lines = []
    for family, name in (("vit", "ViT"), ("resnet", "ResNet")):
        gains = {row["other_steps"]: records.percent(row, "+") for row in record["summary"]["gain"] if (
            row["family"], row["train_images"], row["pretraining_images"], row["other_images"]) == (
                family, labels, scenes, 0)}
        lines += [f"{name:<6}  {gain:>10} points over {steps:3} steps from scratch" for steps, gain in gains.items()]
    return "\n".join(lines)


def _gains(tuned: list[dict]) -> list[dict]:
    """How far each fine-tuned network ends above those of its seed that were pre-trained on fewer scenes."""
    return [one | {"other_images": other["pretraining_images"], "other_steps": other["steps"],
                   "gain": one["test_accuracy"] - other["test_accuracy"]} for one in tuned for other in tuned
            if other["pretraining_images"] < one["pretraining_images"]
            and all(one[key] == other[key] for key in ("family", "train_images", "seed"))]


def _row(names: tuple[str, ...], place: tuple) -> dict:
    return dict(zip(names, place, strict=True))


def _pretrained(model: nn.Module, point: dict, config: dict, work: Path) -> dict:
    """Pre-train in place on labelled scenes; gives the usual keys."""
    family, images, seed = point["family"], point["pretraining_images"], point["seed"]
    path = work / f"{family}-{images}-seed{seed}.safetensors"
    recipe = _recipe(config, config["pretraining_steps"], config["pretraining_rate"])

    def train() -> dict:
        return trained(model, unmasked("scenes", train_images=images, **config["scenes"]), recipe, seed=seed,
                       device=config["device"], checkpoint=path.with_suffix(".part.safetensors"))

    return once(model, path, train)


def _fine_tuned(model: nn.Module, sets: data.Splits, point: dict, config: dict, work: Path) -> dict:
    """Train a copy with a new head, at the rate that did best in short trials, which do not see the test images."""
    seed, device, steps = point["seed"], config["device"], point["steps"]
    name = f"{point['family']}-{point['pretraining_images']}-{len(sets.train)}labels-seed{seed}"

    def fresh() -> nn.Module:
        return copy.deepcopy(model).reset_head(len(sets.train.classes))

    def trial(rate: float) -> float:
        return tried(fresh(), sets, _recipe(config, config["search_steps"], rate), device, seed)

    search = tuned(config["rates"], trial, work / f"{name}-rates.json")  # from scratch the same for both lengths
    measured = trained(fresh(), sets, _recipe(config, steps, best(search)), seed=seed, device=device,
                       checkpoint=work / f"{name}-{steps}.safetensors")
    return measured | {"learning_rate": best(search), "search": search}
