"""Augmentation is drawn for each image alone, and moves pixels without changing them."""

import math

import pytest
import torch
from torchvision.transforms.v2 import TrivialAugmentWide
from torchvision.transforms.v2 import functional as vision

from vitlite.data import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=64, channels=3, height=8, width=10):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(9))


def smooth_images(count, channels=3, height=32, width=32):
    """Pictures with edges, gradients and a narrow range of greys, as photographs have."""
    coarse = images(count, channels, 5, 5).float()
    return (30 + 0.7 * vision.resize(coarse, [height, width], antialias=False)).to(torch.uint8)


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
        augment.trivial_augment,
        lambda x, g: augment.random_crop(x, 3, g),
        lambda x, g: augment.random_erase(x, 0.5, g),
        lambda x, g: augment.cutmix(x, torch.arange(64) % 2, 2, 1.0, g)[0],
        lambda x, g: augment.mixup(x, torch.arange(64) % 2, 2, 1.0, g)[0],
        lambda x, g: augment.mix(x, torch.arange(64) % 2, 2, 0.5, 1.0, g)[1],
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


# ---- TrivialAugment


def torchvision_does(image, operation, magnitude):
    """One image by torchvision's functions, in the words of its own TrivialAugmentWide."""
    height, width = image.shape[-2:]
    slant = math.degrees(math.atan(magnitude))
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return {
        "shear x": lambda: vision.affine(image, **affine | {"shear": [slant, 0.0]}, center=[0, 0]),
        "shear y": lambda: vision.affine(image, **affine | {"shear": [0.0, slant]}, center=[0, 0]),
        "shift x": lambda: vision.affine(image, **affine | {"translate": [int(magnitude), 0]}),
        "shift y": lambda: vision.affine(image, **affine | {"translate": [0, int(magnitude)]}),
        "rotate": lambda: vision.rotate(image, magnitude),
        "brightness": lambda: vision.adjust_brightness(image, 1 + magnitude),
        "colour": lambda: vision.adjust_saturation(image, 1 + magnitude),
        "contrast": lambda: vision.adjust_contrast(image, 1 + magnitude),
        "sharpness": lambda: vision.adjust_sharpness(image, 1 + magnitude),
        "posterise": lambda: vision.posterize(image, int(magnitude)),
        "solarise": lambda: vision.solarize(image, 255 * magnitude),
        "autocontrast": lambda: vision.autocontrast(image),
        "equalise": lambda: vision.equalize(image),
        "identity": lambda: image,
    }[operation]()


def every_strength(operation):
    """All magnitudes that torchvision's TrivialAugmentWide may choose, with both signs where it draws one."""
    theirs = list(TrivialAugmentWide._AUGMENTATION_SPACE.values())  # in our order, but identity comes first
    magnitudes, signed = theirs[(augment.OPERATIONS.index(operation) + 1) % 14]
    values = magnitudes(31, 32, 32)
    values = torch.zeros(31) if values is None else values.float()
    values = values.trunc() if "shift" in operation else values  # as torchvision does where it uses them
    return torch.cat([values, -values]) if signed else values


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 32, 32), (3, 24, 36)])
@pytest.mark.parametrize("operation", augment.OPERATIONS)
def test_each_operation_is_torchvisions_at_every_strength(operation, size):
    magnitudes = every_strength(operation)
    before = smooth_images(len(magnitudes), *size)
    which = torch.full((len(magnitudes),), augment.OPERATIONS.index(operation))
    after = augment.apply_operations(before, which, magnitudes)
    theirs = torch.stack([torchvision_does(x, operation, float(m)) for x, m in zip(before, magnitudes, strict=True)])
    distance = (after.int() - theirs.int()).abs()
    assert after.dtype == torch.uint8
    if operation == "rotate":  # at 45° a pixel may come from the very border between two; rounding decides
        assert (distance > 0).flatten(1).float().mean(1).max() < 0.02
        distance = distance[magnitudes.abs() % 45 != 0]
    assert distance.max() <= 1
    if operation != "identity" and (operation, size[0]) != ("colour", 1):
        assert (after != before).any(), "and it does something"


def test_operations_of_a_mixed_batch_do_not_touch_each_other():
    before = smooth_images(70)
    operation = torch.randint(14, (70,), generator=generator(3))
    magnitude = torch.where(operation == 9, 4.0, torch.where(operation == 10, 0.5, 0.7))
    together = augment.apply_operations(before, operation, magnitude)
    alone = [augment.apply_operations(before[i : i + 1], operation[i : i + 1], magnitude[i : i + 1]) for i in range(70)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1)
    assert torch.equal(together[operation == 13], before[operation == 13])


def test_the_drawn_space_is_torchvisions():
    for row, operation in enumerate(augment.OPERATIONS):
        torch.testing.assert_close(augment._STRENGTHS[row], every_strength(operation)[:31])


def test_every_operation_strength_and_sign_is_drawn_alike(monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "apply_operations", lambda images, *plan: drawn.extend(plan))
    augment.trivial_augment(images(1).expand(28_000, -1, -1, -1), generator())
    operation, magnitude = drawn
    counts = operation.bincount()
    assert len(counts) == 14
    assert (counts - 2000).abs().max() < 200, "2000 each; 200 are 4.6 standard deviations"
    angles = magnitude[operation == augment.OPERATIONS.index("rotate")]
    assert angles.unique().numel() == 61, "31 strengths of either sign, and no angle has none"
    assert abs((angles > 0).float().mean() - 30 / 62) < 0.06
    assert set(magnitude[operation == augment.OPERATIONS.index("posterise")].tolist()) == {2, 3, 4, 5, 6, 7, 8}


def test_one_image_and_none_are_batches_too():
    for count in (0, 1, 2):
        assert augment.trivial_augment(images(count), generator()).shape == (count, 3, 8, 10)


def test_trivial_augment_says_what_it_cannot_treat():
    with pytest.raises(TypeError, match="images are torch.float32; expected uint8"):
        augment.trivial_augment(images().float(), generator())
    with pytest.raises(ValueError, match=r"\[64, 2, 8, 10\]; expected \[batch, 1 or 3 channels"):
        augment.trivial_augment(images()[:, :2], generator())


# ---- random erasing


@pytest.mark.parametrize("shape", [(32, 32), (20, 40)])
def test_erasing_fills_one_rectangle_of_the_papers_size_with_noise(shape):
    count, (height, width) = 2000, shape
    before = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    after = augment.random_erase(before, 0.25, generator())
    erased = (after > 0).flatten(1).any(1)
    assert 430 < erased.sum() < 570
    hit = (after[erased] > 0).any(1)  # a pixel of noise is black once in 16 million
    box = hit.any(2)[:, :, None] & hit.any(1)[:, None, :]
    assert torch.equal(hit, box)
    tall, wide = hit.any(2).sum(1), hit.any(1).sum(1)
    area = hit.flatten(1).float().mean(1)
    assert area.min() > 0.012, "2 % to whole pixels"
    assert area.max() < 0.36
    assert abs(area.mean() - 0.175) < 0.02
    aspect = tall / wide
    assert aspect.min() < 0.4
    assert aspect.max() > 2.0
    assert abs(aspect.log().mean()) < 0.15 or height != width
    touched = hit.float().mean(0)
    assert touched.min() > 0, "it may lie anywhere"
    noise = after[erased].permute(0, 2, 3, 1)[hit].float()
    assert abs(noise.mean() - 127.5) < 1
    assert abs(noise.std() - 73.9) < 1, "as even noise in 0 to 255 has"


def test_erasing_keeps_type_and_leaves_the_rest_of_the_image():
    before = images(300).float()
    after = augment.random_erase(before, 1.0, generator())
    assert after.dtype == torch.float32
    assert 0.1 < (after != before).float().mean() < 0.25
    assert torch.equal(augment.random_erase(images(), 0.0, generator()), images())
    with pytest.raises(ValueError, match="probability is 1.5"):
        augment.random_erase(images(), 1.5, generator())


# ---- mixing


def one_grey_a_class(labels):
    return (labels * 60).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 10).contiguous()


@pytest.mark.parametrize("alpha", [0.05, 0.8, 4.0])
def test_the_mixing_share_is_beta_distributed(alpha):
    share = augment._beta(alpha, 100_000, generator()).double()
    assert (share.isfinite() & (share >= 0) & (share <= 1)).all()
    assert abs(share.mean() - 0.5) < 0.006
    assert abs(share.var() - 1 / (4 * (2 * alpha + 1))) < 0.003, "variance of Beta(α, α)"
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert abs((share - 0.5).pow(4).mean() - fourth) < 0.001, "and its fourth central moment"


def test_mixup_blends_images_and_targets_alike():
    labels = torch.arange(400) % 4
    after, targets = augment.mixup(one_grey_a_class(labels), labels, 4, 1.0, generator())
    assert after.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(400))
    expected = targets @ (torch.arange(4) * 60.0)
    torch.testing.assert_close(after, expected[:, None, None, None].expand_as(after))
    kept = targets[torch.arange(400), labels]
    assert kept[kept < 1].unique().numel() > 200, "drawn for each image"
    assert ((targets > 0).sum(1) <= 2).all()


@pytest.mark.parametrize("change", [
    lambda x, y, g: augment.mixup(x, y, 4, 1.0, g),
    lambda x, y, g: augment.cutmix(x, y, 4, 1.0, g),
    lambda x, y, g: augment.mix(x, y, 4, 0.3, 1.0, g),
])
def test_labels_and_their_probabilities_mix_alike(change):
    labels = torch.arange(64) % 4
    soft = torch.nn.functional.one_hot(labels, 4).double()
    from_labels, from_soft = (change(images(), targets, generator()) for targets in (labels, soft))
    assert torch.equal(from_labels[0], from_soft[0])
    assert torch.equal(from_labels[1], from_soft[1])
    with pytest.raises(ValueError, match=r"targets have shape \[64, 3\]; expected labels \[64\] or .* \[64, 4\]"):
        change(images(), soft[:, :3], generator())


def test_mixing_of_mixed_targets_keeps_them_probabilities():
    soft = torch.rand(64, 4, generator=generator(5)).softmax(1)
    _, once = augment.mixup(images(), soft, 4, 0.8, generator())
    _, twice = augment.cutmix(images(), once, 4, 1.0, generator())
    torch.testing.assert_close(twice.sum(1), torch.ones(64))
    torch.testing.assert_close(once.mean(0).sum(), torch.tensor(1.0))


def test_mix_gives_each_image_cutmix_or_mixup():
    labels = torch.arange(400) % 4
    after, targets = augment.mix(one_grey_a_class(labels), labels, 4, 0.25, 1.0, generator())
    greys = torch.tensor([grey.unique().numel() for grey in after[:, 0]])
    assert (greys[:100] > 1).sum() > 40, "a quarter is pasted into, now and then from its own class"
    assert (greys[100:] == 1).all(), "the rest is blended as a whole"
    blended = targets[100:].max(1).values < 1
    assert 0.6 < blended.float().mean() < 0.9
    expected = targets @ (torch.arange(4) * 60.0)
    torch.testing.assert_close(after.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mix_can_be_all_of_one(share):
    labels = torch.arange(400) % 4
    after, _ = augment.mix(one_grey_a_class(labels), labels, 4, share, 1.0, generator())
    several = torch.tensor([grey.unique().numel() > 1 for grey in after[:, 0]])
    assert several.any() == (share == 1)


def test_mixing_says_what_is_wrong():
    labels = torch.arange(64) % 4
    for alpha in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="alpha is"):
            augment.mixup(images(), labels, 4, alpha, generator())
    with pytest.raises(ValueError, match="share is -0.1"):
        augment.mix(images(), labels, 4, -0.1, 0.8, generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batch_from_a_cpu_generator():
    before, labels = smooth_images(256), torch.arange(256) % 4
    for change in (
        augment.random_flip,
        augment.trivial_augment,
        lambda x, g: augment.random_crop(x, 3, g),
        lambda x, g: augment.cutmix(x, labels.to(x.device), 4, 1.0, g)[0],
        lambda x, g: augment.mixup(x, labels.to(x.device), 4, 1.0, g)[0],
        lambda x, g: augment.normalise(x, [0.5] * 3, [0.25] * 3),
    ):
        here, there = change(before, generator()), change(before.cuda(), generator()).cpu()
        far = (here.float() - there.float()).abs() > 1
        assert far.float().mean() < 0.001, "up to a pixel on the border between two"
    erased = augment.random_erase(before.cuda(), 0.5, generator()).cpu() != before
    assert torch.equal(erased.any(1), (augment.random_erase(before, 0.5, generator()) != before).any(1))


@pytest.mark.parametrize("change", [
    lambda images, g: augment.random_flip(images, g),
    lambda images, g: augment.random_crop(images, 2, g),
    lambda images, g: augment.trivial_augment(images, g),
    lambda images, g: augment.random_erase(images, 0.5, g),
    lambda images, g: augment.cutmix(images, torch.zeros(0, dtype=torch.int64), 2, 0.5, g)[0],
    lambda images, g: augment.mixup(images, torch.zeros(0, dtype=torch.int64), 2, 0.8, g)[0],
    lambda images, g: augment.mix(images, torch.zeros(0, dtype=torch.int64), 2, 0.5, 0.8, g)[0],
    lambda images, g: augment.normalise(images, [0.5] * 3, [0.5] * 3),
])
def test_an_empty_batch_stays_empty(change):
    assert change(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.Generator()).shape == (0, 3, 8, 8)
