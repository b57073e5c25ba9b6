"""Rollout: closed forms, a slow loop from the definition, options apart from the paper's, gradients by hand."""

import math

import numpy as np
import pytest
import torch

from vitlite import ViT, ViTConfig, analysis


def random_maps(layers=3, batch=2, heads=4, tokens=7, seed=0):
    logits = torch.randn(layers, batch, heads, tokens, tokens, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(dim=-1)


def same_in_all(matrix, layers=4, heads=3):
    return [matrix.double().expand(2, heads, *matrix.shape)] * layers


def slow_rollout(maps, join=lambda weights: sum(weights) / len(weights), discard=0.0):
    """From the definition, a number at a time."""
    found = []
    for image in range(maps.shape[1]):
        rollout = np.eye(maps.shape[-1])
        for layer in maps[:, image].numpy():
            tokens = layer.shape[-1]
            mixed = np.array([[join(layer[:, i, j].tolist()) for j in range(tokens)] for i in range(tokens)])
            for place in np.argsort(mixed, axis=None)[: int(discard * mixed.size)]:
                mixed[divmod(place, tokens)] = 0
            for i in range(tokens):
                mixed[i, i] += 1
                mixed[i] /= sum(mixed[i])
            rollout = np.array([[sum(mixed[i, k] * rollout[k, j] for k in range(tokens)) for j in range(tokens)]
                                for i in range(tokens)])
        found.append(rollout)
    return torch.from_numpy(np.stack(found))


# ---- known answers, for four layers alike


def test_rollout_of_identity_attention_is_the_identity():
    assert torch.equal(analysis.attention_rollout(same_in_all(torch.eye(5))), torch.eye(5).double().expand(2, 5, 5))


def test_rollout_of_uniform_attention_keeps_a_sixteenth():
    """Half stays at each of four layers; what once moved is everywhere alike."""
    wanted = torch.eye(5).double() / 16 + 15 / 16 / 5
    torch.testing.assert_close(analysis.attention_rollout(same_in_all(torch.full((5, 5), 0.2))), wanted.expand(2, 5, 5))


def test_rollout_of_attention_to_one_token_ends_there():
    one = torch.zeros(5, 5)
    one[:, 3] = 1
    wanted = torch.eye(5).double() / 16 + one.double() * 15 / 16
    torch.testing.assert_close(analysis.attention_rollout(same_in_all(one)), wanted.expand(2, 5, 5))


def test_rollout_of_a_permutation_is_binomial():
    order = torch.tensor([2, 0, 3, 4, 1, 5])
    step = torch.eye(6)[order].double()
    wanted = sum(math.comb(4, k) / 16 * torch.linalg.matrix_power(step, k) for k in range(5))
    torch.testing.assert_close(analysis.attention_rollout(same_in_all(step)), wanted.expand(2, 6, 6))


def test_rollout_of_a_band_on_a_ring_is_a_power_of_its_spectrum():
    kernel = np.zeros(9)
    kernel[[-1, 0, 1]] = 0.25, 0.5, 0.25
    band = torch.from_numpy(np.stack([np.roll(kernel, i) for i in range(9)]))
    spectrum = np.fft.ifft(((1 + np.fft.fft(kernel).real) / 2) ** 4).real
    wanted = torch.from_numpy(np.stack([np.roll(spectrum, i) for i in range(9)]))
    torch.testing.assert_close(analysis.attention_rollout(same_in_all(band)), wanted.expand(2, 9, 9))


# ---- the definition


def test_rollout_equals_a_slow_loop():
    maps = random_maps()
    torch.testing.assert_close(analysis.attention_rollout(maps), slow_rollout(maps))
    single = analysis.attention_rollout(list(maps.float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, slow_rollout(maps).float())


def test_later_layers_stand_on_the_left():
    """Token 0 reads 1 in the last layer, and 1 has read 2 before: so 2 is in token 0, and not the other way round."""
    first, last = torch.eye(3), torch.eye(3)
    first[1], last[0] = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    there = analysis.attention_rollout([first[None, None], last[None, None]])[0]
    assert there[0].tolist() == [0.5, 0.25, 0.25]
    back = analysis.attention_rollout([last[None, None], first[None, None]])[0]
    assert back[0].tolist() == [0.5, 0.5, 0]


def test_the_rollout_after_each_layer_is_that_of_the_layers_so_far():
    maps = random_maps()
    for depth, rollout in enumerate(analysis.iter_rollout(maps), start=1):
        torch.testing.assert_close(rollout, slow_rollout(maps[:depth]))
    assert depth == 3


def test_without_the_identity_it_is_the_bare_product():
    maps = random_maps()
    mean = maps.mean(dim=2)
    torch.testing.assert_close(analysis.attention_rollout(maps, residual=0), mean[2] @ mean[1] @ mean[0])


@pytest.mark.parametrize("residual", [0.1, 0.5, 0.9])
def test_the_identity_weighs_what_it_is_told_to(residual):
    found = analysis.attention_rollout(same_in_all(torch.full((5, 5), 0.2)), residual=residual)
    wanted = residual**4 * torch.eye(5).double() + (1 - residual**4) / 5
    torch.testing.assert_close(found, wanted.expand(2, 5, 5))


@pytest.mark.parametrize(("fusion", "join"), [("min", min), ("max", max)])
@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
def test_other_ways_to_join_heads_and_discarding_equal_a_slow_loop(fusion, join, discard):
    maps = random_maps()
    found = analysis.attention_rollout(maps, fusion=fusion, discard=discard)
    torch.testing.assert_close(found, slow_rollout(maps, join, discard))
    torch.testing.assert_close(analysis.attention_rollout(maps, discard=discard), slow_rollout(maps, discard=discard))


def test_weights_that_are_equal_are_discarded_together_or_not_at_all():
    maps = same_in_all(torch.full((4, 4), 0.25))
    assert torch.equal(analysis.attention_rollout(maps, discard=0.9), analysis.attention_rollout(maps))


def test_heads_that_agree_on_nothing_leave_the_identity():
    maps = torch.stack([torch.eye(4), torch.eye(4).roll(1, 0)])[None]
    assert torch.equal(analysis.attention_rollout([maps] * 2, fusion="min")[0], torch.eye(4))


# ---- what must not matter


@pytest.mark.parametrize("options", [{}, {"fusion": "max"}, {"fusion": "min", "discard": 0.5}])
def test_order_of_heads_images_and_tokens_does_not_change_a_rollout(options):
    maps = random_maps()
    there = analysis.attention_rollout(maps, **options)
    torch.testing.assert_close(analysis.attention_rollout(maps[:, :, [2, 0, 3, 1]], **options), there)
    torch.testing.assert_close(analysis.attention_rollout(maps[:, [1, 0]], **options), there[[1, 0]])
    order = torch.tensor([0, 3, 2, 1, 6, 5, 4])  # 2 × 3 patches behind a class token, seen in a mirror
    here = analysis.attention_rollout(maps[..., order, :][..., order], **options)
    torch.testing.assert_close(here, there[:, order][..., order])


@pytest.mark.parametrize("options", [{}, {"fusion": "max"}, {"fusion": "min"}, {"discard": 0.95}])
def test_rows_sum_to_one(options):
    rollout = analysis.attention_rollout(random_maps(), **options)
    torch.testing.assert_close(rollout.sum(dim=-1), torch.ones(2, 7).double())
    assert rollout.min() >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "median"}, "fusion is 'median'; expected one of 'mean', 'min', 'max'"),
        ({"discard": 1.0}, "discard is 1.0"),
        ({"discard": -0.1}, "discard is -0.1"),
        ({"residual": 1}, "residual 1"),
        ({"residual": float("nan")}, "residual nan"),
    ],
)
def test_an_unknown_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        analysis.attention_rollout(random_maps(), **options)


# ---- a row as a picture


def test_a_tokens_row_is_laid_out_as_the_image():
    rollout = random_maps()[0, :, 0]  # [2, 7, 7]
    assert torch.equal(analysis.token_map(rollout, (2, 3)), rollout[:, 0, 1:].view(2, 2, 3))
    assert torch.equal(analysis.token_map(rollout, (1, 5), token=1), rollout[:, 1, 2:].view(2, 1, 5))
    torch.testing.assert_close(
        analysis.token_map(rollout, (2, 3), token=None), rollout[:, 1:, 1:].mean(1).view(2, 2, 3)
    )


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 4, 7, 7), {}, r"shape \[2, 4, 7, 7\]; expected \[batch, tokens, tokens\]"),
        ((2, 7, 6), {}, r"shape \[2, 7, 6\]"),
        ((2, 6, 6), {}, "token is 0; there are 0 tokens before the patches.*token=None"),
        ((2, 7, 7), {"token": 1}, "token is 1; there are 1 tokens"),
        ((2, 7, 7), {"token": "class"}, "token is 'class'; there are 1 tokens"),
        ((2, 5, 5), {}, "there are 5 tokens, and a grid of 2×3 has 6 patches"),
    ],
)
def test_what_is_no_rollout_is_refused(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.token_map(torch.rand(shape), (2, 3), **arguments)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"rollout is NoneType; expected a tensor \[batch, tokens, tokens\]"):
        analysis.token_map(None, (2, 3))
    with pytest.raises(TypeError, match=r"images is ndarray; expected a tensor \[B, C, H, W\]"):
        analysis.gradient_rollout(vit(), pictures().numpy())


# ---- gradients


def vit(**changes):
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{"image_size": 12, "patch_size": 4, "num_classes": 3, "embed_dim": 12, "depth": 3,
                             "num_heads": 2, "mlp_dim": 24, "zero_head": False} | changes)).eval()
    return model.double()


def pictures(batch=2):
    return torch.randn(batch, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_gradient_rollout_by_hand_where_the_gradient_is_known():
    """A "model" whose logits are weighted sums of its maps: the weights are the gradients."""
    maps, rates = random_maps(layers=2, batch=1), torch.randn(2, 5, 4, 7, 7, dtype=torch.float64)  # of 5 classes

    def model(images, return_attention):
        layers = [layer + 0 * images.sum() for layer in maps]
        logits = sum((rate * layer).sum(dim=(1, 2, 3)) for rate, layer in zip(rates, layers, strict=True))
        return logits[None], layers

    for chosen in range(5):
        one, two = ((rates[i, chosen] * maps[i, 0]).clamp(min=0).mean(dim=0) for i in (0, 1))
        wanted = (torch.eye(7) + two) @ (torch.eye(7) + one)
        found = analysis.gradient_rollout(model, torch.zeros(1, 3, 4, 4), torch.tensor([chosen]))
        torch.testing.assert_close(found, wanted[None])


def test_gradient_rollout_equals_finite_differences():
    """The logit's gradient by a change of a thousandth in each attention weight, with the model's own layers."""
    model, images = vit(depth=2, num_heads=1), pictures(1)
    with torch.no_grad():
        maps, rollout = model(images, return_attention=True)[1], torch.eye(10).double()
        chosen = model(images).argmax().item()
        for number, block in enumerate(model.blocks):
            gradient, own = torch.zeros(10, 10).double(), block.attention.weights
            for place in np.ndindex(10, 10):
                logits = []
                for change in (1e-3, -1e-3):
                    moved = maps[number].clone()
                    moved[0, 0][place] += change
                    block.attention.weights = lambda *_, moved=moved: moved
                    logits.append(model(images, return_attention=True)[0][0, chosen])
                gradient[place] = (logits[0] - logits[1]) / 2e-3
            block.attention.weights = own
            rollout = rollout + (gradient * maps[number][0, 0]).clamp(min=0) @ rollout
    torch.testing.assert_close(analysis.gradient_rollout(model, images)[0], rollout, rtol=1e-4, atol=1e-6)


def test_each_image_has_its_own_gradient_and_class():
    model, images = vit(), pictures()
    both = analysis.gradient_rollout(model, images, torch.tensor([0, 2]))
    for i, chosen in enumerate((0, 2)):
        alone = analysis.gradient_rollout(model, images[i : i + 1], torch.tensor([chosen]))
        torch.testing.assert_close(both[i : i + 1], alone)
    other = analysis.gradient_rollout(model, images, torch.tensor([1, 1]))
    assert (both - other).abs().max() > 1e-4
    answered = analysis.gradient_rollout(model, images, model(images).argmax(dim=1))
    torch.testing.assert_close(analysis.gradient_rollout(model, images), answered)


def test_gradient_rollout_leaves_the_model_and_the_images_as_they_were():
    model, images = vit().requires_grad_(False), pictures()
    with torch.no_grad():
        rollout = analysis.gradient_rollout(model, images)
    assert not rollout.requires_grad
    assert not images.requires_grad
    torch.testing.assert_close(rollout, analysis.gradient_rollout(vit(), images))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_gradients_there_is_no_gradient_rollout():
    model, images = vit(), pictures()
    with torch.inference_mode(), pytest.raises(ValueError, match="have no gradient; leave torch.inference_mode"):
        analysis.gradient_rollout(model, images)

    def copies(images, return_attention):
        logits, maps = model(images, return_attention=True)
        return logits, [layer.clone() for layer in maps]

    with pytest.raises(ValueError, match="logits do not depend on these maps"):
        analysis.gradient_rollout(copies, images)


@pytest.mark.parametrize("classes", [[0], [0, 3], [-1, 0], [[0], [1]], [0.0, 1.0]])
def test_classes_that_do_not_fit_are_refused(classes):
    with pytest.raises(ValueError, match="expected one whole number from 0 to 2 for each of 2 images"):
        analysis.gradient_rollout(vit(), pictures(), torch.tensor(classes))


def test_of_what_gives_no_maps_there_is_no_gradient_rollout():
    model, images = vit(), pictures()
    with pytest.raises(TypeError, match="attention is None: fused attention forms no maps"):
        analysis.gradient_rollout(lambda images, return_attention: (model(images), None), images)
    with pytest.raises(ValueError, match="attention is empty"):
        analysis.gradient_rollout(lambda images, return_attention: (model(images), ()), images)
    with pytest.raises(ValueError, match="the rows of layer 1 do not sum to 1: sums from nan"):
        analysis.gradient_rollout(model, images * torch.nan)
    with pytest.raises(TypeError, match="images are torch.uint8; a gradient needs floating point"):
        analysis.gradient_rollout(model, images.byte())


@pytest.mark.parametrize("options", [{"fusion": "min"}, {"fusion": "min", "discard": 0.5}])
def test_a_row_without_any_weight_is_refused(options):
    """Two heads that look at different tokens have nothing in common; with the identity the token itself stays."""
    maps = torch.stack([torch.eye(4).roll(1, 0), torch.eye(4).roll(2, 0)])[None]
    with pytest.raises(ValueError, match="fusion='min' .* leave a row without any weight; pass a residual above 0"):
        analysis.attention_rollout([maps], residual=0, **options)
    assert torch.equal(analysis.attention_rollout([maps], **options)[0], torch.eye(4))


def test_an_empty_tuple_of_maps_and_a_used_generator_are_told_apart():
    with pytest.raises(ValueError, match="attention is empty: .*attn_implementation='eager' in transformers"):
        analysis.attention_rollout(())
    with pytest.raises(ValueError, match="a generator can be read once: make a new one"):
        analysis.attention_rollout(iter(()))
    transformers = pytest.importorskip("transformers")
    shape = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 40, "attn_implementation": "eager"}
    theirs = transformers.ViTModel(transformers.ViTConfig(**shape)).eval()  # as advised
    maps = theirs(torch.randn(1, 3, 16, 16), output_attentions=True).attentions
    assert analysis.attention_rollout(maps).shape == (1, 17, 17)
