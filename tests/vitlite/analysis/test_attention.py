"""Distance, entropy and looks of heads: closed forms, a slow loop from the definition, and what must not matter."""

import itertools
import math
import weakref

import numpy as np
import pytest
import torch

from vitlite import ViT, ViTConfig, analysis


def random_maps(layers=2, batch=3, heads=4, tokens=13, sharpness=2.0, seed=0):
    logits = torch.randn(layers, batch, heads, tokens, tokens, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(seed))
    return (sharpness * logits).softmax(dim=-1)


def flipped(maps, grid):
    """The same maps of the image seen in a mirror; one token stands before the patches."""
    order = torch.cat([torch.zeros(1, dtype=int), 1 + torch.arange(math.prod(grid)).view(grid).flip(1).flatten()])
    return maps[..., order, :][..., order]


def slow_distance(maps, grid, patch_size):
    """From the definition, a weight at a time: ``[layers, heads, B]``."""
    layers, batch, heads, tokens, _ = maps.shape
    places = [(row * patch_size[0], col * patch_size[1]) for row in range(grid[0]) for col in range(grid[1])]
    prefix, found = tokens - len(places), np.zeros((layers, heads, batch))
    for layer, image, head in itertools.product(range(layers), range(batch), range(heads)):
        rows = maps[layer, image, head].tolist()[prefix:]
        for query, row in zip(places, rows, strict=True):
            weights = row[prefix:]
            mean = sum(w * math.dist(query, key) for w, key in zip(weights, places, strict=True)) / sum(weights)
            found[layer, head, image] += mean / len(places)
    return torch.from_numpy(found)


# ---- known answers


def test_a_head_that_looks_at_itself_looks_no_distance():
    identity = torch.eye(12).expand(2, 3, 12, 12)
    assert torch.equal(analysis.mean_attention_distance([identity], (3, 4), 4), torch.zeros(1, 3))


def test_uniform_attention_is_the_baseline():
    maps = torch.full((1, 1, 12, 12), 1 / 12, dtype=torch.float64)
    found = analysis.mean_attention_distance([maps], (3, 4), (2, 5)).item()
    assert found == pytest.approx(analysis.uniform_attention_distance((3, 4), (2, 5)))


def test_the_baseline_in_one_row_has_a_closed_form():
    for n in (1, 2, 9):  # the mean of |i - j| over all pairs is (n² - 1) / 3n
        assert analysis.uniform_attention_distance((1, n), 7) == pytest.approx(7 * (n * n - 1) / (3 * n))
        assert analysis.uniform_attention_distance((n, 1), (7, 3)) == pytest.approx(7 * (n * n - 1) / (3 * n))


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (2, 3), (-1, 2)])
def test_one_fixed_offset_is_its_length(step):
    """A query whose key would lie outside the image looks at the class token instead, and so does not count."""
    rows, cols, maps = 5, 6, torch.zeros(1, 1, 31, 31)
    maps[..., 0, 0] = 1
    for r, c in np.ndindex(rows, cols):
        inside = 0 <= r + step[0] < rows and 0 <= c + step[1] < cols
        maps[..., 1 + r * cols + c, 1 + (r + step[0]) * cols + c + step[1] if inside else 0] = 1
    found = analysis.mean_attention_distance([maps], (rows, cols), (4, 3)).item()
    assert found == pytest.approx(math.hypot(4 * step[0], 3 * step[1]), rel=1e-6)


def test_a_permutation_is_the_mean_length_of_its_moves():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moves = [math.dist(divmod(i, 5), divmod(j, 5)) for i, j in enumerate(order.tolist())]
    found = analysis.mean_attention_distance([torch.eye(20)[order][None, None]], (4, 5), 16).item()
    assert found == pytest.approx(16 * sum(moves) / 20, rel=1e-6)


@pytest.mark.parametrize("n", [3, 8])
def test_a_band_like_a_convolution_stays_near(n):
    """In one row, each patch and its neighbours alike: 2/3 of a patch inside, 1/2 at both ends."""
    band = torch.eye(n) + torch.eye(n).roll(1, 0).tril() + torch.eye(n).roll(-1, 0).triu()
    found = analysis.mean_attention_distance([(band / band.sum(1, keepdim=True))[None, None]], (1, n), 4).item()
    assert found == pytest.approx(4 * ((n - 2) * 2 / 3 + 2 * 1 / 2) / n, rel=1e-6)


# ---- the definition, and the tokens before the patches


@pytest.mark.parametrize("tokens", [12, 13, 15])
def test_distance_equals_a_slow_loop(tokens):
    maps = random_maps(tokens=tokens)
    found = analysis.mean_attention_distance(maps, (3, 4), (4, 2), per_image=True)
    assert found.dtype == torch.float64
    slow = slow_distance(maps, (3, 4), (4, 2))
    torch.testing.assert_close(found, slow)
    mean = analysis.mean_attention_distance(list(maps.float()), (3, 4), (4, 2))
    torch.testing.assert_close(mean, slow.mean(dim=-1).float())


def test_attention_on_the_class_token_does_not_shorten_the_distance():
    patches = random_maps(tokens=12)
    share = 0.8
    maps = torch.zeros(2, 3, 4, 13, 13, dtype=torch.float64)
    maps[..., 0], maps[..., 1:, 1:], maps[..., 0, :] = share, (1 - share) * patches, 1 / 13
    alone = analysis.mean_attention_distance(patches, (3, 4), 4)
    torch.testing.assert_close(analysis.mean_attention_distance(maps, (3, 4), 4), alone)


def test_a_row_without_any_weight_on_patches_does_not_count():
    maps = torch.zeros(2, 1, 4, 4)  # a class token and three patches in a row; image 1 looks at the class token only
    maps[..., 0] = 1
    maps[0, 0, 2] = torch.tensor([0.5, 0.0, 0.0, 0.5])  # the middle patch looks at its neighbour
    found = analysis.mean_attention_distance([maps], (1, 3), 4, per_image=True)
    assert found[0, 0, 0] == 4
    assert found[0, 0, 1].isnan()
    assert analysis.mean_attention_distance([maps], (1, 3), 4) == 4


# ---- with the query forgotten


def test_a_head_that_looks_at_one_place_whoever_asks_loses_nothing_without_the_query():
    """In the middle of the image it lies below uniform attention all the same."""
    row = torch.zeros(25)
    row[12] = 1
    maps = row.expand(1, 1, 25, 25)
    found = analysis.mean_attention_distance([maps], (5, 5), 4)
    assert found.item() < analysis.uniform_attention_distance((5, 5), 4)
    assert torch.equal(analysis.mean_attention_distance(analysis.without_query([maps], (5, 5)), (5, 5), 4), found)


def test_without_the_query_a_permutation_is_uniform():
    maps = torch.eye(20)[torch.randperm(20, generator=torch.Generator().manual_seed(0))][None, None]
    (blind,) = analysis.without_query([maps], (4, 5))
    torch.testing.assert_close(blind, torch.full((1, 1, 20, 20), 1 / 20))


@pytest.mark.parametrize("tokens", [12, 14])
def test_without_the_query_every_row_is_the_mean_of_the_renormalised_rows(tokens):
    maps = random_maps(tokens=tokens)
    for layer, blind in zip(maps, analysis.without_query(maps, (3, 4)), strict=True):
        assert blind.shape == (3, 4, 12, 12)
        for image, head, query in np.ndindex(3, 4, 12):
            rows = [row[tokens - 12 :] for row in layer[image, head].tolist()[tokens - 12 :]]
            mean = [sum(row[key] / sum(row) for row in rows) / 12 for key in range(12)]
            torch.testing.assert_close(blind[image, head, query], torch.tensor(mean, dtype=torch.float64))


def test_without_the_query_a_row_without_any_weight_on_patches_does_not_count():
    maps = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])[None, None]  # a class token and two patches
    (blind,) = analysis.without_query([maps], (1, 2))
    assert torch.equal(blind, torch.tensor([[[[1.0, 0], [1, 0]]]]))


# ---- what must not matter


def test_order_of_heads_and_images_and_mirrors_do_not_change_a_distance():
    maps, grid = random_maps(), (3, 4)
    there = analysis.mean_attention_distance(maps, grid, 4, per_image=True)  # [layers, heads, images]
    for order in ([2, 0, 3, 1], [3, 2, 1, 0]):
        here = analysis.mean_attention_distance(maps[:, :, order], grid, 4, per_image=True)
        torch.testing.assert_close(here, there[:, order])
    here = analysis.mean_attention_distance(maps[:, [2, 0, 1]], grid, 4, per_image=True)
    torch.testing.assert_close(here, there[..., [2, 0, 1]])
    torch.testing.assert_close(analysis.mean_attention_distance(flipped(maps, grid), grid, 4, per_image=True), there)


def test_batches_can_be_joined():
    maps = random_maps()
    parts = [analysis.mean_attention_distance(maps[:, i : i + 1], (3, 4), 4, per_image=True) for i in range(3)]
    whole = analysis.mean_attention_distance(maps, (3, 4), 4)
    torch.testing.assert_close(torch.cat(parts, dim=-1).mean(dim=-1), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coarse_maps_are_measured_in_float32(dtype):
    maps = random_maps(sharpness=1)
    exact = analysis.mean_attention_distance(maps, (3, 4), 4).float()
    found = analysis.mean_attention_distance(maps.to(dtype), (3, 4), 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=5e-3, atol=0)


# ---- entropy, and where the class token looks


def test_entropy_of_k_tokens_alike_is_the_logarithm_of_k():
    for k in (1, 2, 5):
        rows = torch.zeros(1, 1, 5, 5)
        rows[..., :k] = 1 / k
        assert analysis.attention_entropy([rows]).item() == pytest.approx(math.log(k), abs=1e-6)


def test_entropy_equals_a_slow_loop():
    maps = random_maps(tokens=7)
    slow = torch.tensor([[[-sum(w * math.log(w) for w in head.flatten().tolist()) / 7 for head in image]
                          for image in layer] for layer in maps], dtype=torch.float64)
    torch.testing.assert_close(analysis.attention_entropy(maps), slow.mean(dim=1))


def test_class_attention_is_the_tokens_row_as_an_image():
    maps = random_maps(tokens=14)  # class token, distillation token, 3 × 4 patches
    for token in (0, 1):
        found = analysis.class_attention(maps, (3, 4), token, per_head=True)
        assert torch.equal(found, maps[..., token, 2:].reshape(2, 3, 4, 3, 4))
        torch.testing.assert_close(analysis.class_attention(maps, (3, 4), token), found.mean(dim=2))
    patches = analysis.class_attention(maps, (3, 4), token=None)
    torch.testing.assert_close(patches, maps[..., 2:, 2:].mean(dim=(2, 3)).reshape(2, 3, 3, 4))


def test_a_token_that_is_not_there_is_named():
    for tokens, token in ((14, 2), (14, -1), (12, 0), (14, 0.0), (14, "cls")):
        with pytest.raises(ValueError, match=f"token is {token!r}; there are {tokens - 12} tokens before.*token=None"):
            analysis.class_attention(random_maps(tokens=tokens), (3, 4), token)


# ---- one layer at a time


def measured(layer):
    analysis.mean_attention_distance([layer], (3, 4), 4)
    return layer


MEASURES = {
    "distance": lambda maps: analysis.mean_attention_distance(maps, (3, 4), 4),
    "distance without the query": lambda maps: analysis.mean_attention_distance(
        analysis.without_query(maps, (3, 4)), (3, 4), 4
    ),
    "entropy": analysis.attention_entropy,
    "class attention": lambda maps: analysis.class_attention(maps, (3, 4), per_head=True),
    "patches": lambda maps: analysis.class_attention(maps, (3, 4), None),
    "rollout": analysis.attention_rollout,
    "rollout, max": lambda maps: analysis.attention_rollout(maps, fusion="max", discard=0.5),
    "distance on the way to rollout": lambda maps: analysis.attention_rollout(map(measured, maps)),
    "rollout by layer": lambda maps: [rollout.sum() for rollout in analysis.iter_rollout(maps)],
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_map_outlives_its_layer(measure, dtype):
    """Each map's memory is free before the next is made: a view into it would hold it, too."""
    made = []

    def maps():
        for _ in range(5):
            assert not [array for array in made if array() is not None]
            array = np.full((2, 3, 13, 13), 1 / 13, dtype)
            made.append(weakref.ref(array))
            layer = torch.from_numpy(array)
            del array
            yield layer
            del layer

    measure(maps())
    assert len(made) == 5


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_models_layers_run_without_gradients_and_give_what_the_whole_gives(measure):
    torch.manual_seed(0)
    model = ViT(ViTConfig((12, 16), 4, 3, 5, embed_dim=24, depth=3, num_heads=3, mlp_dim=48)).eval()
    images = torch.randn(2, 3, 12, 16)
    found = measure(model.iter_attention(images))
    whole = measure(model(images, return_attention=True)[1])
    for one, other in zip(found, whole, strict=True):
        assert not one.requires_grad
        torch.testing.assert_close(one, other)


# ---- what is refused

MAPS = torch.full((1, 2, 5, 5), 1 / 5)


@pytest.mark.parametrize("measure", [MEASURES["rollout"], analysis.attention_entropy,
                                     lambda maps: list(analysis.without_query(maps, (2, 2))),
                                     lambda maps: analysis.mean_attention_distance(maps, (2, 2), 4)])
@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (None, TypeError, "fused attention forms no maps"),
        (5, TypeError, "attention is int; expected tensors"),
        ([MAPS, None], TypeError, "attention of layer 2 is NoneType.*ask for explicit attention"),
        ([], ValueError, "attention is empty: the model gave no maps"),
        (MAPS, ValueError, r"shape \[2, 5, 5\]; expected \[batch, heads, tokens, tokens\].*into a list"),
        ([MAPS[..., :4]], ValueError, r"shape \[1, 2, 5, 4\]"),
        ([MAPS[:0]], ValueError, r"shape \[0, 2, 5, 5\]"),
        ([MAPS, MAPS[:, :1]], ValueError, r"layer 2 has shape \[1, 1, 5, 5\], of layer 1 \[1, 2, 5, 5\]"),
        ([MAPS, -MAPS], ValueError, "rows of layer 2 do not sum to 1.*look like logits: pass logits.softmax"),
        ([1.5 * MAPS], ValueError, "sums from 1.5 to 1.5.*before dropout"),
        ([torch.rand(1, 2, 5, 5).mul(9).softmax(dim=-2)], ValueError, "its columns do: pass attention.transpose"),
        ([MAPS.index_fill(3, torch.tensor([2]), torch.nan)], ValueError, "do not sum to 1.*values that are no numbers"),
        ([MAPS[..., 1:, 1:]], ValueError, "sums from 0.8 to 0.8.*with the columns of all tokens"),
    ],
)
def test_what_are_no_maps_is_refused(measure, maps, error, message):
    with pytest.raises(error, match=message):
        measure(maps)


@pytest.mark.parametrize(
    ("grid", "patch_size", "error", "message"),
    [
        ((3, 2), 4, ValueError, "there are 5 tokens, and a grid of 3×2 has 6 patches"),
        ((0, 2), 4, ValueError, "grid is 0×2: both sides must be at least 1"),
        ((2, 2), 0, ValueError, "patch_size is 0"),
        ((2, 2), (4, 4, 3), TypeError, r"patch_size is \(4, 4, 3\)"),
        ((2.0, 2), 4, TypeError, "grid is"),
        (None, 4, TypeError, "grid is None; expected two ints"),
        ((2, 2), 4.0, TypeError, "patch_size is 4.0; expected an int, or two"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(grid, patch_size, error, message):
    with pytest.raises(error, match=message):
        analysis.mean_attention_distance([MAPS], grid, patch_size)
