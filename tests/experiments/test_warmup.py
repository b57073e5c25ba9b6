"""Post-norm beside pre-norm: the same weights, each norm where it belongs, and every rate with and without warmup."""

import pytest
import torch
from usual import USUAL, quick_record

from experiments import warmup

QUICK = warmup.SCALES["quick"]


def test_both_start_from_the_same_weights_but_for_the_final_norm():
    pre, post = (warmup.new_model(norm, QUICK, 1).state_dict() for norm in ("pre", "post"))
    assert {name for name in pre if name not in post} == {"norm.weight", "norm.bias"}
    assert all(torch.equal(pre[name], weight) for name, weight in post.items())


def test_a_post_norm_block_is_the_formula_of_the_first_transformer():
    block = warmup.new_model("post", QUICK, 0).blocks[0]
    z = torch.randn(2, 17, 48)
    once = block.norm1(z + block.attention(z)[0])
    out, maps = block(z, return_attention=True)
    torch.testing.assert_close(out, block.norm2(once + block.mlp(once)))
    assert maps.shape == (2, 3, 17, 17)
    torch.testing.assert_close(out.mean(dim=-1), torch.zeros(2, 17), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=-1, correction=0), torch.ones(2, 17), atol=1e-3, rtol=0)


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm is 'both'; expected one of"):
        warmup.new_model("both", QUICK, 0)


def test_a_run_has_the_usual_keys_and_the_figure_a_curve_for_each_way(tmp_path):
    record = quick_record("warmup", tmp_path)
    assert all(run.keys() >= USUAL for run in record["runs"])
    axes = warmup.show(record, "accuracy").axes[0]
    assert len(axes.lines) == 4
    assert axes.get_ylabel() == "test accuracy (%)"


def test_the_summary_takes_seeds_together():
    runs = [{"norm": "post", "warmup": 0, "rate": 0.1, "seed": seed, "test_accuracy": seed / 2} for seed in (0, 1)]
    assert warmup.summarise(runs)["post"]["0"]["0.1"]["mean"] == 0.25
