"""Objectives: what a batch asks of the model. Each gives the loss to descend and how many answers were right."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Objective", "classify"]

# (model, images [B, C, H, W], targets: labels [B] or probabilities [B, classes]) -> (mean loss, number of right
# answers), both scalar tensors
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def classify(label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy between the logits and the target, softened by label smoothing.

    The target is a label, or a probability for each class; then the likeliest class counts as the right answer.

    Args:
        label_smoothing: Probability taken from the true class and spread evenly over all classes
            (Szegedy et al., 2016).
    """

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return loss, (logits.argmax(dim=1) == labels).sum()

    return objective
