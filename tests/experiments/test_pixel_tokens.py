"""Pixels as tokens: the palette, a model that sees no later pixel, equal FLOPs, and what is told of both."""

import json

import pytest
import torch
from usual import USUAL, check_the_card_tells_the_grid

from experiments import pixel_tokens
from experiments._pixels import Causal, NextPixel, Palette, clusters, complete
from experiments.pixel_tokens import build
from vitlite import ViT, ViTConfig, data
from vitlite.masked import MaskedPatches

QUICK, CPU = pixel_tokens.SCALES["quick"], pixel_tokens.SCALES["cpu"]


@pytest.fixture(scope="module")
def sets():
    return data.load(**QUICK["data"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pixels and patches, with one seed."""
    work = tmp_path_factory.mktemp("work")
    found = {point["tokens"]: point | pixel_tokens.run(point, QUICK, work) for point in pixel_tokens.points(QUICK)}
    assert {path.name for path in work.iterdir()} == {
        f"{tokens}-0{suffix}" for tokens in ("pixels", "patches") for suffix in (".json", ".safetensors")}
    return found


@pytest.fixture(scope="module")
def model(sets):
    return build("pixels", QUICK, sets.train, 0).eval()


# ---- the grid


def test_the_first_seed_comes_first_and_the_card_tells_the_grid():
    assert [(point["seed"], point["tokens"]) for point in pixel_tokens.points(CPU)] == [
        (seed, tokens) for seed in (0, 1, 2) for tokens in ("pixels", "patches")]
    check_the_card_tells_the_grid(pixel_tokens)


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_it_is_image_gpts_palette_and_its_sizes_are_measured(scale):
    config = pixel_tokens.SCALES[scale]
    assert config["colours"] == 512
    assert {32, 48, 64} < set(config["image_sizes"])


# ---- the palette


def test_k_means_finds_colours_that_lie_apart():
    centres = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 9.0, 4.0]])
    noise = 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    pixels = centres.repeat_interleave(100, dim=0) + noise
    found = [clusters(pixels, 3, rounds=20, seed=seed) for seed in range(8)]
    apart = [colours for colours in found if torch.cdist(centres, colours).min(dim=1).values.max() < 0.1]
    assert apart, "some draw begins with a pixel of each"
    assert torch.equal(clusters(pixels, 3, 20, 0), found[0]), "one seed, one palette"


def test_every_round_brings_the_palette_nearer():
    pixels = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    errors = [torch.cdist(pixels, clusters(pixels, 16, rounds, 0)).min(dim=1).values.square().mean().item()
              for rounds in (0, 1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_a_palette_of_more_colours_than_there_are_is_refused():
    pixels = torch.tensor([[0.0], [1.0], [1.0]])
    assert clusters(pixels, 2, 3, 0).sort(dim=0).values.tolist() == [[0.0], [1.0]]
    with pytest.raises(ValueError, match="palette of 3 colours was asked for, and 2 different ones occur"):
        clusters(pixels, 3, 3, 0)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_pixel_becomes_its_nearest_colour_in_reading_order(dtype):
    palette = Palette(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.001, 1.001, 1.001]]), embed_dim=4)
    images = torch.zeros(1, 3, 2, 3)
    images[0, :, 0, 1], images[0, :, 1, 2] = 0.9, 1.0011  # the last two differ by less than bfloat16 can tell
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        indices = palette.indices(images)
        assert torch.equal(palette(images), palette.embedding(indices))
    assert indices.tolist() == [[0, 1, 0, 0, 0, 2]]


# ---- the next pixel


def test_no_prediction_sees_its_own_pixel_or_a_later_one(model):
    colours = torch.randint(64, (1, 64), generator=torch.Generator().manual_seed(0))
    changed = colours.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 64
    with torch.no_grad():
        before, after = model.predict(colours), model.predict(changed)
    assert torch.equal(before[:, :21], after[:, :21]), "that of pixel 20 rests on pixels 0 to 19"
    assert not torch.isclose(before[:, 21:], after[:, 21:]).all(dim=2).any(), "every later one has seen it"


@pytest.mark.parametrize("explicit", [True, False])
def test_attention_is_the_same_fused_and_explicit(explicit):
    block = ViT(ViTConfig(4, 1, 3, 10, embed_dim=8, depth=1, num_heads=2, mlp_dim=16)).blocks[0]
    z = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(0))
    block.attention.relative = Causal()
    mixed, weights = block.attention(z, return_attention=True)
    assert torch.equal(weights.triu(1), torch.zeros_like(weights))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 17))
    torch.testing.assert_close(block.attention(z, return_attention=explicit)[0], mixed)


def test_the_loss_is_that_of_the_colours(model, sets):
    images = data.augment.normalise(sets.test.images[:4], sets.test.mean, sets.test.std)
    colours = model.vit.patch_embed.indices(images)
    with torch.no_grad():
        logits, (loss, share) = model.predict(colours), model(images)
    chances = logits.log_softmax(dim=2).gather(2, colours[:, :, None])
    torch.testing.assert_close(loss, -chances.mean())
    assert share == (logits.argmax(dim=2) == colours).float().mean()


def test_completion_keeps_what_is_known_and_draws_what_the_model_expects(model):
    colours = torch.randint(64, (2, 64), generator=torch.Generator().manual_seed(0))
    one, other = (complete(model, colours, 32, seed) for seed in (0, 1))
    assert torch.equal(one[:, :32], colours[:, :32])
    assert not torch.equal(one, other)
    assert torch.equal(one, complete(model, colours, 32, 0))
    sure = NextPixel(ViT(ViTConfig(4, 1, 3, 10, 8, 1, 2, 16, class_token=True), Palette(torch.rand(5, 3), 8)))
    with torch.no_grad():
        sure.head.weight.zero_()
        sure.head.bias[3] = 100.0
    assert complete(sure, torch.zeros(1, 16, dtype=torch.int64), 4)[0].tolist() == 4 * [0] + 12 * [3]


# ---- both models


def test_both_have_the_same_blocks():
    def shapes(name):
        sets = data.load("scenes", train_images=700, held_out=10, image_size=16)
        config = CPU | {"data": {"name_or_path": "scenes", "train_images": 700, "held_out": 10, "image_size": 16}}
        vit = build(name, config | {"palette": {"pixels": 5_000, "rounds": 1}}, sets.train, 0).vit
        return [tuple(p.shape) for p in vit.blocks.parameters()], vit.config.num_patches

    (pixels, many), (cut, few) = shapes("pixels"), shapes("patches")
    assert pixels == cut
    assert (many, few) == (256, 16)


def test_training_costs_the_same(made):
    spent = {tokens: told["train_flops"] for tokens, told in made.items()}
    one_step = spent["patches"] / made["patches"]["steps"]
    assert abs(spent["pixels"] - spent["patches"]) <= one_step / 2
    assert made["patches"]["images_seen"] > 3 * made["pixels"]["images_seen"]
    assert made["pixels"]["steps"] == QUICK["steps"]


def test_the_head_is_counted(sets):
    for tokens, predictions in (("pixels", 64), ("patches", 8)):
        told = build(tokens, QUICK, sets.train, 0)
        head = 6 * predictions * told.head.in_features * told.head.out_features
        assert pixel_tokens.train_flops(told) - head == pixel_tokens.cost.train_flops(told.vit, 8)


def test_a_run_tells_what_a_record_needs(made):
    for tokens, told in made.items():
        assert told.keys() >= USUAL | {"loss", "right", "probes", "untrained", "raw", "guesses", "by_size"}
        assert [layer["layer"] for layer in told["probes"]] == [0, 1, 2]
        best = max(told["probes"], key=lambda layer: layer["val_accuracy"])
        assert (told["val_accuracy"], told["test_accuracy"]) == (best["val_accuracy"], best["test_accuracy"])
        assert ("completed" in told) == (tokens == "pixels")
        assert all(0 <= share <= 1 for share in told["guesses"].values())
    assert made["pixels"]["raw"] == made["patches"]["raw"]
    assert made["pixels"]["probes"] != made["pixels"]["untrained"]
    json.dumps(made)


def test_pixels_cost_more_with_every_size(made):
    small, large = made["pixels"]["by_size"]
    assert (small["tokens"], large["tokens"]) == (64, 256)
    assert 4 < large["train_flops"] / small["train_flops"] < 16
    assert 4 < large["saved_bytes"] / small["saved_bytes"] < 16
    assert small["seconds"] > 0
    assert "seconds" not in large, "too long a sequence to be timed"
    cut = made["patches"]["by_size"]
    assert all(one["train_flops"] < other["train_flops"] for one, other in zip(cut, (small, large), strict=True))


def test_completed_pictures_keep_their_upper_half(made, sets):
    for told, image in zip(made["pixels"]["completed"], sets.test.subset(40).images, strict=False):
        whole, *drawn = (pixel_tokens.picture(text) for text in (told["palette"], *told["completed"]))
        assert torch.equal(pixel_tokens.picture(told["original"]), image)
        assert (whole.int() - image.int()).abs().float().mean() < 30, "64 colours are near"
        for one in drawn:
            assert torch.equal(one[:, :4], whole[:, :4])
            assert not torch.equal(one[:, 4:], whole[:, 4:])


def test_a_run_is_repeated_bit_for_bit(made, tmp_path):
    for tokens in pixel_tokens.TOKENS:
        again = pixel_tokens.run({"tokens": tokens, "seed": 0}, QUICK, tmp_path)
        for key in ("search", "curve", "probes", "untrained", "guesses"):
            assert again[key] == made[tokens][key]


def test_the_probe_reads_the_layers_of_the_paper(model, sets):
    """Image GPT's features are the normalised state that a block's attention reads, averaged over the pixels alone."""
    split = sets.test.subset(20)
    first, _, last = pixel_tokens.states(model.vit, split)
    images = data.augment.normalise(split.images, split.mean, split.std)
    with torch.no_grad():
        z = model.vit.tokens(model.vit.embed(images))
        torch.testing.assert_close(first, model.vit.blocks[0].norm1(z)[:, 1:].mean(dim=1), rtol=0.05, atol=0.02)
        torch.testing.assert_close(last, model.vit.encode(model.vit.embed(images))[:, 1:].mean(dim=1),
                                   rtol=0.05, atol=0.05)


def test_guesses_that_need_no_model(model, sets):
    plain = torch.full((20, 3, 8, 8), 90, dtype=torch.uint8)
    told = pixel_tokens.guesses(model, data.datasets.replace(sets.test, images=plain))
    assert told == {"copy": 63 / 64, "commonest": 1.0}, "the first pixel has none before it"
    assert isinstance(build("patches", QUICK, sets.train, 0), MaskedPatches)


# ---- the summary


def told(tokens, seed, *test, val=None):
    layers = [{"layer": i, "val_accuracy": v, "test_accuracy": t} for i, (v, t) in enumerate(zip(val or test, test))]  # noqa: B905
    size = {"image_size": 16, "tokens": 256, "train_flops": 5, "saved_bytes": 7}
    best = max(layers, key=lambda layer: layer["val_accuracy"])
    return {
        "tokens": tokens, "seed": seed, "test_accuracy": best["test_accuracy"], "probes": layers, "untrained": layers,
        "raw": {"test_accuracy": 0.35}, "loss": 4.0, "right": 0.1, "guesses": {"commonest": 0.05}, "images_seen": 10,
        "train_flops": 50, "seconds": 1.0, "parameters": 9,
        "by_size": [size | {"seconds": 0.1 + seed / 10}, size | {"image_size": 64}],
    }


def test_what_is_compared_is_of_one_seed():
    runs = [told("pixels", 0, 0.2, 0.3), told("patches", 0, 0.3, 0.4), told("pixels", 1, 0.2, 0.5)]
    summary = pixel_tokens.summarise(runs)
    assert summary["patches_over_pixels"] == pytest.approx({"mean": 0.1, "low": None, "high": None, "seeds": 1})
    assert summary["pixels"]["accuracy"]["mean"] == pytest.approx(0.4)
    assert [layer["mean"] for layer in summary["pixels"]["trained"]] == pytest.approx([0.2, 0.4])
    assert summary["pixels"]["by_size"][0]["seconds"]["mean"] == pytest.approx(0.15)
    assert "seconds" not in summary["pixels"]["by_size"][1]
    assert summary["raw"] == 0.35


def test_the_best_layer_is_chosen_on_validation_images():
    summary = pixel_tokens.summarise([told("pixels", 0, 0.2, 0.5, 0.3, val=(0.1, 0.2, 0.3))])
    assert summary["pixels"]["best_layer"] == 2
    assert summary["pixels"]["accuracy"]["mean"] == 0.3


def test_an_unfinished_grid_is_told_as_far_as_it_goes():
    summary = pixel_tokens.summarise([told("pixels", 0, 0.2, 0.3)])
    assert summary["patches_over_pixels"] is None
    assert "patches" not in summary
    assert pixel_tokens.summarise([]) == {"raw": None, "patches_over_pixels": None}
