"""What most runs share: a search of rates that loses nothing, and a measure in float32."""

import json

import pytest
import torch
from torch import nn

from experiments import measure
from vitlite import data
from vitlite.train import Recipe, evaluate


def test_a_search_notes_each_rate_as_it_goes_and_tries_none_twice(tmp_path):
    path, asked = tmp_path / "rates.json", []

    def trial(rate):
        asked.append(rate)
        if rate == 3e-3:
            raise KeyboardInterrupt
        return 10 * rate

    with pytest.raises(KeyboardInterrupt):
        measure.tuned([1e-3, 3e-3], trial, path)
    assert json.loads(path.read_text()) == {"0.001": 0.01}
    assert measure.tuned([1e-3, 2e-3], trial, path) == {"0.001": 0.01, "0.002": 0.02}
    assert asked == [1e-3, 3e-3, 2e-3]


def test_a_rate_that_leaves_the_finite_numbers_is_worth_nothing(tmp_path):
    def trial(rate):
        if rate > 1e-3:
            raise FloatingPointError("the loss is not finite at step 2")
        return 0.25

    found = measure.tuned([1e-3, 3e-3], trial, tmp_path / "rates.json")
    assert found == {"0.001": 0.25, "0.003": 0.0}
    assert measure.best(found) == 1e-3


def test_the_test_images_are_measured_in_float32_and_the_validation_images_as_trained(tmp_path, monkeypatch):
    sets = data.load("scenes", train_images=40, held_out=20, image_size=16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    precisions = []
    monkeypatch.setattr(measure, "evaluate", lambda *given, **options: precisions.append(options.get("dtype"))
                        or evaluate(*given, **options))
    monkeypatch.setattr("vitlite.train.trainer.autocast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr("vitlite.train.trainer.evaluate", lambda *given, **options: precisions.append(options["dtype"])
                        or evaluate(*given, **options))
    recipe = Recipe("two steps", 2, batch_size=20, validate_every=2)
    run = measure.trained(model, sets, recipe, seed=0, device="cpu", checkpoint=tmp_path / "run.safetensors")
    assert set(precisions[:-1]) == {torch.bfloat16}
    assert precisions[-1] is None
    assert run["test_accuracy"] == evaluate(model, sets.test).accuracy
