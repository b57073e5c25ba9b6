"""A masked autoencoder, then labels: equal compute, and what is kept."""

import pytest
from usual import USUAL, quick_record

from experiments import mae
from experiments.families import build
from vitlite import weights


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return quick_record("mae", tmp_path_factory.mktemp("mae"))


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_the_encoder_hides_three_quarters_and_its_step_is_cheaper(scale):
    config = mae.SCALES[scale]
    assert config["mae"]["mask_ratio"] == 0.75
    flops = mae._flops_per_image(build("vit", config, 0), config)
    assert 2 < flops["none"] / flops["mae"] < 4, "a quarter for the encoder, and the decoder on top"


def test_all_ways_have_the_same_compute(record):
    spent = [told["1.0"]["train_flops"] for told in record["summary"].values()]
    assert max(spent) < 1.05 * min(spent)
    steps = {name: told["steps_before"] for name, told in record["summary"].items()}
    assert steps["none"] == 0
    assert steps["mae"] > steps["masked"] > 1


def test_a_run_has_the_usual_keys_and_the_table_all_ways(record):
    for run in record["runs"]:
        assert run.keys() >= USUAL | {"probe", "fine_tuned", "pretrained"}
        assert [one["fraction"] for one in run["fine_tuned"]] == [0.1, 1.0]
        assert [one["train_images"] for one in run["fine_tuned"]] == [40, 400]
    table = mae.show(record, "table")
    assert table.count("\n") == 4
    assert all(name in table for name in mae.STARTS.values())


def test_the_first_seeds_model_is_kept_with_its_decoder(tmp_path):
    config = mae.SCALES["quick"] | {"pretraining_steps": 1, "steps": {"1.0": 1}}
    mae.run({"start": "mae", "seed": 0}, config, tmp_path)
    kept = tmp_path / "kept.safetensors"
    assert weights.info(kept)["record"] == "mae"
    assert "mask_token" in weights.extra(kept)
