"""Figures that answer to the hand: point at a patch, move a slider.

Each function takes tensors or arrays and returns an ``Explorer``; a notebook shows it when it is the last line of its
cell, or is passed to ``display``. What is shown is one self-contained piece of HTML: the values as bytes, a style and a
short script (``figure.css`` and ``figure.js`` beside this file). It is therefore the same in Jupyter, in Colab and on a
built page, without a kernel and without a network, and needs no widget library.

Every figure answers to the mouse, to touch and to the keyboard, says in a line of text what it shows, and carries a
description for who cannot see it. Values are kept in 8 bits: a number read from a figure is exact to 1/510 of its
colour scale. What cannot be drawn, or takes more than 400 KB, is refused with a ``ValueError`` that says what to do. A
cell that shows a figure wants the tag ``nbval-ignore-output``, as its bytes depend on the last digits.
"""

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitlite import checks, plots
from vitlite.analysis.maps import checked, prefix_tokens
from vitlite.checks import Grid
from vitlite.plots.parts import Array, as_array, as_image, as_stack

__all__ = ["Explorer", "attention_explorer", "resolution_explorer", "rollout_explorer", "similarity_explorer"]

LARGEST = 400_000  # bytes of HTML that one figure may add to a page
WIDEST_IMAGE = 448  # pixels: larger images are shown at this size
POINT = "Point at a patch, click or tap to keep it, or move with the arrow keys."


@dataclass(frozen=True)
class Explorer:
    """An interactive figure, as a notebook shows it.

    Attributes:
        title: What the figure shows, in one line.
        description: What it shows and how it is used, for who cannot see it; also its text in a terminal.
        html: The whole figure.

    Example:
        >>> Explorer("A title", "What it shows.", "<p>drawn</p>")
        Interactive figure: A title. What it shows.
    """

    title: str
    description: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Interactive figure: {self.title}. {self.description}"


def similarity_explorer(similarity: Array, title: str = "Position similarity") -> Explorer:
    """Point at a position and see which others its embedding is like (Figure 7, centre, of the paper).

    Args:
        similarity: ``[rows, cols, rows, cols]``, as from ``vitlite.analysis.position_similarity``: at ``[i, j]`` the
            cosine similarities of the position in row i and column j with all positions.

    Example:
        >>> similarity_explorer(np.eye(6).reshape(2, 3, 2, 3)).title
        'Position similarity'
    """
    values = _values(similarity, "similarity", 4, "[rows, cols, rows, cols]")
    rows, cols = grid = values.shape[:2]
    if values.shape[2:] != grid:
        raise ValueError(f"similarity has shape {values.shape}, expected [rows, cols, rows, cols]: one map a position")
    scale = _ends(values)
    figure = {
        "grids": [grid],
        "panels": [
            {"name": "all positions", "tiles": True},
            {"name": "the chosen position", "follows": True, "unit": "cosine similarity"},
        ],
        "most": "most like",
        "least": "least like",
        "columns": 2,
        **_bytes(values.reshape(rows * cols, -1), *scale),
    }
    description = (f"The cosine similarity of each of {rows} × {cols} position embeddings with all of them, between "
                   f"{_short(scale[0])} and {_short(scale[1])}: left a small map for each position, right the chosen "
                   f"one. {POINT}")
    return _explorer(title, description, figure, "keep every second position, similarity[::2, ::2, ::2, ::2]")


def attention_explorer(
    attention: Iterable[Array], image: Array, grid: Grid, layers: Sequence[int] | None = None
) -> Explorer:
    """Choose a layer and a head, point at a patch, and see how much it attends to each other one.

    Tokens before the patches (the class token, say) are inferred, ``tokens - rows * cols``; each can be chosen too.

    Args:
        attention: For each layer the attention of one image, ``[heads, tokens, tokens]`` or ``[1, heads, tokens,
            tokens]``: a tensor, a list, or an iterator such as ``model.iter_attention(image[None])``.
        image: ``[C, H, W]`` or ``[H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        layers: The layers to show, counted from 1; by default all. 8 bits a weight: 400 KB hold 4 layers of 12 heads
            with 65 tokens, say.

    Example:
        >>> uniform = np.full((2, 3, 5, 5), 1 / 5)  # 2 layers of 3 heads; a class token and 2 × 2 patches
        >>> attention_explorer(uniform, np.zeros((8, 8, 3)), grid=(2, 2)).title
        'Where a patch looks'
    """
    rows, cols = checks.grid(grid)
    maps, chosen, depth = _layers(attention, layers)
    shown, heads, tokens, _ = maps.shape
    count = prefix_tokens(tokens, grid)
    prefix = ["class token", *(f"prefix token {number}" for number in range(2, count + 1))][:count]
    figure = {
        "grids": [(rows, cols)],
        "sliders": [
            _slider("layer", [f"{layer} of {depth}" for layer in chosen], start=shown - 1),
            _slider("head", [f"{head + 1} of {heads}" for head in range(heads)]),
        ],
        "panels": [
            {"name": "image", "image": _picture(image, grid)},
            {"name": "attention", "strides": [heads * tokens, tokens], "follows": True, "unit": "attention weight"},
        ],
        "prefix": prefix,
        "most": "of the patches, looks most at" if prefix else "looks most at",
        "columns": 2,
        **_bytes(maps.reshape(-1, tokens), 0.0, maps[..., len(prefix) :].max(-1).ravel(), len(prefix)),
    }
    queries = "patch" + "".join(f" or {name}" for name in prefix)
    description = (f"Self-attention in one image of {rows} × {cols} patches, {shown} of {depth} layers, {heads} heads: "
                   f"left the image, right how much the chosen {queries} attends to each patch. Sliders choose layer "
                   f"and head. {POINT}")
    fewer = tuple(chosen[::2]) if shown > 1 else "…"
    advice = (f"{shown} layers × {heads} heads × {tokens}² tokens; leave out layers (layers={fewer}) or heads "
              "([layer[:4] for layer in attention]), or average them ([layer.mean(0)[None] for layer in attention])")
    return _explorer("Where a patch looks", description, figure, advice)


def rollout_explorer(maps: Array, images: Array) -> Explorer:
    """Move through the layers and see how a map over the image builds up, for several images at once.

    Args:
        maps: ``[images, layers, rows, cols]``, not negative: for each image and layer a weight a patch, such as the
            class token's row of the rollout up to that layer.
        images: ``[images, C, H, W]`` or ``[images, H, W, C]`` with one or three channels; uint8, or floats in [0, 1].

    Example:
        >>> rollout_explorer(np.ones((1, 6, 4, 4)), np.zeros((1, 8, 8, 3))).title
        'Rollout, layer by layer'
    """
    values = _values(maps, "maps", 4, "[images, layers, rows, cols]; for one image pass maps[None]")
    if values.min() < 0:
        raise ValueError(f"maps must not be negative, and the smallest value is {values.min():.3g}")
    count, depth, *grid = values.shape
    if len(images) != count:
        raise ValueError(f"maps are of {count} images, and there are {len(images)} images: pass one image for each")
    panels = []
    for index, image in enumerate(images):
        number = f" {index + 1}" if count > 1 else ""
        panels += [
            {"name": f"image{number}", "image": _picture(image, grid)},
            {"name": f"map{number}", "first": index * depth, "strides": [1], "unit": "attention rollout"},
        ]
    figure = {
        "grids": [grid],
        "sliders": [_slider("layer", [f"{layer + 1} of {depth}" for layer in range(depth)], start=depth - 1)],
        "panels": panels,
        "columns": 2 if count == 1 else 4,
        **_bytes(values.reshape(count * depth, -1), 0.0, values.max((2, 3)).ravel()),
    }
    description = (f"Attention rollout over {count} image{'s' * (count > 1)} of {grid[0]} × {grid[1]} patches, after "
                   f"each of {depth} layers, each image beside its map. A slider chooses the layer. {POINT}")
    return _explorer("Rollout, layer by layer", description, figure, "pass fewer images, or fewer layers")


def resolution_explorer(
    grids: Mapping[str, Array], label: str, title: str = "One position table at several resolutions"
) -> Explorer:
    """Move a slider over the image resolution and see what becomes of the position table.

    Args:
        grids: For each resolution (``"48 px"``) one value a position, ``[rows, cols]``, such as the similarity with one
            position, all on one colour scale; or a colour a position, ``[rows, cols, 3]`` in [0, 1], such as the first
            three principal components.
        label: What the values or colours are, with their unit.

    Example:
        >>> table = np.arange(4.0).reshape(2, 2)
        >>> finer = table.repeat(2, 0).repeat(2, 1)
        >>> resolution_explorer({"32 px": table, "64 px": finer}, "number of the position").title
        'One position table at several resolutions'
    """
    if not isinstance(grids, Mapping) or not grids:
        raise ValueError('grids is no mapping or empty: pass at least one, {"32 px": [rows, cols] or [rows, cols, 3]}')
    tables = [np.atleast_3d(_grid_of(name, grid)) for name, grid in grids.items()]
    channels = tables[0].shape[2]
    if {table.shape[2] for table in tables} not in ({1}, {3}):
        shapes = ", ".join(str(table.shape) for table in tables)
        raise ValueError(f"grids have shapes {shapes}: pass all as [rows, cols] or all as [rows, cols, 3]")
    scale = (0.0, 1.0) if channels == 3 else _ends(np.concatenate([table.ravel() for table in tables]))
    padded = np.full((len(tables), max(table.size for table in tables)), scale[0])
    for row, table in zip(padded, tables, strict=True):
        row[: table.size] = table.ravel()
    names = [str(name) for name in grids]
    figure = {
        "grids": [table.shape[:2] for table in tables],
        "channels": channels,
        "sliders": [_slider("table", names)],
        "panels": [{"name": "positions", "strides": [1], "unit": label}],
        "columns": 1,
        **_bytes(padded, *scale),
    }
    first, last = tables[0].shape, tables[-1].shape
    description = (f"{label[:1].upper()}{label[1:]}, for each position of {len(names)} tables, from {names[0]} "
                   f"({first[0]} × {first[1]} positions) to {names[-1]} ({last[0]} × {last[1]}). A slider chooses the "
                   f"table. {POINT}")
    return _explorer(title, description, figure, "pass fewer tables")


# Below: the parts that the figures share. ``figure.js`` says what each key of a figure means.


def _values(values: Array, name: str, dims: int, expected: str) -> np.ndarray:
    array = as_stack(values, name, dims, expected)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    return array


def _layers(attention: Iterable[Array], layers: Sequence[int] | None) -> tuple[np.ndarray, list[int], int]:
    """The chosen layers' maps ``[layers, heads, tokens, tokens]``, their numbers from 1, and how many there are."""

    def one(layer: Array) -> Tensor:
        array = as_array(layer).copy()  # a view may be read-only, or run backwards
        if array.ndim == 4 and len(array) > 1:
            raise ValueError(f"attention is of {len(array)} images: choose one, [layer[0] for layer in attention]")
        return torch.from_numpy(array if array.ndim == 4 else array[None])

    maps, depth = {}, 0
    for depth, layer in enumerate(checked(map(one, attention) if isinstance(attention, Iterable) else attention), 1):
        if layers is None or depth in layers:
            maps[depth] = layer[0].numpy()
    if missing := sorted(set(layers or ()) - maps.keys()):
        raise ValueError(f"layers asks for {missing}, and attention has layers 1 to {depth}")
    if not maps:
        raise ValueError("layers is empty: name one or more, counted from 1")
    return np.stack([*maps.values()]), [*maps], depth


def _grid_of(name: str, grid: Array) -> np.ndarray:
    array = as_array(grid)
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (3,)):
        raise ValueError(f"grid {name!r} has shape {array.shape}, expected [rows, cols] or [rows, cols, 3]")
    array = _values(array, f"grid {name!r}", array.ndim, "")
    if array.ndim == 3 and (array.min() < -1e-6 or array.max() > 1 + 1e-6):
        raise ValueError(f"colours of grid {name!r} lie in [{array.min():.3g}, {array.max():.3g}], expected [0, 1]")
    return array


def _picture(image: Array, grid: Sequence[int]) -> str:
    """An image as the address of its own bytes: exact where its pixels can be seen, JPEG where they cannot."""
    pixels = np.rint(255 * as_image(image)).astype(np.uint8)
    height, width = pixels.shape[:2]
    if height % grid[0] or width % grid[1]:
        raise ValueError(f"image is {height}×{width}: it cannot be cut into {grid[0]} × {grid[1]} equal patches")
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    small = max(height, width) <= plots.SMALL_IMAGE
    picture.thumbnail((WIDEST_IMAGE, WIDEST_IMAGE))
    stored = BytesIO()
    picture.save(stored, **({"format": "png", "optimize": True} if small else {"format": "jpeg", "quality": 85}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{_base64(stored.getvalue())}"


def _slider(label: str, values: list[str], start: int = 0) -> dict:
    return {"label": label, "values": values, "start": start}


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Both ends of the colour scale, to three digits; a map of one value lies at its upper end."""
    low, high = float(f"{values.min():.3g}"), float(f"{values.max():.3g}")
    return (low, high) if low < high else (high - 1, high)


def _bytes(frames: np.ndarray, low: float, high: float | np.ndarray, prefix: int = 0) -> dict:
    """Frames ``[frames, values]`` as bytes, 0 at the lower end of the scale and 255 at the upper.

    ``high`` is one number for all frames or one for each, ``[frames]``; it is kept to three digits. The first
    ``prefix`` values of a frame are not drawn, so they do not share its scale: theirs ends at 1.
    """
    highs = [float(f"{end:.3g}") for end in np.atleast_1d(high)]
    highs = [end if end > low else low + 1 for end in highs]
    ends = np.broadcast_to(np.array(highs)[:, None], frames.shape).copy()
    ends[:, :prefix] = 1
    whole = np.rint(255 * np.clip((frames - low) / (ends - low), 0, 1)).astype(np.uint8)
    return {"size": frames.shape[1], "low": low, "high": highs, "bytes": _base64(whole.tobytes())}


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _short(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _explorer(title: str, description: str, figure: dict, too_large: str) -> Explorer:
    """The figure, if it is small enough; ``too_large`` says what to leave out otherwise."""
    whole = _html(title, description, figure)
    if (size := len(whole.encode())) > LARGEST:
        raise ValueError(f"the figure takes {size / 1000:,.0f} KB, at most {LARGEST // 1000} are allowed: {too_large}")
    return Explorer(title, description, whole)


def _html(title: str, description: str, figure: dict) -> str:
    """The figure's text, its data, and the style and script that draw it.

    There is no id in it: one page may show the same figure twice. Its text stands without the script.
    """
    colours = np.rint(255 * matplotlib.colormaps["viridis"](np.arange(256))[:, :3]).astype(np.uint8)
    defaults = {"sliders": [], "prefix": [], "channels": 1, "palette": _base64(colours.tobytes())}
    data = json.dumps(defaults | figure, separators=(",", ":"), ensure_ascii=False)
    title, description = html.escape(title), html.escape(description)
    data = html.escape(data, quote=False).replace("'", "&#39;")
    part = {name: Path(__file__).with_name(f"figure.{name}").read_text("utf-8") for name in ("css", "js")}
    return f"""\
<div class="vitlite-explorer" role="group" aria-label="{title}" aria-description="{description}" \
data-figure='{data}'>
<p class="ve-title">{title}</p>
<noscript><p>The figure itself needs JavaScript.</p></noscript>
<p class="ve-caption">{description}</p>
</div>
<style>
{part["css"]}</style>
<script>
{part["js"]}</script>
"""
