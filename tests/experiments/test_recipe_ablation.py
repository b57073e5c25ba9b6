"""From the naive loop to the recipe: each rung is one change, and the gain is taken rung by rung."""

import dataclasses

import pytest

from experiments import recipe_ablation, records, runner
from vitlite.train import recipes

CPU = recipe_ablation.SCALES["cpu"]


@pytest.mark.parametrize("scale", recipe_ablation.SCALES)
def test_it_starts_naive_and_each_rung_makes_its_change_and_no_other(scale):
    config = recipe_ablation.SCALES[scale]
    rungs = [recipe_ablation.recipe(name, config) for name, _ in config["ladder"]]
    naive = rungs[0]
    assert (naive.optimizer, naive.schedule, naive.warmup_steps, naive.clip_norm) == ("sgd", "constant", 0, None)
    assert not any((naive.flip, naive.crop_padding, naive.cutmix, naive.mixup, naive.average, naive.weight_decay))
    for (_, change), before, after in zip(config["ladder"][1:], rungs, rungs[1:], strict=False):
        differ = {field.name for field in dataclasses.fields(after)
                  if getattr(before, field.name) != getattr(after, field.name)}
        assert differ == {*change, "name"}
    assert len({(rung.steps, rung.batch_size) for rung in rungs}) == 1, "equal steps"


def test_at_full_scale_the_top_rung_is_the_strong_recipe_but_for_its_length_and_erasing():
    top = recipe_ablation.recipe("averaged weights", recipe_ablation.SCALES["full"])
    strong = recipes.get("cifar10")
    for field in ("optimizer", "batch_size", "learning_rate", "schedule", "weight_decay", "clip_norm", "average",
                  "label_smoothing", "flip", "crop_padding", "trivial_augment", "cutmix", "mixup"):
        assert getattr(top, field) == getattr(strong, field), field


def test_the_whole_ladder_stands_before_the_second_seed():
    points = recipe_ablation.points(CPU)
    assert [point["variant"] for point in points[:9]] == [name for name, _ in CPU["ladder"]]
    assert [point["seed"] for point in points] == [0] * 9 + [1] * 9 + [2] * 9


def test_a_gain_is_taken_between_runs_of_one_seed():
    def made(variant, seed, accuracy):
        same = dict.fromkeys(("train_accuracy", "val_accuracy", "seconds"), 1.0)
        return {"variant": variant, "seed": seed, "test_accuracy": accuracy} | same

    summary = recipe_ablation.summarise([made("a", 0, 0.3), made("b", 0, 0.5), made("a", 1, 0.4), made("b", 1, 0.5)])
    assert summary["a"]["test_accuracy"] == pytest.approx(0.35)
    assert summary["a"]["test_spread"] == pytest.approx(0.005**0.5)
    assert summary["a"]["gain"] is None
    assert summary["b"]["gain"] == pytest.approx(0.15)
    assert summary["b"]["gain_spread"] == pytest.approx(0.005**0.5)
    assert recipe_ablation.summarise([made("a", 0, 0.3)])["a"]["test_spread"] is None


def test_it_runs_from_the_first_rung_to_the_last(tmp_path, monkeypatch):
    ladder = recipe_ablation.SCALES["quick"]["ladder"]
    short = recipe_ablation.SCALES["quick"] | {"steps": 4, "ladder": [ladder[0], ["all", _all(ladder)]]}
    monkeypatch.setitem(recipe_ablation.SCALES, "quick", short)
    runner.run("recipe_ablation", "quick", folder=tmp_path, work=tmp_path / "work")
    naive, full = records.read("recipe_ablation", tmp_path)["runs"]
    assert (naive["variant"], full["variant"]) == ("naive: SGD, constant rate", "all")
    assert naive["images_seen"] == full["images_seen"] == 4 * 64
    assert naive["train_flops"] == full["train_flops"] > 0
    assert full["history"]["val_step"] == [2, 4]
    assert not list((tmp_path / "work").rglob("*.safetensors")), "no checkpoint is left"


def _all(ladder: list) -> dict:
    fields: dict = {}
    for _, change in ladder[1:]:
        fields |= change
    return fields | {"warmup_steps": 1}
