"""A teacher for a ViT: what its answers are worth, what the distillation token adds, and what the two tokens learn.

Question:    Does a ViT learn more from a trained network's answers than from the labels alone? Are the teacher's
             decisions (hard) or its probabilities (soft, with an equal share of the loss) better, is the token worth
             anything, and is a convolutional teacher better than a ViT of equal accuracy?
Expectation: In the order of DeiT (Touvron et al., 2021, Tables 2 and 3): hard distillation gives two points or more
             over labels alone, for the teacher is ten points ahead of its student; soft distillation gives less; the
             token adds less than a point to a single head that serves both targets; a second token that learns the
             label as well adds nothing. The convolutional teacher is worth more than the ViT. The distillation head
             answers more like the teacher than the class head does, and the mean of both is best. The two tokens begin
             different and end alike (cosine 0.06 and 0.93 in the paper). Against this speaks that the teacher's answers
             are kept: it has seen the whole image, its student a crop of it.
Command:     python -m experiments distillation
Cost:        cpu: 6 runs (six students, one seed, 6,000 steps), and before them both teachers' answers, about 2 hours on
             one core with bfloat16 instructions. full: 18 runs of 9,000 steps at 32 pixels on one GPU, untried so far.
             It resumes when interrupted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import real, real_weights, records
from experiments.families import SMALL
from experiments.measure import best, bracketed, loaded, trained, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig, cost, data, plots, weights
from vitlite.analysis import linear_probe
from vitlite.files import held
from vitlite.train import Trainer, outputs, predictions
from vitlite.train import checkpoint as checkpoints
from vitlite.train.objectives import Objective, classify, distil

__all__ = ["DATASET", "SCALES", "by_head", "cosines", "both_ways", "from_memory", "points", "run", "show", "summarise",
           "two_labels"]

DATASET = (
    "cifar10, shrunk to 24 pixels for the students (cpu): 45,000 training images, each with its mirror image, 5,000 "
    "validation and 10,000 test images; quick: scenes"
)
# What each student has beside the class token, and learns from. Two of them have no teacher, because DeiT has two
# controls: Table 3 compares with the plain ViT, and Sec. 4 with a ViT of two class tokens, both for the label, which
# has all that the distilled one has but the teacher. "hard on one head" is distillation without the token.
STUDENTS = {
    "plain": {"token": False, "kind": None, "teacher": None},
    "hard": {"token": True, "kind": "hard", "teacher": "convolutions"},
    "two labels": {"token": True, "kind": None, "teacher": None},
    "soft": {"token": True, "kind": "soft", "teacher": "convolutions"},
    "hard from ViT": {"token": True, "kind": "hard", "teacher": "vit"},
    "hard on one head": {"token": False, "kind": "hard", "teacher": "convolutions"},
}
HEADS = ("class", "distillation")
VIT = SMALL | {"image_size": 24}
GRID = {
    "students": STUDENTS,
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "crop_padding": 2, "optimizer": "muon"},
    "rates": [1.5e-3, 4.5e-3, 1.3e-2],  # of every student; chosen by trials of the plain one
    "share": 0.5,  # of the teacher in the loss, hard or soft
    # The committed network with a convolutional stem, which has learned the labels of the same training images; and the
    # published ViT with a linear map fitted to some labels: as many as bring it nearest to the first on validation.
    "teachers": {"convolutions": {"checkpoint": "train_cifar10-conv", "image_size": 32},
                 "vit": {"image_size": 112, "l2": 0.1, "labels": [5_000, 10_000, 20_000, 45_000]}},
    "cosine_images": 1_000,
    "device": "cpu",
}
SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "data": {"name_or_path": "scenes", "train_images": 60, "held_out": 30},
        "teachers": {"convolutions": {"checkpoint": "train_cifar10-conv", "image_size": 32},
                     "vit": {"image_size": 28, "l2": 0.1, "labels": [30, 60]}},
        "recipe": GRID["recipe"] | {"batch_size": 32},
        "rates": [4.5e-3], "trial_steps": 1, "steps": 3, "cosine_images": 20, "seeds": [0],
    },
    "cpu": GRID | {"vit": VIT, "data": {"name_or_path": "cifar10"}, "trial_steps": 1_000, "steps": 6_000, "seeds": [0]},
    "full": GRID | {
        "vit": VIT | {"image_size": 32, "embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
        "data": {"name_or_path": "cifar10"},
        "recipe": GRID["recipe"] | {"batch_size": 512, "crop_padding": 4, "flip": False},  # the set has both ways
        "trial_steps": 1_000, "steps": 9_000, "seeds": [0, 1, 2], "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "distillation")


def points(config: dict) -> list[dict]:
    """Every student of the first seed, then of the next."""
    return [{"student": name, "seed": seed} for seed in config["seeds"] for name in config["students"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one student; the teachers' answers are computed before the first of them, and kept for the others.

    Returns:
        Beside the usual keys (``train_flops`` with the teacher's answers, and without its training): ``teachers``, what
        is known of each; ``heads``, the test accuracy of each head and of both together; ``agreement``, by teacher and
        head the share of test images that both give the same class; ``search``, validation accuracy by rate; and with
        two tokens ``heads_agree``, the share of test images to which both heads give the same class, and ``cosine``,
        how alike the two tokens are.
    """
    name, seed, device = point["student"], point["seed"], config["device"]
    student, size = config["students"][name], config["vit"]["image_size"]
    sets = loaded(**config["data"], image_size=size)
    teachers = taught(config, work)
    twice = sets._replace(train=both_ways(sets.train))

    def begun(**shape: object) -> ViT:
        torch.manual_seed(seed)
        return ViT(ViTConfig(**config["vit"] | shape)).to(device)

    def trial(rate: float) -> float:
        recipe = _recipe(config, config["trial_steps"], rate)
        objective = from_memory(STUDENTS["plain"], sets.train.labels, None, config)
        return Trainer(begun(), recipe, seed=seed, device=device, objective=objective).fit(twice)["val_accuracy"][-1]

    search = bracketed(config["rates"], trial, work / f"search-{seed}.json") if len(config["rates"]) > 1 else {}
    rate = best(search) if search else config["rates"][0]
    answers, known = teachers[student["teacher"]] if student["teacher"] else ({}, {})
    objective = from_memory(student, sets.train.labels, answers.get("train"), config)
    model = begun(distillation=student["token"])
    measured = trained(model, twice, _recipe(config, config["steps"], rate, validations=5), seed=seed, device=device,
                       checkpoint=work / f"{name.replace(' ', '-')}-{seed}.safetensors", objective=objective)
    if known:
        measured["train_flops"] += len(twice.train) * known["flops"]
    classes = by_head(model, sets.test) if student["token"] else {"mean": predictions(model, sets.test)}
    measured |= {
        "train_images": len(sets.train), "search": search, "rate": rate,
        "heads": {head: _share(given, sets.test.labels) for head, given in classes.items()},
        "agreement": {teacher: {head: _share(given, theirs["test"].argmax(dim=1)) for head, given in classes.items()}
                      for teacher, (theirs, _) in teachers.items()},
        "teachers": {teacher: facts for teacher, (_, facts) in teachers.items()},
    }
    if student["token"]:
        measured["heads_agree"] = _share(classes["class"], classes["distillation"])
        measured["cosine"] = cosines(model, sets.test, config["cosine_images"])
    return measured


def summarise(runs: list[dict]) -> dict:
    """What each teacher knows and each student learned, with intervals over the seeds.

    Returns:
        ``teachers``: what is known of each. ``students``: of each, the test accuracy, ``above`` (by the other student
        how far it lies above, seed by seed), ``heads``, ``agreement``, ``heads_agree`` and ``cosine`` by place.
    """
    students = grouped(runs, "student")
    return {
        "teachers": runs[0]["teachers"],
        "students": {name: _of_one(ours, {other: paired(ours, theirs) for other, theirs in students.items()
                                          if other != name}) for name, ours in students.items()},
    }


def _of_one(runs: list[dict], above: dict) -> dict:
    summary = {
        "test_accuracy": interval(run["test_accuracy"] for run in runs),
        "above": {other: gain for other, gain in above.items() if gain},
        "heads": {head: interval(run["heads"][head] for run in runs) for head in runs[0]["heads"]},
        "agreement": {name: {head: interval(run["agreement"][name][head] for run in runs) for head in of}
                      for name, of in runs[0]["agreement"].items()},
    }
    if "cosine" in runs[0]:
        summary["heads_agree"] = interval(run["heads_agree"] for run in runs)
        summary["cosine"] = [interval(values) for values in zip(*(run["cosine"] for run in runs), strict=True)]
    return summary


# ---- the teachers' answers, computed once and kept


def taught(config: dict, work: Path) -> dict[str, tuple[dict[str, Tensor], dict]]:
    """Each teacher's logits of all images, and what is known of it.

    Returns:
        By teacher: ``train``, ``[2 N, classes]``, the images as they are and then mirrored, ``validation`` and
        ``test``; and ``train_accuracy``, ``val_accuracy``, ``test_accuracy``, ``parameters``, ``flops`` of one answer,
        and of the ViT ``labels``, how many its linear map has seen.
    """
    answers: dict[str, tuple[dict, dict]] = {}
    for name, setting in config["teachers"].items():
        path = work / f"{name}.answers.safetensors"
        with held(path, wait=True):  # several runs at a time need them
            if not path.exists():
                if "checkpoint" in setting:
                    sets = loaded(**config["data"], image_size=setting["image_size"])
                    said, known = _of_checkpoint(setting, sets, config)
                else:
                    sets, goal = loaded(**config["data"]), answers["convolutions"][1]["val_accuracy"]
                    said, known = _of_published(setting, sets, config, goal)
                splits = {"train": sets.train, "val": sets.validation, "test": sets.test}
                known |= {f"{short}_accuracy": _share(said[long][: len(split)].argmax(dim=1), split.labels)
                          for (short, split), long in zip(splits.items(), ("train", "validation", "test"), strict=True)}
                checkpoints.save(path, {"known": known}, answers=said)
        parts, metadata = checkpoints.load(path, {})
        answers[name] = parts["answers"], metadata["known"]
    return answers


def _of_checkpoint(setting: dict, sets: data.Splits, config: dict) -> tuple[dict, dict]:
    """Logits of a committed model, and its size and cost."""
    path = records.ROOT / "data" / "checkpoints" / f"{setting['checkpoint']}.safetensors"
    model, about = weights.load(path, config["device"]), weights.info(path)
    said = {name: outputs(model, replace(split, mean=about["mean"], std=about["std"]))
            for name, split in _asked(sets).items()}
    return said, {"parameters": cost.parameters(model), "flops": cost.flops(model, setting["image_size"])}


def _of_published(setting: dict, sets: data.Splits, config: dict, goal: float) -> tuple[dict, dict]:
    """Scores of a linear map on the published model's features, of as many labels as bring it nearest to the goal."""
    model, entry = real_weights.published(setting | {"device": config["device"]}), weights.published()[real.NAME]
    features = {name: real_weights.enlarged_outputs(model, replace(split, mean=entry.mean, std=entry.std),
                                                    model.features) for name, split in _asked(sets).items()}
    labels, classes = sets.train.labels, len(sets.train.classes)
    probes = {count: linear_probe(features["train"][:count], labels[:count], classes, setting["l2"], standardise=True)
              for count in setting["labels"]}
    accuracy = {count: probe.accuracy(features["validation"], sets.validation.labels)
                for count, probe in probes.items()}
    chosen = min(accuracy, key=lambda count: abs(accuracy[count] - goal))
    said = {name: probes[chosen](states).float() for name, states in features.items()}
    return said, {"parameters": cost.parameters(model), "flops": cost.flops(model, setting["image_size"]),
                  "labels": chosen, "val_accuracy_by_labels": {str(count): share for count, share in accuracy.items()}}


def _asked(sets: data.Splits) -> dict[str, data.Split]:
    return {"train": both_ways(sets.train), "validation": sets.validation, "test": sets.test}


def both_ways(split: data.Split) -> data.Split:
    """All images of a split, then all mirrored, ``[2 N, C, H, W]``; as its label each has its place."""
    images = torch.cat([split.images, split.images.flip(-1)])
    return replace(split, images=images, labels=torch.arange(len(images)), masks=None)


class Memory(nn.Module):
    """A teacher that gives the logits it was handed, whatever it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return self.now


def from_memory(student: dict, labels: Tensor, answers: Tensor | None, config: dict) -> Objective:
    """The objective of a student whose batches say which image each is, by its place in ``both_ways``.

    Args:
        student: Of ``STUDENTS``.
        labels: Of the images as they are, ``[N]``.
        answers: Its teacher's logits, ``[2 N, classes]``; None without a teacher.
        config: ``share`` and ``device``.
    """
    memory, labels = Memory(), torch.cat([labels, labels]).to(config["device"])
    ask = two_labels if student["token"] else classify()
    if student["teacher"]:
        ask, answers = distil(memory, student["kind"], weight=config["share"]), answers.to(config["device"])

    def objective(model: nn.Module, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if student["teacher"]:
            memory.now = answers[places]
        return ask(model, images, labels[places])

    return objective


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
    names = {"convolutions": "convolutional stem, from scratch", "vit": "published ViT, linear map"}
    rows = [[names[name], *(f"{100 * facts[f'{split}_accuracy']:.1f}" for split in ("train", "val", "test"))]
            for name, facts in record["summary"]["teachers"].items()]
    return records.table(["teacher", "training (%)", "validation (%)", "test (%)"], rows)


def _students(record: dict) -> Figure:
    gains = {_short(name): student["above"]["plain"]
             for name, student in record["summary"]["students"].items() if name != "plain"}
    values = {name: 100 * gain["mean"] for name, gain in gains.items()}
    return plots.bars(values, "points above plain", "Taught students gain 1.0–1.6 points, two labels 0.5",
                      _reach(record["runs"]))


def _reach(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """How far the runs of each student reach below and above its mean gain over plain, in points."""
    plain, reach = {run["seed"]: run["test_accuracy"] for run in runs if run["student"] == "plain"}, {}
    for name, same in grouped(runs, "student").items():
        if name != "plain":
            gains = [100 * (run["test_accuracy"] - plain[run["seed"]]) for run in same if run["seed"] in plain]
            reach[_short(name)] = fmean(gains) - min(gains), max(gains) - fmean(gains)
    return reach


def _short(student: str) -> str:
    """A student's name below its bar."""
    return student.replace("hard from", "from").replace("hard on ", "")


def _heads(record: dict) -> str:
    rows = []
    for name, student in record["summary"]["students"].items():
        if "cosine" in student:
            teacher = record["config"]["students"][name]["teacher"] or "convolutions"
            shares = [*(student["heads"][head] for head in (*HEADS, "mean")), student["heads_agree"],
                      *(student["agreement"][teacher][head] for head in HEADS)]
            rows.append([name, *(f"{100 * share['mean']:.1f}" for share in shares)])
    return records.table(["student", "class head", "distillation head", "mean of both", "heads agree",
                          "class head like the teacher", "distillation head like it"], rows)


show = records.views(teachers=_teachers, students=_students, heads=_heads)  # chapter 11
