"""What a model makes of a split: its loss and accuracy, the class it gives each image, or whatever else it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitlite.data.augment import normalise
from vitlite.data.datasets import Split
from vitlite.train import objectives

__all__ = ["Evaluation", "evaluate", "outputs", "predictions"]


class Evaluation(NamedTuple):
    """Mean cross-entropy, without label smoothing, and top-1 accuracy (a fraction) over a split.

    Example:
        >>> Evaluation(loss=0.5, accuracy=0.83).accuracy
        0.83
    """

    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: Split, batch_size: int = 500, dtype: torch.dtype | None = None,
    objective: objectives.Objective | None = None
) -> Evaluation:
    """Loss and top-1 accuracy of a model over a split.

    Args:
        model: Images ``[B, C, H, W]`` to logits; it computes where its parameters are.
        batch_size: Images at a time; it does not change the result.
        dtype: Reduced precision to compute in; float32 by default.
        objective: What to ask of the model, which then says what is right; classification by default.

    Example:
        >>> from vitlite import ViT, ViTConfig, data
        >>> model = ViT(ViTConfig(32, 8, 3, 10, embed_dim=32, depth=1, num_heads=2, mlp_dim=64))
        >>> round(evaluate(model, data.load("scenes", train_images=10, held_out=10).test).loss, 4)  # ln 10
        2.3026
    """
    objective = objective or objectives.classify(classes=len(split.classes))
    if not len(split):
        raise ValueError("the split has no images: there is nothing to evaluate on")
    loss = right = 0.0
    with _at_rest(model) as device:
        for images, labels in _batches(split, batch_size, device):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                batch_loss, batch_right = objective(model, images, labels)
            loss += batch_loss.item() * len(labels)
            right += batch_right.item()
    return Evaluation(loss / len(split), right / len(split))


def predictions(model: nn.Module, split: Split, batch_size: int = 500) -> Tensor:
    """The class that a model gives each image of a split: where its ``outputs`` are largest, int64 ``[N]`` on the CPU.

    Example:
        >>> from vitlite import ViT, ViTConfig, data
        >>> model = ViT(ViTConfig(32, 8, 3, 10, embed_dim=32, depth=1, num_heads=2, mlp_dim=64))
        >>> predictions(model, data.load("scenes", train_images=10, held_out=10).test).shape
        torch.Size([10])
    """
    return outputs(model, split, batch_size=batch_size).argmax(dim=1)


@torch.inference_mode()
def outputs(
    model: nn.Module, split: Split, call: Callable[[Tensor], Tensor | Sequence[Tensor]] | None = None, *,
    batch_size: int = 500, dtype: torch.dtype | None = None
) -> Tensor | tuple[Tensor, ...]:
    """What a model makes of every image of a split: logits, features, or whatever a call gives.

    It computes in float32 unless a ``dtype`` is named, as ``evaluate`` does. A measure of a trained model names none,
    so that it is the same on every device; the validations during training have the precision of the training. What is
    not said here is as for ``evaluate``.

    Args:
        call: Normalised images ``[B, C, H, W]`` to one tensor or several, the batch first: ``model.features``, for one.
            By default the model itself.

    Returns:
        float32 on the CPU, ``[N, ...]``; a tuple where the call gives several.

    Example:
        >>> from vitlite import ViT, ViTConfig, data
        >>> model = ViT(ViTConfig(32, 8, 3, 10, embed_dim=32, depth=1, num_heads=2, mlp_dim=64))
        >>> outputs(model, data.load("scenes", train_images=10, held_out=10).test, model.features).shape
        torch.Size([10, 32])
    """
    batches = []
    with _at_rest(model) as device:
        for images, _ in _batches(split, batch_size, device):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                answer = (call or model)(images)
            batches.append([part.float().cpu() for part in ([answer] if isinstance(answer, Tensor) else answer)])
    whole = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    return whole[0] if isinstance(answer, Tensor) else whole


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[torch.device]:
    """The model in evaluation mode, what it draws at random always the same (masks, for one); gives its device."""
    device = next(model.parameters(), torch.zeros(0)).device
    with modes_kept(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        torch.manual_seed(0)
        yield device


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards each module is in training mode, or in evaluation mode, as it was: parts may differ."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _batches(split: Split, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and their labels, on the device."""
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        yield normalise(images.to(device), split.mean, split.std), labels.to(device)
