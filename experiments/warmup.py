"""Where the norm stands, and whether it needs warmup: twelve blocks, post-norm beside pre-norm.

Question:    Does a ViT of twelve post-norm blocks need warmup where pre-norm can do without?
Expectation: Xiong et al. (2020) show that the gradients near the output of a new post-norm Transformer are large, so
             that a large first step ruins it. With warmup both learn at a small rate. Without it post-norm learns
             nothing at a rate that suits pre-norm, and pre-norm loses a point or two. At three times that rate
             post-norm fails with warmup as well.
Command:     python -m experiments warmup
Cost:        cpu: 48 runs of 300 steps (two norms, with and without warmup, four rates, three seeds) of a minute and a
             half on one core with bfloat16 instructions, about an hour in all, 1 GB of memory. full: 48 runs of 2,000
             steps on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import records
from experiments.families import SMALL
from experiments.measure import loaded, trained
from experiments.statistics import curve, grouped, interval
from vitlite import ViT, ViTConfig, checks, plots
from vitlite.model import Block
from vitlite.train import Recipe

__all__ = ["DATASET", "SCALES", "PostNormBlock", "new_model", "points", "run", "show", "summarise"]

DATASET = "cifar10: 45,000 training, 5,000 validation and 10,000 test images, at 24 pixels (cpu) or 32 (full)"
NORMS = {"pre": "pre-norm", "post": "post-norm"}
BASE = {"norms": list(NORMS), "rates": [5e-4, 9e-4, 1.5e-3, 4.5e-3], "seeds": [0, 1, 2],
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True}}
SCALES = {
    "quick": BASE | {"vit": SMALL | {"image_size": 16, "embed_dim": 48}, "steps": 6, "warmup": [0, 2], "rates": [5e-4],
                     "data": {"name_or_path": "scenes", "train_images": 200, "held_out": 50, "image_size": 16},
                     "seeds": [0], "device": "cpu"},
    "cpu": BASE | {"vit": SMALL | {"image_size": 24, "depth": 12}, "steps": 300, "warmup": [0, 100],
                   "data": {"name_or_path": "cifar10", "image_size": 24}, "device": "cpu"},
    "full": BASE | {"vit": SMALL | {"image_size": 32, "depth": 12, "embed_dim": 192, "mlp_dim": 384}, "steps": 2_000,
                    "warmup": [0, 500], "data": {"name_or_path": "cifar10"}, "device": "cuda"},
}


class PostNormBlock(Block):
    """The encoder block of Vaswani et al. (2017): each norm comes after the sum, and nothing passes it by."""

    def forward(self, z: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """``[B, T, D]`` -> ``[B, T, D]`` and, if asked for, the attention weights ``[B, h, T, T]``."""
        mixed, attention = self.attention(z, return_attention)
        z = self.norm1(z + mixed)
        return self.norm2(z + self.mlp(z)), attention


def new_model(norm: str, config: dict, seed: int) -> ViT:
    """A new ViT; with ``"post"`` norms it has the same weights in post-norm blocks, and no further norm at the end.

    Raises:
        ValueError: If ``norm`` is neither ``"pre"`` nor ``"post"``.
    """
    checks.choice(NORMS, norm=norm)
    torch.manual_seed(seed)
    model = ViT(ViTConfig(**config["vit"]))
    if norm == "post":
        blocks = [PostNormBlock(model.config) for _ in model.blocks]
        for new, old in zip(blocks, model.blocks, strict=True):
            new.load_state_dict(old.state_dict())
        model.blocks, model.norm = nn.ModuleList(blocks), nn.Identity()
    return model


def points(config: dict) -> list[dict]:
    """Each norm with and without warmup at each rate, with the first seed, then with the next."""
    return [{"norm": norm, "warmup": warmup, "rate": rate, "seed": seed} for seed in config["seeds"]
            for rate in config["rates"] for warmup in config["warmup"] for norm in config["norms"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one model and measure it: the usual keys."""
    norm, warmup, rate, seed = point["norm"], point["warmup"], point["rate"], point["seed"]
    recipe = Recipe("warmup", config["steps"], learning_rate=rate, warmup_steps=warmup, validate_every=config["steps"],
                    **config["recipe"])
    checkpoint = work / ("-".join(map(str, point.values())) + ".safetensors")
    return trained(new_model(norm, config, seed), loaded(**config["data"]), recipe, seed=seed, device=config["device"],
                   checkpoint=checkpoint)


def summarise(runs: list[dict]) -> dict:
    """Test accuracy by norm, steps of warmup and learning rate, with intervals over the seeds."""
    summary: dict = {}
    for (norm, warmup, rate), same in grouped(runs, "norm", "warmup", "rate").items():
        by_rate = summary.setdefault(norm, {}).setdefault(str(warmup), {})
        by_rate[str(rate)] = interval(run["test_accuracy"] for run in same)
    return summary


def _accuracy(record: dict) -> Figure:
    curves = {f"{NORMS[norm]}, {'warmup' if int(warmup) else 'no warmup'}":
              curve({float(rate): share for rate, share in by_rate.items()})
              for norm, by_warmup in record["summary"].items() for warmup, by_rate in by_warmup.items()}
    return plots.lines(curves, "learning rate", "test accuracy (%)",
                       "Pre-norm learns at every rate, post-norm at low ones", logx=True, legend_columns=2)


show = records.views(accuracy=_accuracy)  # chapter 4
