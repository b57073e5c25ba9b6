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
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.measure import loaded, once, trained, usual_recipe
from experiments.statistics import interval, paired
from vitlite import ViT, ViTConfig, cost, data
from vitlite.data.augment import normalise
from vitlite.resnet import ResNet, ResNetConfig
from vitlite.train.device import autocast_dtype
from vitlite.train.objectives import Objective, classify, distil

__all__ = ["DATASET", "SCALES", "answers", "cosines", "points", "run", "summarise", "teacher", "two_labels"]

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
VIT = {"image_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 96, "depth": 6, "num_heads": 3,
       "mlp_dim": 192}
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
    told = trained(model, sets, _recipe(config, config["steps"], config["rate"]), seed=seed, device=device,
                   checkpoint=resume, objective=_objective(student, teachers))
    if student["teacher"]:
        told["train_flops"] += told["images_seen"] * cost.flops(teachers[student["teacher"]][0], shape["image_size"])
    said = answers(model, sets.test)
    told |= {
        "heads": {head: _share(classes, sets.test.labels) for head, classes in said.items()},
        "agreement": {name: {head: _share(classes, torch.tensor(measured["answers"]))
                             for head, classes in said.items()} for name, (_, measured) in teachers.items()},
        "teachers": {name: {key: value for key, value in measured.items() if key != "answers"}
                     for name, (_, measured) in teachers.items()},
    }
    if student["token"]:
        told["heads_agree"] = _share(said["class"], said["distillation"])
        told["cosine"] = cosines(model, sets.test, config["cosine_images"])
    return told


def summarise(runs: list[dict]) -> dict:
    """What each teacher knows and each student learned, with intervals over the seeds.

    Returns:
        ``teachers``: the test accuracy of each. ``students``: of each, the test accuracy, ``above`` (by the other
        student how far it lies above, seed by seed), ``heads``, ``over_class`` (how far the other head, and both
        together, lie above the class head), ``agreement``, ``heads_agree``, ``cosine`` by place, and the ``seconds``.
    """
    mine: dict[str, list[dict]] = {}
    for run in runs:
        mine.setdefault(run["student"], []).append(run)
    first = {run["seed"]: run["teachers"] for run in runs}  # all runs of a seed have the same
    names = runs[0]["teachers"]
    return {
        "teachers": {name: interval(of[name]["test_accuracy"] for of in first.values()) for name in names},
        "students": {name: _of_one(those, {other: paired(those, theirs) for other, theirs in mine.items()
                                           if other != name}) for name, those in mine.items()},
    }


def _of_one(runs: list[dict], above: dict) -> dict:
    heads = [head for head in runs[0]["heads"] if head != "class"] if "class" in runs[0]["heads"] else []
    told = {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "above": {other: found for other, found in above.items() if found},
        "heads": {head: interval(run["heads"][head] for run in runs) for head in runs[0]["heads"]},
        "over_class": {head: interval(run["heads"][head] - run["heads"]["class"] for run in runs) for head in heads},
        "agreement": {name: {head: interval(run["agreement"][name][head] for run in runs) for head in of}
                      for name, of in runs[0]["agreement"].items()},
        "seconds": statistics.mean(run["seconds"] for run in runs),
    }
    if heads:
        told["heads_agree"] = interval(run["heads_agree"] for run in runs)
        told["cosine"] = [interval(values) for values in zip(*(run["cosine"] for run in runs), strict=True)]
    return told


# ---- teachers and what they are asked


def _teacher(name: str, seed: int, config: dict, sets: data.Splits, work: Path) -> tuple[nn.Module, dict]:
    """A trained teacher, and what was measured of it: the usual keys, and its ``answers`` to the test images."""
    told, own = config["teachers"][name], seed + config["teacher_seed"]
    model = teacher(name, config, own).to(config["device"])
    path = work / f"{name.replace(' ', '-')}-{seed}.teacher.safetensors"

    def train() -> dict:
        measured = trained(model, sets, _recipe(config, told["steps"], told["rate"]), seed=own, device=config["device"],
                           checkpoint=path.with_suffix(".part.safetensors"))
        return measured | {"answers": answers(model, sets.test)["mean"].tolist()}

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


@torch.inference_mode()
def answers(model: nn.Module, split: data.Split) -> dict[str, Tensor]:
    """The class that a model gives each image, by head.

    Returns:
        int64 ``[N]`` each, on the CPU: ``mean``, what the model answers, by the mean of its heads' logits; with a
        distillation token also ``class`` and ``distillation``, each head alone.
    """
    where = next(model.parameters()).device
    dtype, told = autocast_dtype(where), []
    ask = model.eval().forward_heads if getattr(model, "distillation_head", None) else lambda images: (model(images),)
    for images in split.images.split(500):
        with torch.autocast(where.type, dtype, enabled=dtype is not None):
            told.append(torch.stack(ask(normalise(images.to(where), split.mean, split.std))).float().cpu())
    logits = torch.cat(told, dim=1)  # [heads, N, classes]
    found = {"mean": logits.mean(dim=0)} | (dict(zip(HEADS, logits, strict=True)) if len(logits) == 2 else {})
    return {head: values.argmax(dim=1) for head, values in found.items()}


@torch.inference_mode()
def cosines(model: ViT, split: data.Split, count: int) -> list[float]:
    """How alike class token and distillation token are, as the mean cosine similarity over the first images.

    Returns:
        Before the first block (the learned vectors with their positions), after each block, and as the heads read
        them, after the last norm: depth + 2 numbers.
    """
    images = normalise(split.images[:count].to(model.norm.weight.device), split.mean, split.std)
    z = model.eval().tokens(model.embed(images))  # [B, T, D]
    states = [z]
    for block in model.blocks:
        z, _ = block(z)
        states.append(z)
    states.append(model.norm(z))
    return [F.cosine_similarity(z[:, 0], z[:, 1], dim=1).mean().item() for z in states]


def _share(ours: Tensor, theirs: Tensor) -> float:
    return (ours == theirs).double().mean().item()
