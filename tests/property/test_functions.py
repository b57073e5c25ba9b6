"""Random calls of the public functions against references in float64 of their own: numpy, loops and the formulas."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitlite import ViT, ViTConfig, analysis, position, weights
from vitlite.model import Attention, PatchEmbed
from vitlite.resnet import ResNet, ResNetConfig

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 6)
GRIDS = st.tuples(SIDES, SIDES)
# Types with the error that their rounding makes of numbers of about 1.
TYPES = st.sampled_from([(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
LAYOUTS = st.sampled_from(["plain", "transposed", "strided"])


def laid(tensor, layout):
    """The same numbers, otherwise in memory."""
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "strided" and tensor.ndim:
        return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
    return tensor


def drawn(seed, *shape, dtype=torch.float64, layout="plain"):
    """Normal numbers as a tensor, and as a float64 array of the values it has after rounding to its type."""
    tensor = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return laid(tensor, layout), tensor.double().numpy()


def close(found, wanted, error):
    found = found.detach().double().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == np.shape(wanted)
    np.testing.assert_allclose(found, wanted, rtol=error, atol=error)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# ---- positions


def cubic(x, a):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def line(old, new, convention):
    """The matrix [new, old] by which a convention resamples one axis."""
    how, matrix = position.CONVENTIONS[convention], np.zeros((new, old))
    scale = old / (new + how["offset"]) if "offset" in how else old / new
    for i in range(new):
        if how.get("antialias"):
            wide = max(scale, 1.0)
            centre = (i + 0.5) * scale
            for j in range(max(int(centre - 2 * wide + 0.5), 0), min(int(centre + 2 * wide + 0.5), old)):
                matrix[i, j] = cubic((j - centre + 0.5) / wide, -0.5)
            matrix[i] /= matrix[i].sum()
            continue
        at = (i * (old - 1) / (new - 1) if new > 1 else 0.0) if how.get("align_corners") else (i + 0.5) * scale - 0.5
        if how["mode"] == "bilinear":
            at = max(at, 0.0)
            low = min(int(at), old - 1)
            parts = {low: 1 - (at - low), low + 1: at - low}
        else:
            low = math.floor(at)
            parts = {j: cubic(at - j, -0.75) for j in range(low - 1, low + 3)}
        for j, part in parts.items():
            matrix[i, min(max(j, 0), old - 1)] += part
    return matrix


@given(SEEDS, GRIDS, GRIDS, st.integers(0, 3), st.integers(1, 5), st.sampled_from(list(position.CONVENTIONS)), TYPES,
       LAYOUTS)
def test_interpolate_is_two_matrices(seed, old, new, prefix, width, convention, kind, layout):
    dtype, error = kind
    table, array = drawn(seed, 1, prefix + old[0] * old[1], width, dtype=dtype, layout=layout)
    picture = array[0, prefix:].reshape(*old, width)
    if old != new:
        rows, columns = (line(a, b, convention) for a, b in zip(old, new, strict=True))
        picture = np.einsum("ri,cj,ijd->rcd", rows, columns, picture)
    wanted = np.concatenate([array[0, :prefix], picture.reshape(-1, width)])[None]
    close(position.interpolate(table, old, new, prefix, convention), wanted, error)


@given(SEEDS, GRIDS, GRIDS, st.integers(0, 2), st.sampled_from(list(position.CONVENTIONS)))
def test_halves_are_resampled_as_the_table(seed, old, new, prefix, convention):
    torch.manual_seed(seed)
    halves = position.Learned2D(old, prefix, 4)
    wanted = position.interpolate(halves().detach().double(), old, new, prefix, convention)
    close(position.at_grid(halves, old, new, prefix, convention)(), wanted.numpy(), 1e-5)


@given(GRIDS, st.integers(2, 5))
def test_sincos_is_the_formula(grid, quarter):
    table = position.sincos_table(grid, 4 * quarter)[0]
    for n in range(grid[0] * grid[1]):
        row, column = divmod(n, grid[1])
        for k in range(quarter):
            w = 10_000 ** -(k / (quarter - 1))
            wanted = [math.sin(column * w), math.cos(column * w), math.sin(row * w), math.cos(row * w)]
            close(table[n, k::quarter], wanted, 1e-5)


@given(SEEDS, st.integers(1, 7), st.integers(0, 2), st.booleans(), st.integers(1, 3), st.integers(0, 3))
def test_relative_logits_are_a_loop(seed, patches, prefix, carried, heads, batch):
    torch.manual_seed(seed)
    keys = position.RelativeKeys(patches, prefix, carried, 2 * heads)
    query, array = drawn(seed, batch, heads, prefix + patches, 2, dtype=torch.float32)
    offsets = keys.offsets.detach().double().numpy().reshape(-1, heads, 2)
    free = None if keys.prefix is None else keys.prefix.detach().double().numpy().reshape(3, heads, 2)
    wanted = np.zeros((batch, heads, prefix + patches, prefix + patches))
    for i in range(prefix + patches):
        for j in range(prefix + patches):
            if i >= prefix and j >= prefix:
                key = offsets[i - j + patches - 1]
            elif free is None:
                continue
            else:
                key = free[0 if i >= prefix else 1 if j >= prefix else 2]
            wanted[:, :, i, j] = np.einsum("bhd,hd->bh", array[:, :, i], key)
    close(keys(query), wanted, 1e-5)


# ---- the model


@given(SEEDS, st.integers(0, 3), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), TYPES, LAYOUTS)
def test_attention_is_its_formula(seed, batch, tokens, heads, width, kind, layout):
    dtype, error = kind
    torch.manual_seed(seed)
    layer = Attention(heads * width, heads).to(dtype)
    x, array = drawn(seed, batch, tokens, heads * width, dtype=dtype, layout=layout)
    parameters = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    qkv = array @ parameters["qkv.weight"].T + parameters["qkv.bias"]
    q, k, v = (part.reshape(batch, tokens, heads, width).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
    maps = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(width))
    mixed = (maps @ v).swapaxes(1, 2).reshape(batch, tokens, heads * width)
    wanted = mixed @ parameters["projection.weight"].T + parameters["projection.bias"]
    for explicit in (False, True):
        found, weights_found = layer(x, return_attention=explicit)
        close(found, wanted, error)
    close(weights_found, maps, error)


@given(SEEDS, st.integers(0, 3), GRIDS, GRIDS, st.integers(1, 3), LAYOUTS)
def test_patches_are_cut_row_by_row(seed, batch, grid, patch, channels, layout):
    torch.manual_seed(seed)
    embed = PatchEmbed(patch, channels, 3)
    images, array = drawn(seed, batch, channels, grid[0] * patch[0], grid[1] * patch[1], dtype=torch.float32,
                          layout=layout)
    matrix, bias = (p.detach().double().numpy() for p in (embed.projection.weight, embed.projection.bias))
    wanted = np.zeros((batch, grid[0] * grid[1], 3))
    for n in range(grid[0] * grid[1]):
        r, c = divmod(n, grid[1])
        tile = array[:, :, r * patch[0] : (r + 1) * patch[0], c * patch[1] : (c + 1) * patch[1]]
        wanted[:, n] = tile.reshape(batch, channels * patch[0] * patch[1]) @ matrix.T + bias
    close(embed(images), wanted, 1e-5)


CONFIGS = st.builds(
    ViTConfig, image_size=st.sampled_from([8, (8, 12), (4, 16)]), patch_size=st.just(4), in_channels=st.integers(1, 3),
    num_classes=st.integers(1, 4), embed_dim=st.just(8), depth=st.integers(1, 2), num_heads=st.sampled_from([1, 2, 4]),
    mlp_dim=st.integers(1, 9), pool=st.sampled_from(["token", "mean"]), registers=st.integers(0, 2),
    distillation=st.booleans(), position=st.sampled_from(["none", "learned-1d", "learned-2d", "sincos-2d", "relative"]),
    prefix_positions=st.booleans(), pool_norm=st.sampled_from(["before", "after"]),
    head=st.sampled_from(["linear", "mlp"]), gelu=st.sampled_from(["exact", "tanh"]), zero_head=st.just(False))


def numpy_vit(model, images):
    """Eq. 1 to 4 in float64; relative positions aside."""
    config, p = model.config, {name: t.detach().double().numpy() for name, t in model.state_dict().items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_eps)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def gelu(x):
        if config.gelu == "tanh":
            return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x / 2 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))

    def head(y, name):
        return linear(np.tanh(linear(y, f"{name}.0")), f"{name}.2") if config.head == "mlp" else linear(y, f"{name}.0")

    batch, channels = images.shape[:2]
    rows, columns = config.grid
    x = images.reshape(batch, channels, rows, 4, columns, 4).transpose(0, 2, 4, 1, 3, 5)
    z = linear(x.reshape(batch, rows * columns, 16 * channels), "patch_embed.projection")
    free = [p[name] for name in ("class_token", "distillation_token", "registers") if name in p]
    z = np.concatenate([np.repeat(token, batch, axis=0) for token in free] + [z], axis=1)
    if (table := model.position_table()) is not None:
        z[:, z.shape[1] - table.shape[1] :] += table.detach().double().numpy()
    for i in range(config.depth):
        block, y = f"blocks.{i}", norm(z, f"blocks.{i}.norm1")
        qkv = linear(y, f"{block}.attention.qkv").reshape(batch, z.shape[1], 3, config.num_heads, 8 // config.num_heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        mixed = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])) @ v
        z = z + linear(mixed.swapaxes(1, 2).reshape(z.shape), f"{block}.attention.projection")
        z = z + linear(gelu(linear(norm(z, f"{block}.norm2"), f"{block}.mlp.expand")), f"{block}.mlp.contract")
    z = norm(z, "norm") if config.pool_norm == "before" else z
    ys = [z[:, 0] if config.pool == "token" else z[:, config.prefix_tokens :].mean(axis=1)]
    ys += [z[:, int(config.has_class_token)]] if config.distillation else []
    ys = [y if config.pool_norm == "before" else norm(y, "norm") for y in ys]
    logits = [head(y, name) for y, name in zip(ys, ("head", "distillation_head"), strict=False)]
    return sum(logits) / len(logits)


@given(CONFIGS, SEEDS, st.integers(0, 3), LAYOUTS)
def test_a_vit_is_the_papers_equations(config, seed, batch, layout):
    config = dataclasses.replace(config, position="none") if config.position == "relative" else config
    torch.manual_seed(seed)
    model = ViT(config).eval()
    size = config.image_size if isinstance(config.image_size, tuple) else (8, 8)
    images, array = drawn(seed, batch, config.in_channels, *size, dtype=torch.float32, layout=layout)
    close(model(images), numpy_vit(model, array), 1e-4)


@given(CONFIGS, SEEDS, st.sampled_from([None, torch.float16, torch.bfloat16, torch.float64]))
def test_a_saved_model_comes_back_bit_for_bit(config, seed, dtype):
    torch.manual_seed(seed)
    model = ViT(config) if seed % 4 else ResNet(ResNetConfig(width=4 * (1 + seed % 3), blocks=1))
    with tempfile.TemporaryDirectory() as folder:
        again = weights.load(weights.save(model, Path(folder) / "m.safetensors", dtype=dtype))
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        wanted = tensor.to(dtype).float() if dtype and tensor.is_floating_point() else tensor
        assert torch.equal(again.state_dict()[name], wanted)


# ---- analyses


def maps_of(seed, layers, batch, heads, tokens, dtype, layout):
    logits, _ = drawn(seed, layers, batch, heads, tokens, tokens)
    maps = laid((2 * logits).softmax(dim=-1).to(dtype), layout)
    return list(maps), maps.double().numpy()


MAPS = {"seed": SEEDS, "layers": st.integers(1, 3), "batch": st.integers(1, 3), "heads": st.integers(1, 3),
        "grid": GRIDS, "prefix": st.integers(1, 2), "kind": TYPES, "layout": LAYOUTS}


@given(**MAPS, residual=st.floats(0, 0.9), fusion=st.sampled_from(["mean", "min", "max"]))
def test_rollout_is_a_loop(seed, layers, batch, heads, grid, prefix, kind, layout, residual, fusion):
    dtype, error = kind
    maps, arrays = maps_of(seed, layers, batch, heads, prefix + grid[0] * grid[1], dtype, layout)
    wanted = None
    for layer in arrays:
        mixed = (1 - residual) * getattr(layer, fusion)(axis=1) + residual * np.eye(layer.shape[-1])
        mixed = mixed / mixed.sum(axis=-1, keepdims=True)
        wanted = mixed if wanted is None else mixed @ wanted
    rolled = analysis.attention_rollout(maps, residual=residual, fusion=fusion)
    close(rolled, wanted, min(error, 1e-4))
    close(analysis.token_map(rolled, grid), wanted[:, 0, prefix:].reshape(batch, *grid), min(error, 1e-4))


@given(**MAPS, patch=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_distance_entropy_and_class_attention_are_loops(seed, layers, batch, heads, grid, prefix, kind, layout, patch):
    maps, arrays = maps_of(seed, layers, batch, heads, prefix + grid[0] * grid[1], *(kind[0], layout))
    count = grid[0] * grid[1]
    spots = [(n // grid[1] * patch[0], n % grid[1] * patch[1]) for n in range(count)]
    far = np.array([[math.dist(a, b) for b in spots] for a in spots])
    among = arrays[..., prefix:, prefix:]
    wanted = ((among * far).sum(-1) / among.sum(-1)).mean(axis=(1, 3))
    close(analysis.mean_attention_distance(maps, grid, patch), wanted, 1e-4)
    entropy = -(arrays * np.log(np.where(arrays > 0, arrays, 1))).sum(-1).mean(axis=(1, 3))
    close(analysis.attention_entropy(maps), entropy, 1e-4)
    looks = arrays[:, :, :, 0, prefix:].mean(axis=2).reshape(layers, batch, *grid)
    close(analysis.class_attention(maps, grid), looks, 1e-4)
    assert analysis.uniform_attention_distance(grid, patch) == pytest.approx(far.mean())


@given(SEEDS, st.integers(1, 3), GRIDS, st.booleans(), LAYOUTS)
def test_localisation_is_a_loop_and_never_nan(seed, batch, grid, ties, layout):
    maps, _ = drawn(seed, batch, *grid, dtype=torch.float32)
    maps = laid((maps.abs() * 2).round() if ties else maps.abs(), layout)
    masks = torch.rand(batch, *grid, generator=torch.Generator().manual_seed(seed)) < 0.5
    masks[:, 0, 0] = True
    scores = analysis.localisation(maps, masks)
    for n in range(batch):
        values, inside = maps[n].double().numpy().ravel(), masks[n].numpy().ravel()
        values = np.ones_like(values) if values.max() == 0 else values
        assert scores.pointing[n].item() == pytest.approx(inside[values == values.max()].mean(), abs=1e-5)
        assert scores.energy[n].item() == pytest.approx(values[inside].sum() / values.sum(), abs=1e-5)
        precision, before = 0.0, 0
        for threshold in sorted(set(values), reverse=True):
            taken = values >= threshold
            hits = inside[taken].sum()
            precision += (hits - before) / inside.sum() * hits / taken.sum()
            before = hits
        assert scores.average_precision[n].item() == pytest.approx(precision, abs=1e-5)
    for size in ((1, 1), (2, 3), (9, 7)):
        for score in analysis.localisation(maps, torch.ones(batch, *size)):
            close(score, np.ones(batch), 1e-4)


@given(SEEDS, st.integers(2, 12), st.integers(1, 5), st.integers(1, 4), st.floats(1e-4, 10), TYPES, LAYOUTS)
def test_the_probe_is_the_least_squares_solution(seed, count, width, classes, l2, kind, layout):
    features, x = drawn(seed, count, width, dtype=kind[0], layout=layout)
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    probe = analysis.linear_probe(features, labels, classes, l2)
    targets = np.where(labels.numpy()[:, None] == np.arange(classes), 1.0, -1.0)
    centred = x - x.mean(axis=0)
    penalty = l2 * ((centred**2).sum(axis=0).mean() or 1.0)
    rows = np.concatenate([centred, math.sqrt(penalty) * np.eye(width)])
    wanted, *_ = np.linalg.lstsq(rows, np.concatenate([targets - targets.mean(axis=0), np.zeros((width, classes))]),
                                 rcond=None)
    close(probe.weight, wanted, 1e-6)
    close(probe(features), (x - x.mean(axis=0)) @ wanted + targets.mean(axis=0), 1e-6)


@given(SEEDS, st.integers(2, 9), st.integers(1, 3), GRIDS, LAYOUTS)
def test_filters_are_principal_components(seed, filters, channels, patch, layout):
    weight, array = drawn(seed, filters, channels * patch[0] * patch[1], layout=layout)
    count = min(array.shape)
    components, explained = analysis.embedding_filters(weight, patch, count)
    centred = array - array.mean(axis=0)
    spread = np.linalg.eigvalsh(centred @ centred.T)[::-1][:count].clip(0)
    close(explained, spread / spread.sum(), 1e-8)
    flat = components.flatten(1).numpy()
    close(flat @ flat.T, np.eye(count), 1e-8)
    assert (flat.max(axis=1) >= -flat.min(axis=1)).all()


@given(SEEDS, GRIDS, st.integers(0, 2), st.integers(1, 5), TYPES, LAYOUTS)
def test_similarities_are_cosines(seed, grid, prefix, width, kind, layout):
    table, array = drawn(seed, prefix + grid[0] * grid[1], width, dtype=kind[0], layout=layout)
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    wanted = unit @ unit.T
    close(analysis.position_similarity(table, grid), wanted[prefix:, prefix:].reshape(*grid, *grid), 1e-4)


@given(SEEDS, st.integers(1, 3), st.integers(1, 8), TYPES, LAYOUTS)
def test_bias_by_offset_is_the_mean_of_diagonals(seed, heads, patches, kind, layout):
    bias, array = drawn(seed, heads, patches, patches, dtype=kind[0], layout=layout)
    wanted = [np.mean([array[:, i, i + o] for i in range(patches) if 0 <= i + o < patches])
              for o in range(1 - patches, patches)]
    close(analysis.bias_by_offset(bias), wanted, 1e-4)
