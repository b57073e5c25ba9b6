import json

import pytest
import torch

from experiments import bias, disturb, families
from vitlite import cost, data, weights

TINY = bias.SCALES["quick"] | {"train_images": 40, "steps": 2, "search_steps": 2, "learning_rates": [1e-3],
                               "shifts": [0, 4], "tiles": [16, 4], "covered": [0.0, 0.5]}

STANDARD = {"seed", "parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
            "test_accuracy"}


@pytest.fixture(scope="module")
def sets():
    return data.load("scenes", train_images=40, held_out=80)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_families_have_equally_many_parameters():
    sizes = {family: cost.parameters(bias.build(family, TINY, seed=0)) for family in families.FAMILIES}
    assert max(sizes.values()) <= 1.02 * min(sizes.values()), sizes


def test_seed_0_comes_first_and_images_before_permuted_ones_and_the_vit_without_positions_last():
    points = bias.points(TINY | {"seeds": [0, 1], "orders": ["image", "pixels"]})
    assert [point["family"] for point in points[:4]] == list(families.FAMILIES)
    assert [(point["order"], point["seed"]) for point in points[:-2:4]] == [
        ("image", 0), ("image", 1), ("pixels", 0), ("pixels", 1)]
    assert points[-2:] == [{"order": "image", "seed": seed, "family": bias.UNPLACED} for seed in (0, 1)]


def test_the_vit_without_positions_is_the_vit_but_for_them(sets):
    placed, bare = bias.build("vit", TINY, seed=0), bias.build(bias.UNPLACED, TINY, seed=0)
    assert cost.parameters(placed) - cost.parameters(bare) == placed.position.numel()
    torch.nn.init.normal_(bare.head[0].weight)
    images = sets.test.normalised()[:4]
    shuffled = disturb.shuffle(images, 4, random())
    torch.testing.assert_close(bare(shuffled), bare(images))
    assert not torch.equal(shuffled, images)


def test_a_window_that_does_not_move_shows_the_test_images(sets):
    images, masks = disturb.pan(80, shift=0)
    assert torch.equal(images, sets.test.images)
    assert torch.equal(masks, sets.test.masks)


def test_a_moved_window_shows_the_same_scene_elsewhere(sets):
    images, masks = disturb.pan(80, shift=3)
    turn = torch.arange(80) // 10 % 4
    still = sets.test.images
    for way, here, there in (
        (0, (..., slice(3, None)), (..., slice(None, -3))),
        (1, (..., slice(None, -3)), (..., slice(3, None))),
        (2, (..., slice(3, None), slice(None)), (..., slice(None, -3), slice(None))),
        (3, (..., slice(None, -3), slice(None)), (..., slice(3, None), slice(None))),
    ):
        assert torch.equal(images[turn == way][here], still[turn == way][there])
        assert torch.equal(masks[turn == way][here], sets.test.masks[turn == way][there])


def test_every_class_is_moved_in_every_direction(sets):
    turn = torch.arange(80) // 10 % 4
    assert all(set(turn[sets.test.labels == k].tolist()) == {0, 1, 2, 3} for k in range(10))


def test_shuffling_moves_whole_tiles_and_loses_none():
    images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    shuffled = disturb.shuffle(images, 4, random())
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    tiles = [images[..., top : top + 4, left : left + 4] for top, left in corners]
    for top, left in corners:
        assert sum(torch.equal(shuffled[..., top : top + 4, left : left + 4], tile) for tile in tiles) == 1
    assert torch.equal(shuffled.flatten(2).sort().values, images.flatten(2))
    assert torch.equal(disturb.shuffle(images, 8, random()), images), "one tile has one order"


def test_shuffling_gives_all_images_one_order_or_each_its_own():
    images = torch.arange(64).view(1, 1, 8, 8).expand(5, -1, -1, -1)
    assert len(disturb.shuffle(images, 2, random()).unique(dim=0)) == 1
    assert len(disturb.shuffle(images, 2, random(), each=True).unique(dim=0)) == 5


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_covering_hides_that_share_of_the_tiles(share):
    images = torch.full((3, 3, 8, 8), 200, dtype=torch.uint8)
    covered = disturb.cover(images, share, 2, (0.0, 0.5, 1.0), random())
    hidden = (covered == torch.tensor([0, 128, 255]).view(-1, 1, 1)).all(dim=1)
    assert hidden.flatten(1).double().mean(dim=1).tolist() == [share] * 3
    assert (covered.permute(0, 2, 3, 1)[~hidden] == 200).all()
    more = disturb.cover(images, min(1.0, share + 0.25), 2, (0.0, 0.5, 1.0), random())
    assert (covered == more).all(dim=1)[hidden].all(), "a larger share covers the same tiles and more"


def test_a_network_trained_on_permuted_images_sees_the_same_pixels_elsewhere():
    torch.manual_seed(0)
    seen = []
    images = torch.randn(2, 3, 32, 32)
    for order in ("patches", "pixels"):
        model = bias.build("mlp", TINY, 0, order)
        model.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model(images)
    for moved in seen:
        assert not torch.equal(moved, images)
        assert torch.equal(moved.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(seen[0], disturb.shuffle(images, 4, random())), "patches stay whole"


def test_every_family_runs_and_is_measured_as_it_was_saved(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(bias, "loaded", lambda name, **given: sets)
    monkeypatch.setattr(bias, "CHECKPOINTS", tmp_path / "checkpoints")
    runs = []
    for point in bias.points(TINY | {"orders": ["image"]}):
        runs.append(point | bias.run(point, TINY, tmp_path))
        assert set(runs[-1]) >= STANDARD
        assert [step["pixels"] for step in runs[-1]["shift"]] == [0, 4]
        assert len(runs[-1]["shuffle"]) == 4
        assert runs[-1]["shift"][0] == {
            "pixels": 0, "object_in_frame": 1.0, "accuracy": runs[-1]["test_accuracy"], "consistency": 1.0}
        assert runs[-1]["cover"][0]["accuracy"] == runs[-1]["test_accuracy"], "nothing covered yet"
    assert not (tmp_path / "checkpoints").exists(), "a quick run publishes nothing"
    for family in ("vit", "hybrid", "resnet", bias.UNPLACED):
        path = tmp_path / f"bias_{family}.safetensors"
        assert weights.info(path)["record"] == "bias"
        assert path.stat().st_size < 2e6
    summary = bias.summarise(runs)["image"]
    assert set(summary) == {*families.FAMILIES, bias.UNPLACED}
    assert summary[bias.UNPLACED]["shuffle"] == runs[-1]["shuffle"][-1]["accuracy"]
    json.dumps(runs)
