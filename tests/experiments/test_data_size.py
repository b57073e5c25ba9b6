"""How much data: nested subsets, equal steps and equal passes, and a tuned rate for each family."""

import json

import pytest
import torch

from experiments import data_size, records, runner
from experiments.families import build
from vitlite import cost

QUICK, CPU, FULL = (data_size.SCALES[scale] for scale in ("quick", "cpu", "full"))
TINY = QUICK | {
    "data": {"scenes": {"train_images": 80, "held_out": 20, "image_size": 16}},
    "recipe": QUICK["recipe"] | {"batch_size": 16},
    "steps": 4,
    "grid": [{"data": "scenes", "length": "steps", "train_images": [20, 80], "families": ["vit", "resnet"]},
             {"data": "scenes", "length": "epochs", "train_images": [40], "families": ["vit"]}],
    "like": {"scenes": 80},
    "tuned_at": {"scenes": [20, 80]},
    "search_steps": 1,
}


@pytest.mark.parametrize("scale", data_size.SCALES)
def test_the_families_have_equally_many_parameters(scale):
    config = data_size.SCALES[scale]
    with torch.device("meta"):
        sizes = {family: cost.parameters(build(family, config, seed=0)) for family in data_size.FAMILIES}
    assert max(sizes.values()) <= 1.05 * min(sizes.values()), sizes
    if scale != "quick":
        assert sizes["vit"] == pytest.approx(0.45e6, rel=0.03)


def test_the_card_says_how_many_steps_are_taken():
    taken = sum(data_size.steps(point, FULL) for point in data_size.points(FULL))
    assert f"{taken / 1e6:.1f} million steps" in runner.card(data_size)["cost"]


@pytest.mark.parametrize("config", [QUICK, CPU, FULL])
def test_equal_epochs_are_equal_and_meet_equal_steps_at_one_size(config):
    batch = config["recipe"]["batch_size"]
    for name, like in config["like"].items():
        mine = [point for point in data_size.points(config) if point["data"] == name]
        passes = {data_size.steps(p, config) * batch / p["train_images"] for p in mine if p["length"] == "epochs"}
        assert passes == {config["steps"] * batch / like}
        assert like in {p["train_images"] for p in mine if p["length"] == "steps"}
        assert like not in {p["train_images"] for p in mine if p["length"] == "epochs"}, "that run is made already"
    assert {data_size.steps(p, config) for p in data_size.points(config) if p["length"] == "steps"} == {config["steps"]}


@pytest.mark.parametrize("config", [CPU, FULL])
def test_every_size_has_one_nearest_tuned_size(config):
    for point in data_size.points(config):
        size, sizes = point["train_images"], config["tuned_at"][point["data"]]
        ratios = sorted(max(size / other, other / size) for other in sizes)
        assert ratios[0] < ratios[1]
        near = data_size.nearest(size, sizes)
        assert max(size / near, near / size) == ratios[0]


def test_more_images_than_there_are_are_refused(tmp_path):
    point = {"data": "scenes", "length": "steps", "train_images": 100, "family": "vit", "seed": 0}
    with pytest.raises(ValueError, match="subset of 100 images was asked for.*at most the 80"):
        data_size.run(point, TINY, tmp_path)


def test_it_runs_is_measured_and_comes_out_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setitem(data_size.SCALES, "quick", TINY)
    runner.run("data_size", "quick", folder=tmp_path, work=tmp_path / "work")
    record = records.read("data_size", tmp_path)
    assert [run["steps"] for run in record["runs"]] == [4, 4, 4, 4, 2]
    assert [run["epochs"] for run in record["runs"]] == [3.2, 3.2, 0.8, 0.8, 0.8]
    assert not list((tmp_path / "work").rglob("*.safetensors")), "no checkpoint is left"
    for run in record["runs"]:
        assert {"parameters", "images_seen", "seconds", "train_flops", "val_accuracy", "test_accuracy"} <= set(run)
        assert 2.5 * run["flops"] * run["images_seen"] < run["train_flops"] <= 3 * run["flops"] * run["images_seen"]
        assert set(run["search"]) == {str(rate) for rate in TINY["learning_rates"][run["family"]]}
        assert run["search"][str(run["learning_rate"])] == max(run["search"].values())
    assert set(record["summary"]["scenes"]["epochs"]) == {"40", "80"}, "80 images are seen as often in equal steps"
    point = data_size.points(TINY)[3]
    again = data_size.run(point, TINY, tmp_path / "again")
    before = record["runs"][3]
    assert {key: before[key] for key in again if key != "seconds"} == {
        key: value for key, value in json.loads(json.dumps(again)).items() if key != "seconds"}


def made(family, seed, accuracy, images=1_000, length="steps", epochs=8.0):
    return {"data": "cifar10", "length": length, "train_images": images, "family": family, "seed": seed,
            "test_accuracy": accuracy, "epochs": epochs, "seconds": 1.0, "learning_rate": 1e-3, "train_flops": 5,
            "parameters": 9}


def test_families_are_compared_seed_by_seed():
    runs = [made("vit", 0, 0.30), made("resnet", 0, 0.36), made("vit", 1, 0.34), made("resnet", 1, 0.40)]
    told = data_size.summarise(runs)["cifar10"]["steps"]["1000"]
    assert told["vit"]["test_accuracy"]["mean"] == pytest.approx(0.32)
    assert told["vit"]["over_resnet"]["mean"] == pytest.approx(-0.06)
    assert told["vit"]["over_resnet"]["low"] == pytest.approx(-0.06), "the same lead with either seed: no spread"
    assert told["vit"]["test_accuracy"]["low"] < 0.1, "of two seeds, a wide interval"
    assert told["resnet"]["over_resnet"] is None


def test_a_grid_that_is_not_complete_is_summarised_too():
    runs = [made("vit", 0, 0.3), made("vit", 0, 0.2, images=500, epochs=16.0), made("hybrid", 1, 0.5),
            made("resnet", 0, 0.1, images=500, length="epochs")]
    told = data_size.summarise(runs)["cifar10"]
    assert list(told["steps"]) == ["500", "1000"], "from few images to many"
    assert told["steps"]["1000"]["vit"]["over_resnet"] is None
    assert list(told["epochs"]) == ["500", "1000"]
    assert list(told["epochs"]["500"]) == ["resnet"], "the ViT's run on 500 images passed over them more often"
    assert data_size.summarise([]) == {}
