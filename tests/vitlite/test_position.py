"""Position tables: what interpolation keeps, and that it equals the library it is named after."""

import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from scipy import ndimage
from torchvision.models.vision_transformer import interpolate_embeddings

from vitlite import ViT, ViTConfig, cost, position


def table(tokens=17, width=8):
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))


def test_the_learned_table_is_small_normal_noise():
    torch.manual_seed(0)
    learned = position.learned_table(200, 192)
    assert learned.shape == (1, 200, 192)
    assert abs(learned.std().item() - 0.02) < 0.001
    assert abs(learned.mean().item()) < 0.001


def test_the_same_grid_comes_back_untouched():
    old = table()
    assert position.interpolate(old, (4, 4), (4, 4)) is old


@pytest.mark.parametrize("convention", position.CONVENTIONS)
@pytest.mark.parametrize("new_grid", [(6, 6), (3, 5), (2, 2), (1, 9)])
def test_prefix_positions_are_left_alone(convention, new_grid):
    old = table(18)
    new = position.interpolate(old, (4, 4), new_grid, prefix_tokens=2, convention=convention)
    assert new.shape == (1, 2 + new_grid[0] * new_grid[1], 8)
    assert torch.equal(new[:, :2], old[:, :2])


def test_bilinear_interpolation_keeps_the_corners_and_a_linear_ramp():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    ramp = torch.stack([rows, columns], dim=-1).reshape(1, 12, 2)
    new = position.interpolate(ramp, (4, 3), (7, 5), prefix_tokens=0).reshape(7, 5, 2)
    torch.testing.assert_close(new[..., 0], torch.linspace(0, 3, 7)[:, None].expand(7, 5))
    torch.testing.assert_close(new[..., 1], torch.linspace(0, 2, 5).expand(7, 5))


@pytest.mark.parametrize(("old_side", "new_side"), [(4, 6), (6, 4), (14, 24)])
def test_the_torchvision_convention_is_torchvisions(old_side, new_side):
    old = table(1 + old_side**2)
    theirs = interpolate_embeddings(new_side * 16, 16, {"encoder.pos_embedding": old})["encoder.pos_embedding"]
    ours = position.interpolate(old, (old_side, old_side), (new_side, new_side), convention="torchvision")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# Square and not, up and down, one side alone; old grid first.
GRIDS = [((4, 4), (6, 6)), ((6, 6), (4, 4)), ((3, 5), (7, 6)), ((7, 4), (5, 9)), ((4, 6), (6, 4)), ((5, 5), (5, 8))]


def picture(patches, grid):
    return patches.unflatten(1, grid).permute(0, 3, 1, 2)


def flat(resized):
    return resized.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_the_timm_convention_is_timms(old_grid, new_grid, prefix):
    old = table(prefix + old_grid[0] * old_grid[1])
    theirs = timm.layers.resample_abs_pos_embed(old, list(new_grid), list(old_grid), num_prefix_tokens=prefix)
    ours = position.interpolate(old, old_grid, new_grid, prefix, convention="timm")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_the_timm_npz_convention_is_its_npz_loaders(old_grid, new_grid):
    old, how = table(1 + old_grid[0] * old_grid[1]), {"interpolation": "bilinear", "antialias": False}
    theirs = timm.layers.resample_abs_pos_embed(old, list(new_grid), list(old_grid), **how)
    ours = position.interpolate(old, old_grid, new_grid, convention="timm-npz")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_the_jax_convention_is_scipys_linear_zoom(old_grid, new_grid):
    old = table(1 + old_grid[0] * old_grid[1])
    factors = (*(new / old for new, old in zip(new_grid, old_grid, strict=True)), 1)
    theirs = ndimage.zoom(old[0, 1:].unflatten(0, old_grid).numpy(), factors, order=1)
    ours = position.interpolate(old, old_grid, new_grid, convention="jax")[0, 1:].unflatten(0, new_grid)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_the_deit_convention_is_bicubic_about_pixel_centres(old_grid, new_grid):
    """As in DeiT's fine-tuning: class and distillation positions aside, bicubic with align_corners=False."""
    old = table(2 + old_grid[0] * old_grid[1])
    theirs = F.interpolate(picture(old[:, 2:], old_grid), size=new_grid, mode="bicubic", align_corners=False)
    ours = position.interpolate(old, old_grid, new_grid, prefix_tokens=2, convention="deit")
    assert torch.equal(ours, torch.cat([old[:, :2], flat(theirs)], dim=1))


@pytest.mark.parametrize(("old_grid", "new_grid"), GRIDS)
def test_the_dino_convention_is_its_formula(old_grid, new_grid):
    """As in DINO's interpolate_pos_encoding: a scale factor, with a tenth of a patch on top."""
    old = table(1 + old_grid[0] * old_grid[1])
    scale = (new_grid[0] + 0.1) / old_grid[0], (new_grid[1] + 0.1) / old_grid[1]
    theirs = F.interpolate(picture(old[:, 1:], old_grid), scale_factor=scale, mode="bicubic")
    assert theirs.shape[2:] == new_grid
    ours = position.interpolate(old, old_grid, new_grid, convention="dino")
    assert torch.equal(ours, torch.cat([old[:, :1], flat(theirs)], dim=1))


@pytest.mark.parametrize("old_side", [1, 7, 14, 24, 37])
def test_the_dino_scale_always_gives_the_wanted_grid(old_side):
    for side in range(1, 50):
        new = position.interpolate(table(old_side**2, 1), (old_side,) * 2, (side, side), 0, "dino")
        assert new.shape[1] == side**2


def test_conventions_differ():
    made = [position.interpolate(table(), (4, 4), (7, 7), convention=name) for name in position.CONVENTIONS]
    for i, one in enumerate(made):
        assert all((one - other).abs().max() > 1e-3 for other in made[:i])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("convention", position.CONVENTIONS)
def test_precision_is_kept(dtype, convention):
    new = position.interpolate(table().to(dtype), (4, 4), (6, 5), convention=convention)
    exact = position.interpolate(table().double(), (4, 4), (6, 5), convention=convention)
    assert new.dtype == dtype
    assert (new.double() - exact).abs().max() <= (1e-12 if dtype == torch.float64 else 0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convention": "tensorflow"}, "'tensorflow'.*'jax'"),
        ({"old_grid": (4, 5)}, r"\[1, 17, 8\].*\[1, 21, D\].*4×5"),
        ({"prefix_tokens": 0}, r"\[1, 16, D\]"),
        ({"new_grid": (0, 3)}, "0×3"),
    ],
)
def test_what_does_not_fit_is_said(changes, message):
    arguments = {"old_grid": (4, 4), "new_grid": (6, 6)} | changes
    with pytest.raises(ValueError, match=message):
        position.interpolate(table(), **arguments)


# ---- the kinds, in a model

SMALL = ViTConfig(
    image_size=(12, 16), patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=3, mlp_dim=40, zero_head=False
)


def build(**changes) -> ViT:
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(height=12, width=16):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_learned_2d_is_a_row_half_and_a_column_half():
    model = build(position="learned-2d")
    grid = model.position_table()[0, 1:].unflatten(0, (3, 4))
    for r in range(3):
        for c in range(4):
            halves = torch.cat([model.position.rows[0, r], model.position.columns[0, c]])
            assert torch.equal(grid[r, c], halves)
    assert torch.equal(model.position_table()[:, :1], model.position.prefix)


def test_sincos_is_the_formula_and_is_not_trained():
    model = build(position="sincos-2d")
    y, x = np.mgrid[:3, :4]
    frequencies = 1 / 10_000 ** (np.arange(6) / 5)
    x, y = x.flatten()[:, None] * frequencies, y.flatten()[:, None] * frequencies
    formula = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    torch.testing.assert_close(model.position_table()[0], torch.from_numpy(formula).float())
    assert not [name for name, _ in model.named_parameters() if name.startswith("position")]
    z = model.tokens(model.embed(images()))
    assert torch.equal(z[0, 0], model.class_token[0, 0]), "the class token has no place"


@pytest.mark.parametrize("kind", ["none", "relative", "rotary"])
def test_kinds_without_a_table(kind):
    model = build(position=kind)
    assert model.position_table() is None
    assert torch.equal(model.tokens(model.embed(images()))[:, 1:], model.embed(images()))


@pytest.mark.parametrize("kind", position.KINDS)
def test_only_without_positions_the_order_of_patches_is_lost(kind):
    model, order = build(position=kind), torch.randperm(12, generator=torch.Generator().manual_seed(2))
    patches = model.embed(images())
    there, here = model.encode(patches[:, order])[:, 0], model.encode(patches)[:, 0]
    assert torch.allclose(there, here, atol=1e-5) == (kind == "none")


def test_relative_logits_are_added_before_the_softmax():
    attention = build(position="relative").blocks[0].attention
    x = torch.randn(2, 13, 24)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    weights = ((query @ key.transpose(2, 3) + attention.relative(query)) / 8**0.5).softmax(-1)
    mixed = attention.projection((weights @ value).transpose(1, 2).flatten(2))
    for explicit in (True, False):
        torch.testing.assert_close(attention(x, explicit)[0], mixed)
        with torch.no_grad():
            torch.testing.assert_close(attention(x, explicit)[0], mixed)
    torch.testing.assert_close(attention(x, True)[1], weights)


def test_relative_attention_in_bfloat16():
    model = build(position="relative", registers=1)
    with torch.autocast("cpu", torch.bfloat16):
        model(images()).sum().backward()
        with torch.no_grad():
            rough = model(images())
    assert (rough.float() - model(images())).abs().max() < 0.1


def test_relative_attention_moves_with_the_sequence():
    """The logits of two patches depend on their offset alone."""
    keys = position.RelativeKeys(6, 0, True, embed_dim=8)
    logits = keys(torch.randn(1, 2, 1, 4).expand(-1, -1, 6, -1))
    torch.testing.assert_close(logits[..., 1:, 1:], logits[..., :-1, :-1])


def queries_and_keys(heads=3, tokens=12, width=8):
    return torch.randn(2, 2, heads, tokens, width, generator=torch.Generator().manual_seed(3))


def test_rotary_turns_each_pair_by_its_row_or_its_column():
    """A pair of channels is a complex number; turning it by an angle multiplies it by exp(i angle)."""
    x = queries_and_keys(width=16)[0].double()
    turned = position.Rotary((3, 4), 0, 16)(x)
    frequencies = 100.0 ** (-np.arange(4) / 4)  # 1 radian a patch, then slower
    for patch in range(12):
        angles = np.concatenate([patch // 4 * frequencies, patch % 4 * frequencies])
        pairs = torch.view_as_complex(x[:, :, patch].unflatten(-1, (8, 2)).contiguous())
        wanted = pairs * torch.from_numpy(np.exp(1j * angles))
        torch.testing.assert_close(turned[:, :, patch], torch.view_as_real(wanted).flatten(-2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 4), (8, 8), (5, 2)])
@pytest.mark.parametrize("kind", [timm.layers.RotaryEmbedding, timm.layers.RotaryEmbeddingCat])
def test_rotary_is_timms_of_patch_numbers(grid, kind):
    theirs = kind(16, in_pixels=False, temperature=100, feat_shape=list(grid))
    query, key = queries_and_keys(tokens=1 + grid[0] * grid[1], width=16)
    ours = position.Rotary(grid, 1, 16)
    found = theirs.get_embed()
    sin, cos = found if isinstance(found, tuple) else found.chunk(2, -1)
    for x in (query, key):
        assert torch.equal(ours(x)[:, :, 0], x[:, :, 0]), "the class token is not turned"
        turned = timm.layers.apply_rot_embed(x[:, :, 1:], sin, cos)
        torch.testing.assert_close(ours(x)[:, :, 1:], turned, rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 4), (8, 8), (5, 1)])
def test_rotary_of_the_image_is_timms_of_dinov3(grid):
    theirs = timm.layers.RotaryEmbeddingDinoV3(16, temperature=100, feat_shape=list(grid), rotate_half=False)
    x = queries_and_keys(tokens=1 + grid[0] * grid[1], width=16)[0]
    ours = position.Rotary(grid, 1, 16, "rotary-image")
    assert torch.equal(ours(x)[:, :, 0], x[:, :, 0]), "the class token is not turned"
    turned = timm.layers.apply_rot_embed_cat(x[:, :, 1:], theirs.get_embed())
    torch.testing.assert_close(ours(x)[:, :, 1:], turned, rtol=0, atol=5e-6)


def test_rotary_of_the_image_turns_the_same_spot_alike_at_any_resolution():
    coarse, fine = (position.rotary_angles((n, n), 8, "rotary-image").unflatten(0, (n, n)) for n in (3, 9))
    torch.testing.assert_close(fine[1::3, 1::3], coarse)  # the middle of every third patch
    torch.testing.assert_close(coarse[1, 1], torch.zeros(4, dtype=torch.float64))
    model = build(position="rotary-image", registers=1)
    larger = model.at_resolution((20, 24))
    fresh = ViT(larger.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(larger(images(20, 24)), fresh(images(20, 24)))


def test_rotary_scores_depend_on_the_offset_alone():
    """One query and one key everywhere: two pairs of patches with the same step between them score alike."""
    query, key = queries_and_keys(tokens=1).expand(-1, -1, -1, 20, -1).double()
    turn = position.Rotary((4, 5), 0, 8)
    scores = (turn(query) @ turn(key).transpose(2, 3)).unflatten(3, (4, 5)).unflatten(2, (4, 5))
    torch.testing.assert_close(scores[:, :, 1:, :, 1:], scores[:, :, :-1, :, :-1], rtol=0, atol=1e-6)  # one row down
    torch.testing.assert_close(scores[..., 2:, :, 2:], scores[..., :-2, :, :-2], rtol=0, atol=1e-6)  # two columns on
    assert (scores[..., 1, :, 1] - scores[..., 0, :, 1]).abs().max() > 0.1, "another step scores otherwise"


def test_rotary_leaves_lengths_and_one_place_alone():
    query, key = queries_and_keys().double()
    turn = position.Rotary((3, 4), 0, 8)
    torch.testing.assert_close(turn(query).norm(dim=-1), query.norm(dim=-1), rtol=0, atol=1e-6)
    torch.testing.assert_close((turn(query) * turn(key)).sum(-1), (query * key).sum(-1), rtol=0, atol=1e-6)


def test_shifting_every_patch_changes_no_rotary_output():
    """A 3×4 window of a larger grid gives the scores of the 3×4 grid, wherever the window lies."""
    query, key = queries_and_keys(tokens=7 * 9)
    small, large = position.Rotary((3, 4), 0, 8), position.Rotary((7, 9), 0, 8)
    window = (torch.arange(2, 5)[:, None] * 9 + torch.arange(5, 9)).flatten()
    there = large(query)[:, :, window] @ large(key)[:, :, window].transpose(2, 3)
    here = small(query[:, :, window]) @ small(key[:, :, window]).transpose(2, 3)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-5)


def test_rotary_attention_explicit_fused_and_by_hand_agree():
    attention = build(position="rotary").blocks[0].attention
    x = torch.randn(2, 13, 24)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    query, key = attention.rotary(query), attention.rotary(key)
    weights = (query @ key.transpose(2, 3) / 8**0.5).softmax(-1)
    mixed = attention.projection((weights @ value).transpose(1, 2).flatten(2))
    for explicit in (True, False):
        torch.testing.assert_close(attention(x, explicit)[0], mixed)
    torch.testing.assert_close(attention(x, True)[1], weights)


def test_rotary_at_another_resolution_keeps_every_weight_and_every_step():
    model = build(position="rotary", registers=1)
    larger = model.at_resolution((20, 24))
    assert larger.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(larger.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    fresh = ViT(larger.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(larger(images(20, 24)), fresh(images(20, 24)))


def test_rotary_costs_no_parameter_no_matrix_product_and_no_memory():
    plain, turned = build(position="none"), build(position="rotary")
    assert cost.parameters(turned) == cost.parameters(plain)
    assert cost.flops(turned, (12, 16)) == cost.flops(plain, (12, 16))
    assert cost.saved_bytes(turned, (12, 16)) == cost.saved_bytes(plain, (12, 16)), "the turned take the others' place"


def test_rotary_in_bfloat16_and_float64():
    model = build(position="rotary", registers=1)
    exact = copy.deepcopy(model).double()(images().double())
    torch.testing.assert_close(model(images()).double(), exact, rtol=0, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        model(images()).sum().backward()
        with torch.no_grad():
            rough = model(images())
    assert (rough.float() - model(images())).abs().max() < 0.1


def test_rotary_is_compiled_and_exported():
    model = build(position="rotary").eval()
    wanted = model(images())
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(images()), wanted)
    program = torch.export.export(model, (images(),), strict=False)  # PyTorch 2.6 is strict if not told
    torch.testing.assert_close(program.module()(images()), wanted)


@pytest.mark.parametrize("kind", position.KINDS)
@pytest.mark.parametrize("convention", position.CONVENTIONS)
@pytest.mark.parametrize("changes", [{}, {"distillation": True, "registers": 2}, {"prefix_positions": False}])
def test_every_kind_at_another_resolution(kind, convention, changes):
    model = build(position=kind, **changes)
    bigger = model.at_resolution((20, 12), convention)
    assert bigger(images(20, 12)).shape == (2, 5)
    assert bigger.config == dataclasses.replace(model.config, image_size=(20, 12))
    if model.position_table() is not None:
        arguments = (model.config.grid, bigger.config.grid, model.config.table_prefix, convention)
        wanted = position.interpolate(model.position_table(), *arguments)
        torch.testing.assert_close(bigger.position_table(), wanted, rtol=0, atol=1e-5)
    same = model.at_resolution((12, 16), convention)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in same.parameters()}


@pytest.mark.parametrize("new_grid", [(6, 8), (5, 3), (2, 2), (3, 9)])
def test_a_relative_embedding_follows_its_step_across_the_image(new_grid):
    """Embeddings that tell how far the step leads tell so on the new grid, for steps that stay in their row."""
    keys = position.RelativeKeys(12, 1, True, embed_dim=1)  # 3 rows of 4
    offsets = torch.arange(-11, 12)
    rows = (offsets / 4).round()
    with torch.no_grad():
        keys.offsets[:, 0] = rows
    new = position.at_grid(keys, (3, 4), new_grid, 1, "jax")
    assert torch.equal(new.prefix, keys.prefix)
    middle = new_grid[0] * new_grid[1] - 1
    assert new.offsets.shape == (2 * middle + 1, 1)
    assert new.offsets[middle].item() == 0
    steps = new.offsets[middle :: new_grid[1], 0]  # straight down, r rows at a time
    wanted = torch.arange(len(steps)) * 2 / (new_grid[0] - 1)
    torch.testing.assert_close(steps, wanted)


@pytest.mark.parametrize("kind", position.KINDS)
def test_every_kind_is_trained_and_comes_back(kind):
    model = build(position=kind, pool="mean", class_token=True).train()
    model(images()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    again = ViT(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize(
    ("kind", "width", "message"),
    [("learned-2d", 9, "multiple of 2"), ("sincos-2d", 18, "multiple of 4"), ("sincos-2d", 4, "at least 8")],
)
def test_a_width_that_cannot_be_cut_is_refused(kind, width, message):
    with pytest.raises(ValueError, match=f"embed_dim is {width}.*{kind}.*{message}"):
        ViTConfig(embed_dim=width, num_heads=1, position=kind)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="position is 'learned-3d'.*'rotary'"):
        ViTConfig(position="learned-3d")
    with pytest.raises(ValueError, match="convention is 'none'"):
        build(position="none").at_resolution(16, "none")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("learned-1d", "position table has shape.*check old_grid"),
        ("learned-2d", "positions are for a grid of 3×4, old grid is 4×4"),
        ("sincos-2d", "position table has shape.*check old_grid"),
    ],
)
def test_positions_of_another_grid_are_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        position.at_grid(position.make(kind, (3, 4), 0, 8), (4, 4), (5, 5), 0, "jax")


def test_what_does_not_fit_the_kinds_is_said():
    keys = position.RelativeKeys(12, 0, True, 8)
    with pytest.raises(ValueError, match="12 patches, old grid is 4×4"):
        position.at_grid(keys, (4, 4), (5, 5), 0, "jax")
    with pytest.raises(ValueError, match="new grid is 0×5"):
        position.at_grid(keys, (3, 4), (0, 5), 0, "jax")
    with pytest.raises(ValueError, match="kind is 'learned-3d'; expected one of 'none', 'learned-1d'"):
        position.make("learned-3d", (3, 4), 0, 8)
    with pytest.raises(ValueError, match="multiple of 4"):
        position.sincos_table((3, 4), 10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: position.make("learned-1d", 4, 1, 8), TypeError, r"grid is 4; expected two ints, \(rows, columns\)"),
        (lambda: position.make("none", (4, 0), 1, 8), ValueError, "grid is 4×0: both sides"),
        (lambda: position.make("learned-1d", (4, 4), -1, 8), ValueError, "prefix_tokens is -1; it must be at least 0"),
        (lambda: position.make("learned-1d", (4, 4), 1, 0), ValueError, "embed_dim is 0"),
        (lambda: position.check_width("sincos-2d", 8.0), TypeError, "embed_dim is 8.0; expected an int"),
        (lambda: position.learned_table(17.0, 8), TypeError, "tokens is 17.0; expected an int"),
        (lambda: position.Learned2D((4,), 1, 8), TypeError, "expected two ints"),
        (lambda: position.Learned2D((4, 4), 1, 9), ValueError, "embed_dim is 9; learned-2d"),
        (lambda: position.sincos_table((4, 4, 4), 8), TypeError, "expected two ints"),
        (lambda: position.RelativeKeys(0, 1, True, 8), ValueError, "num_patches is 0"),
        (lambda: position.RelativeKeys(16, -1, True, 8), ValueError, "prefix_tokens is -1"),
        (lambda: position.RelativeKeys(16, 1, True, 8)(torch.zeros(2, 4, 16, 2)), ValueError,
         r"queries have shape \[2, 4, 16, 2\], expected \[batch, heads, 17, 8 / heads\]"),
        (lambda: position.RelativeKeys(16, 1, True, 8)(torch.zeros(4, 17, 2)), ValueError, "queries have shape"),
        (lambda: position.rotary_angles((3, 4), 6), ValueError, "a head has 6 channels; rotary.*multiple of 4"),
        (lambda: position.rotary_angles((3, 0), 8), ValueError, "grid is 3×0"),
        (lambda: position.rotary_angles((3, 4), 8, "relative"), ValueError, "kind is 'relative'; .*'rotary-image'"),
        (lambda: position.Rotary((3, 4), -1, 8), ValueError, "prefix_tokens is -1"),
        (lambda: position.Rotary((3, 4), 1, 8)(torch.zeros(2, 3, 12, 8)), ValueError,
         r"shape \[2, 3, 12, 8\], expected \[batch, heads, 13, 8\]"),
        (lambda: position.at_grid(position.Rotary((3, 4), 1, 8), (4, 4), (5, 5), 1, "jax"), ValueError,
         "angles are for 13 tokens, old grid is 4×4"),
        (lambda: ViTConfig(embed_dim=24, num_heads=4, position="rotary"), ValueError,
         "a head has 6 channels.*change embed_dim or num_heads"),
        (lambda: position.at_grid(table(), (4, 4), (6, 6), 1, "jax"), TypeError, "positions are a Tensor"),
        (lambda: position.interpolate(table().numpy(), (4, 4), (6, 6)), TypeError, "expected a Tensor"),
        (lambda: position.interpolate(table().long(), (4, 4), (6, 6)), TypeError, "torch.int64; expected floating"),
        (lambda: position.interpolate(table(), 4, (6, 6)), TypeError, "old grid is 4; expected two ints"),
        (lambda: position.interpolate(table(), (4, 4), (6.0, 6)), TypeError, r"new grid is \(6.0, 6\); expected two"),
        (lambda: position.interpolate(table(15), (4, 4), (6, 6), prefix_tokens=-1), ValueError, "prefix_tokens is -1"),
    ],
)
def test_every_other_wrong_argument_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_relative_keys_that_are_frozen_stay_frozen():
    model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=4, mlp_dim=40, position="relative"))
    larger = model.requires_grad_(False).at_resolution(24)
    assert not any(parameter.requires_grad for parameter in larger.parameters())


@pytest.mark.parametrize("convention", position.CONVENTIONS)
@pytest.mark.parametrize(
    ("old_grid", "new_grid"), [((4, 4), (1, 4)), ((4, 3), (1, 5)), ((3, 4), (4, 1)), ((4, 4), (1, 1))]
)
def test_one_row_has_no_steps_up_or_down(convention, old_grid, new_grid):
    keys = position.RelativeKeys(old_grid[0] * old_grid[1], 0, False, 8)
    middle = keys.offsets[len(keys.offsets) // 2].detach()
    new = position.at_grid(keys, old_grid, new_grid, 0, convention)
    if convention != "dino" or new_grid == (1, 1):  # whose scale is a little off, by its own formula
        torch.testing.assert_close(new.offsets[len(new.offsets) // 2].detach(), middle, rtol=0, atol=0.02)
    if new_grid == (1, 4):  # all columns stay, so every step along the row does
        torch.testing.assert_close(new.offsets[2:5].detach(), keys.offsets[14:17].detach(), rtol=0, atol=0.02)
