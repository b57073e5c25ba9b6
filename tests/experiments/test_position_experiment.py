"""Every kind of position trains in the same way from the same weights, and is compared seed by seed."""

import pytest
import torch

from experiments import position, statistics
from vitlite import data

KINDS = position.KINDS
TINY = position.SCALES["quick"] | {"steps": 4}


@pytest.fixture(scope="module", autouse=True)
def sets():
    """Fewer images than at quick scale, rendered once."""
    before, few = position.loaded, data.load("scenes", train_images=80, held_out=40, image_size=16)
    position.loaded = lambda name, **given: few
    yield few
    position.loaded = before


def test_all_kinds_start_from_the_same_weights_but_the_positions():
    models = {kind: position.new_model(kind, TINY, seed=1) for kind in KINDS}
    plain = models["none"].state_dict()
    assert not any("position" in name for name in plain)
    for kind, model in models.items():
        weights = model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in plain.items())
        extra = {name for name in weights if name not in plain}
        assert all("position" in name or "relative" in name for name in extra), kind
        assert bool(extra) == (kind != "none")
    assert not torch.equal(plain["patch_embed.projection.weight"],
                           position.new_model("none", TINY, seed=2).patch_embed.projection.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_patches_are_the_same_to_a_model_without_positions_alone(kind, tmp_path):
    point = {"data": "scenes", "position": kind, "seed": 0}
    first, again = (position.run(point, TINY, tmp_path) for _ in range(2))
    assert {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
            "test_accuracy", "shuffled_accuracy"} <= set(first)
    assert first["images_seen"] == 4 * 64
    assert first | {"seconds": 0} == again | {"seconds": 0}, "one seed, one result"
    assert not list(tmp_path.iterdir()), "no checkpoint is left"
    if kind == "none":
        assert first["shuffled_accuracy"] == pytest.approx(first["test_accuracy"], abs=1 / 40 + 1e-9)


def test_only_the_model_without_positions_cannot_tell_shuffled_patches(sets):
    images = sets.test.images[:8].float() / 255
    shuffled = position.shuffle(images, 4, torch.Generator().manual_seed(0), each=True)
    for kind in KINDS:
        model = position.new_model(kind, TINY, seed=0)
        if kind == "relative":  # its keys start as a whisper
            with torch.no_grad():
                model.blocks[0].attention.relative.offsets.mul_(50)
        same = torch.allclose(model.features(images), model.features(shuffled), atol=1e-5)
        assert same == (kind == "none"), kind


def made(kind, seed, accuracy, name="cifar10"):
    same = {"shuffled_accuracy": 0.2, "parameters": 7, "seconds": 1.0}
    return {"data": name, "position": kind, "seed": seed, "test_accuracy": accuracy} | same


def test_kinds_are_compared_seed_by_seed():
    runs = [made("none", 0, 0.40), made("learned-1d", 0, 0.50), made("sincos-2d", 0, 0.53),
            made("none", 1, 0.30), made("learned-1d", 1, 0.40), made("sincos-2d", 1, 0.45)]
    summary = position.summarise(runs)["cifar10"]
    assert summary["learned-1d"]["test_accuracy"]["mean"] == pytest.approx(0.45)
    assert summary["learned-1d"]["over_none"]["low"] == pytest.approx(0.1), "no spread, though the seeds differ"
    assert summary["sincos-2d"]["over_learned-1d"]["mean"] == pytest.approx(0.04)
    assert summary["sincos-2d"]["over_learned-1d"]["low"] < 0.03, "the spread of the differences"
    assert summary["none"]["over_none"] is None


def test_an_unfinished_grid_is_summarised_as_far_as_it_goes():
    summary = position.summarise([made("learned-1d", 0, 0.5), made("none", 1, 0.4), made("none", 0, 0.3, "scenes")])
    assert summary["cifar10"]["learned-1d"]["over_none"] is None, "no seed in common"
    assert summary["cifar10"]["learned-1d"]["test_accuracy"]["low"] is None
    assert set(summary["scenes"]) == {"none"}
    assert statistics.paired([], []) is None


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="position is 'learned-3d'.*learned-1d"):
        position.new_model("learned-3d", TINY, seed=0)
