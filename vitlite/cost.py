"""What a model costs: its parameters, and its FLOPs by torch's own counter."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitlite import checks
from vitlite.config import Size, pair
from vitlite.model import ViT

__all__ = ["flops", "parameters", "train_flops"]


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns.

    Example:
        >>> parameters(torch.nn.Linear(4, 2))
        10
    """
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, image_size: Size, in_channels: int = 3) -> int:
    """FLOPs of a forward pass for one image, two a multiply-add.

    Counted in training mode with explicit attention, since fused attention and torch's inference fast path hide
    products from the counter. Nothing is computed and the model stays as it is: shapes are enough.

    Args:
        model: A model of images ``[B, C, H, W]``.
        image_size: Size of the images in pixels.
        in_channels: Their channels.

    Returns:
        FLOPs of matrix products and convolutions; norms, activations and additions are not counted.

    Raises:
        TypeError: If the model is no module, or the size no size.
        ValueError: If a model of ours cannot read such images.

    Example:
        >>> from vitlite.resnet import ResNet, ResNetConfig
        >>> flops(ResNet(ResNetConfig(width=16, blocks=3)), image_size=32)
        81626368
    """
    return _count(model, image_size, in_channels, backward=False)


def train_flops(model: nn.Module, image_size: Size, in_channels: int = 3) -> int:
    """FLOPs of forward and backward pass for one image, counted like those of ``flops``.

    The first layer has no gradient to hand on, so this is a little less than three times the forward pass.

    Args:
        model: A model of images ``[B, C, H, W]``.
        image_size: Size of the images in pixels.
        in_channels: Their channels.

    Raises:
        TypeError: If the model is no module, or the size no size.
        ValueError: If a model of ours cannot read such images.

    Example:
        >>> from vitlite import ViTConfig
        >>> train_flops(ViT(ViTConfig(32, 4, 3, 10, embed_dim=64, depth=2, num_heads=4, mlp_dim=128)), 32)
        32838912
    """
    return _count(model, image_size, in_channels, backward=True)


def _count(model: nn.Module, image_size: Size, in_channels: int, backward: bool) -> int:
    checks.kind(nn.Module, model=model)
    twin = copy.deepcopy(model).to("meta", torch.float32).train()
    # Two images, because batch norm in training mode refuses a single value a channel.
    images = torch.zeros(2, in_channels, *pair(image_size), device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = twin(images, return_attention=True)[0] if isinstance(model, ViT) else twin(images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() // 2
