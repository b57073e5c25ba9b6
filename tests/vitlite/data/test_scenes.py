"""Scenes are a function of (seed, index); their cues say what they are told to say; masks mark the object."""

import colorsys
import hashlib
import math

import numpy as np
import pytest

from vitlite.data import Cues, scenes

FIRST = np.arange(60)


def _spread(mask: np.ndarray) -> np.ndarray:
    """A mask [N, H, W] grown by one pixel in every direction."""
    height, width = mask.shape[1:]
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(shifts, axis=0)


def test_an_image_is_the_same_in_any_batch_and_order() -> None:
    indices = np.array([5, 3, 10**12 + 7, 77, 0])
    images, labels, masks = scenes.render(indices, seed=4)
    for i, index in enumerate(indices):
        image, label, mask = scenes.render([index], seed=4)
        np.testing.assert_array_equal(image[0], images[i])
        np.testing.assert_array_equal(mask[0], masks[i])
        assert label[0] == labels[i] == index % 10
    in_blocks = scenes.render(np.arange(150), seed=4)[0]  # more than one block
    np.testing.assert_array_equal(in_blocks[::-1], scenes.render(np.arange(150)[::-1], seed=4)[0])


def test_the_scenes_are_the_ones_that_the_records_were_made_with() -> None:
    # Holds on every machine. A change of the drawing changes it, and every record made on scenes with it.
    images, _, masks = scenes.render(np.arange(20))
    digest = hashlib.sha256(images.tobytes() + masks.tobytes()).hexdigest()
    assert digest == "3386c4eac92c1acb98d45336769e12f6f05f0a28b3e3f5dff145d2b887bfe27a"


def test_seeds_and_indices_make_different_images() -> None:
    images = np.concatenate([scenes.render(FIRST, seed=seed)[0] for seed in (0, 1)])
    assert len({image.tobytes() for image in images}) == 2 * len(FIRST)


def test_the_hash_is_splitmix64() -> None:
    # The first two outputs of the published generator from state 0.
    state = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert [hex(x) for x in scenes._mix(state)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_shapes_types_and_labels() -> None:
    images, labels, masks = scenes.render(FIRST, image_size=(24, 40))
    assert (images.shape, images.dtype) == ((60, 3, 24, 40), np.uint8)
    assert (masks.shape, masks.dtype) == ((60, 24, 40), np.bool_)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(labels), 6)
    assert len(scenes.CLASSES) == len(set(scenes.CLASSES)) == 10


@pytest.mark.parametrize("size", [32, 48])
def test_the_object_covers_a_fair_share(size: int) -> None:
    share = scenes.render(np.arange(300), image_size=size)[2].mean((1, 2))
    assert 0.05 < share.min() < share.max() < 0.5


def test_a_wider_image_shows_the_same_scene_and_more() -> None:
    square, _, mask = scenes.render(FIRST)
    wide, _, wide_mask = scenes.render(FIRST, image_size=(32, 48))
    np.testing.assert_array_equal(wide[..., 8:40], square)
    np.testing.assert_array_equal(wide_mask[..., 8:40], mask)


def test_two_resolutions_show_one_scene() -> None:
    small, _, small_mask = scenes.render(FIRST, image_size=32)
    large, _, large_mask = scenes.render(FIRST, image_size=128)
    shrunk = large.reshape(60, 3, 32, 4, 32, 4).mean((3, 5))
    apart = np.abs(shrunk - small).mean((1, 2, 3))
    another = np.abs(np.roll(shrunk, 10, axis=0) - small).mean((1, 2, 3))  # of the same class
    assert apart.max() < 10  # of 255
    assert (apart * 4 < another).all()
    shrunk_mask = large_mask.reshape(60, 32, 4, 32, 4).mean((2, 4)) > 0.5
    overlap = (shrunk_mask & small_mask).sum((1, 2)) / (shrunk_mask | small_mask).sum((1, 2))
    assert overlap.min() > 0.85


def test_a_higher_resolution_shows_more_detail() -> None:
    # What is lost when blocks of 4×4 pixels become one; enlarging a small image would add none.
    for size in (64, 128):
        images = scenes.render(FIRST[:20], image_size=size)[0].astype(np.float32)
        blocks = images.reshape(20, 3, size // 4, 4, size // 4, 4)
        detail = (blocks - blocks.mean((3, 5), keepdims=True)).std()
        assert detail > 4, f"{size} pixels: {detail:.1f} of 255"


def test_the_hue_colours_the_object_and_nothing_else() -> None:
    plain, told = Cues(hue=0), Cues(hue=1)
    before, _, mask = scenes.render(FIRST, cues=plain)
    after, _, same_mask = scenes.render(FIRST, cues=told)
    np.testing.assert_array_equal(mask, same_mask)
    changed = (before != after).any(1)
    differs = scenes.describe(FIRST, cues=plain)["hue"] != scenes.describe(FIRST, cues=told)["hue"]
    assert not changed[~differs].any()
    assert not (changed & ~_spread(_spread(mask))).any()  # pixels along the edge are partly covered
    assert changed[differs][mask[differs]].mean() > 0.95


def test_the_shape_makes_the_mask() -> None:
    before, after = (scenes.render(FIRST, cues=Cues(shape=s))[2] for s in (0, 1))
    same = scenes.describe(FIRST, cues=Cues(shape=0))["shape"] == FIRST % 10
    assert (before == after).all((1, 2)).tolist() == same.tolist()


@pytest.mark.parametrize("cue", ["shape", "hue", "texture"])
def test_a_cue_is_as_often_right_as_its_strength_says(cue: str) -> None:
    indices = np.arange(20_000)
    for strength in (0.0, 0.5, 1.0):
        scene = scenes.describe(indices, cues=Cues(**{cue: strength}))
        right = (scene[cue] == scene["label"]).mean()
        assert right == pytest.approx(strength + (1 - strength) / 10, abs=0.02)


@pytest.mark.parametrize("cue", ["shape", "hue", "texture"])
def test_a_cue_of_strength_0_says_nothing_about_the_class(cue: str) -> None:
    scene = scenes.describe(np.arange(20_000), cues=Cues(0, 0, 0))
    counts = np.zeros((10, 10))
    np.add.at(counts, (scene["label"], scene[cue]), 1)
    chi_squared = ((counts - 200) ** 2 / 200).sum()  # 90 degrees of freedom and a little: 99 ± 14 by chance
    assert chi_squared < 160


def test_nothing_else_depends_on_the_class() -> None:
    indices = np.arange(20_000)
    scene = scenes.describe(indices)
    for name in set(scene) - {"label", "shape", "hue", "texture"}:
        low, high = scenes.RANGES[name]
        share = (scene[name].reshape(-1, 10) - low) / (high - low)
        assert 0 <= share.min() < share.max() <= 1, name
        error = np.sqrt(1 / 12 / 2000)  # of the mean of 2,000 uniform numbers
        assert np.abs(share.mean(0) - 0.5).max() < 5 * error, name


def test_waves_and_colours_are_what_they_are_called() -> None:
    turns = np.linspace(-2, 2, 1001, dtype=np.float32)
    np.testing.assert_allclose(scenes._sine(turns), np.sin(2 * math.pi * turns), atol=2e-3)
    np.testing.assert_allclose(scenes._cosine(turns), np.cos(2 * math.pi * turns), atol=2e-3)
    hsv = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    expected = [colorsys.hsv_to_rgb(*colour) for colour in hsv.tolist()]
    np.testing.assert_allclose(scenes._rgb(*hsv.T).T, expected, atol=1e-5)


def test_distances_measure_area() -> None:
    axis = (np.arange(400, dtype=np.float32) - 199.5) / 200
    x, y = np.broadcast_arrays(axis[None, None, :], axis[None, :, None])
    area = {
        "disc": ((scenes._disc(x, y, 0.1, 0, 0.5) <= 0).mean() * 4, math.pi / 4),
        "ellipse": ((scenes._ellipse(x, y, 0, 0, 0.8, 0.25) <= 0).mean() * 4, math.pi / 5),
        "box": ((scenes._box(x, y, 0, 0, 0.3, 0.6) <= 0).mean() * 4, 0.72),
        "triangle": ((scenes._polygon(x, y, (0, 0), (0.8, 0), (0, 0.8)) <= 0).mean() * 4, 0.32),
        "stroke": ((scenes._stroke(x, y, (-0.4, 0), (0.4, 0), 0.2) <= 0).mean() * 4, 0.32 + math.pi / 25),
    }
    for name, (measured, expected) in area.items():
        assert measured == pytest.approx(expected, rel=0.02), name


def test_every_class_has_its_own_outline() -> None:
    # All objects at one place, one size and upright: no two silhouettes overlap by more than four fifths.
    axis = ((np.arange(64, dtype=np.float32) - 31.5) / 28)[None]
    x, y = np.broadcast_arrays(axis[:, None, :], -axis[:, :, None])
    outlines = [kind.shape(x, y)[0] <= 0 for kind in scenes.KINDS.values()]
    for i, a in enumerate(outlines):
        for b in outlines[:i]:
            assert (a & b).sum() < 0.8 * (a | b).sum()


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_cue_outside_0_to_1_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"cue hue is .* between 0"):
        Cues(hue=strength)


def test_bad_sizes_and_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 pixels"):
        scenes.render([0], image_size=4)
    for indices in ([-1], [0.5], [[0]]):
        with pytest.raises(ValueError, match="whole numbers from 0 up"):
            scenes.render(indices)
