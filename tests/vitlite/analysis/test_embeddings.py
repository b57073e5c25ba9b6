"""Filters, positions and offsets: constructed tables give back what they were made of."""

import math

import numpy as np
import pytest
import torch

from vitlite import analysis, position

# ---- filters


def test_filters_made_of_two_patterns_give_back_the_two():
    """Patterns at right angles, one drawn three times as strongly: 9 and 1 of 10 parts of the variance."""
    torch.manual_seed(0)
    one, two = torch.linalg.qr(torch.randn(48, 2, dtype=torch.float64)).Q.T
    amounts = torch.linalg.qr(torch.randn(64, 3, dtype=torch.float64) + torch.tensor([9.0, 0, 0])).Q[:, 1:]
    amounts = amounts - amounts.mean(dim=0)  # almost nothing; the mean filter does not count
    amounts = torch.linalg.qr(amounts).Q
    weight = 7 + 3 * amounts[:, :1] * one + amounts[:, 1:] * two
    components, explained = analysis.embedding_filters(weight, patch_size=4, count=3)
    assert components.shape == (3, 3, 4, 4)
    torch.testing.assert_close(explained, torch.tensor([0.9, 0.1, 0.0]).double())
    for found, pattern in zip(components, (one, two), strict=False):
        sign = pattern[pattern.abs().argmax()].sign()
        torch.testing.assert_close(found, (sign * pattern).view(3, 4, 4))


def test_filters_are_the_eigenvectors_of_their_covariance():
    weight = torch.randn(40, 3 * 2 * 4, generator=torch.Generator().manual_seed(0))
    components, explained = analysis.embedding_filters(weight, patch_size=(2, 4), count=24)
    flat = components.flatten(1).double().numpy()
    np.testing.assert_allclose(flat @ flat.T, np.eye(24), atol=1e-5)
    covariance = np.cov(weight.double().numpy(), rowvar=False)
    np.testing.assert_allclose(flat @ covariance @ flat.T / np.trace(covariance), np.diag(explained), atol=1e-6)
    assert explained.sum().item() == pytest.approx(1, abs=1e-6)
    assert (explained[:-1] >= explained[1:]).all()
    peaks = components.flatten(1).gather(1, components.flatten(1).abs().argmax(dim=1, keepdim=True))
    assert (peaks > 0).all()


def test_a_convolution_and_a_linear_map_have_the_same_filters():
    weight = torch.nn.Parameter(torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    there = analysis.embedding_filters(weight)
    assert not there.components.requires_grad
    for same in (analysis.embedding_filters(weight.flatten(1), 4), analysis.embedding_filters(weight, (4, 4))):
        assert torch.equal(same.components, there.components)
    assert there.components.shape[0] == there.explained.shape[0] == 28


def test_filters_that_are_all_alike_explain_nothing():
    assert torch.equal(analysis.embedding_filters(torch.ones(8, 12), 2, count=2).explained, torch.zeros(2))


@pytest.mark.parametrize(
    ("weight", "arguments", "message"),
    [
        ((64, 48), {}, r"shape \[64, 48\], which does not tell the patch; pass patch_size="),
        ((64, 48), {"patch_size": 5}, r"shape \[64, 48\]; expected \[D, C·5·5\] or \[D, C, 5, 5\]"),
        ((64, 3, 4, 4), {"patch_size": 8}, r"expected \[D, C·8·8\]"),
        ((48,), {"patch_size": 4}, r"shape \[48\]"),
        ((64, 48), {"patch_size": 4, "count": 49}, "count is 49; 64 filters of 48 weights have from 1 to 48"),
        ((64, 48), {"patch_size": 4, "count": 2.5}, "count is 2.5; 64 filters"),
        ((64, 48), {"patch_size": 0}, "patch_size is 0"),
    ],
)
def test_what_are_no_filters_is_refused(weight, arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.embedding_filters(torch.randn(weight), **arguments)


def test_a_patch_size_is_whole():
    with pytest.raises(TypeError, match="patch_size is 4.0; expected an int"):
        analysis.embedding_filters(torch.randn(64, 48), patch_size=4.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_that_is_not_finite_is_refused_before_it_spreads(value):
    def spoilt(*shape):
        return torch.ones(shape).index_fill(0, torch.tensor([1]), value)

    with pytest.raises(ValueError, match="weight holds 12 values that are not finite"):
        analysis.embedding_filters(spoilt(8, 12), 2, count=2)
    with pytest.raises(ValueError, match="table holds 8 values that are not finite"):
        analysis.position_similarity(spoilt(13, 8), (3, 4))
    with pytest.raises(ValueError, match="bias holds 3 values that are not finite"):
        analysis.bias_by_offset(spoilt(3, 3))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"weight is ndarray; expected a tensor \[D, C·P·P\]"):
        analysis.embedding_filters(np.ones((8, 12)), 2, count=2)
    with pytest.raises(TypeError, match=r"bias is NoneType; expected a tensor \[..., N, N\]"):
        analysis.bias_by_offset(None)


# ---- positions


def slow_cosine(one, other):
    one, other = one.tolist(), other.tolist()
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_similarity_equals_a_slow_loop_and_leaves_the_prefix_out():
    table = torch.randn(1, 14, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = analysis.position_similarity(table, (3, 4))
    assert found.shape == (3, 4, 3, 4)
    for r, c, i, j in np.ndindex(3, 4, 3, 4):
        assert found[r, c, i, j].item() == pytest.approx(slow_cosine(table[0, 2 + 4 * r + c], table[0, 2 + 4 * i + j]))
    assert torch.equal(analysis.position_similarity(table[0], (3, 4)), found)
    torch.testing.assert_close(analysis.position_similarity(table[:, 2:] * 5, (3, 4)), found)
    square = table[:, :11]  # a single number stands for a square grid
    assert torch.equal(analysis.position_similarity(square, 3), analysis.position_similarity(square, (3, 3)))


def test_sin_cos_positions_are_alike_by_their_offset_alone():
    """sin a sin b + cos a cos b = cos(a - b), summed over the frequencies of both axes."""
    found = analysis.position_similarity(position.sincos_table((5, 6), 32), (5, 6))
    frequencies = 10_000 ** -np.linspace(0, 1, 8)
    for r, c, i, j in np.ndindex(5, 6, 5, 6):
        wanted = (np.cos((r - i) * frequencies).sum() + np.cos((c - j) * frequencies).sum()) / 16
        assert found[r, c, i, j].item() == pytest.approx(wanted, abs=1e-5)


def test_two_dimensional_positions_are_alike_by_row_and_by_column():
    """With all halves of one length, the similarity is the mean of that of the rows and that of the columns."""
    positions = position.Learned2D((3, 4), prefix_tokens=1, embed_dim=16)
    with torch.no_grad():
        for half in (positions.rows, positions.columns):
            half /= half.norm(dim=-1, keepdim=True)
    found = analysis.position_similarity(positions(), (3, 4))
    assert not found.requires_grad
    rows, columns = (half[0] @ half[0].T for half in (positions.rows.detach(), positions.columns.detach()))
    torch.testing.assert_close(found, (rows[:, None, :, None] + columns[None, :, None, :]) / 2)


def test_similarity_follows_a_mirror():
    table = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    mirrored = table.view(3, 4, 8).flip(1).flatten(0, 1)
    there = analysis.position_similarity(table, (3, 4))
    torch.testing.assert_close(analysis.position_similarity(mirrored, (3, 4)), there.flip(1, 3))


def test_an_embedding_that_is_zero_is_like_nothing():
    table = torch.eye(4)
    table[2] = 0
    assert torch.equal(analysis.position_similarity(table, (2, 2))[1, 0], torch.zeros(2, 2))


def test_what_is_no_table_is_refused():
    for shape in ((11, 8), (2, 13, 8), (13,)):
        with pytest.raises(ValueError, match=r"expected \[prefix \+ 12, D\]"):
            analysis.position_similarity(torch.randn(shape), (3, 4))
    for nothing in (None, position.RelativeKeys(12, 1, True, 8)):
        with pytest.raises(TypeError, match="relative positions have none: see bias_by_offset"):
            analysis.position_similarity(nothing, (3, 4))


# ---- offsets


def test_the_bias_of_relative_keys_is_the_query_times_the_key_of_the_offset():
    keys = position.RelativeKeys(6, prefix_tokens=1, prefix_positions=True, embed_dim=8)
    query = torch.randn(1, 2, 1, 4, generator=torch.Generator().manual_seed(0))
    bias = keys(query.expand(5, 2, 7, 4))[..., 1:, 1:]  # the same query everywhere
    for head in (0, 1):
        wanted = keys.offsets.detach().view(11, 2, 4)[:, head] @ query[0, head, 0]
        found = analysis.bias_by_offset(bias[:, head])
        torch.testing.assert_close(found, wanted.flip(0))  # keys count query - key, we key - query
    torch.testing.assert_close(analysis.bias_by_offset(bias), analysis.bias_by_offset(bias.mean(dim=(0, 1))))
    assert not found.requires_grad


def test_the_bias_at_an_offset_is_the_mean_over_its_pairs():
    bias = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    found = analysis.bias_by_offset(bias)
    for offset in range(-3, 4):
        pairs = [bias[i, j].item() for i in range(4) for j in range(4) if j - i == offset]
        assert found[offset + 3].item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    with pytest.raises(ValueError, match=r"bias has shape \[4, 3\]; expected \[..., N, N\]"):
        analysis.bias_by_offset(bias[:, :3])
    with pytest.raises(ValueError, match=r"bias has shape \[0, 4, 4\]"):
        analysis.bias_by_offset(bias.expand(0, 4, 4))
