"""Averaged weights have a closed form."""

import pytest
import torch
from torch import nn

from vitlite.train.average import Average


def test_it_is_the_exponential_moving_average():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, decay=0.9)
    for step in range(1_000, 1_050):  # long past the rise of the decay
        nn.init.ones_(model.weight)
        average.update(model, step)
    assert average.model.weight.item() == pytest.approx(1 - 0.9**50, rel=1e-4)
    assert model.weight.item() == 1


def test_a_short_run_is_averaged_over_a_short_time():
    average = Average(nn.Linear(1, 1), decay=0.999)
    assert [average.decay_at(step) for step in (0, 8, 98)] == [0.1, 0.5, 99 / 108]
    assert average.decay_at(10_000) == 0.999


def test_it_takes_no_gradients_and_carries_the_state_of_a_batch_norm():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    average = Average(model, decay=0.99)
    model(torch.randn(8, 2)).sum().backward()
    average.update(model, 0)
    assert all(not p.requires_grad and p.grad is None for p in average.model.parameters())
    assert torch.equal(average.model[0].running_mean, model[0].running_mean)
    assert average.model[0].num_batches_tracked == 1
