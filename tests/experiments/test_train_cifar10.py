"""The CIFAR-10 experiment, on scenes and in two steps: what it writes is what it measured."""

import pytest
import torch

from experiments import train_cifar10
from vitlite import cost, data, weights
from vitlite.train import evaluate, recipes

TINY = {
    "model": {"patch_size": 4, "num_classes": 10, "embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 32,
              "pool": "mean"},
    "stems": {"plain": None, "conv": {"stem": "resnet", "embed_dim": 32, "width": 8, "blocks": 1}},
    "stages": {stem: [[16, "quick", 2], [24, "quick", 2]] for stem in ("plain", "conv")},
    "seeds": [0, 1],
    "device": "cpu",
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Scenes for CIFAR-10, recipes of two steps, and a folder of its own for checkpoints."""
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, image_size: load("scenes", train_images=64, held_out=20,
                                                                    image_size=image_size))
    monkeypatch.setattr(recipes, "get", lambda name: recipes.RECIPES[name].replace(batch_size=16))
    monkeypatch.setattr(train_cifar10, "CHECKPOINTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("stem", ["plain", "conv"])
def test_what_is_saved_is_what_was_measured(small, stem):
    result = train_cifar10.run({"stem": stem, "seed": 0}, TINY, small / "work")
    saved = weights.load(small / f"train_cifar10-{stem}.safetensors")
    sets = data.load("cifar10", image_size=24)
    assert evaluate(saved, sets.test).accuracy == result["test_accuracy"]
    assert sum(map(sum, result["test_confusion"])) == 20
    assert sum(row[i] for i, row in enumerate(result["test_confusion"])) == pytest.approx(20 * result["test_accuracy"])
    assert result["parameters"] == cost.parameters(saved)
    assert result["images_seen"] == 2 * 2 * 16


@pytest.mark.parametrize("stem", ["plain", "conv"])
def test_at_full_scale_there_are_at_most_3m_parameters(stem):
    config = train_cifar10.SCALES["full"]
    with torch.device("meta"):
        assert cost.parameters(train_cifar10.build(stem, config, 32)) < 3e6


def test_the_summary_has_a_row_for_each_stem():
    same = {"val_accuracy": 0.5, "seconds": 1.0}
    runs = [{"stem": stem, "seed": seed, "test_accuracy": accuracy} | same
            for stem, seed, accuracy in (("plain", 0, 0.6), ("conv", 0, 0.8), ("plain", 1, 0.7))]
    summary = train_cifar10.summarise(runs)
    assert summary["plain"]["test_accuracy"] == pytest.approx(0.65)
    assert summary["conv"]["test_accuracy"] == 0.8
