"""Augmentation is drawn for each image alone, and moves pixels without changing them."""

import pytest
import torch

from vitlite.data import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=64):
    return torch.randint(0, 256, (count, 3, 8, 10), dtype=torch.uint8, generator=generator(9))


def test_flip_mirrors_about_half_of_the_images():
    before = images(1000)
    after = augment.random_flip(before, generator())
    same = (after == before).flatten(1).all(1)
    mirrored = (after == before.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 400 < mirrored.sum() < 600


def test_crop_is_a_window_of_the_padded_image_drawn_per_image():
    before = images(200)
    after = augment.random_crop(before, 2, generator())
    padded = torch.nn.functional.pad(before, [2] * 4)
    windows = {
        (r, c): (after == padded[:, :, r : r + 8, c : c + 10]).flatten(1).all(1) for r in range(5) for c in range(5)
    }
    assert torch.stack(list(windows.values())).any(0).all(), "every result is one of the 25 windows"
    assert all(hits.any() for hits in windows.values()), "and each window is drawn"


def test_one_generator_state_gives_one_result():
    for change in (
        augment.random_flip,
        lambda x, g: augment.random_crop(x, 3, g),
        lambda x, g: augment.cutmix(x, torch.arange(64) % 2, 2, 1.0, g)[0],
    ):
        assert torch.equal(change(images(), generator(1)), change(images(), generator(1)))
        assert not torch.equal(change(images(), generator(1)), change(images(), generator(2)))


def test_no_padding_changes_nothing():
    assert torch.equal(augment.random_crop(images(), 0, generator()), images())
    with pytest.raises(ValueError, match="padding is -1"):
        augment.random_crop(images(), -1, generator())


def test_cutmix_pastes_a_rectangle_and_mixes_the_labels_by_area():
    labels = torch.arange(500) % 4
    before = (labels * 60).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 10).contiguous()  # one grey a class
    after, targets = augment.cutmix(before, labels, 4, 0.5, generator())
    shares = torch.stack([(after[:, 0] == 60 * c).float().mean((1, 2)) for c in range(4)], dim=1)
    torch.testing.assert_close(targets, shares)
    torch.testing.assert_close(targets.sum(1), torch.ones(500))
    pasted = (after != before)[:, 0]
    assert 0.25 < pasted.flatten(1).any(1).float().mean() < 0.5, "half, less those pasted from their own class"
    box = pasted.any(2)[:, :, None] & pasted.any(1)[:, None, :]
    assert torch.equal(pasted, box), "what is pasted is a rectangle"
    assert pasted.flatten(1).sum(1).unique().numel() > 10, "of a size drawn for each image"


def test_cutmix_of_no_image_leaves_all_as_it_was():
    labels = torch.arange(64) % 4
    after, targets = augment.cutmix(images(), labels, 4, 0.0, generator())
    assert torch.equal(after, images())
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 4).float())
    with pytest.raises(ValueError, match="share is 2"):
        augment.cutmix(images(), labels, 4, 2, generator())


def test_normalise_gives_zero_mean_and_unit_variance():
    pixels = images(500)
    scaled = pixels / 255
    mean, std = scaled.mean((0, 2, 3)).tolist(), scaled.std((0, 2, 3)).tolist()
    normal = augment.normalise(pixels, mean, std)
    assert normal.dtype == torch.float32
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="3 channels, mean has 1"):
        augment.normalise(pixels, [0.5], std)
