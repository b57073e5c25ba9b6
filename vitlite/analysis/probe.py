"""What can be read off frozen features by a linear map (the few-shot protocol of Sec. 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor


class LinearProbe:
    """A linear map fitted to features; call it with features ``[n, D]`` for scores ``[n, classes]``.

    Attributes:
        weight: float64 ``[D, classes]``.
        bias: float64 ``[classes]``.

    Example:
        >>> probe = LinearProbe(torch.eye(2).double(), torch.zeros(2).double())
        >>> probe(torch.tensor([[0.0, 3.0]])).argmax().item()
        1
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, features: Tensor) -> Tensor:
        if features.ndim != 2 or features.shape[1] != len(self.weight):
            raise ValueError(f"features have shape {list(features.shape)}; expected [n, {len(self.weight)}], as those "
                             "the probe was fitted to")
        return features.to(self.weight) @ self.weight + self.bias

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of the features whose largest score is the label's."""
        if labels.shape != features.shape[:1] or not len(labels) or not features.isfinite().all():
            raise ValueError(f"features have shape {list(features.shape)}, labels {list(labels.shape)}; expected "
                             "[n, D], all finite, and [n], at least one")
        return (self(features).argmax(dim=1) == labels.to(self.weight.device)).double().mean().item()


def linear_probe(
    features: Tensor, labels: Tensor, classes: int, l2: float = 1e-3, *, standardise: bool = False
) -> LinearProbe:
    """Regularised least squares from features to targets −1 and 1, in closed form; the bias is not regularised.

    Args:
        features: ``[n, D]``, from a frozen model.
        labels: int64 ``[n]``, from 0 to ``classes`` − 1.
        l2: Penalty on the squared weights, as a share of n times the features' mean variance; above 0. So the same
            number means the same for features of any scale, and for any number of images.
        standardise: Penalise the weights that the features would have if each had deviation 1.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> linear_probe(x, torch.tensor([0, 0, 1, 1]), classes=2).accuracy(x, torch.tensor([0, 0, 1, 1]))
        1.0
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features have shape {list(features.shape)}, labels {list(labels.shape)}; "
                         "expected [n, D] and [n]")
    if not len(labels) or labels.is_floating_point() or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be ints between 0 and {classes - 1}, and there must be some")
    if not features.isfinite().all():
        raise ValueError("a feature is not finite; leave such images out")
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 is {l2}; it must be finite, and above 0, or fewer images than features have no unique "
                         "answer")
    x = features.detach().double()
    targets = torch.nn.functional.one_hot(labels.long().to(x.device), classes).double() * 2 - 1
    mean, target_mean = x.mean(dim=0), targets.mean(dim=0)
    spread = x.std(dim=0, correction=0).clamp_min(1e-6) if standardise else torch.ones_like(mean)
    x, targets = (x - mean) / spread, targets - target_mean
    gram = x.T @ x
    penalty = l2 * (gram.diagonal().mean().item() or 1.0)  # features that do not vary get weights of zero
    weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=x.dtype, device=x.device), x.T @ targets)
    weight = weight / spread[:, None]
    return LinearProbe(weight, target_mean - mean @ weight)
