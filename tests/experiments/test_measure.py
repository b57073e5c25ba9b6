"""What most runs share: a search that ends with the best rate inside and tries none twice, a measure in float32."""

import json
import math
import threading

import pytest
import torch
from torch import nn

from experiments import measure
from experiments.measure import best, bracketed, once, tuned
from vitlite import data
from vitlite.train import Recipe, checkpoint, evaluate


def trials(peak, asked):
    """A trial whose best rate is known; it notes what it was asked."""

    def trial(rate):
        asked.append(rate)
        return 1 - abs(math.log(rate / peak)) / 20

    return trial


@pytest.mark.parametrize("peak", [1e-4, 1.5e-3, 2e-3, 4.5e-3, 3e-2])
def test_the_best_rate_has_a_lower_one_on_either_side(peak, tmp_path):
    asked = []
    tried = bracketed([1.5e-3, 4.5e-3], trials(peak, asked), tmp_path / "search.json")
    rates = sorted(map(float, tried))
    assert rates[0] < best(tried) < rates[-1]
    assert abs(math.log(best(tried) / peak)) <= math.log(3) / 2 + 0.1
    assert len(asked) == len(set(asked)) == len(tried)


def test_a_search_notes_each_rate_as_it_goes_and_tries_none_twice(tmp_path):
    path, asked = tmp_path / "rates.json", []

    def trial(rate):
        asked.append(rate)
        if rate == 3e-3:
            raise KeyboardInterrupt
        return 10 * rate

    with pytest.raises(KeyboardInterrupt):
        tuned([1e-3, 3e-3], trial, path)
    assert json.loads(path.read_text()) == {"0.001": 0.01}
    assert tuned([1e-3, 2e-3], trial, path) == {"0.001": 0.01, "0.002": 0.02}
    assert asked == [1e-3, 3e-3, 2e-3]


def test_of_two_runs_beside_each_other_one_makes_the_trials(tmp_path):
    asked, both = [], threading.Barrier(2)

    def search():
        both.wait()
        tuned([0.1, 0.2], trials(0.1, asked), tmp_path / "rates.json")

    runs = [threading.Thread(target=search) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert asked == [0.1, 0.2]


def test_a_rate_at_which_training_fails_counts_as_zero(tmp_path):
    def trial(rate):
        if rate > 5e-3:
            raise FloatingPointError("the loss is no number")
        return rate

    tried = bracketed([1.5e-3, 4.5e-3], trial, tmp_path / "search.json")
    assert best(tried) == 4.5e-3
    assert tried["0.013"] == 0


def test_a_search_without_an_end_stops(tmp_path):
    assert len(bracketed([1.5e-3, 4.5e-3], lambda rate: rate, tmp_path / "search.json")) == 9


def test_of_equal_rates_the_middle_one_is_best():
    assert best({"0.001": 0.9, "0.003": 0.9, "0.009": 0.9, "0.027": 0.5}) == 0.003


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"0.1": "high"}', '{"0.1": NaN}', '{"inf": 0.5}',
                                  '{"fast": 0.5}', "\xff", "[" * 9999])
@pytest.mark.parametrize("call", [tuned, bracketed])
def test_damaged_notes_of_trials_are_named_and_the_advice_works(tmp_path, call, text):
    path = tmp_path / "search.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"search.json is damaged as a note of what trials gave \(.*\); remove it"):
        call([0.1, 0.2, 0.3], lambda rate: 0.5, path)
    path.unlink()
    assert set(call([0.1, 0.2, 0.3], lambda rate: 0.5, path)) == {"0.1", "0.2", "0.3"}


@pytest.mark.parametrize("parts", [{}, {"model": {"weight": torch.ones(2, 2)}}])
def test_a_file_that_is_no_model_that_was_kept_is_named_and_the_advice_works(tmp_path, parts):
    path, net = tmp_path / "kept.safetensors", nn.Linear(2, 2)
    checkpoint.save(path, {} if parts else {"measured": 1}, **parts)
    with pytest.raises(ValueError, match=r"kept.safetensors is no model .*; remove it, and it is trained again"):
        once(net, path, lambda: 3)
    path.unlink()
    assert once(net, path, lambda: 3) == 3
    assert once(net, path, lambda: pytest.fail("not kept")) == 3


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
