"""A masked autoencoder on CIFAR-10, then labels: is painting hidden patches worth its compute?

Question:    A ViT paints hidden patches of 45,000 images without labels for 6,000 steps. What do its frozen features
             give a linear probe, and does it beat training from scratch when both have the same compute in all?
Expectation: The masked autoencoder's encoder reads a quarter of the patches, so a step costs about a third of a
             supervised one, decoder included. Its probe lies far below fine-tuning, as in the paper (Table 1: 73.5
             against 84.9 % on ImageNet). Fine-tuned on one label in ten it beats training from scratch at equal
             compute clearly; with all labels by little, or not at all. Masked patch prediction as in the ViT paper,
             given the same compute, learns less: it takes a third as many steps.
Command:     python -m experiments mae
Cost:        cpu: 3 runs (three ways to begin, one seed), about 25 minutes on one core with bfloat16 instructions. full:
             9 runs at 32 pixels on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments import records
from experiments.families import SMALL, build
from experiments.masked_patches import labelled
from experiments.measure import images_seen, loaded, once, trained, usual_recipe
from experiments.statistics import grouped, interval
from vitlite import ViT, checks, cost, data, weights
from vitlite.analysis import linear_probe
from vitlite.mae import MaskedAutoencoder
from vitlite.masked import MaskedPatches, masked_patches
from vitlite.train import Trainer, outputs
from vitlite.train.recipes import Recipe

__all__ = ["DATASET", "SCALES", "points", "run", "show", "summarise"]

DATASET = ("cifar10, shrunk to 24 pixels (cpu): 45,000 training images, of which a class-balanced fraction keeps its "
           "labels; 5,000 validation and 10,000 test images; quick: scenes")
CHECKPOINT = records.ROOT / "data" / "checkpoints" / "mae.safetensors"
STARTS = {"mae": "masked autoencoder", "none": "random weights", "masked": "masked patch prediction"}

VIT = SMALL | {"image_size": 24, "pool": "mean"}
GRID = {
    "starts": list(STARTS),
    "mae": {"mask_ratio": 0.75, "decoder_dim": 48, "decoder_depth": 1},
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "optimizer": "muon"},
    "rate": 1.5e-3,  # of every training: pre-training, fine-tuning, from scratch
    "device": "cpu", "publish": True,
}
SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "data": {"name_or_path": "scenes", "train_images": 400, "held_out": 100, "image_size": 16},
        "pretraining_steps": 20, "steps": {"0.1": 4, "1.0": 10}, "seeds": [0], "publish": False,
    },
    "cpu": GRID | {"vit": VIT, "data": {"name_or_path": "cifar10", "image_size": 24}, "pretraining_steps": 6_000,
                   "steps": {"0.1": 200, "1.0": 600}, "seeds": [0]},
    "full": GRID | {"vit": VIT | {"image_size": 32, "embed_dim": 192, "num_heads": 6, "mlp_dim": 384},
                    "data": {"name_or_path": "cifar10"}, "pretraining_steps": 60_000,
                    "steps": {"0.1": 3_000, "1.0": 10_000}, "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """Every way to begin with the first seed, then with the next."""
    return [{"start": start, "seed": seed} for seed in config["seeds"] for start in config["starts"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Pre-train in one way, probe, and fine-tune on each fraction of the labels; from scratch the compute of the
    pre-training goes into further steps.

    Returns:
        The usual keys, of the fine-tuning on most labels; ``fine_tuned``, these for each ``fraction``; ``probe``, test
        accuracy of a linear map on frozen features; ``pretrained``, steps, seconds and FLOPs of the pre-training, and
        the share of the hidden pixels' variance explained (or of mean colours guessed right).
    """
    start, seed, sets = point["start"], point["seed"], loaded(**config["data"])
    model, name = build("vit", config, seed).to(config["device"]), f"{start}-{seed}"
    flops = _flops_per_image(model, config)
    before = None if start == "none" else _pretrained(model, start, sets, config, flops, work / f"{name}.safetensors",
                                                      seed)
    probe, tuned = _probe(model, sets), []
    for share, steps in config["steps"].items():
        extra = round(config["pretraining_steps"] * flops["mae"] / flops["none"]) if start == "none" else 0
        fresh = copy.deepcopy(model).reset_head(len(sets.train.classes))
        few = sets._replace(train=labelled(sets.train, float(share), seed))
        tuned.append({"fraction": float(share)} | _once_trained(fresh, few, steps + extra, config, seed,
                                                                work / f"{name}-{share}.safetensors"))
    return tuned[-1] | {"fine_tuned": tuned, "probe": probe, "pretrained": before}


def summarise(runs: list[dict]) -> dict:
    """By way to begin: the probe, and test accuracy and training FLOPs in all for each fraction of the labels."""
    summary = {}
    for start, same in grouped(runs, "start").items():
        told = [one | {"before": (run["pretrained"] or {"train_flops": 0})["train_flops"]}
                for run in same for one in run["fine_tuned"]]
        summary[start] = {"probe": interval(run["probe"] for run in same),
                          "steps_before": (same[0]["pretrained"] or {"steps": 0})["steps"]} | {
            str(share): {"test_accuracy": interval(one["test_accuracy"] for one in those), "steps": those[0]["steps"],
                         "train_flops": those[0]["train_flops"] + those[0]["before"]}
            for share, those in grouped(told, "fraction").items()}
    return summary


def show(record: dict, what: str) -> str:
    """The record as chapter 16 shows it; ``what`` is ``"table"``: a table, as Markdown."""
    checks.choice(["table"], what=what)
    shares = list(record["config"]["steps"])
    rows = []
    for start, told in record["summary"].items():
        rows.append([STARTS[start], f"{told['steps_before']:,}", records.percent(told["probe"]),
                     *(f"{records.percent(told[share]['test_accuracy'])} ({told[share]['steps']:,})"
                       for share in shares), f"{told[shares[-1]]['train_flops'] / 1e12:.0f}"])
    heads = [f"{float(share):.0%} of the labels (steps)" for share in shares]
    return records.table(["start", "steps before", "probe", *heads, "TFLOP in all"], rows)


class _Painter(nn.Module):
    """A masked autoencoder as ``cost`` counts it: one tensor for images."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.paint(images)[0]


def _flops_per_image(model: ViT, config: dict) -> dict[str, int]:
    size = config["vit"]["image_size"]
    painter = _Painter(MaskedAutoencoder(copy.deepcopy(model), **config["mae"]))
    return {"mae": cost.train_flops(painter, size), "none": cost.train_flops(model, size)}


def _recipe(config: dict, steps: int) -> Recipe:
    return usual_recipe("mae", config, steps, config["rate"])


def _pretrained(model: ViT, start: str, sets: data.Splits, config: dict, flops: dict, path: Path, seed: int) -> dict:
    """Pre-train the model in place: with masked patch prediction as many steps as the autoencoder's compute pays."""
    torch.manual_seed(seed)
    mae = start == "mae"
    per_image = flops["mae" if mae else "none"]
    recipe = _recipe(config, round(config["pretraining_steps"] * flops["mae"] / per_image))
    whole = (MaskedAutoencoder(model, **config["mae"]) if mae else
             MaskedPatches(model, sets.train.mean, sets.train.std, target="pixels")).to(config["device"])

    def learn() -> dict:
        trainer = Trainer(whole, recipe, seed=seed, device=config["device"], objective=masked_patches,
                          val_objective=masked_patches, checkpoint=path.with_suffix(".part.safetensors"))
        history = trainer.fit(sets)
        seen = images_seen(recipe, sets.train)
        return {"steps": recipe.steps, "images_seen": seen, "seconds": history["seconds"],
                "train_flops": seen * per_image, "explained": history["val_accuracy"][-1],
                "curve": {key: history[key] for key in ("step", "loss")}}

    before = once(whole, path, learn)
    if mae and seed == config["seeds"][0]:
        own = {name: tensor for name, tensor in whole.named_parameters() if not name.startswith("vit.")}
        weights.save(model, CHECKPOINT if config["publish"] else path.with_name("kept.safetensors"),
                     classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std, record="mae",
                     dtype=torch.bfloat16, extra=own)
    return before


def _once_trained(model: ViT, sets: data.Splits, steps: int, config: dict, seed: int, path: Path) -> dict:
    return once(model, path, lambda: trained(model, sets, _recipe(config, steps), seed=seed, device=config["device"],
                                             checkpoint=path.with_suffix(".part.safetensors")))


def _probe(model: ViT, sets: data.Splits) -> float:
    train, test = (outputs(model, split, model.features) for split in (sets.train, sets.test))
    return linear_probe(train, sets.train.labels, len(sets.train.classes)).accuracy(test, sets.test.labels)
