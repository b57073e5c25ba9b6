"""The stems against the papers' shapes, torchvision's ResNet-50 and what a convolution promises."""

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from vitlite import ViT, ViTConfig
from vitlite.hybrid import R50, STEMS, ResNetStem, StandardisedConv2d, build
from vitlite.model import PatchEmbed

# Small ones of each kind, and how they are asked for
SPECS = [
    {"stem": "resnet", "embed_dim": 24, "width": 8, "blocks": 1, "norm": "batch", "in_channels": 1, "stride": 8},
    {"stem": "resnet", "embed_dim": 24, "width": 8, "blocks": 1},
    {"stem": "resnet", "embed_dim": 24, "width": 8, "blocks": 2, "norm": "batch", "stride": 2, "map_patch": 4},
    {"stem": "r50", "embed_dim": 24, "in_channels": 1},
]


def perturbed(stem):
    """In evaluation mode, with no parameter zero, so that every path shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in stem.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return stem.eval()


def images(stem, height=32, width=32, count=2):
    return torch.randn(count, stem.spec["in_channels"], height, width, generator=torch.Generator().manual_seed(1))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def meta_hybrid(image_size, patch_size, **options) -> ViT:
    """A Base hybrid with the paper's stem that has shapes alone."""
    with torch.device("meta"):
        stem = R50(stride=patch_size, **options)
        return ViT(ViTConfig(image_size=image_size, patch_size=patch_size), patch_embed=stem)


# ---- the paper's stem


def test_r50_vit_b16_has_14_by_14_positions_hence_196_tokens():
    model, batch = meta_hybrid(224, 16), torch.zeros(2, 3, 224, 224, device="meta")
    assert model.patch_embed.feature_map(batch).shape == (2, 1024, 14, 14)
    assert model.embed(batch).shape == (2, 196, 768)
    assert model(batch).shape == (2, 1000)


def test_the_extended_stage_3_makes_the_sequence_four_times_longer_than_stage_4():
    batch = torch.zeros(1, 3, 224, 224, device="meta")
    assert meta_hybrid(224, 32).embed(batch).shape[1] == 49
    blocks = [[len(part) for part in meta_hybrid(224, s).patch_embed.trunk if len(list(part.children())) > 2]
              for s in (16, 32)]
    assert blocks == [[3, 4, 9], [3, 4, 6, 3]]
    assert sum(blocks[0]) == sum(blocks[1]), "the same number of layers"


def test_r50_vit_b16_has_as_many_parameters_as_timms():
    model = meta_hybrid(224, 16)
    assert parameters(model.patch_embed.trunk) == 11_894_848  # timm 1.0.31, vit_base_r50_s16_224
    assert parameters(model) == 98_659_112


def test_up_to_stage_4_it_is_torchvisions_resnet50():
    with torch.device("meta"):
        ours, theirs = R50(stride=32).trunk, torchvision.models.resnet50()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()][:-2]


def test_r50x2_is_twice_as_wide():
    with torch.device("meta"):
        one, two = R50(stride=32), R50(stride=32, width=2)
    assert two.patches.projection.in_features == 2 * one.patches.projection.in_features == 4096
    assert parameters(two.trunk) / parameters(one.trunk) == pytest.approx(4, rel=0.01)


def test_every_convolution_of_the_papers_stem_is_standardised_and_every_norm_has_32_groups():
    with torch.device("meta"):
        parts = list(R50().trunk.modules())
    assert {type(m) for m in parts if isinstance(m, nn.Conv2d)} == {StandardisedConv2d}
    assert {m.num_groups for m in parts if isinstance(m, nn.GroupNorm)} == {32}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in parts)


# ---- standardised convolutions


def test_standardised_kernels_have_mean_0_and_variance_1_per_filter():
    conv = StandardisedConv2d(6, 5, 3)
    nn.init.normal_(conv.weight, mean=2, std=0.3)
    kernels = conv.standardised().flatten(1)
    torch.testing.assert_close(kernels.mean(dim=1), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(kernels.var(dim=1, correction=0), torch.ones(5), rtol=1e-4, atol=0)


def test_a_standardised_convolution_ignores_scale_and_offset_of_its_weights():
    conv, x = StandardisedConv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(conv(x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 1, (1, 1)), (3, 2, (0, 1)), (7, 2, (2, 3)), (1, 2, (0, 0))])
def test_strides_pad_more_below_and_to_the_right(kernel, stride, pad):
    conv, x = StandardisedConv2d(3, 4, kernel, stride), torch.randn(2, 3, 8, 12)
    expected = F.conv2d(F.pad(x, pad * 2), conv.standardised(), stride=stride)
    assert expected.shape == (2, 4, 8 // stride, 12 // stride)
    torch.testing.assert_close(conv(x), expected)


def test_a_constant_filter_does_not_break_the_gradient():
    conv = StandardisedConv2d(3, 4, 3)
    nn.init.ones_(conv.weight)
    conv(torch.randn(1, 3, 8, 8)).sum().backward()
    assert conv.weight.grad.isfinite().all()


# ---- what every stem promises


@pytest.mark.parametrize("spec", SPECS)
def test_a_stem_makes_one_token_for_each_patch(spec):
    stem = build(spec).eval()
    tokens = stem(images(stem, 32, 64, count=1))
    assert tokens.shape == (1, (32 // stem.patch_size) * (64 // stem.patch_size), 24)


@pytest.mark.parametrize("spec", SPECS)
def test_spec_and_state_rebuild_the_same_stem(spec):
    stem = perturbed(build(spec))
    again = build(json.loads(json.dumps(stem.spec))).eval()
    assert again.spec == stem.spec
    assert spec.items() <= stem.spec.items()
    assert not torch.equal(again(images(stem)), stem(images(stem)))
    again.load_state_dict(stem.state_dict())
    assert torch.equal(again(images(stem)), stem(images(stem)))


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_names_every_argument(spec):
    stem = build(spec)
    assert STEMS[stem.spec["stem"]] is type(stem)
    assert set(stem.spec) - {"stem"} == set(type(stem).__init__.__annotations__) - {"return"}


@pytest.mark.parametrize("spec", SPECS)
def test_an_image_does_not_depend_on_its_batch(spec):
    stem = perturbed(build(spec))
    batch = images(stem)
    torch.testing.assert_close(stem(batch)[1:], stem(batch[1:]), rtol=1e-4, atol=1e-4)


def test_in_training_group_norm_sees_each_image_alone_and_batch_norm_does_not():
    for norm, alone in (("group", True), ("batch", False)):
        stem = perturbed(ResNetStem(24, width=8, norm=norm)).train()
        batch = images(stem)
        assert torch.allclose(stem(batch)[:1], stem(batch[:1]), atol=1e-4) == alone


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_shift_by_the_stride_shifts_the_map_and_a_shift_by_less_does_not(norm):
    stem = perturbed(ResNetStem(24, width=8, norm=norm, blocks=1))
    canvas = torch.zeros(1, 3, 64, 64)
    canvas[..., 28:34, 28:34] = torch.randn(3, 6, 6)

    def inside(down, right):  # the map, shifted back, without what sees the border
        moved = stem(canvas.roll((down, right), (2, 3))).unflatten(1, (16, 16))
        return moved.roll((-(down // 4), -(right // 4)), (1, 2))[:, 5:11, 5:11]

    still = inside(0, 0)
    torch.testing.assert_close(inside(4, -4), still, rtol=1e-4, atol=1e-4)
    assert (inside(2, 0) - still).abs().max() > 0.05


def test_patches_of_the_map_may_be_larger_than_1_by_1():
    torch.manual_seed(0)
    one, two = ResNetStem(24, width=8, stride=2).eval(), ResNetStem(24, width=8, stride=2, map_patch=2).eval()
    two.trunk.load_state_dict(one.trunk.state_dict())
    feature_map = one.feature_map(images(one))
    torch.testing.assert_close(one(images(one)), one.patches.projection(feature_map.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(two(images(one)), two.patches(feature_map))
    assert (one.patch_size, two.patch_size) == (2, 4)


def test_tokens_start_with_the_spread_of_a_patch_projections():
    torch.manual_seed(0)
    stem = ResNetStem(192, width=16)
    assert abs(stem.patches.projection.weight.std() - 64**-0.5) < 0.005
    assert not stem.patches.projection.bias.any()
    assert isinstance(stem.patches, PatchEmbed)


# ---- in a ViT


def hybrid(spec) -> ViT:
    torch.manual_seed(0)
    stem = perturbed(build(spec))
    config = ViTConfig(image_size=32, patch_size=stem.patch_size, in_channels=spec.get("in_channels", 3),
                       num_classes=5, embed_dim=24, depth=2, num_heads=4, mlp_dim=40, zero_head=False)
    return ViT(config, patch_embed=stem).eval()


@pytest.mark.parametrize("spec", SPECS)
def test_a_hybrid_works_at_another_resolution_with_the_same_stem(spec):
    model = hybrid(spec)
    assert model(images(model.patch_embed)).shape == (2, 5)
    bigger = model.at_resolution((64, 32))
    assert bigger(images(model.patch_embed, 64, 32)).shape == (2, 5)
    old, new = model.patch_embed.state_dict(), bigger.patch_embed.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert bigger.patch_embed.spec == model.patch_embed.spec


def test_the_gradient_reaches_every_parameter_of_the_stem():
    for spec in SPECS[:-1]:
        model = hybrid(spec).train()
        model(images(model.patch_embed)).square().sum().backward()
        assert all(p.grad.any() for p in model.patch_embed.parameters())


def test_a_stem_of_another_stride_is_refused():
    config = ViTConfig(image_size=32, patch_size=8, embed_dim=24, num_heads=4)
    with pytest.raises(ValueError, match="stride of patch_embed must equal patch_size"):
        ViT(config, patch_embed=ResNetStem(24, width=8))(torch.zeros(1, 3, 32, 32))


# ---- bad input


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"stem": "vgg"}, "stem is 'vgg'; expected one of resnet, r50"),
        ({"embed_dim": 24}, "stem is None"),
        ({"stem": "resnet", "embed_dim": 24, "stride": 6}, "stride is 6; expected a power of 2"),
        ({"stem": "resnet", "embed_dim": 24, "stride": 1}, "stride is 1; expected a power of 2, from 2 on"),
        ({"stem": "r50", "stride": 8}, "stride is 8; expected 16"),
        ({"stem": "resnet", "embed_dim": 24, "norm": "layer"}, "norm is 'layer'; expected one of 'batch', 'group'"),
        ({"stem": "resnet", "embed_dim": 24, "width": 6}, "width is 6; group norm needs a multiple of its 4 groups"),
        ({"stem": "resnet", "embed_dim": 24, "blocks": 0}, "blocks is 0; it must be at least 1"),
        ({"stem": "resnet", "embed_dim": 0}, "embed_dim is 0; it must be at least 1"),
    ],
)
def test_a_stem_that_cannot_be_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: build("conv"), TypeError, "spec is 'conv'; expected a mapping such as {'stem': 'resnet'"),
        (lambda: build({"stem": "resnet"}), TypeError, "ResNetStem.* missing .*'embed_dim'"),
        (lambda: build({"stem": "r50", "norm": "batch"}), TypeError, "R50.* unexpected keyword argument 'norm'"),
        (lambda: ResNetStem(24.0), TypeError, "embed_dim is 24.0; expected an int"),
        (lambda: ResNetStem(24, stride=4.0), TypeError, "stride is 4.0; expected an int"),
        (lambda: ResNetStem(24, map_patch=1.5), TypeError, "map_patch is 1.5; expected an int"),
        (lambda: StandardisedConv2d(3, 0, 3), ValueError, "out_channels is 0"),
        (lambda: StandardisedConv2d(3, 8, 3, 2)(torch.zeros(1, 3, 15, 16)), ValueError, "input is 15×16, stride is 2"),
        (lambda: ViT(ViTConfig(32, 4, embed_dim=24, num_heads=4), ResNetStem), TypeError, "expected a Module"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.zeros(2, 1, 16, 16), ValueError, r"\[2, 1, 16, 16\], expected \[batch, 3, height, width\]"),
        (torch.zeros(3, 16, 16), ValueError, "add a batch axis"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, "torch.uint8; expected floating point"),
        (torch.zeros(2, 3, 16, 30), ValueError, "image is 16×30, patch size is 4: 30 is not a multiple"),
    ],
)
def test_images_that_do_not_fit_are_refused(batch, error, message):
    with pytest.raises(error, match=message):
        ResNetStem(24, width=8)(batch)
