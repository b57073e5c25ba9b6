"""What a model costs: parameters, FLOPs by torch's own counter, and the memory that training keeps."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitlite import checks
from vitlite.checks import Size, pair
from vitlite.model import ViT

__all__ = ["flops", "parameters", "saved_bytes", "train_flops"]


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
    products from the counter. Matrix products and convolutions count; norms, activations and additions do not. Nothing
    is computed and the model stays as it is: shapes are enough.

    Example:
        >>> from vitlite.resnet import ResNet, ResNetConfig
        >>> flops(ResNet(ResNetConfig(width=16, blocks=3)), image_size=32)
        81626368
    """
    return _count(model, image_size, in_channels, backward=False)


def train_flops(model: nn.Module, image_size: Size, in_channels: int = 3) -> int:
    """FLOPs of forward and backward pass for one image, counted like those of ``flops``, with its arguments.

    The first layer has no gradient to hand on, so this is a little less than three times the forward pass.

    Example:
        >>> from vitlite import ViTConfig
        >>> train_flops(ViT(ViTConfig(32, 4, 3, 10, embed_dim=64, depth=2, num_heads=4, mlp_dim=128)), 32)
        32838912
    """
    return _count(model, image_size, in_channels, backward=True)


def saved_bytes(model: nn.Module, image_size: Size, in_channels: int = 3) -> int:
    """Bytes that a training step keeps for its backward pass for one image, parameters apart: in float32.

    This, not the weights, is what fills a device's memory when images get larger. A ViT is taken with explicit
    attention; fused attention keeps less. Nothing is computed. The arguments are those of ``flops``.

    Example:
        >>> saved_bytes(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.GELU()), image_size=2)
        68
    """
    twin, images = _on_paper(model, image_size, in_channels)
    own = {p.untyped_storage()._cdata for p in [*twin.parameters(), *twin.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no later tensor gets the same number

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _logits(twin, images)
    return sum(storage.nbytes() for storage in kept.values()) // 2


def _count(model: nn.Module, image_size: Size, in_channels: int, backward: bool) -> int:
    twin, images = _on_paper(model, image_size, in_channels)
    with FlopCounterMode(display=False) as counter:
        logits = _logits(twin, images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() // 2


def _on_paper(model: nn.Module, image_size: Size, in_channels: int) -> tuple[nn.Module, torch.Tensor]:
    """The model and two images without their numbers; batch norm in training mode refuses one value a channel."""
    checks.kind(nn.Module, model=model)
    images = torch.zeros(2, in_channels, *pair(image_size), device="meta")
    return copy.deepcopy(model).to("meta", torch.float32).train(), images


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images, return_attention=True)[0] if isinstance(model, ViT) else model(images)
