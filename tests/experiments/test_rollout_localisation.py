"""One forward pass gives every method its maps, and the record compares them image by image."""

import json

import pytest
import torch

from experiments import rollout_localisation
from experiments.rollout_localisation import METHODS, RANKINGS
from vitlite import ViT, ViTConfig, analysis, weights

TINY = rollout_localisation.SCALES["quick"] | {"models": ["tiny"], "images": 20, "shares": [0.0, 0.5, 1.0]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViT(ViTConfig(32, 8, 3, 10, embed_dim=24, depth=3, num_heads=3, mlp_dim=48, zero_head=False)).eval()


def test_one_forward_pass_gives_what_a_pass_for_each_method_gives(model):
    images, passes = torch.randn(4, 3, 32, 32), []
    model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    by_method = rollout_localisation.maps(model, images)
    assert len(passes) == 1
    grid = model.config.grid
    rollout = analysis.attention_rollout(model.iter_attention(images))
    largest = analysis.attention_rollout(model.iter_attention(images), fusion="max")
    looks = analysis.class_attention(model.iter_attention(images), grid)
    alone = {
        "rollout": analysis.token_map(rollout, grid),
        "rollout, max": analysis.token_map(largest, grid),
        "gradient rollout": analysis.token_map(analysis.gradient_rollout(model, images), grid),
        "last layer": looks[-1],
        "all layers": looks.mean(dim=0),
    }
    for method, wanted in alone.items():
        torch.testing.assert_close(by_method[method], wanted)
    assert not any(each.requires_grad for each in by_method.values())
    assert {*by_method, "centre", "random"} == set(METHODS)


def test_it_runs_and_its_differences_are_those_of_its_scores(model, tmp_path, monkeypatch):
    monkeypatch.setattr(rollout_localisation, "CHECKPOINTS", tmp_path)
    weights.save(model, tmp_path / "tiny.safetensors")
    (point,) = rollout_localisation.points(TINY)
    result = point | rollout_localisation.run(point, TINY, tmp_path)
    assert set(result["scores"]) == set(METHODS)
    scores = result["scores"]
    for method, difference in result["rollout_minus"].items():
        for score, (mean, low, high) in difference.items():
            assert mean == pytest.approx(scores["rollout"][score][0] - scores[method][score][0], abs=1e-6)
            assert low <= mean <= high
    assert sum(each["images"] for each in result["answers"].values()) == 20
    correct = sum(each["images"] * (each["accuracy"] or 0) for each in result["answers"].values())
    assert correct / 20 == pytest.approx(result["deletion"]["rollout"][0])
    assert result["object_shares"][0] <= result["object_share"] <= result["object_shares"][-1]
    assert set(result["deletion"]) == set(RANKINGS)
    ends = {(curve[0], curve[-1]) for curve in result["deletion"].values()}
    assert len(ends) == 1, "where nothing or all is blanked, no ranking matters"
    assert rollout_localisation.summarise([result])["tiny"]["rollout"] == scores["rollout"]["pointing"][0]
    json.dumps(result)
