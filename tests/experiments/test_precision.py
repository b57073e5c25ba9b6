"""Both precisions train the same model on the same images, and their accuracies are compared seed by seed."""

import pytest
import torch

from experiments import precision, records, runner
from vitlite.train import trainer


def made(name, seed, accuracy):
    return {"precision": name, "seed": seed, "test_accuracy": accuracy, "seconds": 1.0}


def test_both_precisions_of_a_seed_stand_before_the_next_seed():
    points = precision.points(precision.SCALES["cpu"])
    assert [(point["precision"], point["seed"]) for point in points[:3]] == [
        ("float32", 0), ("autocast", 0), ("float32", 1)]
    assert len(points) == 6


def test_the_difference_is_taken_by_seed():
    runs = [made("float32", 0, 0.50), made("autocast", 0, 0.51), made("float32", 1, 0.60), made("autocast", 1, 0.61)]
    difference = precision.summarise(runs)["autocast_over_float32"]
    assert difference["mean"] == pytest.approx(0.01)
    assert difference["high"] - difference["low"] < 1e-9, "seeds differ by ten points, the precisions by one with each"
    assert precision.summarise(runs[:1])["autocast_over_float32"] is None


def test_autocast_changes_the_numbers_and_float32_does_not_use_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "autocast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: torch.bfloat16)
    record = records.read("precision", runner.run("precision", "quick", folder=tmp_path, work=tmp_path).parent)
    single, reduced = record["runs"]
    assert (single["dtype"], reduced["dtype"]) == ("float32", "bfloat16")
    assert single["parameters"] == reduced["parameters"]
    assert single["images_seen"] == reduced["images_seen"] == 6 * 32
