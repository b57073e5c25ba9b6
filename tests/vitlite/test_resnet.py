"""The convolutional baseline against the ResNet paper's numbers, and matched to ViTs."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from vitlite import ViT, ViTConfig
from vitlite.cost import parameters
from vitlite.hybrid import ResNetStem
from vitlite.resnet import ResNet, ResNetConfig, match

SMALL = ResNetConfig(num_classes=5, width=8, blocks=1)
VIT = ViTConfig(image_size=32, patch_size=8, num_classes=10, embed_dim=96, depth=4, num_heads=4, mlp_dim=192)


def build(**changes) -> ResNet:
    """A small model in which no parameter is zero, so that every path shows in the logits."""
    torch.manual_seed(0)
    model = ResNet(dataclasses.replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(size=16, count=3, channels=3):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


# ---- the network


@pytest.mark.parametrize(("blocks", "layers", "millions"), [(3, 20, 0.27), (5, 32, 0.46), (9, 56, 0.85)])
def test_it_has_the_layers_and_parameters_of_the_papers_table_6(blocks, layers, millions):
    with torch.device("meta"):
        model = ResNet(ResNetConfig(width=16, blocks=blocks))
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    shortcuts = [m for m in weighted if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(weighted) - len(shortcuts) == layers
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)


def test_each_stage_halves_the_map_and_doubles_the_channels():
    model, shapes = build(), []
    for part in model.trunk[3:]:
        part.register_forward_hook(lambda part, given, made: shapes.append(list(made.shape)))
    model(images(32))
    assert shapes == [[3, 8, 32, 32], [3, 16, 16, 16], [3, 32, 8, 8]]


def test_features_are_the_mean_of_the_map_and_logits_their_linear_image():
    model = build()
    y = model.feature_map(images()).flatten(2).mean(dim=2)
    torch.testing.assert_close(model.features(images()), y)
    torch.testing.assert_close(model(images()), y @ model.head.weight.T + model.head.bias)


def test_every_block_starts_as_the_identity_but_for_its_relu():
    blocks = [m for m in ResNet(dataclasses.replace(SMALL, blocks=2)).eval().modules() if isinstance(m, BasicBlock)]
    x = images(8, channels=16)
    torch.testing.assert_close(blocks[3](x), x.relu())
    assert len(blocks) == 6


def test_any_image_size_will_do():
    assert build()(images(16)).shape == build()(images(37)).shape == (3, 5)


def test_group_norm_sees_each_image_alone_and_batch_norm_does_not():
    for norm, alone in (("group", True), ("batch", False)):
        model = build(norm=norm).train()
        assert torch.allclose(model(images())[:1], model(images()[:1]), atol=1e-5) == alone
        kind = nn.GroupNorm if norm == "group" else nn.BatchNorm2d
        assert sum(isinstance(m, kind) for m in model.modules()) == 9  # 7 layers and 2 shortcuts


def test_at_evaluation_an_image_does_not_depend_on_its_batch():
    for norm in ("group", "batch"):
        model = build(norm=norm)
        torch.testing.assert_close(model(images())[1:2], model(images()[1:2]), rtol=1e-4, atol=1e-5)


def test_it_learns():
    torch.manual_seed(0)
    model, labels = ResNet(SMALL), torch.tensor([0, 3, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("width", [4, 12])
def test_narrow_networks_have_the_right_gradients(width):
    """A strided 1×1 convolution of few channels writes past its memory in oneDNN 3.13, in float32 alone."""
    model, batch = build(width=width), images(count=8)
    exact = copy.deepcopy(model).double()
    exact(batch.double()).square().sum().backward()
    for _ in range(5):
        model.zero_grad()
        model(batch).square().sum().backward()
        for ours, right in zip(model.parameters(), exact.parameters(), strict=True):
            torch.testing.assert_close(ours.grad.double(), right.grad, rtol=1e-3, atol=1e-3)


# ---- matched to a ViT


def test_a_match_is_within_the_tolerance():
    vit = ViT(VIT)
    model = match(vit)
    assert parameters(model) == pytest.approx(parameters(vit), rel=0.05)
    assert (model.config.num_classes, model.config.norm) == (10, "batch")
    assert model(images(32)).shape == (3, 10), "a model with numbers, not only shapes"


def test_a_hybrid_can_be_matched_too():
    vit = ViT(VIT, patch_embed=ResNetStem(96, stride=8, width=32))
    assert parameters(match(vit, blocks=3, tolerance=0.1)) == pytest.approx(parameters(vit), rel=0.1)


def test_among_those_that_fit_the_shallowest_is_taken_and_depth_can_be_held():
    vit = ViT(dataclasses.replace(VIT, embed_dim=192, mlp_dim=768))
    shallow = match(vit)
    assert match(vit, blocks=shallow.config.blocks).config == shallow.config
    assert match(vit, blocks=5, tolerance=0.2).config.blocks == 5
    for blocks in range(2, shallow.config.blocks):
        with pytest.raises(ValueError, match="no ResNet"):
            match(vit, blocks=blocks)


def test_no_match_says_what_came_nearest():
    tiny = ViT(dataclasses.replace(VIT, embed_dim=8, mlp_dim=8, depth=1))
    with pytest.raises(ValueError, match=r"within 5.0% of the ViT's [\d,]+ parameters.* at width 4 with 2 blocks"):
        match(tiny)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "norm is 'layer'; expected one of 'batch', 'group'"),
        ({"norm": "group", "width": 10}, "width is 10; group norm needs a multiple of its 4 groups"),
        ({"blocks": 0}, "blocks is 0; it must be at least 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="width is '16'; expected an int"):
        ResNetConfig(width="16")
    with pytest.raises(TypeError, match="config is 3; expected a ResNetConfig"):
        ResNet(3)
    with pytest.raises(TypeError, match=r"vit is Linear\(.*; expected a ViT"):
        match(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"blocks": 0}, "blocks is 0"), ({"tolerance": -1}, "tolerance is -1")],
)
def test_a_match_by_something_else_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        match(ViT(VIT), **options)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.zeros(2, 1, 16, 16), ValueError, r"\[2, 1, 16, 16\], expected \[batch, 3, height, width\]"),
        (torch.zeros(3, 16, 16), ValueError, "add a batch axis"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, "torch.uint8; expected floating point"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), TypeError, r"pass images.to\(torch.float32\)"),
        ([1.0], TypeError, r"images is \[1.0\]; expected a Tensor"),
    ],
)
def test_images_that_do_not_fit_are_refused(batch, error, message):
    with pytest.raises(error, match=message):
        build()(batch)
