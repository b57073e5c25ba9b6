"""Sizes of a kind cost alike in every family, and the frontier is what pays."""

import pytest
import torch
from torch import nn

from experiments import scaling
from vitlite import ViT, cost, data
from vitlite.hybrid import Stem
from vitlite.resnet import ResNet

TINY = scaling.SCALES["quick"] | {"steps": 3, "search_steps": 2}


@pytest.fixture(scope="module", autouse=True)
def sets():
    """Fewer images than at quick scale, rendered once."""
    before, few = scaling.loaded, data.load("scenes", train_images=80, held_out=40, image_size=16)
    scaling.loaded = lambda **given: few
    yield few
    scaling.loaded = before


def flops(point, config):
    """Forward, of one image: those of training are three times as many, nearly."""
    with torch.device("meta"):
        return cost.flops(scaling.build(point, config, seed=0), config["vit"]["image_size"])


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_a_size_costs_about_the_same_in_every_family_and_more_than_the_size_before(scale):
    config = scaling.SCALES[scale]
    first = [point for point in scaling.points(config) if point["seed"] == 0]
    costs = {(point["family"], point["size"]): flops(point, config) for point in first}
    for (family, size), here in costs.items():
        assert 0.7 < here / costs["vit", size] < 1.1, (family, size)
    for family, sizes in config["sizes"].items():
        line = [costs[family, size] for size in sizes]
        assert all(2 < after / before < 9 for before, after in zip(line, line[1:], strict=False)), family


def test_what_is_built_is_of_the_family_and_of_the_seed():
    kinds = {}
    for point in scaling.points(TINY):
        kinds[point["family"]] = model = scaling.build(point, TINY, seed=1)
        again, other = (scaling.build(point, TINY, seed).state_dict() for seed in (1, 2))
        assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
        assert any(not torch.equal(weight, other[name]) for name, weight in model.state_dict().items())
    assert isinstance(kinds["resnet"], ResNet)
    assert isinstance(kinds["vit"], ViT)
    assert not isinstance(kinds["vit"].patch_embed, Stem)
    for family, norm in (("hybrid", nn.BatchNorm2d), ("hybrid_group", nn.GroupNorm)):
        assert isinstance(kinds[family].patch_embed, Stem)
        assert any(isinstance(part, norm) for part in kinds[family].modules())


def test_every_kind_runs_tunes_once_and_is_reproduced_bit_for_bit(tmp_path, monkeypatch):
    wanted = {("vit", "base"), ("resnet", "tiny"), ("hybrid", "base")}
    chosen = [point for point in scaling.points(TINY) if (point["family"], point["size"]) in wanted]
    runs = [scaling.run(point, TINY, tmp_path) for point in chosen]
    assert len(runs) == 3
    assert len(list(tmp_path.iterdir())) == 3, "the rates of three sizes; no checkpoint is left"
    for point, run in zip(chosen, runs, strict=True):
        assert 2 < run["train_flops"] / (run["images_seen"] * flops(point, TINY)) < 3
        assert set(run["search"]) >= {str(rate) for rate in TINY["learning_rates"][point["family"]]}
        assert run["search"][str(run["learning_rate"])] == max(run["search"].values())
    monkeypatch.setattr(scaling, "tried", None)  # nothing is tried twice
    for point, run in zip(chosen, runs, strict=True):
        assert scaling.run(point, TINY, tmp_path) | {"seconds": 0} == run | {"seconds": 0}


def made(family, size, cost, accuracy, seed=0):
    return {"family": family, "size": size, "seed": seed, "parameters": 7, "train_flops": cost, "learning_rate": 1e-3,
            "test_accuracy": accuracy}


def test_families_are_compared_at_the_same_size_seed_by_seed():
    runs = [
        *(made("vit", "base", 10, 0.4 + seed / 10, seed) for seed in (0, 1)),
        *(made("resnet", "base", 12, 0.5 + seed / 10, seed) for seed in (0, 1)),
        *(made("resnet", "large", 20, 0.3 + seed / 10, seed) for seed in (0, 1)),
    ]
    summary = scaling.summarise(runs)
    vit, resnet, large = summary["sizes"]
    assert vit["over"] is None
    assert resnet["over"]["low"] == pytest.approx(0.1), "no spread between the seeds"
    assert large["over"] is None, "there is no ViT of its size"
    assert summary["frontier"] == [["vit", "base"], ["resnet", "base"]]


def test_the_frontier_has_what_no_cheaper_network_reaches():
    networks = [{"train_flops": cost, "test_accuracy": {"mean": accuracy}}
                for cost, accuracy in [(4, 0.5), (1, 0.3), (2, 0.3), (3, 0.6), (3, 0.55), (5, 0.7)]]
    assert [(kept["train_flops"], kept["test_accuracy"]["mean"]) for kept in scaling.frontier(networks)] == [
        (1, 0.3), (3, 0.6), (5, 0.7)]
