"""Each pooling is judged at its own learning rate, each patch size at one; what a token costs is counted."""

import pytest

from experiments import tokens
from vitlite import data

TINY = tokens.SCALES["quick"] | {"steps": 3}


@pytest.fixture(scope="module", autouse=True)
def sets():
    """Fewer images than at quick scale, rendered once."""
    before, few = tokens.loaded, data.load("scenes", train_images=80, held_out=40, image_size=16)
    tokens.loaded = lambda **given: few
    yield few
    tokens.loaded = before


def test_a_run_counts_its_tokens_and_is_reproduced_bit_for_bit(tmp_path):
    found = {}
    for place in ({"pool": "token"}, {}, {"patch_size": 8}, {"patch_size": 2}):
        point = tokens.BASE | place | {"seed": 0}
        found[tuple(place.values())] = first = tokens.run(point, TINY, tmp_path)
        again = tokens.run(point, TINY, tmp_path)
        times = {"seconds": 0, "seconds_per_step": 0}
        assert first | times == again | times, "one seed, one result"
        assert 0 < first["seconds_per_step"] <= first["seconds"]
        assert {"parameters", "train_images", "steps", "images_seen", "train_flops", "val_accuracy",
                "test_accuracy"} <= set(first)
    assert not list(tmp_path.iterdir()), "no checkpoint is left"
    token, mean, large, small = found.values()
    assert [run["tokens"] for run in found.values()] == [1 + 16, 16, 4, 64]
    assert small["flops"] > 4 * mean["flops"], "attention's share grows with the square"
    assert mean["flops"] < token["flops"] < 18 / 16 * mean["flops"]
    assert large["flops"] < mean["flops"] / 3
    assert len({run["images_seen"] for run in found.values()}) == 1, "equal steps"


def test_the_base_is_among_the_rates():
    assert all(config["base"]["learning_rate"] in config["learning_rates"] for config in tokens.SCALES.values())


def made(pool, rate, seed, accuracy, size=4, val=None):
    return {"pool": pool, "learning_rate": rate, "patch_size": size, "seed": seed, "test_accuracy": accuracy,
            "val_accuracy": accuracy if val is None else val, "tokens": (24 // size) ** 2, "flops": 100 // size,
            "seconds_per_step": 1.0 / size}


def test_the_poolings_are_compared_each_at_the_rate_that_validation_chose():
    runs = [
        *(made("token", 2e-3, seed, 0.30 + seed / 100) for seed in (0, 1)),
        *(made("token", 4e-3, seed, 0.40 + seed / 100) for seed in (0, 1)),
        *(made("mean", 2e-3, seed, 0.42 + seed / 100) for seed in (0, 1)),
        *(made("mean", 4e-3, seed, 0.50 + seed / 100, val=0.1) for seed in (0, 1)),
    ]
    told = tokens.summarise(runs)
    assert (told["pooling"]["token"]["best_rate"], told["pooling"]["mean"]["best_rate"]) == (4e-3, 2e-3)
    assert told["pooling"]["mean"]["test_accuracy"]["mean"] == pytest.approx(0.425), "not the best on the test images"
    assert told["mean_over_token"]["each_at_its_best"]["mean"] == pytest.approx(0.02)
    assert told["mean_over_token"]["each_at_its_best"]["low"] == pytest.approx(0.02), "no spread between the seeds"
    assert told["mean_over_token"]["by_rate"]["0.002"]["mean"] == pytest.approx(0.12)


def test_patch_sizes_are_compared_with_the_base_seed_by_seed():
    runs = [made("mean", 4.5e-3, seed, 0.4 + seed / 10) for seed in (0, 1)]
    runs += [made("mean", 4.5e-3, seed, 0.45 + seed / 10, size=2) for seed in (0, 1)]
    runs += [made("mean", 0.013, 0, 0.9), made("token", 4.5e-3, 0, 0.9)]
    told = tokens.summarise(runs)["patch_size"]
    assert list(told) == ["2", "4"]
    assert told["2"]["over_base"]["low"] == pytest.approx(0.05)
    assert told["4"]["over_base"] is None
    assert told["4"]["test_accuracy"]["mean"] == pytest.approx(0.45), "the base alone, not other rates or poolings"
    assert (told["2"]["tokens"], told["2"]["flops"], told["2"]["seconds_per_step"]) == (144, 50, 0.5)


def test_an_unfinished_grid_is_told_as_far_as_it_goes():
    told = tokens.summarise([made("token", 1e-3, 0, 0.4), made("mean", 4.5e-3, 0, 0.4, size=8)])
    assert set(told["pooling"]) == {"token"}
    assert told["mean_over_token"] == {"each_at_its_best": None, "by_rate": {"0.001": None}}
    assert told["patch_size"]["8"]["over_base"] is None
    assert tokens.summarise([])["pooling"] == {}
