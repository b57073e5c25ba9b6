"""Axial attention is full attention that sees its row, then its column; its FLOPs are counted, its time is measured."""

import pytest
import torch

from experiments import axial_attention, runner
from experiments.axial_attention import AxialAttention, build, flops, points, run, summarise

CPU, QUICK = axial_attention.SCALES["cpu"], axial_attention.SCALES["quick"]
ROWS, COLUMNS, D = 3, 5, 16
TOKENS = torch.arange(ROWS * COLUMNS)


def restricted(attention, x, group):
    """Full attention over all tokens, with a mask that hides those of another group."""
    mask = torch.where(group[:, None] == group[None, :], 0.0, -torch.inf)
    query, key, value = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = attention.weights(query, key, mask)
    return attention.projection((weights @ value).transpose(1, 2).flatten(2)), weights


@pytest.fixture
def axial():
    torch.manual_seed(0)
    return AxialAttention(D, num_heads=4, grid=(ROWS, COLUMNS)).eval()


@pytest.mark.parametrize("explicit", [False, True])
def test_it_is_full_attention_restricted_to_the_row_and_then_to_the_column(axial, explicit):
    x = torch.randn(2, ROWS * COLUMNS, D)
    by_row, _ = restricted(axial.along_rows, x, TOKENS // COLUMNS)
    by_column, _ = restricted(axial.along_columns, by_row, TOKENS % COLUMNS)
    mixed, maps = axial(x, return_attention=explicit)
    torch.testing.assert_close(mixed, by_column)
    assert (maps is not None) == explicit


def test_its_weights_are_those_of_the_row_and_of_the_column(axial):
    x = torch.randn(1, ROWS * COLUMNS, D)
    _, (across, down) = axial(x, return_attention=True)
    assert across.shape == (ROWS, 4, COLUMNS, COLUMNS)
    assert down.shape == (COLUMNS, 4, ROWS, ROWS)
    by_row, weights = restricted(axial.along_rows, x, TOKENS // COLUMNS)
    for row in range(ROWS):
        here = slice(row * COLUMNS, (row + 1) * COLUMNS)
        torch.testing.assert_close(across[row], weights[0, :, here, here])
    _, weights = restricted(axial.along_columns, by_row, TOKENS % COLUMNS)
    for column in range(COLUMNS):
        torch.testing.assert_close(down[column], weights[0, :, column::COLUMNS, column::COLUMNS])


def test_every_token_hears_of_every_other(axial):
    x = torch.randn(1, ROWS * COLUMNS, D, requires_grad=True)
    for token in TOKENS:
        (grad,) = torch.autograd.grad(axial(x)[0][0, token].sum(), x)
        assert (grad[0].abs().sum(dim=1) > 0).all()


def test_tokens_that_do_not_fill_the_grid_are_refused(axial):
    with pytest.raises(ValueError, match=r"16 tokens; a grid of 3×5 has 15: leave out class tokens"):
        axial(torch.randn(1, 16, D))


@pytest.mark.parametrize("side", [4, 14])
def test_flops_are_those_of_the_formula(side):
    tokens, width = side**2, CPU["embed_dim"]
    projections = 8 * tokens * width**2
    full, axial = (flops(layer, side, CPU) for layer in ("full", "axial"))
    assert full == {"flops": projections + full["map_flops"], "map_flops": 4 * tokens**2 * width}
    assert axial == {"flops": 2 * projections + axial["map_flops"], "map_flops": 4 * tokens * 2 * side * width}


@pytest.mark.parametrize("side", [7, 14, 20, 21, 28])
def test_it_saves_flops_where_the_card_says(side):
    saves = flops("axial", side, CPU)["flops"] < flops("full", side, CPU)["flops"]
    assert saves == (side**2 - 2 * side > 2 * CPU["embed_dim"]) == (side > 20)


def test_the_grid_is_what_the_card_says():
    assert f"{len(points(CPU))} points" in runner.card(axial_attention)["cost"]
    first, second = points(CPU)[:2]
    assert (first["layer"], second["layer"]) == ("full", "axial"), "what is compared is timed one after the other"
    assert first | {"layer": "axial"} == second
    assert [point["seed"] for point in points(CPU)] == sorted(point["seed"] for point in points(CPU))


def test_a_run_times_the_layer(tmp_path):
    runs = [point | run(point, QUICK, tmp_path) for point in points(QUICK)]
    for one in runs:
        assert 0 < one["seconds_low"] <= one["seconds"] <= one["seconds_high"]
        assert one["repeats"] == QUICK["repeats"]
        assert one["tokens"] == one["side"] ** 2
    parameters = {one["layer"]: one["parameters"] for one in runs}
    assert parameters["axial"] == 2 * parameters["full"]
    assert build("full", 4, QUICK).qkv.in_features == build("axial", 4, QUICK).along_rows.qkv.in_features
    assert set(summarise(runs)) == {"4", "16"}


def test_the_saving_is_taken_within_a_seed_as_far_as_the_grid_is_filled():
    def made(seed, layer, seconds, side=28):
        counts = {"full": {"flops": 60, "map_flops": 40}, "axial": {"flops": 30, "map_flops": 4}}[layer]
        return {"seed": seed, "side": side, "attention": "fused", "layer": layer, "seconds": seconds} | counts

    told = summarise([made(0, "full", 6.0), made(0, "axial", 3.0), made(1, "full", 4.0), made(1, "axial", 1.0),
                      made(2, "full", 9.0), made(0, "axial", 1.0, side=40)])
    assert set(told) == {"28"}
    assert (told["28"]["flops"], told["28"]["map_flops"]) == (2, 10)
    assert told["28"]["seconds"]["fused"]["mean"] == 3
    assert told["28"]["seconds"]["fused"]["seeds"] == 2
