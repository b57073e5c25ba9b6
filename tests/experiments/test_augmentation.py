"""Does a ViT need augmentation: levels that differ in nothing else, on few images and on all, short and long."""

import dataclasses
import json

import pytest

from experiments import augmentation, records, runner
from vitlite.train import recipes

QUICK, FULL = augmentation.SCALES["quick"], augmentation.SCALES["full"]
TINY = QUICK | {
    "data": QUICK["data"] | {"train_images": 80, "held_out": 20},
    "recipe": QUICK["recipe"] | {"batch_size": 16, "validate_every": 2},
    "grid": [["vit", 20, 2], ["resnet", 80, 2], ["vit", 20, 6]],
    "tuned_at": 20,
    "search_steps": 1,
    "learning_rates": [1e-3, 2e-3],
}


def fields(recipe, other):
    names = {field.name for field in dataclasses.fields(recipe)}
    return {name for name in names if getattr(recipe, name) != getattr(other, name)}


@pytest.mark.parametrize("scale", augmentation.SCALES)
def test_levels_differ_in_augmentation_and_in_nothing_else(scale):
    config = augmentation.SCALES[scale]
    none, light, full = (augmentation.recipe(level, 30, 1e-3, config) for level in ("none", "light", "full"))
    off = (none.flip, none.crop_padding, none.trivial_augment, none.erase, none.cutmix, none.mixup)
    assert not any(off)
    assert fields(none, light) == {"name", "flip", "crop_padding"}
    assert fields(light, full) == {"name", "trivial_augment", "erase", "cutmix", "mixup"}


def test_full_augmentation_is_that_of_the_strong_recipe():
    full, strong = augmentation.recipe("full", 30, 1e-3, FULL), recipes.get("cifar10")
    for field in ("flip", "crop_padding", "trivial_augment", "erase", "cutmix", "mixup"):
        assert getattr(full, field) == getattr(strong, field), field


def test_it_runs_is_measured_and_comes_out_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setitem(augmentation.SCALES, "quick", TINY)
    runner.run("augmentation", "quick", folder=tmp_path, work=tmp_path / "work")
    record = records.read("augmentation", tmp_path)
    assert len(record["runs"]) == 9
    assert not list((tmp_path / "work").rglob("*.safetensors")), "no checkpoint is left"
    for run in record["runs"]:
        assert {"parameters", "images_seen", "seconds", "train_flops", "val_accuracy", "test_accuracy"} <= set(run)
        assert run["epochs"] == 16 * run["steps"] / run["train_images"]
        assert run["search"][str(run["learning_rate"])] == max(run["search"].values())
    assert record["runs"][-1]["curve"]["val_step"] == [2, 4, 6], "a curve, to see what a longer run gains"
    assert set(record["summary"]["vit"]["20"]) == {"2", "6"}
    point = augmentation.points(TINY)[5]
    assert (point["family"], point["augmentation"]) == ("resnet", "full")
    again = json.loads(json.dumps(augmentation.run(point, TINY, tmp_path / "again")))
    before = record["runs"][5]
    assert {key: before[key] for key in again if key != "seconds"} == {
        key: value for key, value in again.items() if key != "seconds"}


def made(level, seed, accuracy, steps=300):
    return {"family": "vit", "train_images": 1_000, "steps": steps, "augmentation": level, "seed": seed,
            "test_accuracy": accuracy, "train_accuracy": 0.5, "epochs": 3.0, "seconds": 1.0}


def test_a_gain_is_taken_between_runs_of_one_seed():
    runs = [made("none", 0, 0.30), made("full", 0, 0.25), made("none", 1, 0.40), made("full", 1, 0.35)]
    told = augmentation.summarise(runs)["vit"]["1000"]["300"]
    assert told["full"]["over_none"]["mean"] == pytest.approx(-0.05)
    assert told["full"]["over_none"]["high"] == pytest.approx(-0.05), "the same loss with either seed: no spread"
    assert told["none"]["over_none"] is None
    assert told["none"]["test_accuracy"]["high"] > 0.9, "of two seeds, a wide interval"


def test_a_grid_that_is_not_complete_is_summarised_too():
    told = augmentation.summarise([made("none", 0, 0.3), made("light", 1, 0.4), made("full", 0, 0.5, steps=900)])
    assert told["vit"]["1000"]["300"]["light"]["over_none"] is None, "no seed in common"
    assert told["vit"]["1000"]["900"]["full"]["over_none"] is None
    assert augmentation.summarise([]) == {}
