"""Self-distillation on scenes: what a ViT learns from itself, how it collapses, and where its class token looks.

Question:    Trained by DINO on 20,000 scenes without labels, how well do a small ViT's features name a scene by its
             nearest neighbours, does it collapse without centring or without sharpening, and does its class token's
             attention find the object better than that of a ViT trained with labels?
Expectation: k nearest neighbours get far above the untrained network and stay far below supervised features. Without
             centring all images get one answer; without sharpening every answer is uniform; either leaves the features
             no better than untrained ones. The last layer's attention covers the object better than supervised
             attention, as in the DINO paper (Fig. 4: Jaccard index 45.9 against 27.3 on VOC12 for a ViT-S/16).
Command:     python -m experiments dino
Cost:        cpu: 5 runs (one seed), about 20 minutes on one core with bfloat16 instructions. full: 15 runs, longer and
             with a larger network, on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import records
from experiments.families import SMALL, build
from experiments.measure import images_seen, loaded, trained, usual_recipe
from experiments.statistics import grouped, interval
from vitlite import ViT, checks, cost, data, weights
from vitlite.analysis import centre_prior, class_attention, localisation
from vitlite.dino import SelfDistillation, answers
from vitlite.masked import masked_patches
from vitlite.train import Recipe, Trainer, outputs

__all__ = ["DATASET", "SCALES", "WAYS", "flops_of_one", "heads_on_masks", "jaccard", "nearest", "points", "run",
           "show", "summarise", "untold"]

DATASET = "scenes at 32 px: 20,000 training images without labels (cpu), 5,000 test images with masks"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"
WAYS = {"dino": "self-distillation", "no centring": "self-distillation without centring",
        "no sharpening": "self-distillation without sharpening", "supervised": "labels", "untrained": "untrained"}

GRID = {
    "ways": list(WAYS),
    "vit": SMALL | {"image_size": 32, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_dim": 128},
    "dino": {"outputs": 256, "small": 16, "small_crops": 2, "momentum": 0.98},
    "recipe": {"batch_size": 64, "weight_decay": 0.05, "flip": False, "optimizer": "muon"},
    "rate": 2e-3, "neighbours": 20, "device": "cpu", "publish": True,
}
SCALES = {
    "quick": GRID | {"data": {"name_or_path": "scenes", "train_images": 200, "held_out": 60}, "steps": 4,
                     "collapse_steps": 4, "seeds": [0], "publish": False},
    "cpu": GRID | {"data": {"name_or_path": "scenes", "train_images": 20_000}, "steps": 2_000, "collapse_steps": 400,
                   "seeds": [0]},
    "full": GRID | {"vit": SMALL | {"image_size": 32, "embed_dim": 192, "num_heads": 6, "mlp_dim": 384},
                    "data": {"name_or_path": "scenes", "train_images": 200_000}, "steps": 30_000,
                    "collapse_steps": 3_000, "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """Every way to train with the first seed, then with the next."""
    return [{"way": way, "seed": seed} for seed in config["seeds"] for way in config["ways"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train in one way and measure the features and the attention.

    Returns:
        The usual keys, ``test_accuracy`` and ``val_accuracy`` being those of the nearest neighbours; ``attention``,
        scores of each head of the last layer and of their mean against the masks; ``curve``, of self-distillation: the
        entropies of the teacher's answers by step.
    """
    way, seed, sets = point["way"], point["seed"], loaded(**config["data"])
    vit, path = build("vit", config, seed).to(config["device"]), work / f"{way}-{seed}.safetensors"
    collapse = way.startswith("no ")
    recipe = usual_recipe("dino", config, config["collapse_steps" if collapse else "steps"], config["rate"])
    curve, seconds = None, 0.0
    if way == "supervised":
        seconds = trained(vit, sets, recipe, seed=seed, device=config["device"], checkpoint=path)["seconds"]
    elif way != "untrained":
        torch.manual_seed(seed)
        changed = {"no centring": {"centring": False}, "no sharpening": {"temperature": 0.1}}.get(way, {})
        model = SelfDistillation(vit, **config["dino"], **changed).to(config["device"])
        vit, curve = _learn(model, sets, recipe, seed, config["device"])
        seconds = curve.pop("seconds")
    if way in ("dino", "supervised") and seed == config["seeds"][0] and config["publish"]:
        weights.save(vit, CHECKPOINTS / f"dino_{way}.safetensors", classes=sets.train.classes, mean=sets.train.mean,
                     std=sets.train.std, record="dino", dtype=torch.bfloat16)
    steps = 0 if way == "untrained" else recipe.steps
    seen = steps * images_seen(recipe, sets.train) // recipe.steps
    known = outputs(vit, sets.train, vit.features)
    accuracy = {name: nearest(known, sets.train.labels, outputs(vit, split, vit.features), split.labels,
                              config["neighbours"]) for name, split in (("val", sets.validation), ("test", sets.test))}
    flops = seen * flops_of_one(way, vit.requires_grad_(), config["dino"])
    return {"parameters": cost.parameters(vit), "train_images": len(sets.train), "steps": steps, "images_seen": seen,
            "seconds": seconds, "train_flops": flops, "val_accuracy": accuracy["val"],
            "test_accuracy": accuracy["test"], "attention": heads_on_masks(vit, sets.test), "curve": curve}


def summarise(runs: list[dict]) -> dict:
    """By way: accuracy of the nearest neighbours, and how well the last layer's attention covers the object."""
    summary = {}
    for way, same in grouped(runs, "way").items():
        summary[way] = {"neighbours": interval(run["test_accuracy"] for run in same)} | {
            f"{score}_{of}": interval(choose(run["attention"][score]) for run in same)
            for score in ("precision", "jaccard") for of, choose in (("best", lambda all: max(all["heads"])),
                                                                     ("mean", lambda all: all["mean"]))}
    guess = runs[0]["attention"] if runs else {}
    return summary | {"middle": {score: guess[score]["middle"] for score in guess}}


def show(record: dict, what: str) -> str:
    """The record as chapter 16 shows it; ``what`` is ``"table"``: a table, as Markdown."""
    checks.choice(["table"], what=what)
    rows = [[WAYS[way], f"{steps:,}", *(records.percent(told[key]) for key in (
                "neighbours", "precision_best", "precision_mean", "jaccard_best", "jaccard_mean"))]
            for way, told in record["summary"].items() if way in WAYS
            for steps in {run["steps"] for run in record["runs"] if run["way"] == way}]
    middle = record["summary"]["middle"]
    rows.append(["the middle of the image", "", "", *(f"{100 * middle[score]:.1f}" for score in
                                                      ("precision", "precision", "jaccard", "jaccard"))])
    return records.table(["trained by", "steps", "nearest neighbours", "precision, best head", "mean map",
                          "Jaccard, best head", "mean map"], rows)


def flops_of_one(way: str, vit: ViT, crops: dict) -> int:
    """FLOPs of training on one image in one of ``WAYS``, with the ViT's own head and without the projection heads.

    The student goes forward and back through two large and all small crops, the teacher forward through the large ones.
    """
    size = vit.config.image_size
    once = cost.train_flops(vit, size)
    if way in ("supervised", "untrained"):
        return once
    small = vit.at_resolution(crops["small"])
    return 2 * (once + cost.flops(vit, size)) + crops["small_crops"] * cost.train_flops(small, crops["small"])


def _learn(model: SelfDistillation, sets: data.Splits, recipe: Recipe, seed: int, device: str) -> tuple[ViT, dict]:
    batch = sets.validation.to(device).normalised()[:256]
    curve: dict = {"step": [0], **{key: [value] for key, value in untold(model, batch).items()}}

    def look(trainer: Trainer, moment: str) -> None:
        if moment == "log":
            for key, value in {"step": trainer.step, **untold(model, batch)}.items():
                curve[key].append(value)

    trainer = Trainer(model, recipe, seed=seed, device=device, objective=masked_patches, val_objective=masked_patches,
                      callbacks=[model.after, look])  # without a checkpoint: the curve is not saved with it
    history = trainer.fit(sets)
    return model.teacher["vit"], curve | {"loss": history["loss"], "seconds": history["seconds"]}


@torch.no_grad()
def untold(model: SelfDistillation, images: Tensor) -> dict[str, float]:
    """Two entropies of the teacher's answers as shares of the largest possible, that of a uniform answer.

    Returns:
        ``each``: the mean over images of one answer's entropy; 1 says every answer is uniform. ``all``: the entropy of
        the answers' mean; 0 says all images get one and the same class.
    """
    answer = ((answers(model.teacher, images) - model.centre) / model.temperature).softmax(dim=1)
    each, whole = (torch.special.entr(p).sum(dim=1).mean().item() / math.log(answer.shape[1])
                   for p in (answer, answer.mean(dim=0, keepdim=True)))
    return {"each": each, "all": whole}


def nearest(known: Tensor, labels: Tensor, asked: Tensor, truth: Tensor, k: int) -> float:
    """Accuracy of the k nearest neighbours by cosine, each with a vote of exp(cosine / 0.07), as in the DINO paper.

    Args:
        known: ``[n, D]``, features of images whose ``labels`` ``[n]`` are known.
        asked: ``[m, D]``, features of those to be named.
        truth: Their labels, ``[m]``.
        k: How many vote.
    """
    known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
    right = 0
    for part, answer in zip(asked.split(1000), truth.split(1000), strict=True):
        close, which = (part @ known.T).topk(min(k, len(known)), dim=1)
        votes = torch.zeros(len(part), int(labels.max()) + 1).scatter_add_(1, labels[which], (close / 0.07).exp())
        right += (votes.argmax(dim=1) == answer).sum().item()
    return right / len(truth)


@torch.no_grad()
def heads_on_masks(vit: ViT, split: data.Split, images: int = 500) -> dict:
    """Average precision and Jaccard index of the last layer's class token against masks: of heads, mean, middle."""
    split = split.subset(min(images, len(split)), seed=0)
    *_, last = vit.eval().iter_attention(split.normalised().to(next(vit.parameters()).device))
    looks = class_attention([last], vit.config.grid, per_head=True)[0].cpu()  # [B, heads, rows, columns]
    maps = [*looks.unbind(dim=1), looks.mean(dim=1), centre_prior(vit.config.grid).expand(len(looks), -1, -1)]
    scores = {"precision": [localisation(each, split.masks).average_precision.mean().item() for each in maps],
              "jaccard": [jaccard(each, split.masks).mean().item() for each in maps]}
    return {name: {"heads": each[:-2], "mean": each[-2], "middle": each[-1]} for name, each in scores.items()}


def jaccard(maps: Tensor, masks: Tensor, mass: float = 0.6) -> Tensor:
    """Overlap of the patches that hold so much of each map with the mask: intersection over union, ``[B]``.

    Args:
        maps: ``[B, rows, columns]``, not negative.
        masks: bool ``[B, H, W]``.
        mass: Share of each map that is kept, the largest values first (Caron et al., 2021, Fig. 4: 0.6).
    """
    values, order = maps.flatten(1).sort(dim=1, descending=True)
    kept = (values.cumsum(dim=1) - values) < mass * values.sum(dim=1, keepdim=True)
    kept = torch.zeros_like(kept).scatter(1, order, kept).view_as(maps)
    kept = F.interpolate(kept[:, None].float(), masks.shape[1:], mode="nearest")[:, 0].bool()
    return (kept & masks).flatten(1).sum(dim=1) / (kept | masks).flatten(1).sum(dim=1)
