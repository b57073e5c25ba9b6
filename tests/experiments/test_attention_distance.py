import math

import pytest
import torch

from experiments import attention_distance, bias
from vitlite import weights


def test_fresh_weights_are_those_that_training_began_with():
    """Also in the stem: with the seed of the run, what its experiment built before the first step."""
    config = bias.SCALES["cpu"]
    for family in ("vit", "hybrid"):
        fresh = attention_distance.fresh(attention_distance.CHECKPOINTS / f"bias_{family}.safetensors", seed=0)
        began = bias.build(family, config, seed=0)
        assert fresh.config == began.config
        for (name, one), (_, other) in zip(fresh.state_dict().items(), began.state_dict().items(), strict=True):
            assert torch.equal(one, other), name
        trained = weights.load(attention_distance.CHECKPOINTS / f"bias_{family}.safetensors")
        assert not torch.equal(next(trained.patch_embed.parameters()), next(fresh.patch_embed.parameters()))


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_measures_every_head(tmp_path, trained):
    config = attention_distance.SCALES["quick"] | {"models": {"bias_hybrid": "scenes"}, "images": 20}
    run = attention_distance.run({"model": "bias_hybrid", "trained": trained, "seed": 0}, config, tmp_path)
    for key in ("distance", "without_query", "spread", "entropy"):
        assert torch.tensor(run[key]).shape == (5, 4), key
        assert torch.tensor(run[key]).isfinite().all(), key
    if not trained:  # attention that has learned nothing is nearly uniform, with the query and without
        for key in ("distance", "without_query"):
            assert torch.tensor(run[key]).mean().item() == pytest.approx(run["uniform"], rel=0.05)
        assert torch.tensor(run["entropy"]).mean().item() > 0.9 * math.log(65)


def test_the_summary_tells_the_trained_from_the_fresh():
    run = {"model": "vit", "uniform": 16.0, "without_query": [[16.0, 16.0], [16.0, 14.0]]}
    near = run | {"trained": True, "distance": [[4.0, 12.0], [14.0, 14.0]]}  # 12 of 16 is a quarter, not more
    far = run | {"trained": False, "distance": [[16.0, 16.0], [16.0, 16.0]]}
    summary = attention_distance.summarise([near, far])["vit"]
    assert summary["trained"] == {"by_layer": [8.0, 14.0], "by_layer_without_query": [16.0, 15.0], "local_share": 0.25}
    assert summary["fresh"]["local_share"] == 0
