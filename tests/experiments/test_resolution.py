"""A model at a higher resolution: what becomes of its position table, and what the experiment tells of it."""

import pytest
import torch
from usual import check_the_card_tells_the_grid

from experiments import resolution
from vitlite import ViT, ViTConfig, position
from vitlite.position import CONVENTIONS

TINY = resolution.SCALES["quick"] | {"vit": resolution.VIT | {"embed_dim": 24, "depth": 1, "mlp_dim": 24}}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=16, **TINY["vit"]))
    with torch.no_grad():
        model.position.normal_()
    return model


@pytest.mark.parametrize("table", CONVENTIONS)
def test_a_convention_is_the_librarys(model, table):
    larger = resolution.enlarged(model, 24, table, seed=0)
    expected = position.interpolate(model.position, (4, 4), (6, 6), 0, table)
    torch.testing.assert_close(larger.position, expected)


def test_nearest_neighbours_repeat_the_old_positions(model):
    old = model.position.detach().unflatten(1, (4, 4))
    new = resolution.enlarged(model, 32, "nearest", seed=0).position.detach().unflatten(1, (8, 8))
    assert torch.equal(new, old.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2))


def test_a_new_table_is_as_before_training_and_all_else_stays(model):
    larger = resolution.enlarged(model, 24, "new", seed=0)
    assert larger.position.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(larger.position, resolution.enlarged(model, 24, "new", seed=0).position)
    assert all(torch.equal(a, b) for name, a in model.state_dict().items()
               if "position" not in name for b in [larger.state_dict()[name]])


def test_runs_that_began_from_two_models_are_not_compared():
    run = {"data": "scenes", "seed": 0, "image_size": 16, "table": "same", "at_once_accuracy": 0.5, "flops": 1,
           "tokens": 1, "saved_bytes": 1, "pretrained_accuracy": 0.5}
    with pytest.raises(ValueError, match=r"scenes, seed 0, began from two models \(0.5 and 0.4 .*on one machine"):
        resolution.summarise([run, run | {"table": "new", "pretrained_accuracy": 0.4}])
    older = {key: value for key, value in run.items() if key != "pretrained_accuracy"}
    with pytest.raises(ValueError, match="two models"):
        resolution.summarise([run, older])
    resolution.summarise([older, older | {"seed": 1}])


@pytest.mark.parametrize("scale", resolution.SCALES)
def test_tables_that_are_not_trained_further_are_looked_at_with_some_seeds(scale):
    config = resolution.SCALES[scale]
    seeds = {}
    for point in resolution.points(config):
        seeds.setdefault((point["data"], point["image_size"], point["table"]), []).append(point["seed"])
    assert len(seeds) == len(config["data"]) * (1 + len(config["tables"]) * (len(config["sizes"]) - 1))
    for (_, _, table), theirs in seeds.items():
        assert theirs == config["seeds" if table in ["same", *config["finetuned"]] else "at_once_seeds"]


def test_the_card_tells_the_grid():
    check_the_card_tells_the_grid(resolution)


@pytest.mark.parametrize(("size", "table", "message"), [
    (24, "bicubic", "table is 'bicubic'; expected one of 'jax', .*'nearest', 'new', 'same'"),
    (18, "jax", "image is 18×18, patch size is 4: 18 is not a multiple of 4"),
])
def test_what_does_not_exist_or_fit_is_refused(model, size, table, message):
    with pytest.raises(ValueError, match=message):
        resolution.enlarged(model, size, table, seed=0)


def test_a_run_tells_what_it_cost_and_is_the_same_twice(tmp_path):
    points = resolution.points(TINY)
    assert points[0] == {"data": "scenes", "image_size": 16, "table": "same", "seed": 0}
    assert len(points) == 1 + len(resolution.TABLES)
    told = {point["table"]: resolution.run(point, TINY, tmp_path) for point in points[:2] + points[-1:]}
    assert {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
            "test_accuracy"} <= told["jax"].keys()
    assert (told["same"]["tokens"], told["jax"]["tokens"]) == (16, 36)
    assert told["jax"]["saved_bytes"] > 2 * told["same"]["saved_bytes"]
    assert len({run["pretrained_accuracy"] for run in told.values()}) == 1, "all begin from one model"
    again = resolution.run(points[1], TINY, tmp_path / "again")
    assert {**again, "seconds": 0} == {**told["jax"], "seconds": 0}
    runs = [point | told[point["table"]] for point in points if point["table"] in told]
    summary = resolution.summarise(runs)
    accuracy = summary["accuracy"]["scenes"]
    assert accuracy["24"]["jax"]["at_once"]["mean"] == told["jax"]["at_once_accuracy"]
    assert accuracy["16"]["same"]["finetuned"]["seeds"] == 1
    over = {(row["theirs"], row["when"]): row["mean"] for row in summary["jax_over"]}
    assert over["new", "at_once"] == told["jax"]["at_once_accuracy"] - told["new"]["at_once_accuracy"]
    assert over["same", "finetuned"] == told["jax"]["finetuned_accuracy"] - told["same"]["finetuned_accuracy"]
    unmoved = [run | {"at_once_accuracy": run["test_accuracy"]} for run in runs]  # fine-tuning that changed nothing
    for size, table in (("16", "same"), ("24", "jax")):
        assert "finetuned" in resolution.summarise(unmoved)["accuracy"]["scenes"][size][table]
