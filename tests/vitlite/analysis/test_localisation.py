"""Scores against masks, their intervals, and whether the model needs the patches that a map ranks high."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitlite import analysis


def random_case(batch=6, grid=(4, 5), size=(12, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, *size, generator=generator) < 0.3
    return torch.rand(batch, *grid, generator=generator), masks


def slow_pointing(picture, mask):
    """The mask under the centre of each patch of largest value; where the centre lies between pixels, their mean."""
    found = []
    for row, col in np.argwhere(picture.numpy() == picture.max().item()):
        y, x = ((place + 0.5) * side / count - 0.5
                for place, side, count in zip((row, col), mask.shape, picture.shape, strict=True))
        under = [mask[i, j].item() for i in {math.floor(y), math.ceil(y)} for j in {math.floor(x), math.ceil(x)}]
        found.append(sum(under) / len(under))
    return sum(found) / len(found)


def slow_scores(picture, mask):
    """Energy and average precision from the definitions, pixel by pixel and threshold by threshold."""
    values, inside = picture.flatten().tolist(), mask.flatten().tolist()
    energy = sum(value for value, hit in zip(values, inside, strict=True) if hit) / sum(values)
    area, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        chosen = [hit for value, hit in zip(values, inside, strict=True) if value >= threshold]
        recall = sum(chosen) / sum(inside)
        area, before = area + (recall - before) * sum(chosen) / len(chosen), recall
    return energy, area


# ---- localisation


def test_scores_equal_a_slow_loop():
    maps, masks = random_case()
    maps[0] = (maps[0] * 3).round() + 1  # with ties
    fitted = F.interpolate(maps[:, None].double(), masks.shape[1:], mode="bilinear")[:, 0].float()
    scores = analysis.localisation(maps, masks)
    for i in range(len(maps)):
        wanted = slow_pointing(maps[i], masks[i]), *slow_scores(fitted[i], masks[i])
        assert [score[i].item() for score in scores] == pytest.approx(wanted, abs=1e-5)
    at_mask_size = analysis.localisation(fitted, masks)
    for one, other in zip(scores[1:], at_mask_size[1:], strict=True):
        torch.testing.assert_close(one, other)


def test_zeros_stay_equal_at_any_scale():
    """By a factor of 5 the weights of the interpolation are no exact floats: 0 must not become 1e-17."""
    maps = torch.randint(3, (12, 3, 5), generator=torch.Generator().manual_seed(0)).double()
    masks = torch.rand(12, 12, 25, generator=torch.Generator().manual_seed(1)) < 0.3
    fitted = F.interpolate(maps[:, None], (12, 25), mode="bilinear")[:, 0].round(decimals=9)
    wanted = [slow_scores(*each)[1] for each in zip(fitted, masks, strict=True)]
    assert analysis.localisation(maps, masks).average_precision.tolist() == pytest.approx(wanted, abs=1e-6)


def test_by_hand():
    maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
    scores = analysis.localisation(maps, torch.tensor([[[False, True, False, True]]]))
    assert scores.pointing == 0
    assert scores.energy == 0.4
    assert scores.average_precision == 0.5  # precision 1/2 at the first hit, 2/4 at the second, half the recall each


@pytest.mark.parametrize("value", [0.0, 0.3, 1e-30])
def test_a_map_that_is_the_same_everywhere_scores_the_objects_share(value):
    for size in ((13, 11), (9, 15)):
        _, masks = random_case(size=size)
        scores = analysis.localisation(torch.full((6, 3, 5), value), masks)
        for score in scores[1:]:
            torch.testing.assert_close(score, masks.float().mean(dim=(1, 2)))
    torch.testing.assert_close(scores.pointing, masks[:, 1::3, 1::3].float().mean(dim=(1, 2)))  # at the centres


def test_the_mask_itself_scores_one_and_its_complement_points_beside():
    _, masks = random_case()
    for score in analysis.localisation(masks.float(), masks):
        assert torch.equal(score, torch.ones(6))
    beside = analysis.localisation((~masks).float(), masks)
    assert beside.pointing.max() == beside.energy.max() == 0


def test_random_maps_point_at_the_object_as_often_as_it_is_large():
    """Over 2,000 images a share of 0.25 comes out within 0.04, four standard errors; also of maps of few patches, whose
    peaks resampling would move to the border."""
    masks = torch.zeros(2_000, 16, 16, dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    for side in (16, 8, 4):
        random = torch.rand(2_000, side, side, generator=torch.Generator().manual_seed(0))
        scores = analysis.localisation(random, masks)
        for score in (scores.pointing, scores.energy):
            assert score.mean().item() == pytest.approx(0.25, abs=0.04)


def test_scale_mirrors_and_order_of_images_do_not_change_a_score():
    maps, masks = random_case()
    there = analysis.localisation(maps, masks)
    for one, scaled, flipped, shuffled in zip(
        there,
        analysis.localisation(maps * 8, masks),
        analysis.localisation(maps.flip(2), masks.flip(2)),
        analysis.localisation(maps.flip(0), masks.flip(0)),
        strict=True,
    ):
        torch.testing.assert_close(scaled, one)
        torch.testing.assert_close(flipped, one)
        torch.testing.assert_close(shuffled, one.flip(0))


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.rand(2, 4, 4), torch.ones(3, 8, 8), "expected .* of equal B"),
        (torch.rand(4, 4), torch.ones(8, 8), r"maps have shape \[4, 4\]"),
        (torch.rand(1, 4, 4), torch.zeros(1, 8, 8), "a mask is empty"),
        (-torch.rand(1, 4, 4), torch.ones(1, 8, 8), "negative or not finite"),
        (torch.full((1, 4, 4), torch.nan), torch.ones(1, 8, 8), "negative or not finite"),
        (torch.rand(0, 4, 4), torch.ones(0, 8, 8), r"maps have shape \[0, 4, 4\].* none of them 0"),
        (torch.rand(1, 0, 4), torch.ones(1, 8, 8), r"maps have shape \[1, 0, 4\]"),
        (torch.rand(1, 4, 4), torch.full((1, 8, 8), torch.nan), "a mask is not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        analysis.localisation(maps, masks)


def test_arrays_and_lists_are_no_tensors():
    maps, images, labels = torch.rand(2, 2, 3), torch.rand(2, 3, 4, 6), torch.zeros(2, dtype=int)
    with pytest.raises(TypeError, match=r"maps is ndarray; expected a tensor \[B, h, w\]"):
        analysis.localisation(maps.numpy(), torch.ones(2, 8, 8))
    with pytest.raises(TypeError, match=r"masks is ndarray; expected a tensor \[B, H, W\]"):
        analysis.localisation(maps, np.ones((2, 8, 8)))
    with pytest.raises(TypeError, match=r"values is list; expected a tensor \[n\]"):
        analysis.bootstrap([0.0, 1.0])
    with pytest.raises(TypeError, match=r"labels is list; expected a tensor \[B\]"):
        analysis.deletion_curve(bright_patches, images, [0, 0], maps, [0.5])
    with pytest.raises(TypeError, match="ranking is ndarray"):
        analysis.deletion_curve(bright_patches, images, labels, maps.numpy(), [0.5])
    with pytest.raises(TypeError, match="images is ndarray"):
        analysis.deletion_curve(bright_patches, images.numpy(), labels, maps, [0.5])


def test_the_centre_prior_is_a_gaussian_in_the_middle():
    prior = analysis.centre_prior((4, 6))
    assert torch.equal(prior, prior.flip(0, 1))
    torch.testing.assert_close(prior[1, 2], torch.tensor(-0.5 * ((0.125 / 0.25) ** 2 + (1 / 12 / 0.25) ** 2)).exp())
    assert prior.max() == prior[1:3, 2:4].min()
    assert analysis.centre_prior((3, 3))[1, 1] == 1


# ---- intervals


def test_the_bootstrap_interval_is_the_normal_one_for_many_values():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    mean, low, high = analysis.bootstrap(values)
    half = 1.96 * values.std().item() / 20
    assert mean == pytest.approx(values.mean().item())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_the_bootstrap_is_the_same_each_time():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert analysis.bootstrap(values) == analysis.bootstrap(values)
    torch.testing.assert_close(
        analysis.bootstrap(2 * values + 1), tuple(2 * end + 1 for end in analysis.bootstrap(values))
    )


def test_nineteen_in_twenty_intervals_hold_the_truth():
    samples = torch.rand(200, 60, generator=torch.Generator().manual_seed(0))
    held = [low <= 0.5 <= high for _, low, high in map(analysis.bootstrap, samples)]
    assert sum(held) / 200 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.rand(2, 3), r"shape \[2, 3\]; expected \[n\]"),
        (torch.rand(0), r"shape \[0\]"),
        (torch.tensor([0.0, torch.nan]), "one finite number an image"),
    ],
)
def test_what_has_no_interval_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        analysis.bootstrap(values)


# ---- deletion


def bright_patches(images):
    """A model that answers with the number of patches of 2 × 2 pixels whose mean is above a half."""
    count = (F.avg_pool2d(images.mean(dim=1), 2) > 0.5).sum(dim=(1, 2))
    return F.one_hot(count, 7).float()


def lit(order, cells=(2, 3)):
    """An image of 2 × 3 patches in which those in ``order`` are lit."""
    grid = torch.zeros(cells).flatten()
    grid[list(order)] = 1.0
    return grid.view(1, 1, *cells).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).expand(1, 3, -1, -1)


def test_patches_go_in_the_order_of_the_map():
    """Three lit patches; the answer stays right until a lit patch goes."""
    image, label = lit([1, 2, 5]), torch.tensor([3])
    ranking = torch.tensor([[[6.0, 1.0, 2.0], [5.0, 4.0, 3.0]]])  # the dark patches 0, 3, 4 first, then 5, 2, 1
    shares = [k / 6 for k in range(7)]
    assert analysis.deletion_curve(bright_patches, image, label, ranking, shares).tolist() == [1, 1, 1, 1, 0, 0, 0]
    last = analysis.deletion_curve(bright_patches, image, label, ranking, shares, least_first=True)
    assert last.tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_each_image_has_its_own_ranking():
    images, labels = torch.cat([lit([0]), lit([5])]), torch.tensor([1, 1])
    ranking = images.mean(dim=1)[:, ::2, ::2]
    mean = analysis.deletion_curve(bright_patches, images, labels, ranking.flip(0), [0, 1 / 6, 1])
    assert mean.tolist() == [1, 1, 0]
    ranking[1] = ranking[0]
    mean = analysis.deletion_curve(bright_patches, images, labels, ranking, [0, 1 / 6, 1])
    assert mean.tolist() == [1, 0.5, 0]


def test_blank_patches_are_zero():
    seen = []

    def watch(images):
        seen.append(images)
        return bright_patches(images)

    images, ranking = torch.rand(2, 3, 4, 6), torch.rand(2, 2, 3)
    analysis.deletion_curve(watch, images, torch.zeros(2, dtype=int), ranking, [0, 1 / 6, 1])
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[2], torch.zeros_like(images))
    for image, blanked, rank in zip(images, seen[1], ranking, strict=True):
        r, c = divmod(rank.argmax().item(), 3)
        changed = (image != blanked).all(dim=0)
        assert changed[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].all()
        assert changed.sum() == 4


def test_among_equals_the_first_counts_as_larger():
    image = lit([0])
    curve = analysis.deletion_curve(bright_patches, image, torch.tensor([1]), torch.ones(1, 2, 3), [1 / 6])
    assert curve == 0


def test_no_gradient_is_kept():
    layer = torch.nn.Conv2d(3, 4, (4, 6))
    watched = []

    def model(images):
        watched.append(layer(images).flatten(1))
        return watched[-1]

    curve = analysis.deletion_curve(model, torch.rand(2, 3, 4, 6), torch.tensor([0, 1]), torch.rand(2, 2, 3), [0, 0.5])
    assert not curve.requires_grad
    assert not any(logits.requires_grad for logits in watched)


@pytest.mark.parametrize(
    ("ranking", "labels", "shares", "message"),
    [
        ((2, 3, 3), 2, [0.5], "grid of 3×3, which does not divide images of 4×6"),
        ((3, 2, 3), 2, [0.5], r"ranking has shape \[3, 2, 3\]"),
        ((2, 6), 2, [0.5], r"expected \[B, rows, cols\]"),
        ((2, 2, 3), 1, [0.5], r"labels \[1\]"),
        ((2, 2, 3), 2, [0.5, 1.5], r"shares are \[0.5, 1.5\]"),
        ((2, 2, 3), 2, [], r"shares are \[\]"),
        ((2, 0, 3), 2, [0.5], r"ranking has shape \[2, 0, 3\]"),
        ((0, 2, 3), 0, [0.5], r"ranking has shape \[0, 2, 3\]"),
    ],
)
def test_what_cannot_be_removed_is_refused(ranking, labels, shares, message):
    images, labels = torch.rand(2, 3, 4, 6), torch.zeros(labels, dtype=int)
    with pytest.raises(ValueError, match=message):
        analysis.deletion_curve(bright_patches, images, labels, torch.rand(ranking), shares)


def test_a_rank_that_is_no_number_is_refused():
    images, labels, ranking = torch.rand(2, 3, 4, 6), torch.zeros(2, dtype=int), torch.rand(2, 2, 3)
    ranking[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the ranking holds a NaN"):
        analysis.deletion_curve(bright_patches, images, labels, ranking, [0.5])


@pytest.mark.parametrize("size", [(4, 4), (4, 16), (3, 5), (1, 1)])
def test_a_mask_coarser_than_the_map_sees_every_peak(size):
    picture = torch.zeros(1, 16, 16)
    picture[0, 5, 6] = 1.0  # between the centres of a coarser grid
    mask = torch.ones(1, *size, dtype=torch.bool)
    scores = analysis.localisation(picture, mask)
    assert [score.item() for score in scores] == [1.0, 1.0, 1.0]
    mask[0, : (size[0] + 1) // 2] = False
    if size[0] == 4:
        energy = analysis.localisation(picture, mask).energy.item()
        assert energy < 0.3, "the peak lies in the upper half"
