"""Pixels as tokens: a model that sees no later pixel, and what its images cost beside patches."""

import pytest
import torch

from experiments import pixel_tokens, records
from experiments.pixel_tokens import Causal, Palette, build
from vitlite import ViT, ViTConfig

QUICK, CPU = pixel_tokens.SCALES["quick"], pixel_tokens.SCALES["cpu"]


def test_it_is_image_gpts_palette_and_its_sizes_are_counted():
    assert CPU["colours"] == 512
    assert {32, 48, 64} < set(CPU["image_sizes"])


def test_a_pixel_becomes_its_nearest_colour_in_reading_order():
    palette = Palette(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), embed_dim=4)
    images = torch.zeros(1, 3, 2, 3)
    images[0, :, 0, 1] = 0.9
    assert torch.equal(palette(images), palette.embedding(torch.tensor([[0, 1, 0, 0, 0, 0]])))


@pytest.mark.parametrize("explicit", [True, False])
def test_no_token_sees_a_later_one(explicit):
    block = ViT(ViTConfig(4, 1, 3, 10, embed_dim=8, depth=1, num_heads=2, mlp_dim=16)).blocks[0]
    block.attention.relative = Causal()
    z = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(0))
    mixed, weights = block.attention(z, return_attention=True)
    assert torch.equal(weights.triu(1), torch.zeros_like(weights))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 17))
    torch.testing.assert_close(block.attention(z, return_attention=explicit)[0], mixed)


def test_the_models_differ_in_their_tokens_alone():
    pixels, patches = (build(tokens, 16, CPU) for tokens in pixel_tokens.TOKENS)
    assert (pixels.config.num_patches, patches.config.num_patches) == (256, 16)
    assert {name: value.shape for name, value in pixels.blocks.state_dict().items()} == {
        name: value.shape for name, value in patches.blocks.state_dict().items()}
    assert all(isinstance(block.attention.relative, Causal) for block in pixels.blocks)
    assert pixels(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    with pytest.raises(ValueError, match="tokens is 'words'; expected one of 'pixels', 'patches'"):
        build("words", 16, CPU)


def test_the_flops_are_the_papers_products():
    """A training step has three times the products of a forward pass; a looked-up colour has none."""
    width, mlp, depth = CPU["vit"]["embed_dim"], CPU["vit"]["mlp_dim"], CPU["vit"]["depth"]
    (row,) = pixel_tokens.run({"tokens": "pixels", "seed": 0}, CPU | {"image_sizes": [16]}, None)["by_size"]
    tokens = 256 + 1
    blocks = depth * (8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp)
    classifier = 2 * 2 * width * 10  # frozen: no gradient of its weights
    assert row["train_flops"] == 3 * (blocks + 2 * 256 * width * 512) + classifier


def test_pixels_cost_more_and_ever_more_than_patches():
    runs = [point | pixel_tokens.run(point, QUICK, None) for point in pixel_tokens.points(QUICK)]
    pixels, patches = (pixel_tokens.summarise(runs)[tokens]["by_size"] for tokens in pixel_tokens.TOKENS)
    for key in ("train_flops", "saved_bytes"):
        small, large = (pixel[key] / patch[key] for pixel, patch in zip(pixels, patches, strict=True))
        assert 1 < small < large


def test_the_record_is_what_a_run_counts():
    record = records.read("pixel_tokens")
    for run in record["runs"]:
        small = pixel_tokens.run(run, record["config"] | {"image_sizes": [16]}, None)["by_size"]
        assert small == run["by_size"][:1]
