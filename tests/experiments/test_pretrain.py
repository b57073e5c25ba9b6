"""Pre-training on scenes: what it is compared with, by how much computing, and that every start is treated alike."""

import json

import pytest
import torch
from usual import USUAL, check_the_card_tells_the_grid

from experiments import pretrain, records, runner
from experiments.families import build
from vitlite import cost

QUICK, CPU, FULL = (pretrain.SCALES[scale] for scale in ("quick", "cpu", "full"))
TINY = QUICK | {
    "scenes": {"held_out": 20, "image_size": 16}, "pretraining_images": [20, 60],
    "data": QUICK["data"] | {"train_images": 60, "held_out": 40}, "labels": [10, 40], "validation_images": 20,
    "pretraining_steps": 3, "search_steps": 1, "steps": 2,
    "recipe": QUICK["recipe"] | {"batch_size": 10},  # no set is smaller than a batch
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def made(work):
    """Every run of one seed."""
    return [point | pretrain.run(point, TINY, work) for point in pretrain.points(TINY)]


def of(made, family, images, steps):
    return next(run for run in made
                if (run["family"], run["pretraining_images"], run["steps"]) == (family, images, steps))


def test_the_card_tells_the_grid():
    check_the_card_tells_the_grid(pretrain)
    assert FULL["pretraining_images"] == [10_000, 100_000, 1_000_000]


@pytest.mark.parametrize("config", [QUICK, CPU, FULL])
def test_one_training_from_scratch_has_the_steps_of_pretraining_too(config):
    points = pretrain.points(config | {"seeds": [3, 4]})
    assert [point["seed"] for point in points] == sorted(point["seed"] for point in points), "the first comes whole"
    scratch = {point["steps"] for point in points if not point["pretraining_images"]}
    assert scratch == {config["steps"], config["steps"] + config["pretraining_steps"]}
    assert {point["steps"] for point in points if point["pretraining_images"]} == {config["steps"]}


@pytest.mark.parametrize("config", [CPU, FULL])
def test_the_networks_have_equally_many_parameters(config):
    with torch.device("meta"):
        vit, resnet = (cost.parameters(build(family, config, 0)) for family in config["families"])
    assert resnet == pytest.approx(vit, rel=0.05)


def test_every_start_sees_as_many_images_and_tries_as_many_rates(made):
    for run in made:
        assert run.keys() >= USUAL
        assert [told["train_images"] for told in run["fine_tuned"]] == [10, 40]
        for told in run["fine_tuned"]:
            assert told.keys() >= USUAL
            assert told["steps"] == run["steps"]
            assert set(told["search"]) == {str(rate) for rate in TINY["rates"]}
            assert told["search"][str(told["learning_rate"])] == max(told["search"].values())
    for family in TINY["families"]:
        long, short = of(made, family, 0, 5), of(made, family, 0, 2)
        whole = of(made, family, 60, 2)
        assert long["images_seen"] == whole["images_seen"] + whole["pretrained"]["images_seen"]
        assert long["train_flops"] == whole["train_flops"] + whole["pretrained"]["train_flops"]
        assert [told["search"] for told in long["fine_tuned"]] == [told["search"] for told in short["fine_tuned"]]
        assert short["pretrained"] is None
        assert (whole["pretrained"]["train_images"], whole["pretrained"]["steps"]) == (60, 3)
    json.dumps(made)


def test_every_training_begins_at_a_head_of_zeros_and_at_its_own_pretraining(made, work, monkeypatch):
    begun = []
    monkeypatch.setattr(pretrain, "trained", lambda model, *_, **__: begun.append(model) or {})
    for images in (0, 20, 60):
        pretrain.run({"pretraining_images": images, "steps": 2, "family": "vit", "seed": 0}, TINY, work)
    assert all(not values.any() for model in begun for values in model.head.parameters())
    first = [model.patch_embed.projection.weight for model in begun]  # of each start, one a number of labels
    assert torch.equal(first[0], build("vit", TINY, 0).patch_embed.projection.weight)
    for start in (0, 2, 4):
        assert torch.equal(first[start], first[start + 1])
        assert not torch.equal(first[start], first[start - 2])


def test_the_rate_is_chosen_without_the_test_images(tmp_path, monkeypatch):
    """What measures them is called for the runs alone."""
    seen = []
    monkeypatch.setattr(pretrain, "trained", lambda model, sets, recipe, **_: seen.append(recipe.steps) or {})
    pretrain.run({"pretraining_images": 0, "steps": 2, "family": "vit", "seed": 0}, TINY, tmp_path)
    assert seen == [2, 2], "one for each number of labels, none for a rate"


def test_a_run_is_repeated_bit_for_bit(made, tmp_path):
    again = pretrain.run({"pretraining_images": 20, "steps": 2, "family": "resnet", "seed": 0}, TINY, tmp_path)
    first = of(made, "resnet", 20, 2)
    for key in ("val_accuracy", "test_accuracy", "curve", "search"):
        assert [told[key] for told in again["fine_tuned"]] == [told[key] for told in first["fine_tuned"]]
    assert again["pretrained"]["test_accuracy"] == first["pretrained"]["test_accuracy"]


@pytest.mark.parametrize("labels", [9, 61])
def test_fewer_labels_than_classes_are_refused_before_anything_is_trained(tmp_path, labels):
    point = {"pretraining_images": 20, "steps": 2, "family": "vit", "seed": 0}
    with pytest.raises(ValueError, match=f"subset of {labels} images .* each of the 10 classes and at most the 60"):
        pretrain.run(point, TINY | {"labels": [10, labels]}, tmp_path)
    assert not list(tmp_path.iterdir())


def run(family, seed, images, steps, *accuracies):
    told = [{"train_images": labels, "steps": steps, "test_accuracy": accuracy}
            for labels, accuracy in zip((500, 5_000), accuracies, strict=False)]
    return {"family": family, "seed": seed, "pretraining_images": images, "steps": steps, "fine_tuned": told}


def test_gains_are_taken_within_a_seed_a_family_and_a_number_of_labels():
    runs = [run("vit", 0, 0, 9, 0.2, 0.3), run("vit", 1, 0, 9, 0.3), run("vit", 0, 0, 99, 0.25, 0.5),
            run("vit", 0, 10_000, 9, 0.3, 0.4), run("vit", 1, 10_000, 9, 0.5),
            run("resnet", 0, 0, 9, 0.3, 0.5), run("resnet", 0, 10_000, 9, 0.35, 0.5)]
    told = pretrain.summarise(runs)

    def gain(family, labels, steps):
        return next(row for row in told["gain"] if (row["family"], row["train_images"], row["other_steps"]) == (
            family, labels, steps))

    few = gain("vit", 500, 9)
    assert (few["mean"], few["seeds"]) == (pytest.approx(0.15), 2), "0.1 of one seed, 0.2 of the other"
    assert gain("vit", 500, 99)["mean"] == pytest.approx(0.05), "seed 0 alone was trained for long"
    assert gain("vit", 5_000, 99)["mean"] == pytest.approx(-0.1)
    assert all((row["pretraining_images"], row["other_images"]) == (10_000, 0) for row in told["gain"])
    more = {(row["train_images"], row["other_steps"]): (row["mean"], row["seeds"]) for row in told["vit_gains_more"]}
    assert more == {(500, 9): (pytest.approx(0.05), 1), (5_000, 9): (pytest.approx(0.1), 1)}, "no long ResNet yet"
    assert len(told["accuracy"]) == 10
    assert pretrain.summarise([]) == {"accuracy": [], "gain": [], "vit_gains_more": []}


def test_more_scenes_are_compared_with_fewer():
    told = pretrain.summarise([run("vit", 0, 10_000, 9, 0.2), run("vit", 0, 100_000, 9, 0.25)])["gain"]
    assert [(row["pretraining_images"], row["other_images"]) for row in told] == [(100_000, 10_000)]
    assert told[0]["mean"] == pytest.approx(0.05)


def test_it_makes_a_record(made, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "run", lambda point, *_: next(run for run in made if point.items() <= run.items()))
    monkeypatch.setitem(pretrain.SCALES, "quick", TINY)
    runner.run("pretrain", "quick", folder=tmp_path, work=tmp_path / "work")
    record = records.read("pretrain", tmp_path)
    assert [len(record["summary"][key]) for key in ("accuracy", "gain", "vit_gains_more")] == [16, 20, 10]
