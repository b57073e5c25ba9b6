"""The model against the paper's statements, and against torch's own modules."""

import ast
import dataclasses
import io
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitlite import ViT, ViTConfig, checks, hybrid
from vitlite.model import Attention, Block, DropPath, Mlp, PatchEmbed, fused_pays
from vitlite.resnet import ResNet, ResNetConfig

SMALL = ViTConfig(image_size=16, patch_size=4, num_classes=5, embed_dim=24, depth=3, num_heads=4, mlp_dim=40)


def build(**changes) -> ViT:
    """A small model in which no parameter is zero, so that every path shows in the logits."""
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(height=16, width=16, channels=3, count=2):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


# ---- Eq. 1: patches


@pytest.mark.parametrize("patch_size", [4, (2, 4), (8, 2)])
def test_the_patch_projection_is_a_convolution(patch_size):
    embed = PatchEmbed(patch_size, 3, 24)
    size = embed.patch_size
    kernel = embed.projection.weight.unflatten(1, (3, *size))
    convolved = F.conv2d(images(16, 24), kernel, embed.projection.bias, stride=size).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(images(16, 24)), convolved)


def test_tokens_are_class_token_then_patches_plus_positions():
    model = build()
    z = model.tokens(model.embed(images()))
    torch.testing.assert_close(z[:, 0], (model.class_token + model.position[:, :1])[:, 0].expand(2, -1))
    torch.testing.assert_close(z[:, 1:], model.embed(images()) + model.position[:, 1:])


def test_without_positions_the_class_output_does_not_see_the_order_of_patches():
    model = build()
    nn.init.zeros_(model.position)
    patches, order = model.embed(images()), torch.randperm(16)
    there, here = model.encode(patches[:, order]), model.encode(patches)
    torch.testing.assert_close(there[:, 0], here[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there[:, 1:], here[:, 1:][:, order], rtol=1e-4, atol=1e-5)


# ---- Eq. 2: attention


@pytest.mark.parametrize(("width", "heads"), [(24, 1), (24, 4), (24, 24), (40, 5)])
def test_attention_equals_torchs_multihead_attention(width, heads):
    ours, theirs = Attention(width, heads), nn.MultiheadAttention(width, heads, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.projection.weight.data, ours.projection.bias.data
    x = torch.randn(2, 9, width)
    mixed, weights = ours(x, return_attention=True)
    their_mixed, their_weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(mixed, their_mixed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights, their_weights, rtol=1e-5, atol=1e-6)


def test_fused_and_explicit_attention_agree():
    attention, x = Attention(24, 4).eval(), torch.randn(2, 9, 24)
    with torch.no_grad():
        fused, nothing = attention(x)
        explicit, weights = attention(x, return_attention=True)
    assert nothing is None
    assert (fused - explicit).abs().max() < 1e-5
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 9))


def test_the_kernel_is_chosen_by_device_precision_and_length():
    query = torch.empty(1, 2, 65, 16)
    assert fused_pays(query)
    assert not fused_pays(query.bfloat16())
    assert fused_pays(query.bfloat16().to("meta"))  # any device but a CPU
    assert fused_pays(torch.empty(1, 2, 2000, 16, dtype=torch.bfloat16))


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_returning_attention_does_not_change_the_logits(pool):
    model = build(pool=pool)
    with torch.no_grad():
        logits, maps = model(images(), return_attention=True)
        torch.testing.assert_close(logits, model(images()), rtol=0, atol=1e-5)
    tokens = 16 + (pool == "token")
    assert [tuple(m.shape) for m in maps] == [(2, 4, tokens, tokens)] * 3
    for one, other in zip(maps, model.iter_attention(images()), strict=True):
        torch.testing.assert_close(one, other)


# ---- Eq. 3 and 4: block, pooling, head


def test_a_block_is_two_pre_norm_residual_steps():
    block, z = build().blocks[0], torch.randn(2, 9, 24)
    z1 = block.attention(block.norm1(z))[0] + z
    torch.testing.assert_close(block(z)[0], block.mlp(block.norm2(z1)) + z1)


def test_features_are_the_normalised_class_token():
    model = build()
    z = model.tokens(model.embed(images()))
    for block in model.blocks:
        z, _ = block(z)
    y = F.layer_norm(z[:, 0], (24,), model.norm.weight, model.norm.bias, eps=1e-6)
    torch.testing.assert_close(model.features(images()), y)
    torch.testing.assert_close(model(images()), model.head(y))


def test_mean_pooling_norm_before_or_after():
    before, after = build(pool="mean"), build(pool="mean", pool_norm="after")
    assert before.class_token is None
    assert before.position.shape[1] == 16
    torch.testing.assert_close(before.features(images()), before.encode(before.embed(images())).mean(dim=1))
    z = after.encode(after.embed(images()))
    torch.testing.assert_close(after.features(images()), after.norm(z.mean(dim=1)))
    assert not torch.allclose(before(images()), after(images()), atol=1e-3)


def test_heads():
    assert torch.equal(ViT(SMALL)(images()), torch.zeros(2, 5)), "a fresh head is zero, as in the official code"
    assert ViT(dataclasses.replace(SMALL, zero_head=False))(images()).std() > 0.1
    mlp = build(head="mlp")
    y = mlp.features(images())
    torch.testing.assert_close(mlp(images()), mlp.head[2](torch.tanh(mlp.head[0](y))))
    assert torch.equal(mlp.reset_head(7)(images()), torch.zeros(2, 7))
    assert (mlp.config.num_classes, mlp.config.head) == (7, "linear")


# ---- tokens


@pytest.mark.parametrize("carried", [True, False])
def test_prefix_tokens_stand_in_front_class_distillation_registers(carried):
    model = build(distillation=True, registers=3, prefix_positions=carried)
    z, patches = model.tokens(model.embed(images())), model.embed(images())
    prefix = torch.cat([model.class_token, model.distillation_token, model.registers], dim=1)
    table = model.position_table()
    assert table.shape == (1, 16 + 5 * carried, 24)
    torch.testing.assert_close(z[:, :5], (prefix + (table[:, :5] if carried else 0)).expand(2, -1, -1))
    torch.testing.assert_close(z[:, 5:], patches + table[:, -16:])


def test_two_heads_and_the_mean_of_their_logits():
    model = build(distillation=True, registers=1)
    z = model.encode(model.embed(images()))
    first, second = model.forward_heads(images())
    torch.testing.assert_close(first, model.head(z[:, 0]))
    torch.testing.assert_close(second, model.distillation_head(z[:, 1]))
    assert (first - second).abs().max() > 0.01
    torch.testing.assert_close(model(images()), (first + second) / 2)
    torch.testing.assert_close(model.train()(images()), (first + second) / 2)
    logits, maps = model(images(), return_attention=True)
    torch.testing.assert_close(logits, (first + second) / 2)
    assert maps[0].shape == (2, 4, 19, 19)
    assert not model.reset_head(7)(images()).any()
    assert model.forward_heads(images())[1].shape == (2, 7)
    with pytest.raises(ValueError, match="one head.*distillation=True"):
        build().forward_heads(images())


@pytest.mark.parametrize("pool_norm", ["before", "after"])
def test_the_mean_is_over_patches_alone(pool_norm):
    model = build(pool="mean", class_token=True, registers=2, pool_norm=pool_norm)
    z = model.tokens(model.embed(images()))
    for block in model.blocks:
        z, _ = block(z)
    y = model.norm(z)[:, 3:].mean(1) if pool_norm == "before" else model.norm(z[:, 3:].mean(1))
    torch.testing.assert_close(model.features(images()), y)


def test_registers_and_distillation_tokens_differ_at_the_start():
    """Equal tokens without positions would stay equal for ever."""
    model = ViT(dataclasses.replace(SMALL, registers=2, distillation=True, prefix_positions=False))
    assert not torch.equal(model.registers[:, 0], model.registers[:, 1])
    assert model.distillation_token.any()


@pytest.mark.parametrize("shape", [(2, 15, 24), (2, 1, 24), (2, 16, 23), (16, 24)])
def test_patches_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"patches have shape .*expected \[batch, 16, 24\]"):
        build(pool="mean").encode(torch.zeros(shape))


# ---- initial values, regularisation, precision


def test_official_initial_values():
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=32, patch_size=8, embed_dim=192, depth=1, num_heads=3, mlp_dim=768))
    assert not model.class_token.any()
    assert abs(model.position.std() - 0.02) < 0.002
    for matrix in model.blocks[0].attention.qkv.weight.chunk(3):
        bound = (6 / (192 + 192)) ** 0.5
        assert 0.99 * bound < matrix.abs().max() <= bound
    bound = (6 / (192 + 768)) ** 0.5
    assert 0.99 * bound < model.blocks[0].mlp.expand.weight.abs().max() <= bound
    assert model.blocks[0].mlp.expand.bias.abs().max() < 1e-5
    assert abs(model.patch_embed.projection.weight.std() - (3 * 8 * 8) ** -0.5) < 0.005


def test_every_layer_norm_has_the_configured_epsilon():
    norms = [m for m in build(layer_norm_eps=1e-3).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * 3 + 1
    assert {norm.eps for norm in norms} == {1e-3}
    assert ViTConfig().layer_norm_eps == 1e-6


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(dropped[:, 0, 0], dropped[:, 1, 2])
    assert abs(dropped.mean() - 1) < 0.03
    rates = [block.drop_path.rate for block in ViT(dataclasses.replace(SMALL, drop_path=0.2)).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"drop_path": 0.5}])
def test_dropout_and_drop_path_act_in_training_alone(changes):
    model, plain = build(**changes), build()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images()), plain(images()))
    assert not torch.allclose(model.train()(images()), plain(images()), atol=1e-4)


def test_dropout_stands_where_the_paper_has_it():
    block = build(dropout=0.1)
    assert sum(isinstance(m, nn.Dropout) for m in block.modules()) == 1 + 3 * 2, (
        "embeddings; per block projection and MLP"
    )


def test_bfloat16_stays_close():
    model = build()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = model(images())
    assert (rough.float() - model(images())).abs().max() < 0.1


# ---- sizes


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"), [((16, 24), 4, (4, 6)), ((16, 24), (8, 4), (2, 6)), (20, (20, 2), (1, 10))]
)
def test_non_square_images_and_patches(image_size, patch_size, grid):
    model = build(image_size=image_size, patch_size=patch_size)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    assert model.config.grid == grid
    assert model(images(height, width)).shape == (2, 5)


@pytest.mark.parametrize("new_size", [24, 12, (16, 32)])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_at_resolution_changes_positions_alone(new_size, pool):
    model = build(pool=pool)
    bigger = model.at_resolution(new_size, convention="torchvision")
    height, width = new_size if isinstance(new_size, tuple) else (new_size, new_size)
    assert bigger(images(height, width)).shape == (2, 5)
    assert model.config.image_size == 16, "the old model stays"
    old, new = model.state_dict(), bigger.state_dict()
    assert [name for name in old if old[name].shape != new[name].shape] == ["position"]
    assert all(torch.equal(old[name], new[name]) for name in old if name != "position")
    new["norm.weight"].zero_()
    assert model.norm.weight.any(), "nothing is shared"


def test_at_the_same_resolution_nothing_changes():
    model = build()
    assert torch.equal(model.at_resolution(16)(images()), model(images()))


def test_any_module_can_make_the_patches():
    stem = nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), nn.Flatten(2))

    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = stem

        def forward(self, x):
            return self.stem(x).transpose(1, 2)

    model = ViT(SMALL, patch_embed=Stem())
    assert model.embed(images()).shape == (2, 16, 24)
    with pytest.raises(ValueError, match=r"patch_embed gave \[2, 24, 16\].*\[batch, 16, 24\]"):
        ViT(SMALL, patch_embed=stem)(images())


@pytest.mark.parametrize(
    ("name", "millions"), [("Ti/16", 5.7), ("S/16", 22.1), ("B/16", 86.6), ("L/16", 304.3), ("H/14", 632.0)]
)
def test_named_models_have_their_papers_size(name, millions):
    with torch.device("meta"):
        model = ViT.from_name(name, image_size=224)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (30, 32)}, "image is 30×32, patch size is 4: 30 is not a multiple of 4; crop, pad"),
        ({"num_heads": 5}, "embed_dim is 24, num_heads is 5"),
        ({"pool": "max"}, "pool is 'max'.*'token', 'mean'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"depth": 0}, "depth is 0"),
        ({"registers": -1}, "registers is -1"),
        ({"class_token": False}, "class_token is False.*pool='mean'"),
        ({"patch_size": 0}, "patch_size is 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ViTConfig(embed_dim=64.0), TypeError, "embed_dim is 64.0; expected an int"),
        (lambda: ViTConfig(registers="2"), TypeError, "registers is '2'; expected an int"),
        (lambda: ViTConfig(image_size="32"), TypeError, r"image_size is '32'; expected an int, or two as \(height"),
        (lambda: ViTConfig(patch_size=(4, 4, 3)), TypeError, r"patch_size is \(4, 4, 3\)"),
        (lambda: ViTConfig(dropout="a"), TypeError, "dropout is 'a'; expected a number"),
        (lambda: ViTConfig(layer_norm_eps=-1), ValueError, "layer_norm_eps is -1"),
        (lambda: ViTConfig(class_token="yes"), ValueError, "class_token is 'yes'; expected one of None, False, True"),
        (lambda: ViTConfig(distillation=2), ValueError, "distillation is 2"),
        (lambda: ViT(192), TypeError, "config is 192; expected a ViTConfig"),
        (lambda: ViT(SMALL, nn.Linear), TypeError, "patch_embed is .*; expected a Module"),
        (lambda: ViT(SMALL).at_resolution(24.0), TypeError, "image_size is 24.0"),
        (lambda: ViT(SMALL).reset_head(2.0), TypeError, "num_classes is 2.0"),
        (lambda: ViT(SMALL).encode(None), TypeError, "tokens is None; expected a Tensor"),
        (lambda: Block(24), TypeError, "config is 24; expected a ViTConfig"),
        (lambda: PatchEmbed(0, 3, 24), ValueError, "patch_size is 0"),
        (lambda: PatchEmbed(4, 3, 0), ValueError, "embed_dim is 0"),
        (lambda: PatchEmbed(4, 3, 24)(torch.zeros(2, 3, 15, 16)), ValueError, "15 is not a multiple of 4"),
        (lambda: PatchEmbed(4, 3, 24)(torch.zeros(3, 16, 16)), ValueError, "add a batch axis"),
        (lambda: Attention(24, 5), ValueError, "embed_dim is 24, num_heads is 5"),
        (lambda: Attention(24, 4)(torch.zeros(5, 24)), ValueError, r"\[5, 24\], expected \[batch, tokens, 24\]"),
        (lambda: Mlp(24, 0), ValueError, "mlp_dim is 0"),
        (lambda: Mlp(24, 40, gelu="relu"), ValueError, "gelu is 'relu'; expected one of 'exact', 'tanh'"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_size_given_as_a_list_is_a_pair():
    assert ViTConfig(image_size=[32, 48]) == ViTConfig(image_size=(32, 48))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.zeros(2, 1, 16, 16), ValueError, r"\[2, 1, 16, 16\], expected \[batch, 3, 16, 16\]"),
        (torch.zeros(3, 16, 16), ValueError, "add a batch axis"),
        (torch.zeros(2, 16, 16, 3), ValueError, "permute"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, "torch.uint8; expected floating point"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), TypeError, r"pass images.to\(torch.float32\)"),
        (torch.zeros(2, 3, 16, 16).numpy(), TypeError, "images is a ndarray; expected a Tensor"),
        (torch.zeros(2, 3, 20, 16), ValueError, "image is 20×16, the model was built for 16×16.*at_resolution"),
    ],
)
def test_images_that_do_not_fit_are_refused(batch, error, message):
    with pytest.raises(error, match=message):
        build()(batch)


@pytest.mark.parametrize("name", ["X/16", "B16", "B/", "b/16"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="expected one of Ti, S, B, L, H"):
        ViT.from_name(name)


CHECKS = "images", "precision", "tokens", "divides"


@pytest.fixture
def counts(monkeypatch):
    """How often each check of tensors has been called."""
    for name in CHECKS:
        monkeypatch.setattr(checks, name, Mock(wraps=getattr(checks, name)))
    return lambda: tuple(getattr(checks, name).call_count for name in CHECKS)


@pytest.mark.parametrize("return_attention", [False, True])
def test_a_forward_pass_checks_images_and_patches_once(return_attention, counts):
    build()(images(), return_attention=return_attention)
    assert counts()[:3] == (1, 1, 1)


def test_whatever_door_is_taken_checks_once(counts):
    model = build()
    built = counts()[3]  # the configuration checks its own sizes
    list(model.iter_attention(images()))
    assert counts() == (1, 1, 1, built)
    model.encode(torch.zeros(2, 16, 24))
    assert counts() == (1, 1, 2, built)


def test_pieces_that_stand_alone_check_what_they_get(counts):
    PatchEmbed(4, 3, 24)(images())
    assert counts() == (1, 0, 0, 1)
    Block(SMALL)(Attention(24, 4)(torch.zeros(2, 9, 24))[0])
    assert counts() == (1, 0, 2, 1)


@pytest.mark.parametrize("kind", ["learned-1d", "relative"])
@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.filterwarnings("ignore")  # the exporters remark on themselves
def test_tools_that_trace_get_the_model_for_any_batch(kind, pool):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = ViT(dataclasses.replace(TRACED, position=kind, pool=pool)).eval()
    images, five = torch.randn(2, 3, 16, 16), torch.randn(5, 3, 16, 16)
    wanted = model(five)
    options = {"input_names": ["images"], "verbose": False}
    for exporter in ({"dynamo": False, "dynamic_axes": {"images": {0: "batch"}}},
                     {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},)}):
        file = io.BytesIO()
        torch.onnx.export(model, (images,), file, **options, **exporter)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": five.numpy()})[0])
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [
    {}, {"pool": "mean", "pool_norm": "after"}, {"position": "relative"}, {"position": "rotary", "embed_dim": 48},
    {"position": "learned-2d", "registers": 2}, {"distillation": True, "head": "mlp"}, {"mlp": "swiglu"},
    {"qk_norm": True}, {"dropout": 0.1, "drop_path": 0.5, "depth": 3},
])
@pytest.mark.parametrize("options", [{}, {"concrete_args": {"return_attention": False}}])
def test_a_graph_of_torch_fx_is_the_model(changes, options):
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(TRACED, **changes)).train("drop_path" in changes)
    traced, images = torch.fx.symbolic_trace(model, **options), torch.randn(5, 3, 16, 16)
    answers = []
    for each in (model, traced):
        torch.manual_seed(1)
        answers.append(each(images))
    assert torch.equal(*answers)
    with pytest.raises(ValueError, match="the model was built for 16×16"):
        traced(torch.randn(2, 3, 20, 16))


def test_a_graph_of_torch_fx_says_that_it_has_no_maps_and_the_advice_works():
    model, images = ViT(TRACED).eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"traced without attention maps; trace it with concrete_args=") as error:
        torch.fx.symbolic_trace(model)(images, True)
    advice = str(error.value).rpartition("concrete_args=")[2]
    logits, maps = torch.fx.symbolic_trace(model, concrete_args=ast.literal_eval(advice))(images, True)
    assert torch.equal(logits, model(images, True)[0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, model(images, True)[1], strict=True))


def test_hybrids_and_resnets_have_a_graph_of_torch_fx_too():
    for model in (ViT(dataclasses.replace(TRACED, image_size=32, patch_size=16), hybrid.R50(24)),
                  ViT(TRACED, hybrid.ResNetStem(24, width=8)), ResNet(ResNetConfig(width=8, blocks=1))):
        images = torch.randn(2, 3, *[32 if isinstance(model, ResNet) else model.config.image_size] * 2)
        assert torch.equal(torch.fx.symbolic_trace(model.eval())(images), model(images))


def test_another_precision_is_refused_with_what_to_pass_unless_autocast_mends_it():
    model, images = ViT(TRACED).eval(), torch.randn(2, 3, 16, 16)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(TypeError, match=f"images are {dtype}, .* torch.float32; pass images.to.torch.float32."):
            model(images.to(dtype))
    with pytest.raises(TypeError, match="images are torch.float32, .* torch.bfloat16; pass images.to.torch.bfloat16."):
        model.bfloat16()(images)
    assert model(images.to(torch.bfloat16)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float()(images.to(torch.bfloat16)).shape == (2, 5)


TRACED = ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48, zero_head=False)


def test_normalised_queries_and_keys_make_the_logits_blind_to_their_length():
    torch.manual_seed(0)
    x, norms = torch.randn(2, 5, 24), (nn.LayerNorm(8), nn.LayerNorm(8))
    bare, normed = Attention(24, 3), Attention(24, 3, norms=norms)
    normed.load_state_dict(bare.state_dict(), strict=False)
    before = [attention(x, return_attention=True)[1] for attention in (bare, normed)]
    with torch.no_grad():
        for attention in (bare, normed):
            attention.qkv.weight[:48] *= 100
            attention.qkv.bias[:48] *= 100
    after = [attention(x, return_attention=True)[1] for attention in (bare, normed)]
    assert (after[0] - before[0]).abs().max() > 0.3
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-4)


def test_swiglu_is_its_definition():
    mlp, x = Mlp(6, 4, kind="swiglu").double(), torch.randn(3, 6, dtype=torch.float64)
    gate, value = (x @ mlp.expand.weight.T + mlp.expand.bias).split(4, dim=-1)
    wanted = (gate / (1 + torch.exp(-gate)) * value) @ mlp.contract.weight.T + mlp.contract.bias
    torch.testing.assert_close(mlp(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("field", "value"), [("mlp", "geglu"), ("qk_norm", "yes")])
def test_an_unknown_option_of_the_block_is_refused(field, value):
    with pytest.raises((TypeError, ValueError), match=f"{field} is '{value}'"):
        ViTConfig(**{field: value})
