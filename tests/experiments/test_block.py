"""Each change of the block alone, from the same weights, at equal size, and compared seed by seed."""

import pytest
import torch
from usual import USUAL, quick_record

from experiments import block
from vitlite import cost

QUICK, CPU = block.SCALES["quick"], block.SCALES["cpu"]
SINGLE = [change for change in block.CHANGES if change not in ("plain", "all five")]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return quick_record("block", tmp_path_factory.mktemp("block"))


def test_each_model_is_the_plain_one_but_for_its_change():
    plain = block.new_model("plain", CPU, 1)
    for change in SINGLE:
        config = block.new_model(change, CPU, 1).config
        differs = {name for name, value in vars(config).items() if value != getattr(plain.config, name)}
        assert differs == {"layer scale": set(), "QK-norm": {"qk_norm"}, "SwiGLU": {"mlp", "mlp_dim"},
                           "registers": {"registers"}, "rotary": {"position"}}[change]
    whole = block.new_model("all five", CPU, 1)
    assert (whole.config.qk_norm, whole.config.mlp, whole.config.mlp_dim) == (True, "swiglu", 128)
    assert (whole.config.registers, whole.config.position) == (4, "rotary")
    assert isinstance(whole.blocks[-1].mlp.contract, block.Scaled)
    assert isinstance(whole.blocks[-1].attention.projection, block.Scaled)


def test_all_start_from_the_same_weights_but_the_change():
    plain = block.new_model("plain", QUICK, 1).state_dict()
    for change in block.CHANGES:
        weights = block.new_model(change, QUICK, 1).state_dict()
        names = {name.replace(".layer.", "."): name for name in weights}
        kept = {name for name in plain if name in names and torch.equal(plain[name], weights[names[name]])}
        missing = {name for name in plain if name not in kept}
        allowed = {"SwiGLU": ".mlp.", "registers": "position", "rotary": "position"}
        if change != "all five":
            assert all(change in allowed and allowed[change] in name for name in missing), (change, missing)
    other = block.new_model("plain", QUICK, 2).state_dict()
    assert not torch.equal(plain["patch_embed.projection.weight"], other["patch_embed.projection.weight"])


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_a_gated_mlp_has_as_many_parameters_and_costs_as_much(scale):
    config = block.SCALES[scale]
    plain, gated = (block.new_model(change, config, 0) for change in ("plain", "SwiGLU"))
    assert cost.parameters(gated) == pytest.approx(cost.parameters(plain), rel=2e-3)
    size = config["vit"]["image_size"]
    assert cost.train_flops(gated, size) == pytest.approx(cost.train_flops(plain, size), rel=1e-3)


def test_layer_scale_of_one_changes_nothing_and_of_zero_leaves_the_identity():
    images = torch.randn(2, 3, 16, 16)
    plain = block.new_model("plain", QUICK, 0)
    scaled = block.new_model("layer scale", QUICK, 0)
    factors = [value for name, value in scaled.named_parameters() if name.endswith("factor")]
    assert len(factors) == 2 * QUICK["vit"]["depth"]
    assert all(torch.equal(factor, torch.full((48,), 0.1)) for factor in factors)
    for start, layers in ((1.0, plain.blocks), (0.0, ())):
        for factor in factors:
            factor.data.fill_(start)
        z = expected = scaled.tokens(scaled.embed(images))
        for layer in layers:
            expected, _ = layer(expected)
        for layer in scaled.blocks:
            z, _ = layer(z)
        torch.testing.assert_close(z, expected)


def test_a_run_has_the_usual_keys_and_the_table_a_row_for_each_block(record):
    assert [run["change"] for run in record["runs"]] == list(block.CHANGES)
    assert all(run.keys() >= USUAL for run in record["runs"])
    lines = block.show(record, "gains").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {change}" for change in block.CHANGES]


def made(change, seed, accuracy, flops=8):
    return {"change": change, "seed": seed, "test_accuracy": accuracy, "parameters": 5, "train_flops": flops}


def test_blocks_are_compared_seed_by_seed():
    summary = block.summarise([made("plain", 0, 0.40), made("rotary", 0, 0.50, 10), made("plain", 1, 0.30),
                               made("rotary", 1, 0.40, 10)])
    assert summary["rotary"]["over_plain"]["low"] == pytest.approx(0.1), "no spread, though the seeds differ"
    assert summary["rotary"]["flops"] == pytest.approx(1.25)
    assert summary["plain"]["over_plain"] is None
    assert block.summarise([made("rotary", 0, 0.5)])["rotary"]["flops"] is None
