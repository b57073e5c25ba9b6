"""What an image costs if every pixel is a token, as in Image GPT, beside a ViT with the same blocks on patches.

Question:    If each pixel is a token, as in Image GPT (Chen et al., 2020), what does a larger image cost?
Expectation: Twice the side makes four times the tokens. From 16 to 32 pixels the FLOPs of an image grow eight to nine
             times where pixels are tokens, since attention comes to outweigh the rest, and four to five times with
             patches of 4 pixels.
Command:     python -m experiments pixel_tokens
Cost:        cpu: 2 runs, a few seconds; nothing is trained.

The pixel model predicts the next pixel, so every pixel of an image is asked for its colour; the patch model fills in
hidden patches and is asked for half of them. FLOPs of the pixel model are counted with the half of each attention map
that is hidden, because that half is computed too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments import records
from vitlite import ViT, ViTConfig, checks, cost

__all__ = ["DATASET", "SCALES", "Causal", "Palette", "build", "points", "run", "show", "summarise"]

DATASET = "none: shapes alone"
TOKENS = ("pixels", "patches")

# Both models have these blocks; what a token is decides the rest.
VIT = {"num_classes": 10, "embed_dim": 64, "depth": 6, "num_heads": 2, "mlp_dim": 256, "pool": "mean"}
GRID = {
    "vit": VIT,
    "patch_size": 4,
    "mask_ratio": 0.5,  # of patches, as in the ViT paper
    "colours": 512,
    "image_sizes": [16, 32, 48, 64],  # Image GPT's are the last three
}
SCALES = {"quick": GRID | {"image_sizes": [8, 16]}, "cpu": GRID}


def points(config: dict) -> list[dict]:
    """Pixels, then patches. Nothing varies by chance: the seed is there because every run has one."""
    return [{"tokens": tokens, "seed": 0} for tokens in TOKENS]


def run(point: dict, config: dict, work: Path) -> dict:
    """Count what one image costs a training step, by its size.

    Args:
        point: One of ``points``.
        config: One of ``SCALES``.
        work: Not needed.

    Returns:
        ``by_size``: for each size ``image_size``, ``tokens``, ``train_flops`` (with the head that predicts), and
        ``saved_bytes`` (what the backward pass needs kept, with explicit attention).
    """
    by_size = []
    for side in config["image_sizes"]:
        vit = build(point["tokens"], side, config)
        if point["tokens"] == "pixels":
            predictions, classes = vit.config.num_patches, config["colours"]
        else:
            predictions, classes = round(config["mask_ratio"] * vit.config.num_patches), 8**3  # 3 bits per channel
        head = 6 * predictions * classes * vit.config.embed_dim  # two FLOPs per weight forward, four backward
        by_size.append({"image_size": side, "tokens": vit.config.num_patches,
                        "train_flops": cost.train_flops(vit, side) + head, "saved_bytes": cost.saved_bytes(vit, side)})
    return {"by_size": by_size}


def summarise(runs: list[dict]) -> dict:
    """By kind of token, ``by_size``: what an image costs."""
    return {run["tokens"]: {"by_size": run["by_size"]} for run in runs}


# ---- the two models


def build(tokens: str, image_size: int, config: dict) -> ViT:
    """A new model whose tokens are ``"pixels"`` or ``"patches"``; the blocks are the same.

    Raises:
        ValueError: If tokens are to be anything else.
    """
    checks.choice(TOKENS, tokens=tokens)
    shape = ViTConfig(**config["vit"], image_size=image_size, patch_size=config["patch_size"])
    if tokens == "patches":
        vit = ViT(shape)
    else:
        palette = Palette(torch.rand(config["colours"], shape.in_channels), shape.embed_dim)
        vit = ViT(replace(shape, patch_size=1, class_token=True), palette)  # the class token is the sequence's start
        for block in vit.blocks:
            block.attention.relative = Causal()
    vit.head.requires_grad_(False)  # the task has a head of its own
    return vit


class Palette(nn.Module):
    """Instead of a patch projection: every pixel becomes the nearest colour of a palette, and each has an embedding.

    Args:
        colours: ``[K, C]``, on the scale of normalised images.
        embed_dim: Width D of the tokens.
    """

    def __init__(self, colours: Tensor, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("colours", colours)
        self.embedding = nn.Embedding(len(colours), embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, N, D]``, row by row."""
        pixels = images.flatten(2).transpose(1, 2)  # [B, N, C]
        return self.embedding(torch.cdist(pixels, self.colours).argmin(dim=2))


class Causal(nn.Module):
    """What to add to attention's logits so that no token sees a later one; it stands where relative positions would."""

    def forward(self, query: Tensor) -> Tensor:
        """Queries ``[B, h, T, D/h]`` -> ``[T, T]``: zero up to the token itself, minus infinity after it."""
        return query.new_full((query.shape[-2],) * 2, float("-inf")).triu(1)


# ---- what chapter 1 shows


def _costs(record: dict) -> str:
    rows = []
    for pixels, patches in zip(*(record["summary"][tokens]["by_size"] for tokens in TOKENS), strict=True):
        rows.append([f"{pixels['image_size']}×{pixels['image_size']}",
                     *(f"{model['tokens']:,}" for model in (pixels, patches)),
                     *(f"{model['train_flops'] / 1e9:,.2f}" for model in (pixels, patches)),
                     f"{pixels['train_flops'] / patches['train_flops']:.0f}"])
    side = record["config"]["patch_size"]
    heads = ["image", "tokens: pixels", f"tokens: {side}×{side} patches", "GFLOP: pixels", "GFLOP: patches", "ratio"]
    return records.table(heads, rows)


show = records.views(costs=_costs)  # chapter 1
