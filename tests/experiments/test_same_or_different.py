"""The tiles are what the question says they are, and a run measures what it must."""

import pytest
import torch
from usual import USUAL

from experiments import runner, same_or_different
from experiments.same_or_different import GRID, TILE, VARIANTS, draw
from vitlite import cost

TINY = same_or_different.SCALES["quick"] | {"steps": 2, "search_steps": 1, "held_out": 20}


def tiles_of(variant, count=400):
    """The tiles of each image ``[N, k, 3, P, P]``, read back from the pixels; and all cells ``[N, cells, 3, P, P]``."""
    split, cells = draw(variant, count, seed=7)
    everywhere = split.images.unflatten(2, (GRID, TILE)).unflatten(4, (GRID, TILE))
    everywhere = everywhere.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return everywhere[torch.arange(count)[:, None], cells], everywhere, cells


def equal(one, other):
    return (one == other).flatten(1).all(1)


@pytest.mark.parametrize("variant", ["plain", "near", "far", "noise", "crowd"])
def test_the_second_tile_is_a_copy_in_every_other_image(variant):
    tiles, _, cells = tiles_of(variant)
    assert torch.equal(equal(tiles[:, 0], tiles[:, 1]), torch.arange(400) % 2 == 1)
    assert (cells[:, 0] != cells[:, 1]).all()


def test_copies_are_turned_or_recoloured():
    turned, _, _ = tiles_of("turned")
    assert torch.equal(equal(turned[:, 0].rot90(1, (2, 3)), turned[:, 1]), torch.arange(400) % 2 == 1)
    recoloured, _, _ = tiles_of("recoloured")
    assert torch.equal(equal(recoloured[:, 0].roll(1, 1), recoloured[:, 1]), torch.arange(400) % 2 == 1)


def test_the_odd_one_is_the_third():
    tiles, _, _ = tiles_of("odd")
    assert equal(tiles[:, 0], tiles[:, 1]).all()
    assert torch.equal(equal(tiles[:, 0], tiles[:, 2]), torch.arange(400) % 2 == 1)


def test_distances():
    for variant, wanted in (("near", lambda d: d == 1), ("far", lambda d: d >= 2)):
        _, _, cells = tiles_of(variant)
        rows, columns = cells // GRID, cells % GRID
        away = torch.maximum((rows[:, 0] - rows[:, 1]).abs(), (columns[:, 0] - columns[:, 1]).abs())
        assert wanted(away).all()


def test_the_ground_is_empty_faint_or_crowded():
    for variant, textured in (("plain", 2), ("noise", 2), ("odd", 3), ("crowd", GRID**2)):
        _, everywhere, _ = tiles_of(variant)
        extreme = ((everywhere == 0) | (everywhere == 255)).flatten(2).all(2)
        assert (extreme.sum(1) == textured).all()
    _, crowd, _ = tiles_of("crowd")
    flat = crowd.flatten(2).float()
    pairs = ((torch.cdist(flat, flat) == 0).sum((1, 2)) - GRID**2) / 2
    assert torch.equal(pairs, (torch.arange(400) % 2).float())


def test_smaller_sets_lie_within_larger_ones_and_seeds_differ():
    few, many = draw("plain", 300, 10)[0].images, draw("plain", 2_500, 10)[0].images
    assert torch.equal(few, many[:300])
    assert not torch.equal(few, draw("plain", 300, 11)[0].images)
    assert len(torch.unique(many.flatten(1), dim=0)) == 2_500


def test_the_networks_are_of_one_size():
    sizes = [cost.parameters(same_or_different.build(name, TINY, 0)) for name in same_or_different.NETWORKS]
    assert max(sizes) < 1.05 * min(sizes)


def test_a_run_measures_itself_and_what_attention_gives_to_the_copy(tmp_path):
    point = {"variant": "plain", "train_images": 20, "network": "vit", "optimizer": "muon", "seed": 0}
    run = same_or_different.run(point, TINY, tmp_path)
    assert run.keys() >= USUAL | {"learning_rate", "search", "tuned_at", "partner_attention"}
    shares = torch.tensor(run["partner_attention"])
    assert shares.shape == (TINY["vit"]["depth"], TINY["vit"]["num_heads"])
    assert ((shares > 0) & (shares < 1)).all()
    rates = sorted(map(float, run["search"]))
    assert rates[0] < run["learning_rate"] < rates[-1] or len(rates) == 9


def test_partner_attention_of_a_model_that_looks_nowhere_is_one_sixteenth():
    model = same_or_different.build("vit", TINY, 0)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.qkv.weight)
        torch.nn.init.zeros_(block.attention.qkv.bias)
    shares = torch.tensor(same_or_different.partner_attention(model, count=20))
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 16))


def test_the_summary_has_every_variant(tmp_path):
    path = runner.run("same_or_different", "quick", folder=tmp_path, work=tmp_path / "work")
    assert path.exists()
    assert set(VARIANTS) > set(same_or_different.SCALES["cpu"]["variants"])
