"""Position tables: what interpolation keeps, and that it equals the library it is named after."""

import pytest
import torch
from torchvision.models.vision_transformer import interpolate_embeddings

from vitlite import position


def table(tokens=17, width=8):
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))


def test_the_learned_table_is_small_normal_noise():
    torch.manual_seed(0)
    learned = position.learned_table(200, 192)
    assert learned.shape == (1, 200, 192)
    assert abs(learned.std().item() - 0.02) < 0.001
    assert abs(learned.mean().item()) < 0.001


def test_the_same_grid_comes_back_untouched():
    old = table()
    assert position.interpolate(old, (4, 4), (4, 4)) is old


@pytest.mark.parametrize("convention", position.CONVENTIONS)
@pytest.mark.parametrize("new_grid", [(6, 6), (3, 5), (2, 2), (1, 9)])
def test_prefix_positions_are_left_alone(convention, new_grid):
    old = table(18)
    new = position.interpolate(old, (4, 4), new_grid, prefix_tokens=2, convention=convention)
    assert new.shape == (1, 2 + new_grid[0] * new_grid[1], 8)
    assert torch.equal(new[:, :2], old[:, :2])


def test_bilinear_interpolation_keeps_the_corners_and_a_linear_ramp():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    ramp = torch.stack([rows, columns], dim=-1).reshape(1, 12, 2)
    new = position.interpolate(ramp, (4, 3), (7, 5), prefix_tokens=0).reshape(7, 5, 2)
    torch.testing.assert_close(new[..., 0], torch.linspace(0, 3, 7)[:, None].expand(7, 5))
    torch.testing.assert_close(new[..., 1], torch.linspace(0, 2, 5).expand(7, 5))


@pytest.mark.parametrize(("old_side", "new_side"), [(4, 6), (6, 4), (14, 24)])
def test_the_torchvision_convention_is_torchvisions(old_side, new_side):
    old = table(1 + old_side**2)
    theirs = interpolate_embeddings(new_side * 16, 16, {"encoder.pos_embedding": old})["encoder.pos_embedding"]
    ours = position.interpolate(old, (old_side, old_side), (new_side, new_side), convention="torchvision")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convention": "tensorflow"}, "'tensorflow'.*'jax'"),
        ({"old_grid": (4, 5)}, r"\[1, 17, 8\].*\[1, 21, D\].*4×5"),
        ({"prefix_tokens": 0}, r"\[1, 16, D\]"),
        ({"new_grid": (0, 3)}, "0×3"),
    ],
)
def test_what_does_not_fit_is_said(changes, message):
    arguments = {"old_grid": (4, 4), "new_grid": (6, 6)} | changes
    with pytest.raises(ValueError, match=message):
        position.interpolate(table(), **arguments)
