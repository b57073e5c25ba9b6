"""Which images a step sees, and what is done to them."""

import itertools

import pytest
import torch
from tiny import RECIPE, splits

from vitlite.data.augment import normalise
from vitlite.train.batches import Batches, augmented, stream

PLAIN = RECIPE.replace(flip=False, crop_padding=0, cutmix=0)
EVERYTHING = RECIPE.replace(trivial_augment=True, erase=0.5, cutmix=0.5, mixup=0.8)


def treated(recipe, seed=0):
    train = splits().train
    return augmented(recipe, train.images, train.labels, train, torch.Generator().manual_seed(seed))


def test_a_batch_follows_from_the_seed_and_the_step_alone():
    train = splits().train
    walked, jumped = Batches(train, EVERYTHING, seed=3), Batches(train, EVERYTHING, seed=3)
    walked = [walked[step] for step in range(10)]
    for step in (9, 2, 5):
        images, targets = jumped[step]
        assert torch.equal(images, walked[step][0])
        assert torch.equal(targets, walked[step][1])
    assert not torch.equal(Batches(train, EVERYTHING, seed=4)[9][0], walked[9][0])


def test_no_two_streams_of_random_numbers_are_the_same():
    seeds = [stream(seed, what, number, piece) for seed in range(3) for what in ("epoch", "step")
             for number in (0, 1, 99_999) for piece in (0, 1, 7)]
    assert len(set(seeds)) == len(seeds)


def test_large_seeds_are_taken_and_differ_and_small_ones_keep_their_streams():
    train, seeds = splits().train, (0, -1, 2**53, 2**62, -(2**62))
    images = [Batches(train, RECIPE, seed)[7][0] for seed in seeds]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(images, 2))
    assert stream(5, "step", 3, piece=2) == 11 * 10**9 + 3 + 2 * 10**15, "as when the records were made"
    assert stream(-1, "step", 7) == -(10**9) + 7


def test_a_plain_recipe_normalises_and_does_nothing_else():
    train = splits().train
    images, targets = treated(PLAIN)
    assert torch.equal(images, normalise(train.images, train.mean, train.std))
    assert torch.equal(targets, train.labels)


@pytest.mark.parametrize("change", [{"flip": True}, {"crop_padding": 2}, {"trivial_augment": True}, {"erase": 0.5},
                                    {"cutmix": 0.5}, {"mixup": 0.8}, {"cutmix": 0.5, "mixup": 0.8}])
def test_each_field_of_the_recipe_does_something(change):
    (plain, labels), (images, targets) = treated(PLAIN), treated(PLAIN.replace(**change))
    touched = (images != plain).flatten(1).any(dim=1)
    assert touched.sum() > 8
    assert images.isfinite().all()
    if "cutmix" in change or "mixup" in change:
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
        assert ((targets > 0).sum(dim=1) == 2).any(), "two classes"
    else:
        assert torch.equal(targets, labels)


def test_cutmix_takes_its_share_of_the_batch_and_mixup_the_rest():
    untouched, _ = treated(PLAIN)
    images, _ = treated(PLAIN.replace(cutmix=0.25, mixup=5.0))
    kept = (images == untouched).flatten(1).float().mean(dim=1)  # what share of an image's values is its own
    assert (kept[16:] < 0.2).sum() >= 46, "blended everywhere, but for those that drew themselves"
    assert kept[:16].mean() > 0.3, "pasted in places"


def test_a_small_set_is_one_batch():
    train = splits().train.subset(12)
    images, _ = Batches(train, RECIPE, seed=0)[5]
    assert len(images) == 12
