"""Generated scenes: one object of ten classes on clutter, with its mask. No download, any number, any size.

Image ``index`` of world ``seed`` is a function of those two numbers alone. Random numbers are a hash of (seed, index),
and pixels come from additions, multiplications, divisions, square roots, comparisons and rounding only, which IEEE 754
fixes to the last bit. So an image is the same in any batch, in any order, on any machine. All of it is float32: a
number that is written here takes the type of the array it meets (as numpy does since 2.0).

A scene is drawn in coordinates that run from -1 to 1 along the shorter side, y upwards, and is sampled at the pixels
last. A higher resolution therefore shows the same scene with finer grain and sharper texture. Edges are smooth because
shapes are signed distances (negative inside): how far a pixel is from the edge says how much of it is covered.

Three cues tell the class: the object's shape, its hue and its texture. `Cues` sets how often each is right.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np

from vitlite.checks import Size, pair

__all__ = ["CLASSES", "Cues", "describe", "random_bits", "render"]

Array = np.ndarray
FAR = np.float32(9.0)  # a distance that no pixel of the object reaches: "this layer is empty"
PIXELS_PER_BLOCK = 65_536  # images are drawn in blocks that fit a core's cache


@dataclass(frozen=True)
class Cues:
    """How much each cue says about the class, from 0 (nothing) to 1 (everything).

    A cue of strength s shows, in a share s of the images, what belongs to the image's class, and in the others what
    belongs to a class drawn at random. ``shape`` is the object's outline and drawing, ``hue`` its main hue (which
    always varies a little around its class's) and ``texture`` the pattern on it. With shape=0 a "fish" may look like a
    house: only its hue and texture, where their cues are positive, still say fish.

    Example:
        >>> Cues(shape=0)  # hue and texture alone say what it is
        Cues(shape=0, hue=0.6, texture=0.6)
    """

    shape: float = 1.0
    hue: float = 0.6
    texture: float = 0.6

    def __post_init__(self) -> None:
        for field in fields(self):
            strength = getattr(self, field.name)
            if not 0 <= strength <= 1:
                raise ValueError(f"cue {field.name} is {strength}; a strength lies between 0 (nothing) and 1 (all)")


# --- random numbers ---------------------------------------------------------------------------------------

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, the increment of SplitMix64
_LANE = 0xD1B54A32D192ED03


def _mix(x: Array) -> Array:
    """SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of ``x``."""
    x = x + _GOLDEN
    x ^= x >> 30
    x *= 0xBF58476D1CE4E5B9
    x ^= x >> 27
    x *= 0x94D049BB133111EB
    x ^= x >> 31
    return x


def random_bits(seed: int, indices: Array, purpose: str) -> Array:
    """64 random bits for each index: uint64 of the shape of ``indices``, a hash of (seed, index, purpose).

    Example:
        >>> random_bits(0, np.arange(3), "demo").dtype
        dtype('uint64')
    """
    start = _mix(np.array([seed % 2**64], dtype=np.uint64))
    start = _mix(start + np.uint64(crc32(purpose.encode())))
    return _mix(start + _GOLDEN * np.asarray(indices).astype(np.int64).astype(np.uint64))


# What is drawn for each image, uniform between two bounds. Lengths in scene units, angles and hues in turns.
RANGES: dict[str, tuple[float, float]] = {
    # which class each cue shows: whether it is right, and which it is otherwise
    "shape_right": (0, 1), "shape_other": (0, 10),
    "hue_right": (0, 1), "hue_other": (0, 10),
    "texture_right": (0, 1), "texture_other": (0, 10),
    # the object
    "scale": (0.54, 0.80), "x": (-1, 1), "y": (-1, 1), "turn": (-0.05, 0.05), "flip": (0, 1),
    "stretch": (0.90, 1.11), "shear": (-0.12, 0.12), "bend": (-0.07, 0.07), "bend_phase": (0, 1),
    "hue_jitter": (-0.035, 0.035), "saturation": (0.50, 0.85), "value": (0.68, 0.98),
    "accent_shift": (0.40, 0.60), "period": (0.25, 0.32), "phase_u": (0, 1), "phase_v": (0, 1),
    "contrast": (0.26, 0.38),
    "light_x": (-0.22, 0.22), "light_y": (0.02, 0.30), "shadow": (0.15, 0.45),
    # the background
    "ground_hue": (0, 1), "ground_saturation": (0.10, 0.55), "ground_value": (0.35, 0.80),
    "sky_hue": (-0.25, 0.25), "sky_value": (-0.25, 0.25), "slope_x": (-0.5, 0.5), "slope_y": (-0.5, 0.5),
    "brightness": (0.85, 1.12),
}
CLUTTER = 5  # shapes of no class in the background
CLUTTER_RANGES: dict[str, tuple[float, float]] = {
    "x": (-1.25, 1.25), "y": (-1.25, 1.25), "turn": (0, 1), "length": (0.0, 0.55), "width": (0.0, 0.22),
    "round": (0.05, 0.30), "hollow": (-0.12, 0.10),
    "hue": (0, 1), "saturation": (0.15, 0.80), "value": (0.30, 0.95), "opacity": (0.55, 1.0),
    "stripes": (-0.30, 0.30),
}


def _draw(seed: int, indices: Array, purpose: str, ranges: dict[str, tuple[float, float]]) -> dict[str, Array]:
    """Draw every quantity of ``ranges`` for every index: float32 of the shape of ``indices``."""
    state = random_bits(seed, indices, purpose)
    lanes = _LANE * np.arange(1, len(ranges) + 1, dtype=np.uint64)
    share = (_mix(state[..., None] + lanes) >> 40).astype(np.float32) * 2**-24
    return {name: low + (high - low) * share[..., i] for i, (name, (low, high)) in enumerate(ranges.items())}


def describe(indices: Sequence[int] | Array, seed: int = 0, cues: Cues | None = None) -> dict[str, Array]:
    """What is in the scenes, before anything is drawn.

    Returns:
        Arrays of length N by name: ``label``, and ``shape``, ``hue`` and ``texture``, the classes that each cue shows
        (all int64), beside every quantity of `RANGES` (float32).

    Example:
        >>> describe([0, 17])["label"]
        array([0, 7])
    """
    cues = Cues() if cues is None else cues
    indices = np.asarray(indices, dtype=np.int64)
    scene = _draw(seed, indices, "scene", RANGES)
    scene["label"] = indices % len(CLASSES)
    for cue in ("shape", "hue", "texture"):
        other = np.minimum(scene.pop(f"{cue}_other").astype(np.int64), len(CLASSES) - 1)
        right = scene.pop(f"{cue}_right") < np.float32(getattr(cues, cue))
        scene[cue] = np.where(right, scene["label"], other)
    return scene


# --- distances, waves, colours ----------------------------------------------------------------------------


def _triangle(t: Array) -> Array:
    """A wave of period 1 made of straight lines: -1 at whole numbers, 1 half-way between."""
    return np.abs(t - np.floor(t + 0.5)) * 4 - 1


def _sine(turns: Array) -> Array:
    """The sine of ``turns`` full turns, to 0.001: two parabolas, bent to fit."""
    t = turns - np.floor(turns + 0.5)
    y = t * (8 - 16 * np.abs(t))
    return y * (0.775 + 0.225 * np.abs(y))


def _cosine(turns: Array) -> Array:
    return _sine(turns + 0.25)


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    """HSV to RGB: [...] each, hue in turns, to [3, ...]."""
    corner = np.array([5, 3, 1], dtype=np.float32).reshape(3, *[1] * hue.ndim)
    k = corner + (hue - np.floor(hue)) * 6
    k = np.where(k >= 6, k - np.float32(6), k)
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)


def _union(*distances: Array) -> Array:
    out = distances[0]
    for distance in distances[1:]:
        out = np.minimum(out, distance)
    return out


def _ellipse(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> Array:
    u, v = (x - cx) * (1 / rx), (y - cy) * (1 / ry)
    return (np.sqrt(u * u + v * v) - 1) * min(rx, ry)


def _disc(x: Array, y: Array, cx: float, cy: float, r: float) -> Array:
    return _ellipse(x, y, cx, cy, r, r)


def _box(x: Array, y: Array, cx: float, cy: float, half_width: float, half_height: float) -> Array:
    across = np.abs(x - cx) - half_width
    return np.maximum(across, np.abs(y - cy) - half_height)


def _polygon(x: Array, y: Array, *corners: tuple[float, float]) -> Array:
    """A convex polygon, corners counter-clockwise: inside every edge's half-plane."""
    out = None
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        nx, ny = (by - ay) / length, (ax - bx) / length
        edge = x * nx + (y * ny - (nx * ax + ny * ay))
        out = edge if out is None else np.maximum(out, edge)
    return out


def _stroke(x: Array, y: Array, a: tuple[float, float], b: tuple[float, float], r: float) -> Array:
    """All points within ``r`` of the line from ``a`` to ``b``."""
    (ax, ay), (bx, by) = a, b
    length2 = (bx - ax) ** 2 + (by - ay) ** 2
    px, py = x - ax, y - ay
    along = np.clip(px * ((bx - ax) / length2) + py * ((by - ay) / length2), 0, 1)
    u, v = px - along * (bx - ax), py - along * (by - ay)
    return np.sqrt(u * u + v * v) - r


# --- the ten shapes ---------------------------------------------------------------------------------------
# Each takes the object's own coordinates, about -1 to 1, and returns four distances: the whole silhouette,
# then what is painted on it in the accent colour, in a light one and in ink. None: nothing is.

Layers = tuple[Array, Array | None, Array | None, Array | None]


def _fish(x: Array, y: Array) -> Layers:
    body = _ellipse(x, y, 0.16, 0.0, 0.72, 0.46)
    tail = _polygon(x, y, (-0.98, 0.52), (-0.98, -0.52), (-0.34, 0.0))
    tail = np.maximum(tail, -_disc(x, y, -1.12, 0.0, 0.34))
    fin = _polygon(x, y, (-0.12, 0.30), (0.34, 0.34), (-0.12, 0.74))
    eye = _disc(x, y, 0.56, 0.12, 0.13)
    pupil = _disc(x, y, 0.59, 0.12, 0.075)
    fins = np.maximum(_union(tail, fin), -body)
    return _union(body, tail, fin), fins, eye, pupil


def _duck(x: Array, y: Array) -> Layers:
    body = _ellipse(x, y, -0.14, -0.34, 0.72, 0.42)
    tail = _polygon(x, y, (-0.98, 0.16), (-0.84, -0.38), (-0.36, -0.10))
    neck = _stroke(x, y, (0.34, -0.20), (0.40, 0.36), 0.24)
    head = _disc(x, y, 0.40, 0.44, 0.33)
    beak = _polygon(x, y, (0.60, 0.56), (0.60, 0.22), (1.02, 0.32), (1.02, 0.40))
    wing = np.maximum(np.abs(_ellipse(x, y, -0.24, -0.24, 0.38, 0.26)) - 0.03, y + 0.24)
    eye = _disc(x, y, 0.46, 0.52, 0.12)
    pupil = _disc(x, y, 0.49, 0.52, 0.07)
    return _union(body, tail, neck, head, beak), np.maximum(beak, -head), eye, _union(pupil, wing)


def _butterfly(x: Array, y: Array) -> Layers:
    side = np.abs(x)
    u, v = side * 0.8 + y * 0.6, y * 0.8 - side * 0.6
    upper = _ellipse(u, v, 0.62, 0.02, 0.52, 0.37)
    lower = _ellipse(side, y, 0.40, -0.44, 0.36, 0.38)
    body = _stroke(x, y, (0.0, -0.52), (0.0, 0.42), 0.09)
    feeler = _stroke(side, y, (0.02, 0.40), (0.24, 0.86), 0.04)
    spots = _disc(side, y, 0.42, -0.46, 0.15)
    return _union(upper, lower, body, feeler), spots, _disc(side, y, 0.60, 0.42, 0.15), _union(body, feeler)


def _cat(x: Array, y: Array) -> Layers:
    side = np.abs(x)
    head = _ellipse(x, y, 0.0, -0.16, 0.80, 0.68)
    ear = _polygon(side, y, (0.12, 0.40), (0.78, 0.02), (0.72, 0.92))
    inner = _polygon(side, y, (0.40, 0.42), (0.66, 0.30), (0.64, 0.72))
    nose = _polygon(x, y, (-0.12, -0.22), (0.0, -0.36), (0.12, -0.22))
    eye = _ellipse(side, y, 0.33, 0.02, 0.17, 0.15)
    pupil = _ellipse(side, y, 0.32, 0.02, 0.07, 0.13)
    whisker = _stroke(side, y, (0.26, -0.40), (0.66, -0.34), 0.028)
    mouth = _stroke(side, y, (0.0, -0.58), (0.17, -0.48), 0.03)
    return _union(head, ear), _union(inner, nose), eye, _union(pupil, whisker, mouth)


def _mushroom(x: Array, y: Array) -> Layers:
    cap = np.maximum(_ellipse(x, y, 0.0, -0.06, 0.92, 0.92), -0.04 - y)
    stem = _polygon(x, y, (-0.22, 0.04), (-0.32, -0.86), (0.32, -0.86), (0.22, 0.04))
    gills = _box(x, y, 0.0, -0.06, 0.70, 0.05)
    return _union(cap, stem), None, np.maximum(stem, -cap), np.maximum(gills, y + 0.02)


def _fir(x: Array, y: Array) -> Layers:
    top = _polygon(x, y, (0.0, 1.0), (-0.44, 0.34), (0.44, 0.34))
    middle = _polygon(x, y, (0.0, 0.70), (-0.60, -0.12), (0.60, -0.12))
    bottom = _polygon(x, y, (0.0, 0.28), (-0.76, -0.64), (0.76, -0.64))
    trunk = _box(x, y, 0.0, -0.76, 0.14, 0.22)
    green = _union(top, middle, bottom)
    folds = _union(_box(x, y, 0.0, 0.30, 0.30, 0.04), _box(x, y, 0.0, -0.16, 0.42, 0.04))
    return _union(green, trunk), np.maximum(trunk, -green), None, folds


def _cactus(x: Array, y: Array) -> Layers:
    trunk = _stroke(x, y, (0.0, -0.60), (0.0, 0.64), 0.26)
    left = _stroke(x, y, (0.0, -0.20), (-0.56, -0.20), 0.13)
    left_hand = _stroke(x, y, (-0.58, -0.18), (-0.58, 0.26), 0.15)
    right = _stroke(x, y, (0.0, 0.04), (0.56, 0.04), 0.13)
    right_hand = _stroke(x, y, (0.58, 0.06), (0.58, 0.50), 0.15)
    pot = _polygon(x, y, (-0.46, -0.50), (-0.34, -0.98), (0.34, -0.98), (0.46, -0.50))
    flower = _disc(x, y, 0.0, 0.90, 0.13)
    return _union(trunk, left, left_hand, right, right_hand, pot, flower), pot, flower, None


def _house(x: Array, y: Array) -> Layers:
    walls = _box(x, y, 0.0, -0.36, 0.66, 0.52)
    roof = _polygon(x, y, (-0.92, 0.10), (0.92, 0.10), (0.0, 0.90))
    chimney = _box(x, y, 0.48, 0.56, 0.12, 0.28)
    door = _box(x, y, -0.28, -0.58, 0.15, 0.30)
    window = _box(x, y, 0.28, -0.28, 0.20, 0.18)
    return _union(walls, roof, chimney), np.maximum(_union(roof, chimney), -walls), window, door


def _boat(x: Array, y: Array) -> Layers:
    hull = _polygon(x, y, (-0.92, -0.40), (-0.58, -0.86), (0.56, -0.86), (0.92, -0.40))
    mast = _box(x, y, 0.0, 0.20, 0.045, 0.74)
    main = _polygon(x, y, (0.06, 0.94), (0.06, -0.26), (0.84, -0.26))
    jib = _polygon(x, y, (-0.06, 0.72), (-0.66, -0.26), (-0.06, -0.26))
    return _union(hull, mast, main, jib), hull, jib, mast


def _star(x: Array, y: Array) -> Layers:
    side = np.abs(x)
    # The five lines of a pentagram; inside the star at most one of them is crossed.
    lines = [
        side * (across * sign) + y * up - 0.26
        for across, up, sign in ((0.0, 1.0, 1), (0.951057, 0.309017, 1), (0.951057, 0.309017, -1),
                                 (0.587785, -0.809017, 1), (0.587785, -0.809017, -1))
    ]
    first, second = np.maximum(lines[0], lines[1]), np.minimum(lines[0], lines[1])
    for line in lines[2:]:
        second = np.maximum(second, np.minimum(first, line))
        first = np.maximum(first, line)
    star = np.maximum(second - 0.13, _disc(x, y, 0.0, 0.0, 0.98))
    eye = _ellipse(side, y, 0.17, 0.10, 0.09, 0.13)
    pupil = _ellipse(side, y, 0.16, 0.08, 0.05, 0.08)
    mouth = _stroke(side, y, (0.0, -0.22), (0.16, -0.14), 0.03)
    return star, None, eye, _union(pupil, mouth)


# --- the ten textures -------------------------------------------------------------------------------------
# Each takes coordinates counted in periods and returns a wave, dark below 0 and light above, for `_pattern` to sharpen.


def _brick_rows(u: Array, v: Array) -> tuple[Array, Array]:
    """Position inside a cell, -0.5 to 0.5, on a grid whose every second row is moved by half a cell."""
    row = np.floor(v)
    u = u + row * 0.5
    return u - np.floor(u) - 0.5, v - row - 0.5


def _scales(u: Array, v: Array) -> Array:
    a, b = _brick_rows(u, v)
    b = b - 0.5
    return 1.0 - np.abs(np.sqrt(a * a + b * b) - 0.62) * 5


def _dots(u: Array, v: Array) -> Array:
    a, b = _brick_rows(u * 0.85, v * 0.85)
    return 1.3 - np.sqrt(a * a + b * b) * 4.4


def _bricks(u: Array, v: Array) -> Array:
    a, b = _brick_rows(u * 0.6, v)
    upright, level = np.abs(a) * 8 - 3.2, np.abs(b) * 5 - 1.6
    return np.maximum(upright, level)


TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "scales": _scales,
    "zigzag": lambda u, v: _triangle(v + 0.30 * _triangle(u * 0.7)),
    "rings": lambda u, v: _triangle(np.sqrt(u * u + v * v)),
    "bands": lambda u, v: _triangle(v),
    "dots": _dots,
    "needles": lambda u, v: _triangle(u * 1.1 + np.floor(v * 0.6) * 0.5),
    "ribs": lambda u, v: _triangle(u),
    "bricks": _bricks,
    "diagonals": lambda u, v: _triangle((u + v) * 0.7071),
    "checks": lambda u, v: _triangle(u * 0.5) * _triangle(v * 0.5) * 2,
}


@dataclass(frozen=True)
class _Kind:
    """What makes a class: its shape, its texture, its hue in turns."""

    shape: Callable[[Array, Array], Layers]
    texture: str
    hue: float


KINDS: dict[str, _Kind] = {
    "fish": _Kind(_fish, "scales", 0.56),
    "duck": _Kind(_duck, "zigzag", 0.14),
    "butterfly": _Kind(_butterfly, "rings", 0.77),
    "cat": _Kind(_cat, "bands", 0.07),
    "mushroom": _Kind(_mushroom, "dots", 0.00),
    "fir": _Kind(_fir, "needles", 0.36),
    "cactus": _Kind(_cactus, "ribs", 0.24),
    "house": _Kind(_house, "bricks", 0.90),
    "boat": _Kind(_boat, "diagonals", 0.47),
    "star": _Kind(_star, "checks", 0.66),
}
#: The ten classes, in the order of the labels.
CLASSES = tuple(KINDS)


# --- drawing ----------------------------------------------------------------------------------------------


def render(
    indices: Sequence[int] | Array, seed: int = 0, image_size: Size = 32, cues: Cues | None = None
) -> tuple[Array, Array, Array]:
    """Draw scenes.

    Args:
        indices: [N] whole numbers from 0 up, one an image. The label is the index modulo 10.
        image_size: pixels, one number or (height, width). The shorter side spans the scene; the longer shows more.

    Returns:
        images uint8 [N, 3, H, W], labels int64 [N] (positions in `CLASSES`), masks bool [N, H, W] (true on the object).

    Example:
        >>> images, labels, masks = render([0, 17], image_size=64)
        >>> images.shape, labels, masks.shape
        ((2, 3, 64, 64), array([0, 7]), (2, 64, 64))
    """
    size = pair(image_size, "image_size")
    if min(size) < 8:
        raise ValueError(f"image_size is {image_size}; a scene needs at least 8 pixels each way")
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and (indices.dtype.kind not in "iu" or indices.min() < 0)):
        raise ValueError("indices must be a list of whole numbers from 0 up, one an image")
    n = len(indices)
    images, masks = np.empty((n, 3, *size), np.uint8), np.empty((n, *size), bool)
    block = max(1, PIXELS_PER_BLOCK // (size[0] * size[1]))

    def draw(start: int) -> None:
        part = slice(start, start + block)
        images[part], masks[part] = _render_block(indices[part], seed, size, cues)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, range(0, n, block)))
    return images, indices.astype(np.int64) % len(CLASSES), masks


def _render_block(indices: Array, seed: int, size: tuple[int, int], cues: Cues | None) -> tuple[Array, Array]:
    scene = {name: value[:, None, None] for name, value in describe(indices, seed, cues).items()}
    height, width = size
    pixel = np.float32(2 / min(size))
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) * pixel)[None, None, :]
    y = (((height - 1) / 2 - np.arange(height, dtype=np.float32)) * pixel)[None, :, None]
    grain, canvas = _background(scene, seed, indices, x, y, pixel)
    for i in range(CLUTTER):
        clutter = _draw(seed, indices, f"clutter {i}", CLUTTER_RANGES)
        _add_clutter(canvas, {name: value[:, None, None] for name, value in clutter.items()}, x, y, pixel)
    mask = _add_object(canvas, scene, grain, x, y, pixel)
    slope = scene["slope_x"] * x + scene["slope_y"] * y
    canvas *= scene["brightness"] * (1 + 0.4 * slope)
    canvas += grain * 0.5
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    canvas += 0.5
    return canvas.astype(np.uint8).transpose(1, 0, 2, 3), mask


def _coverage(distance: Array, pixel: Array) -> Array:
    """How much of a pixel lies inside: 1 half a pixel within the edge, 0 half a pixel outside."""
    share = distance * (-1 / pixel)
    share += 0.5
    return np.clip(share, 0, 1, out=share)


def _blend(canvas: Array, colour: Array, share: Array) -> None:
    """Lay ``colour`` [3, n, 1 or H, 1 or W] over ``canvas`` [3, n, H, W], by ``share`` [n, H, W]."""
    for channel in range(3):
        layer = colour[channel] - canvas[channel]
        layer *= share
        canvas[channel] += layer


def _spline(positions: Array, cell: float) -> tuple[int, Array, list[Array]]:
    """Quadratic B-spline on a lattice of spacing ``cell``: lowest node, nodes [P], three weights [P]."""
    t = positions / cell
    node = np.floor(t + 0.5)
    t = t - node
    weights = [0.5 * (0.5 - t) * (0.5 - t), 0.75 - t * t, 0.5 * (0.5 + t) * (0.5 + t)]
    node = node.astype(np.int64) - 1
    return int(node.min()), node - node.min(), weights


def _noise(state: Array, x: Array, y: Array, cell: float, channels: int) -> Array:
    """Smooth noise about 0, mostly within -1 to 1: [channels, n, H, W], features of about ``cell``."""
    x0, columns, across = _spline(x.reshape(-1), cell)
    y0, rows, up = _spline(y.reshape(-1), cell)
    ix = np.arange(x0, x0 + columns.max() + 3).astype(np.uint64)
    iy = np.arange(y0, y0 + rows.max() + 3).astype(np.uint64)
    bits = _mix(state[:, None, None] + iy[:, None] * _LANE + ix * _GOLDEN)
    lanes = [(bits >> (16 * c)).astype(np.uint16) for c in range(channels)]
    nodes = np.stack(lanes).astype(np.float32) * (1.4 / 2**15) - 1.4
    lines = sum(np.take(nodes, rows + k, axis=2) * up[k][:, None] for k in range(3))
    return sum(np.take(lines, columns + k, axis=3) * across[k] for k in range(3))


def _background(
    scene: dict[str, Array], seed: int, indices: Array, x: Array, y: Array, pixel: np.float32
) -> tuple[Array, Array]:
    """Coloured noise between two colours: the fine grain [n, H, W] and the canvas [3, n, H, W]."""
    state = random_bits(seed, indices, "noise")
    wide = _noise(state, x, y, 0.7, 3)
    near = _noise(_mix(state), x, y, 0.3, 1)[0]
    grain, cell, strength = 0, 0.16, 0.075
    while cell > pixel:  # one finer layer for each doubling of the resolution
        state = _mix(state + 1)
        grain = grain + _noise(state, x, y, cell, 1)[0] * strength
        cell, strength = cell / 2, strength * 0.8
    ground = _rgb(scene["ground_hue"], scene["ground_saturation"], scene["ground_value"])
    sky_hue, sky_value = scene["ground_hue"] + scene["sky_hue"], scene["ground_value"] + scene["sky_value"]
    sky = _rgb(sky_hue, scene["ground_saturation"], sky_value)
    share = 0.5 + scene["slope_y"] * y + scene["slope_x"] * x + near * 0.5
    share = np.clip(share, 0, 1)
    canvas = wide * 0.10
    canvas += ground
    canvas += (sky - ground) * share
    canvas += grain
    return grain, canvas


def _add_clutter(canvas: Array, c: dict[str, Array], x: Array, y: Array, pixel: np.float32) -> None:
    """Draw one bar, disc, ring or frame of no class in each image, in its own colour, perhaps striped."""
    cosine, sine = _cosine(c["turn"]), _sine(c["turn"])
    dx, dy = x - c["x"], y - c["y"]
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    a, b = np.maximum(np.abs(u) - c["length"], 0), np.maximum(np.abs(v) - c["width"], 0)
    distance = np.sqrt(a * a + b * b) - c["round"]
    distance = np.where(c["hollow"] > 0.03, np.abs(distance) - c["hollow"], distance)
    depth = np.where(np.abs(c["stripes"]) > 0.15, c["stripes"], np.float32(0))
    colour = _rgb(c["hue"], c["saturation"], c["value"]) * (1 + depth * _triangle(u * 3.5))
    _blend(canvas, colour, _coverage(distance, pixel) * c["opacity"])


def _object_coordinates(scene: dict[str, Array], x: Array, y: Array) -> tuple[Array, Array]:
    """The pixels in the object's own coordinates, [n, H, W]: moved, turned, mirrored, deformed."""
    scale = scene["scale"]
    room = 1 - 0.9 * scale
    dx, dy = x - scene["x"] * room, y - scene["y"] * room
    cosine, sine = _cosine(scene["turn"]), _sine(scene["turn"])
    mirror = np.where(scene["flip"] < 0.5, np.float32(-1), np.float32(1))
    u, v = cosine / scale * dx + sine / scale * dy, cosine / scale * dy - sine / scale * dx
    u = (u + scene["shear"] * v) * (mirror / scene["stretch"])
    v = v * scene["stretch"]
    u += scene["bend"] * _sine(v * 0.35 + scene["bend_phase"])
    return u, v


def _drawing(which: Array, u: Array, v: Array) -> list[Array]:
    """The four distances (silhouette, accent, light, ink) of each image's shape, each [n, H, W]."""
    layers = [np.full_like(u, FAR) for _ in range(4)]
    for kind in np.unique(which):
        members = np.flatnonzero(which == kind)
        for layer, distance in zip(layers, KINDS[CLASSES[kind]].shape(u[members], v[members]), strict=True):
            if distance is not None:
                layer[members] = distance
    return layers


def _pattern(which: Array, u: Array, v: Array, gain: Array) -> Array:
    """Each image's texture, -1 to 1, [n, H, W]."""
    pattern = np.empty_like(u)
    for kind in np.unique(which):
        members = np.flatnonzero(which == kind)
        wave = TEXTURES[KINDS[CLASSES[kind]].texture](u[members], v[members])
        pattern[members] = np.clip(wave * gain[members], -1, 1)
    return pattern


def _add_object(canvas: Array, scene: dict[str, Array], grain: Array, x: Array, y: Array, pixel: np.float32) -> Array:
    """Paint the object and its shadow; return its mask [n, H, W]."""
    u, v = _object_coordinates(scene, x, y)
    silhouette, accent, light, ink = _drawing(scene["shape"].reshape(-1), u, v)
    scale, own_pixel = scene["scale"], pixel / scene["scale"]
    waves = scale / scene["period"]
    gain = np.minimum(3, scene["period"] * 0.5 / pixel)
    pattern = _pattern(scene["texture"].reshape(-1), u * waves + scene["phase_u"], v * waves + scene["phase_v"], gain)

    hues = np.array([kind.hue for kind in KINDS.values()], dtype=np.float32)
    hue = hues[scene["hue"]] + scene["hue_jitter"]
    body = _rgb(hue, scene["saturation"], scene["value"])
    paint = body * (0.92 + scene["contrast"] * pattern)
    calm, dim = 0.6 * scene["saturation"], 0.8 * scene["value"]
    _blend(paint, _rgb(hue + scene["accent_shift"], calm, dim), _coverage(accent, own_pixel))
    _blend(paint, 0.8 + 0.2 * body, _coverage(light, own_pixel))
    outline = np.abs(silhouette + 0.02) - 0.035
    _blend(paint, 0.22 * body, _coverage(np.minimum(ink, outline), own_pixel))

    depth = np.clip(silhouette * -3, 0, 1)
    paint *= 0.84 + 0.16 * depth + scene["light_x"] * u + scene["light_y"] * v
    shadow = np.clip(1 - np.maximum(silhouette, 0) * 4, 0, 1)
    canvas *= 1 - scene["shadow"] * shadow * shadow
    _blend(canvas, paint, _coverage(silhouette, own_pixel))
    return silhouette <= 0
