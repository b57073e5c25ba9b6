"""A running average of the weights: an exponential moving average, EMA."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """A copy of a model whose weights follow the model's slowly (Polyak averaging); ``model`` is the copy.

    ``decay`` of the average is kept at a step. It rises to this value as (1 + t) / (10 + t), so that a short run is not
    an average over its beginning.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    def decay_at(self, step: int) -> float:
        """What is kept of the average after step t, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights; other state, such as a batch norm's, is taken over as it is."""
        follow = get_ema_multi_avg_fn(self.decay_at(step))
        follow(list(self.model.parameters()), list(model.parameters()), None)
        for average, latest in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(latest)
