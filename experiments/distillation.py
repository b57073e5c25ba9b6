"""A teacher for a ViT: what the distillation token learns, from whom, and what it is worth.

Question:    Does a ViT learn more when its distillation token is taught by a trained network? Are the teacher's
             decisions (hard) or its probabilities (soft) better, a convolutional teacher or a ViT, and what do the two
             tokens learn?
Expectation: In the order of DeiT (Touvron et al., 2021, Tables 2 and 3), with larger gains, because our ResNet is not
             one point better than its student but twenty: hard distillation gives two points or more over labels
             alone, more than soft distillation does; the token adds less than a point to a single head that serves
             both targets; a second token that learns the label as well adds nothing. From a ViT like the student
             nothing is learned, from a ResNet of that ViT's accuracy a point. The distillation head answers more like
             the teacher than the class head does, and the mean of both is best. The two tokens begin different and end
             alike (cosine 0.06 and 0.93 in the paper); two tokens with the same target are alike throughout (0.999).
             Against all this speaks the length: on cpu a run passes over its images less than twice, and in the
             paper distillation gains most in long runs (Fig. 3).
Command:     python -m experiments distillation
Cost:        cpu: 21 runs (seven students, three seeds, and before them three teachers a seed), about 40 minutes on
             one core with bfloat16 instructions. full: 21 runs of 9,000 steps at 32 pixels on one GPU. It resumes when
             interrupted.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import records
from experiments.families import SMALL
from experiments.measure import loaded, once, trained, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig, checks, cost, data, plots
from vitlite.resnet import ResNet, ResNetConfig
from vitlite.train import outputs, predictions
from vitlite.train.objectives import Objective, classify, distil

__all__ = ["DATASET", "SCALES", "by_head", "cosines", "points", "run", "show", "summarise", "teacher",
           "two_labels"]

DATASET = (
    "cifar10, shrunk to 24 pixels (cpu): 45,000 training images for teachers and students alike, 5,000 validation and "
    "10,000 test images; quick: scenes"
)
# What each student has beside the class token, and learns from. Two of them have no teacher, because DeiT has two
# controls: Table 3 compares with the plain ViT, and Sec. 4 with a ViT of two class tokens, both for the label, which
# has all that the distilled one has but the teacher. "hard on one head" is distillation without the token.
STUDENTS = {
    "plain": {"token": False, "kind": None, "teacher": None},
    "hard": {"token": True, "kind": "hard", "teacher": "resnet"},
    "two labels": {"token": True, "kind": None, "teacher": None},
    "soft": {"token": True, "kind": "soft", "teacher": "resnet"},
    "hard from ViT": {"token": True, "kind": "hard", "teacher": "vit"},
    "hard from weak ResNet": {"token": True, "kind": "hard", "teacher": "weak resnet"},
    "hard on one head": {"token": False, "kind": "hard", "teacher": "resnet"},
}
HEADS = ("class", "distillation")
VIT = SMALL | {"image_size": 24}
GRID = {
    "students": STUDENTS,
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2},
    "rate": 1.5e-3,  # of every student; the best for either family of those that `data_size` tried
    "teacher_seed": 100,  # added to the student's, whose first weights and order of images are then its own
    "cosine_images": 1_000,
    "device": "cpu",
}


def _teachers(shape: dict, steps: int, weak: int) -> dict[str, dict]:
    """Who teaches: a ResNet with about as many parameters as its students, a ViT like the plain student, and the same
    ResNet after so few steps that it should be about as accurate as that ViT."""
    ours = {"shape": shape, "rate": 4.5e-3}
    return {"resnet": ours | {"steps": steps}, "vit": {"shape": None, "rate": 1.5e-3, "steps": steps},
            "weak resnet": ours | {"steps": weak}}


SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "data": {"name_or_path": "scenes", "train_images": 500, "held_out": 100, "image_size": 16},
        "teachers": _teachers({"width": 12, "blocks": 1}, steps=20, weak=5),
        "steps": 10, "cosine_images": 100, "seeds": [0],
    },
    "cpu": GRID | {
        "vit": VIT,
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "teachers": _teachers({"width": 24, "blocks": 2}, steps=600, weak=100),
        "steps": 600, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "vit": VIT | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "data": {"name_or_path": "cifar10"},
        "recipe": {"batch_size": 512, "weight_decay": 0.05, "flip": True, "crop_padding": 4, "trivial_augment": True},
        "teachers": _teachers({"width": 64, "blocks": 2}, steps=9_000, weak=450),
        "steps": 9_000, "seeds": [0, 1, 2], "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "distillation")


def points(config: dict) -> list[dict]:
    """Every student of the first seed, then of the next."""
    return [{"student": name, "seed": seed} for seed in config["seeds"] for name in config["students"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one student; the teachers of its seed are trained before the first of them, and kept for the others.

    Returns:
        Beside the usual keys (``train_flops`` and ``seconds`` with the teacher's answers, and without its training):
        ``teachers``, these keys of each; ``heads``, the test accuracy of each head and of both together;
        ``agreement``, by teacher and head the share of test images that both give the same class; and with two tokens
        ``heads_agree``, the same of the two heads, and ``cosine``, how alike the two tokens are.
    """
    student, seed = config["students"][point["student"]], point["seed"]
    sets, device = loaded(**config["data"]), config["device"]
    teachers = {name: _teacher(name, seed, config, sets, work) for name in config["teachers"]}
    shape = config["vit"] | {"distillation": student["token"]}
    torch.manual_seed(seed)
    model = ViT(ViTConfig(**shape)).to(device)
    resume = work / f"{point['student'].replace(' ', '-')}-{seed}.safetensors"
    measured = trained(model, sets, _recipe(config, config["steps"], config["rate"]), seed=seed, device=device,
                       checkpoint=resume, objective=_objective(student, teachers))
    if student["teacher"]:
        answering = cost.flops(teachers[student["teacher"]][0], shape["image_size"])
        measured["train_flops"] += measured["images_seen"] * answering
    classes = by_head(model, sets.test) if student["token"] else {"mean": predictions(model, sets.test)}
    measured |= {
        "heads": {head: _share(given, sets.test.labels) for head, given in classes.items()},
        "agreement": {name: {head: _share(given, torch.tensor(theirs["answers"])) for head, given in classes.items()}
                      for name, (_, theirs) in teachers.items()},
        "teachers": {name: {key: value for key, value in theirs.items() if key != "answers"}
                     for name, (_, theirs) in teachers.items()},
    }
    if student["token"]:
        measured["heads_agree"] = _share(classes["class"], classes["distillation"])
        measured["cosine"] = cosines(model, sets.test, config["cosine_images"])
    return measured


def summarise(runs: list[dict]) -> dict:
    """What each teacher knows and each student learned, with intervals over the seeds.

    Returns:
        ``teachers``: the test accuracy of each. ``students``: of each, the test accuracy, ``above`` (by the other
        student how far it lies above, seed by seed), ``heads``, ``over_class`` (how far the other head, and both
        together, lie above the class head), ``agreement``, ``heads_agree``, ``cosine`` by place, and the ``seconds``.
    """
    students = grouped(runs, "student")
    seeds = {run["seed"]: run["teachers"] for run in runs}  # all runs of a seed have the same
    return {
        "teachers": {name: interval(teachers[name]["test_accuracy"] for teachers in seeds.values())
                     for name in runs[0]["teachers"]},
        "students": {name: _of_one(ours, {other: paired(ours, theirs) for other, theirs in students.items()
                                          if other != name}) for name, ours in students.items()},
    }


def show(record: dict, what: str) -> Figure | str:
    """The record as chapter 11 shows it.

    Args:
        record: The record ``distillation``.
        what: ``"teachers"``, ``"differences"``, ``"heads"`` and ``"agreement"``: tables, as Markdown. ``"students"``: a
            figure. ``"time"``: a sentence on what the teacher costs.

    Raises:
        ValueError: If it is none of these.
    """
    views = {"teachers": _teachers, "students": _students, "differences": _differences, "heads": _heads,
             "agreement": _agreement, "time": _time}
    checks.choice(views, what=what)
    return views[what](record)


def _of_one(runs: list[dict], above: dict) -> dict:
    heads = [head for head in runs[0]["heads"] if head != "class"] if "class" in runs[0]["heads"] else []
    summary = {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "above": {other: gain for other, gain in above.items() if gain},
        "heads": {head: interval(run["heads"][head] for run in runs) for head in runs[0]["heads"]},
        "over_class": {head: interval(run["heads"][head] - run["heads"]["class"] for run in runs) for head in heads},
        "agreement": {name: {head: interval(run["agreement"][name][head] for run in runs) for head in of}
                      for name, of in runs[0]["agreement"].items()},
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }
    if heads:
        summary["heads_agree"] = interval(run["heads_agree"] for run in runs)
        summary["cosine"] = [interval(values) for values in zip(*(run["cosine"] for run in runs), strict=True)]
    return summary


# ---- teachers and what they are asked


def _teacher(name: str, seed: int, config: dict, sets: data.Splits, work: Path) -> tuple[nn.Module, dict]:
    """A trained teacher, and what was measured of it: the usual keys, and its ``answers`` to the test images."""
    setting, own = config["teachers"][name], seed + config["teacher_seed"]
    model = teacher(name, config, own).to(config["device"])
    path = work / f"{name.replace(' ', '-')}-{seed}.teacher.safetensors"

    def train() -> dict:
        measured = trained(model, sets, _recipe(config, setting["steps"], setting["rate"]), seed=own,
                           device=config["device"], checkpoint=path.with_suffix(".part.safetensors"))
        return measured | {"answers": predictions(model, sets.test).tolist()}

    return model, once(model, path, train)


def teacher(name: str, config: dict, seed: int) -> nn.Module:
    """A new teacher, with the seed's weights."""
    torch.manual_seed(seed)
    shape, classes = config["teachers"][name]["shape"], config["vit"]["num_classes"]
    return ResNet(ResNetConfig(num_classes=classes, **shape)) if shape else ViT(ViTConfig(**config["vit"]))


def _objective(student: dict, teachers: dict[str, tuple[nn.Module, dict]]) -> Objective | None:
    if student["teacher"]:
        return distil(teachers[student["teacher"]][0], student["kind"])
    return two_labels if student["token"] else None


def two_labels(model: ViT, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The objective without a teacher: the class head and the distillation head both learn the label, half each."""
    heads, ask = model.forward_heads(images), classify()
    loss = sum(ask(nn.Identity(), logits, targets)[0] for logits in heads) / 2
    return loss, ask(nn.Identity(), sum(heads), targets)[1]


# ---- what the two tokens learned


def by_head(model: ViT, split: data.Split) -> dict[str, Tensor]:
    """The class that a model of two heads gives each image.

    Returns:
        int64 ``[N]`` each, on the CPU: ``mean``, what the model answers, by the mean of its heads' logits; ``class``
        and ``distillation``, each head alone.
    """
    heads = outputs(model, split, model.forward_heads)
    logits = {"mean": sum(heads) / len(heads), **dict(zip(HEADS, heads, strict=True))}
    return {head: values.argmax(dim=1) for head, values in logits.items()}


def cosines(model: ViT, split: data.Split, count: int) -> list[float]:
    """How alike class token and distillation token are, as the mean cosine similarity over the first images.

    Returns:
        Before the first block (the learned vectors with their positions), after each block, and as the heads read
        them, after the last norm: depth + 2 numbers.
    """

    def alike(images: Tensor) -> Tensor:
        z = model.tokens(model.embed(images))  # [B, T, D]
        states = [z]
        for block in model.blocks:
            z, _ = block(z)
            states.append(z)
        states.append(model.norm(z))
        return torch.stack([F.cosine_similarity(z[:, 0], z[:, 1], dim=1) for z in states], dim=1)  # [B, depth + 2]

    first = replace(split, images=split.images[:count], labels=split.labels[:count])
    return outputs(model, first, alike).mean(dim=0).tolist()


def _share(ours: Tensor, theirs: Tensor) -> float:
    return (ours == theirs).double().mean().item()


# ---- what chapter 11 shows


def _teachers(record: dict) -> str:
    rows = [[name, f"{record['config']['teachers'][name]['steps']:,}", records.percent(accuracy)]
            for name, accuracy in record["summary"]["teachers"].items()]
    return records.table(["teacher", "steps", "test accuracy (%)"], rows)


def _students(record: dict) -> Figure:
    accuracy = {name.replace("hard from ", "from\n").replace("hard on", "on"): student["test_accuracy"]
                for name, student in record["summary"]["students"].items()}
    values = {name: 100 * one["mean"] for name, one in accuracy.items()}
    errors = {name: 100 * (one["high"] - one["mean"]) for name, one in accuracy.items()}
    return plots.bars(values, "test accuracy (%)", "A good teacher helps, and the weak one's student is last", errors)


def _differences(record: dict) -> str:
    compared = [("two labels", "plain", "the second token, without a teacher"),
                ("hard", "two labels", "a teacher, hard"), ("soft", "two labels", "a teacher, soft"),
                ("hard", "soft", "hard against soft"), ("hard", "hard on one head", "the token"),
                ("hard", "hard from ViT", "ResNet against ViT"),
                ("hard from weak ResNet", "hard from ViT", "weak ResNet against ViT"),
                ("hard from ViT", "two labels", "a ViT as the teacher"),
                ("hard from ViT", "plain", "a ViT as the teacher"),
                ("hard from weak ResNet", "two labels", "a weak teacher"),
                ("hard from weak ResNet", "plain", "a weak teacher")]
    students = record["summary"]["students"]
    rows = [[worth, f"{ours} − {theirs}", records.percent(students[ours]["above"][theirs], "+")]
            for ours, theirs, worth in compared]
    return records.table(["what it is worth", "students", "points of test accuracy"], rows, left=2)


def _of_two_tokens(record: dict) -> dict[str, dict]:
    return {name: student for name, student in record["summary"]["students"].items() if "cosine" in student}


def _heads(record: dict) -> str:
    rows = [[name, *(records.percent(student["heads"][head]) for head in ("class", "distillation", "mean")),
             *(records.percent(student["over_class"][head], "+") for head in ("distillation", "mean"))]
            for name, student in _of_two_tokens(record).items()]
    return records.table(["student", "class head", "distillation head", "mean of both", "distillation − class",
                          "mean − class"], rows)


def _agreement(record: dict) -> str:
    rows = []
    for name, student in _of_two_tokens(record).items():
        teacher = record["config"]["students"][name]["teacher"] or "resnet"
        rows.append([name, teacher, records.percent(student["heads_agree"]),
                     *(records.percent(student["agreement"][teacher][head]) for head in HEADS)])
    return records.table(["student", "compared with", "heads agree", "class head like it", "distillation head like it"],
                         rows, left=2)


def _time(record: dict) -> str:
    students = record["summary"]["students"]
    more = students["hard"]["seconds"] / students["two labels"]["seconds"] - 1
    return ("The teacher is asked in every step, and that takes time: with the ResNet a student needed "
            f"{more:.0%} more of it than without ({record['hardware']['processor']}, one core).")
