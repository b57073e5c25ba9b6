"""What the figures share: colours and sizes, arrays out of what they are given, empty axes, curves."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

Array = Tensor | np.ndarray | Sequence

# Okabe and Ito's colours, blue first. Their yellow is left out: it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH = 6.0  # inches, of most figures: at 110 dpi, half of it still reads on a phone
WIDEST = 7.0  # inches: no figure is wider
BAR_HEIGHT = 0.75  # inches that a colour bar below the pictures takes
SMALL_IMAGE = 96  # pixels: images below this are drawn pixel by pixel
MANY_POINTS = 30  # a line with more points than this has a marker on some of them only


def as_array(values: Array) -> np.ndarray:
    """A tensor of any type and device, an array, or a sequence of them, as one float array."""
    if isinstance(values, list | tuple) and values and hasattr(values[0], "shape"):
        return np.stack([as_array(value) for value in values])
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()  # also of bfloat16, which numpy does not know
    return np.asarray(values, dtype=float)


def as_stack(values: Array, name: str, dims: int, expected: str) -> np.ndarray:
    array = as_array(values)
    if array.ndim != dims or array.size == 0:
        raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {expected}")
    return array


def as_images(images: Array) -> np.ndarray:
    """Images of either layout, as floats in [0, 1], ``[N, H, W, C]``."""
    first = images[0] if isinstance(images, list | tuple) and images else images
    whole = "int" in str(getattr(first, "dtype", ""))
    array = as_stack(images, "images", 4, "[N, C, H, W] or [N, H, W, C]; for one image pass image[None]")
    if array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in (1, 3):
        raise ValueError(f"images have shape {tuple(array.shape)}: neither place has 1 or 3 channels")
    if whole:
        array = array / 255
    low, high = array.min(), array.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"float images must lie in [0, 1], these in [{low:.3g}, {high:.3g}]: undo the normalisation "
                         "first (images * std + mean)")
    return array.clip(0, 1)


def as_image(image: Array) -> np.ndarray:
    shape = tuple(getattr(image, "shape", np.shape(image)))
    if len(shape) != 3:
        raise ValueError(f"image has shape {shape}, expected one image, [C, H, W] or [H, W, C]")
    return as_images(image[None])[0]


def check_count(name: str, texts: Sequence[str] | None, count: int, thing: str) -> None:
    if texts is not None and len(texts) != count:
        raise ValueError(f"{name} has {len(texts)} entries for {count} {thing}s: pass one for each")


def new_figure(
    width: float, height: float, title: str | None, rows: int = 1, columns: int = 1, count: int | None = None,
    layout: str = "constrained"
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches, its title on top of that, and its first ``count`` axes.

    It is closed at once, whatever happens next: an open figure would show a second time in a notebook.
    """
    text = None if title is None else textwrap.fill(title.replace(" × ", "\u00a0×\u00a0"), int(9.2 * width))
    extra = 0.0 if text is None else 0.12 + 0.22 * len(text.splitlines())
    fig = plt.figure(figsize=(width, height + extra), layout=layout)
    plt.close(fig)
    if text is not None:
        fig.suptitle(text, x=0.01, ha="left")
    return fig, [fig.add_subplot(rows, columns, index + 1) for index in range(count or rows * columns)]


def new_grid(
    count: int, columns: int, width: float, height: float, captions: Sequence[str] | None, title: str | None,
    bar: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A closed figure of ``count`` bare axes, ``width`` × ``height`` inches each, with ``bar`` inches below them."""
    check_count("titles", captions, count, "picture")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    across = min(max(columns * width, 3.2), WIDEST)
    scale = across / (columns * width)
    caption_lines = 1 + max(caption.count("\n") for caption in captions) if captions else 0
    down = rows * (height * scale + 0.22 * caption_lines) + bar
    fig, axes = new_figure(across, down, title, rows, columns, count, layout="compressed")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    if captions:
        longest = max(1, *(len(line) for caption in captions for line in caption.split("\n")))
        points = min(11.0, 72 * width * scale / (0.62 * longest))
        for ax, caption in zip(axes, captions, strict=True):
            ax.set_title(plain(caption), loc="center", pad=3, fontsize=points)
    return fig, axes


def plain(name: str) -> str:
    """A name as data have it: its dollar signs begin no formula, and a legend does not hide it for an underscore."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def bar_below(fig: Figure, axes: list[Axes], label: str | None) -> None:
    """One colour bar under all ``axes``, for what was drawn last into the last of them."""
    fig.colorbar(axes[-1].images[-1], ax=axes, label=label, location="bottom", aspect=40, shrink=0.8)


def spread(tiles: np.ndarray, gap: int, colour: float) -> np.ndarray:
    """Tiles ``[down, across, h, w, ...]`` as one picture, with ``gap`` pixels of a colour between them."""
    down, across, tall, wide, *channels = tiles.shape
    picture = np.full((down * (tall + gap) - gap, across * (wide + gap) - gap, *channels), colour)
    for row, col in np.ndindex(down, across):
        top, left = row * (tall + gap), col * (wide + gap)
        picture[top : top + tall, left : left + wide] = tiles[row, col]
    return picture


def peak_shares(maps: np.ndarray) -> np.ndarray:
    """Maps ``[..., h, w]``, each as a share of its own largest value."""
    if not maps.min() >= 0:  # nor NaN
        raise ValueError(f"maps must not be negative, and the smallest value is {maps.min():.3g}")
    return maps / np.maximum(maps.max(axis=(-2, -1), keepdims=True), np.finfo(float).tiny)


def lay_over(ax: Axes, picture: np.ndarray, value: np.ndarray) -> None:
    """A map between 0 and 1, of any grid, over the grey picture: each of its cells a rectangle."""
    height, width = picture.shape[:2]
    show(ax, picture.mean(axis=2, keepdims=True))
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(value, cmap="magma", vmin=0, vmax=1, alpha=0.65, extent=edges, interpolation="nearest")


def show(ax: Axes, picture: np.ndarray) -> None:
    smooth = None if max(picture.shape[:2]) > SMALL_IMAGE else "nearest"
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation=smooth)


def draw_curve(ax: Axes, index: int, label: str, parts: Sequence[Array], **style: Any) -> None:
    """One line of ``lines``, in the ``index``-th colour, line style and marker."""
    arrays = [as_array(part) for part in parts]
    if len(arrays) not in (2, 4):
        raise ValueError(f"series {label!r} has {len(arrays)} parts, expected (x, y) or (x, y, low, high)")
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays)
        raise ValueError(f"series {label!r} has parts of shapes {shapes}, expected 1-D and one length")
    look = {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }
    count = len(arrays[0])
    if count > MANY_POINTS:  # spread out, and not at the same x for every line
        look["markevery"] = (index * count // 70 % max(count // 10, 1), max(count // 10, 1))
    ax.plot(arrays[0], arrays[1], label=plain(label), **(look | style))
    if len(arrays) == 4:
        ax.fill_between(arrays[0], arrays[2], arrays[3], color=look["color"], alpha=0.18, linewidth=0)
