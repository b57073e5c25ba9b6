"""Runs are grouped in the order in which they come, and intervals are Student's for any number of seeds."""

import pytest

from experiments.statistics import grouped, interval

RUNS = [{"data": "scenes", "model": "vit", "seed": 1}, {"data": "cifar10", "model": "vit", "seed": 0},
        {"data": "scenes", "model": "mlp", "seed": 0}, {"data": "scenes", "model": "vit", "seed": 0}]


def test_groups_and_their_runs_stand_in_the_order_of_first_appearance():
    assert list(grouped(RUNS, "data").items()) == [("scenes", [RUNS[0], RUNS[2], RUNS[3]]), ("cifar10", [RUNS[1]])]
    assert list(grouped(RUNS, "seed")) == [1, 0]


def test_several_keys_group_by_the_tuple_of_their_values():
    assert grouped(RUNS, "data", "model") == {
        ("scenes", "vit"): [RUNS[0], RUNS[3]], ("cifar10", "vit"): [RUNS[1]], ("scenes", "mlp"): [RUNS[2]]}


def test_no_runs_make_no_group_and_an_unknown_key_is_named():
    assert grouped([], "data", "model") == {}
    with pytest.raises(KeyError, match="width"):
        grouped(RUNS, "width")


@pytest.mark.parametrize(("seeds", "factor"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (20, 2.0930), (21, 2.0860),
                                               (121, 1.9799)])
def test_an_interval_is_students_for_any_number_of_seeds(seeds, factor):
    """The factors are those of a printed table of t at 97.5 %."""
    values = [seed % 2 for seed in range(seeds)]
    mean = sum(values) / seeds
    error = (sum((value - mean) ** 2 for value in values) / (seeds - 1) / seeds) ** 0.5
    answer = interval(values)
    assert answer["mean"] == pytest.approx(mean)
    assert (answer["high"] - mean) / error == pytest.approx(factor, abs=6e-5)
    assert (mean - answer["low"]) / error == pytest.approx(factor, abs=6e-5)
    assert answer["seeds"] == seeds
