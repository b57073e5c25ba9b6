"""Families of networks to compare, each as large as the ViT."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vitlite import ViT, ViTConfig, checks, cost, resnet
from vitlite.hybrid import ResNetStem

__all__ = ["FAMILIES", "NAMES", "OPTIMIZERS", "RATES", "SMALL", "build", "hybrid", "mlp", "unplaced", "vit"]

# As tables and figures name them, in their order: so a family that has one curve keeps its colour.
NAMES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "hybrid", "mlp": "fully connected"}
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}

# Where the search of a family's learning rate begins, with Muon, on photographs.
RATES = {"vit": [4.5e-3, 0.013], "resnet": [0.039, 0.12], "hybrid": [0.013, 0.039]}

# The ViT of most experiments, 0.45 million parameters: fields of ``ViTConfig``, without the size of the images.
SMALL = {"patch_size": 4, "num_classes": 10, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192}


def vit(config: dict) -> ViT:
    """The ViT that the others are matched to, by the fields of ``ViTConfig`` under ``config["vit"]``."""
    return ViT(ViTConfig(**config["vit"]))


def unplaced(config: dict) -> dict:
    """The same configuration with a ViT that has no table of positions."""
    return config | {"vit": config["vit"] | {"position": "none"}}


def hybrid(config: dict) -> ViT:
    """A small ResNet's feature map as the sequence, and fewer blocks: ``depth``, ``stem_width``, ``stem_blocks``,
    and ``stem_norm``, which is ``"group"`` unless given."""
    shape = config["hybrid"]
    whole = ViTConfig(**config["vit"] | {"depth": shape["depth"]})
    return ViT(whole, ResNetStem(whole.embed_dim, width=shape["stem_width"], blocks=shape["stem_blocks"],
                                norm=shape.get("stem_norm", "group")))


def mlp(parameters: int, image_size: int, num_classes: int) -> nn.Sequential:
    """A fully connected network of RGB images: two hidden layers of equal width, GELU between.

    Args:
        parameters: How many at most; the width is the largest that keeps to it.
        image_size: Side of the images, in pixels.
        num_classes: Number of logits.

    Example:
        >>> sum(p.numel() for p in mlp(460_906, image_size=32, num_classes=10).parameters())
        458102
    """

    def sized(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, width), nn.GELU(), nn.Linear(width, width),
                             nn.GELU(), nn.Linear(width, num_classes))

    width = 1
    with torch.device("meta"):  # shapes alone
        while cost.parameters(sized(width + 1)) <= parameters:
            width += 1
    return sized(width)


def _matching_mlp(config: dict) -> nn.Sequential:
    shape = config["vit"]
    return mlp(cost.parameters(vit(config)), shape["image_size"], shape["num_classes"])


FAMILIES: dict[str, Callable[[dict], nn.Module]] = {
    "vit": vit,
    "hybrid": hybrid,
    "resnet": lambda config: resnet.match(vit(config)),
    "mlp": _matching_mlp,
}


def build(family: str, config: dict, seed: int) -> nn.Module:
    """A new model of the family, with the seed's weights.

    Raises:
        ValueError: If there is no such family.
    """
    checks.choice(FAMILIES, family=family)
    torch.manual_seed(seed)
    return FAMILIES[family](config)
