"""Every kind of figure in the book, in one style.

Each function takes tensors or arrays, and returns a matplotlib ``Figure``. The figure is already closed for
pyplot, so a notebook shows it once: make the call the last line of its cell, or pass it to ``display``.
Titles are the caller's: a title states what the figure shows. Long titles wrap to the figure's width.

This module imports nothing else of vitlite.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

__all__ = [
    "bars", "confusion", "heatmaps", "history", "image_grid", "lines", "matrix", "overlay", "patch_grid", "use_style",
]  # fmt: skip

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


def use_style() -> None:
    """Set matplotlib's defaults to the style of the book.

    The colour-blind can tell the colours apart; line styles and markers change with them, so a figure also
    works in grey. Call it once, at the top of a notebook.

    Example:
        >>> import matplotlib
        >>> use_style()
        >>> matplotlib.rcParams["figure.dpi"]
        110.0
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES) + cycler(marker=MARKERS),
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.labelsize": 12,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.figsize": (WIDTH, 3.6),
            "figure.titlesize": 13,
            "figure.titleweight": "bold",
            "font.family": "sans-serif",
            "font.size": 11,
            "grid.alpha": 0.6,
            "grid.color": "#cccccc",
            "grid.linewidth": 0.6,
            "image.cmap": "viridis",
            "legend.fontsize": 11,
            "legend.framealpha": 0.85,
            "lines.linewidth": 2.0,
            "lines.markersize": 5.5,
            "savefig.facecolor": "white",
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
        }
    )


def image_grid(
    images: Array,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    size: float = 1.2,
    title: str | None = None,
) -> Figure:
    """Draw images side by side, row by row.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        titles: One short text above each image.
        columns: Images in a row.
        size: Width of one image, in inches; less where a row would be wider than 7 inches.
        title: What the figure shows.

    Returns:
        A figure with one axes an image.

    Raises:
        ValueError: If the shape, the range or the number of titles does not fit.

    Example:
        >>> len(image_grid(np.random.rand(3, 8, 8, 3), titles=["a", "b", "c"]).axes)
        3
    """
    pictures = _images(images)
    height, width = pictures.shape[1:3]
    fig, axes = _grid(len(pictures), columns, size, size * height / width, titles, title)
    for ax, picture in zip(axes, pictures, strict=True):
        _show(ax, picture)
    return fig


def patch_grid(
    image: Array, patch_size: int | tuple[int, int], numbers: bool = False, title: str | None = None
) -> Figure:
    """Draw an image beside its patches, pulled apart.

    Args:
        image: ``[C, H, W]`` or ``[H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        patch_size: Side of a patch in pixels, or its (height, width).
        numbers: Write on each patch its place in the sequence: 1 to N, row by row, as in the paper's
            Figure 1, where place 0 is the class token's.
        title: What the figure shows.

    Returns:
        A figure with two axes, one for the image with its cuts and one for the patches.

    Raises:
        ValueError: If the image's shape does not fit, or the patch size does not divide it.

    Example:
        >>> len(patch_grid(np.random.rand(32, 32, 3), patch_size=8, title="16 patches of 8×8 pixels").axes)
        2
    """
    picture = _image(image)
    height, width = picture.shape[:2]
    rows, cols, (tall, wide) = _patch_counts(height, width, patch_size)
    gap = max(1, round(min(tall, wide) / 5))
    canvas = np.ones((height + gap * (rows - 1), width + gap * (cols - 1), picture.shape[2]))
    for row, col in np.ndindex(rows, cols):
        patch = picture[row * tall : (row + 1) * tall, col * wide : (col + 1) * wide]
        top, left = row * (tall + gap), col * (wide + gap)
        canvas[top : top + tall, left : left + wide] = patch
    fig, (whole, apart) = _grid(2, 2, WIDTH / 2, WIDTH / 2 * height / width, None, title)
    _show(whole, picture)
    _cuts(whole, rows, cols, tall, wide)
    apart.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    points = min(12.0, 72 * WIDTH / 2 / canvas.shape[1] * min(0.45 * wide, 0.8 * tall))
    for row, col in np.ndindex(rows, cols):
        left, top = col * (wide + gap) - 0.5, row * (tall + gap) - 0.5
        apart.add_patch(Rectangle((left, top), wide, tall, fill=False, edgecolor="0.6", linewidth=0.6))
        if numbers:
            _outlined(apart, left + wide / 2, top + tall / 2, str(row * cols + col + 1), points)
    return fig


def heatmaps(
    maps: Array,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    size: float = 1.5,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    label: str | None = None,
    title: str | None = None,
    shared: bool = True,
) -> Figure:
    """Draw maps side by side, on one colour scale.

    Args:
        maps: ``[N, h, w]``.
        titles: One short text above each map.
        columns: Maps in a row.
        size: Width of one map, in inches; less where a row would be wider than 7 inches.
        cmap: matplotlib's name of a colour map.
        vmin: Value at the lower end of the scale; the smallest of all maps by default.
        vmax: Value at the upper end of the scale; the largest of all maps by default.
        label: What the colours measure, with its unit.
        title: What the figure shows.
        shared: One scale and one colour bar for all maps; otherwise each map has its own.

    Returns:
        A figure with one axes a map, and the colour bar's axes after them (each map's own if not ``shared``).

    Raises:
        ValueError: If ``maps`` has another number of dimensions, or the number of titles does not fit.

    Example:
        >>> len(heatmaps(np.random.rand(3, 8, 8), label="attention").axes)  # three maps and a colour bar
        4
    """
    values = _stack(maps, "maps", 3, "[N, h, w]; for one map pass map[None]")
    if shared:
        vmin = float(np.nanmin(values)) if vmin is None else vmin
        vmax = float(np.nanmax(values)) if vmax is None else vmax
    below = 0.0 if shared else 0.4  # inches for each map's own bar
    tall = size * values.shape[1] / values.shape[2]
    fig, axes = _grid(len(values), columns, size, tall, titles, title, below, BAR_HEIGHT - below)
    for ax, value in zip(axes, values, strict=True):
        drawn = ax.imshow(value, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
        if not shared:
            ends = [drawn.norm.vmin, drawn.norm.vmax]
            bar = fig.colorbar(drawn, ax=ax, location="bottom", shrink=0.9, pad=0.02)
            bar.set_ticks(ends, labels=[f"{end:.2g}" for end in ends])
    if shared:
        _bar_below(fig, axes, label)
    elif label:
        fig.supxlabel(label, fontsize=12)
    return fig


def matrix(
    values: Array,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    annotate: bool = False,
    label: str | None = None,
    title: str | None = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    fmt: str = ".2f",
) -> Figure:
    """Draw one matrix, for example the attention of one head.

    Args:
        values: ``[rows, columns]``.
        rows: Name of each row.
        columns: Name of each column.
        xlabel: What the columns are.
        ylabel: What the rows are.
        annotate: Write each value into its cell.
        label: What the colours measure, with its unit.
        title: What the figure shows.
        cmap: matplotlib's name of a colour map.
        vmin: Value at the lower end of the scale; the smallest value by default.
        vmax: Value at the upper end of the scale; the largest value by default.
        fmt: How a value is written, as in ``format(value, fmt)``.

    Returns:
        A figure with the matrix's axes, and a colour bar's unless the values are written and have no label.

    Raises:
        ValueError: If ``values`` is not a matrix, or the number of names does not fit.

    Example:
        >>> len(matrix(np.eye(3), rows="abc", columns="abc", annotate=True).axes)
        1
    """
    table = _stack(values, "values", 2, "[rows, columns]")
    width = float(np.clip(0.55 * table.shape[1] + 1.6, 4.0, WIDTH))
    height = float(np.clip((width - 1.6) * table.shape[0] / table.shape[1], 1.0, 7.0))
    fig, (ax,) = _figure(width, height + 0.9, title, layout="compressed")
    drawn = ax.imshow(table, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _names(ax, rows, columns, table.shape)
    if annotate:
        _write_cells(ax, [[format(value, fmt) for value in row] for row in table.tolist()])
    if label or not annotate:
        fig.colorbar(drawn, ax=ax, label=label)
    return fig


def lines(
    series: Mapping[str, Sequence[Array]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    logx: bool = False,
    logy: bool = False,
) -> Figure:
    """Draw curves over one pair of axes; colour, line style and marker all tell them apart.

    Args:
        series: ``{label: (x, y)}``, or ``{label: (x, y, low, high)}`` for a curve with a band; all 1-D and
            of one length. A value that is not finite leaves a gap.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        title: What the figure shows.
        logx: A logarithmic x axis.
        logy: A logarithmic y axis.

    Returns:
        A figure with one axes; with more than one curve it has a legend.

    Raises:
        ValueError: If there is no curve, or the parts of one differ in length.

    Example:
        >>> fig = lines({"loss": ([1, 2, 3], [0.9, 0.5, 0.4])}, xlabel="epoch", ylabel="loss (nats)")
        >>> fig.axes[0].get_xlabel()
        'epoch'
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: (x, y)}")
    fig, (ax,) = _figure(WIDTH, 3.5, title)
    for index, (label, parts) in enumerate(series.items()):
        _curve(ax, index, label, parts)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if logx:
        _log_x(ax, np.unique(np.concatenate([_array(parts[0]) for parts in series.values()])))
    if logy:
        ax.set_yscale("log")
    if len(series) > 1:
        ax.legend(handlelength=3)
    return fig


def bars(
    values: Mapping[str, float],
    ylabel: str,
    title: str | None = None,
    errors: Mapping[str, float | tuple[float, float]] | None = None,
) -> Figure:
    """Draw one bar a value, with the value written at its end.

    Args:
        values: ``{label: value}``.
        ylabel: What the values measure, with their unit.
        title: What the figure shows.
        errors: ``{label: half of the error bar}``, or ``{label: (below, above)}``, in the values' unit, for the same
            labels.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: If there is no value, or ``errors`` has other labels.

    Example:
        >>> fig = bars({"one": 1, "two": 2}, ylabel="patches", errors={"one": 0.1, "two": 0.2})
        >>> [text.get_text() for text in fig.axes[0].get_xticklabels()]
        ['one', 'two']
    """
    if not values:
        raise ValueError("values is empty: pass at least one {label: value}")
    if errors is not None and set(errors) != set(values):
        raise ValueError(
            f"errors has the labels {sorted(errors)}, values has {sorted(values)}: name the same ones"
        )
    heights = [float(value) for value in values.values()]
    spread = None if errors is None else np.array([np.broadcast_to(errors[label], 2) for label in values], float).T
    room = max(8, int(70 / len(values)))
    fig, (ax,) = _figure(WIDTH, 3.5, title)
    names = [textwrap.fill(label, room) for label in values]
    drawn = ax.bar(range(len(names)), heights, width=0.65, color=COLOURS[0], yerr=spread, capsize=5)
    ax.bar_label(drawn, labels=[_short(height) for height in heights], padding=3)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel(ylabel)
    ax.grid(False, axis="x")
    ax.margins(y=0.12)
    return fig


def overlay(
    image: Array,
    maps: Array,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    title: str | None = None,
    cmap: str = "magma",
) -> Figure:
    """Lay maps over an image, each as a share of its own largest value.

    Args:
        image: ``[C, H, W]`` or ``[H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        maps: ``[N, h, w]``, not negative, of any grid; stretched over the image and interpolated.
        titles: One short text above each map.
        columns: Pictures in a row; the first picture is the image itself.
        title: What the figure shows.
        cmap: matplotlib's name of a colour map.

    Returns:
        A figure with an axes for the image, one for each map, and the colour bar's.

    Raises:
        ValueError: If a shape does not fit, a map is negative, or the number of titles does not fit.

    Example:
        >>> len(overlay(np.random.rand(32, 32, 3), np.random.rand(2, 8, 8)).axes)  # image, two maps, colour bar
        4
    """
    picture = _image(image)
    values = _stack(maps, "maps", 3, "[N, h, w]; for one map pass map[None]")
    if values.min() < 0:
        raise ValueError(f"maps must not be negative, and the smallest value is {values.min():.3g}")
    _check_count("titles", titles, len(values), "map")
    peaks = np.maximum(values.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    height, width = picture.shape[:2]
    captions = ["image", *(titles or [""] * len(values))]
    fig, axes = _grid(len(captions), columns, 1.5, 1.5 * height / width, captions, title, bar=BAR_HEIGHT)
    _show(axes[0], picture)
    grey = picture.mean(axis=2, keepdims=True)
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    for ax, value in zip(axes[1:], values / peaks, strict=True):
        _show(ax, grey)
        ax.imshow(value, cmap=cmap, vmin=0, vmax=1, alpha=0.65, extent=edges, interpolation="bilinear")
    _bar_below(fig, axes, "share of the map's largest value")
    return fig


def similarity_grid(similarity: Array, title: str | None = None, label: str = "cosine similarity") -> Figure:
    """Draw a grid of grids: for each patch, in its place, the map of its similarity with every patch.

    Args:
        similarity: ``[rows, cols, rows, cols]``, between -1 and 1, as ``vitlite.analysis.position_similarity`` gives.
        title: What the figure shows.
        label: What the colours measure.

    Returns:
        A figure with one axes and its colour bar.

    Raises:
        ValueError: If the shape is another one.
    """
    values = _stack(similarity, "similarity", 4, "[rows, cols, rows, cols]")
    return _mosaic(values, title, "column of the patch", "row of the patch", label, "RdBu_r", (-1, 1))


def head_maps(maps: Array, title: str | None = None, label: str = "share of the map's largest weight") -> Figure:
    """Draw all heads at a glance: layers below each other, heads side by side, each map on a scale of its own.

    Args:
        maps: ``[layers, heads, rows, cols]``, not negative.
        title: What the figure shows.
        label: What the colours measure.

    Returns:
        A figure with one axes and its colour bar.

    Raises:
        ValueError: If the shape is another one.
    """
    values = _stack(maps, "maps", 4, "[layers, heads, rows, cols]")
    values = values / np.maximum(values.max(axis=(2, 3), keepdims=True), np.finfo(float).tiny)
    return _mosaic(values, title, "head", "layer", label, "viridis", (0, 1), first=1)


def _mosaic(
    values: np.ndarray, title: str | None, xlabel: str, ylabel: str, label: str, cmap: str, ends: tuple[float, float],
    first: int = 0,
) -> Figure:  # fmt: skip
    """Maps ``[down, across, h, w]`` in one picture, a gap between them."""
    down, across, tall, wide = values.shape
    gap = max(1, round(min(tall, wide) / 6))
    canvas = np.full((down * (tall + gap) - gap, across * (wide + gap) - gap), np.nan)
    for row, col in np.ndindex(down, across):
        top, left = row * (tall + gap), col * (wide + gap)
        canvas[top : top + tall, left : left + wide] = values[row, col]
    width = min(WIDTH, max(3.2, across * 0.9))
    fig, (ax,) = _figure(width, width * canvas.shape[0] / canvas.shape[1] + 1.1, title)
    drawn = ax.imshow(canvas, cmap=cmap, vmin=ends[0], vmax=ends[1], interpolation="nearest")
    ax.set_xticks([(wide - 1) / 2 + i * (wide + gap) for i in range(across)], range(first, across + first))
    ax.set_yticks([(tall - 1) / 2 + i * (tall + gap) for i in range(down)], range(first, down + first))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    fig.colorbar(drawn, ax=ax, label=label, location="bottom", aspect=40, shrink=0.8)
    return fig


def filter_tiles(series: Mapping[str, Array], columns: int = 14, title: str | None = None) -> Figure:
    """Draw filters as colour tiles, each scaled for itself, with grey for zero.

    Args:
        series: ``{label: [n, C, P, P]}`` with one or three channels; one block of rows for each label.
        columns: Tiles in a row.
        title: What the figure shows.

    Returns:
        A figure with one axes for each label.

    Raises:
        ValueError: If there is no series, or a shape does not fit.
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: tiles}")
    blocks = {label: _tile_block(_stack(tiles, label, 4, "[n, C, P, P]"), columns) for label, tiles in series.items()}
    height = sum(WIDEST * block.shape[0] / block.shape[1] + 0.3 for block in blocks.values())
    fig, axes = _figure(WIDEST, height, title, rows=len(blocks))
    for ax, (label, block) in zip(axes, blocks.items(), strict=True):
        ax.imshow(block, interpolation="nearest")
        ax.set_title(label)
        ax.set_axis_off()
    return fig


def _tile_block(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles ``[n, C, P, P]`` -> one picture ``[H, W, 3]``, white between the tiles."""
    count, channels, tall, wide = tiles.shape
    if channels not in (1, 3):
        raise ValueError(f"tiles have {channels} channels; 1 or 3 can be drawn")
    columns, gap = min(columns, count), max(1, round(wide / 5))
    rows = math.ceil(count / columns)
    picture = np.ones((rows * (tall + gap) - gap, columns * (wide + gap) - gap, 3))
    for i, tile in enumerate(tiles.transpose(0, 2, 3, 1)):
        top, left = i // columns * (tall + gap), i % columns * (wide + gap)
        picture[top : top + tall, left : left + wide] = tile / max(abs(tile).max(), np.finfo(float).tiny) / 2 + 0.5
    return picture


def distance_scatter(
    series: Mapping[str, Array], baseline: float | None = None, title: str | None = None,
    ylabel: str = "mean attention distance (px)",
) -> Figure:  # fmt: skip
    """Draw a number for every head against its layer: one dot a head, as in the right part of the paper's Figure 7.

    Args:
        series: ``{label: [layers, heads]}``; the dots of different labels stand side by side.
        baseline: What attention that does not choose would give; a dashed line.
        title: What the figure shows.
        ylabel: What was measured, with its unit.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: If there is no series, or one is not two-dimensional.
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: [layers, heads]}")
    fig, (ax,) = _figure(WIDTH, 3.6, title)
    for index, (label, values) in enumerate(series.items()):
        heads = _stack(values, label, 2, "[layers, heads]")
        aside = 0.3 * (index - (len(series) - 1) / 2) / max(1, len(series) - 1) if len(series) > 1 else 0.0
        depth = np.repeat(np.arange(1, len(heads) + 1) + aside, heads.shape[1])
        ax.plot(depth, heads.ravel(), linestyle="", marker=MARKERS[index], color=COLOURS[index], alpha=0.8, label=label)
    if baseline is not None:
        ax.axhline(baseline, color="0.3", linestyle="--", linewidth=1.5, marker="", label="uniform attention")
    ax.set(xlabel="layer", ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return fig


def dots(series: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str, title: str | None = None) -> Figure:
    """Draw points, each series in a colour and marker of its own.

    Args:
        series: ``{label: (x, y)}``, both 1-D and of one length.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        title: What the figure shows.

    Returns:
        A figure with one axes and a legend.

    Raises:
        ValueError: If there is no series, or x and y differ in length.
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: (x, y)}")
    fig, (ax,) = _figure(WIDTH, 3.6, title)
    for index, (label, parts) in enumerate(series.items()):
        _curve(ax, index, label, parts, linestyle="", markevery=None)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


def confusion(counts: Array, classes: Sequence[str], title: str | None = None) -> Figure:
    """Draw which class is taken for which.

    Args:
        counts: ``[K, K]`` numbers of images: the true class by row, the predicted class by column.
        classes: The K class names.
        title: What the figure shows.

    Returns:
        A figure with the axes of the matrix, coloured by the share of its row with the counts written in, and
        those of the colour bar.

    Raises:
        ValueError: If ``counts`` is not square, or the number of classes does not fit.

    Example:
        >>> fig = confusion([[9, 1], [2, 8]], classes=["cat", "fish"])
        >>> fig.axes[0].get_ylabel()
        'true class'
    """
    table = _stack(counts, "counts", 2, "[K, K]")
    if table.shape[0] != table.shape[1]:
        raise ValueError(f"counts must be square, one row and one column a class; its shape is {table.shape}")
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    fig = matrix(
        share, classes, classes, "predicted class", "true class", label="share of the true class",
        title=title, cmap="Blues", vmin=0, vmax=1,
    )  # fmt: skip
    _write_cells(fig.axes[0], [[format(count, ".0f") for count in row] for row in table.tolist()])
    return fig


def history(history: Mapping[str, Sequence[float]], title: str | None = None) -> Figure:
    """Draw a training run: the loss above, the validation accuracy below.

    Args:
        history: Lists by name: ``step`` and ``loss`` (one entry a logged step), and with validation
            ``val_step``, ``val_loss`` and ``val_accuracy`` (a fraction). Other entries are not drawn.
        title: What the figure shows.

    Returns:
        A figure with two axes, or with the loss alone where there is no validation.

    Raises:
        ValueError: If one of these lists is missing, or two lists that belong together differ in length.

    Example:
        >>> len(history({"step": [1, 2, 3], "loss": [2.3, 1.9, 1.7]}).axes)
        1
    """
    validated = len(history.get("val_step", ())) > 0
    for name in ("step", "loss", "val_loss", "val_accuracy") if validated else ("step", "loss"):
        if name not in history:
            raise ValueError(f"history has no {name!r}, only {sorted(history)}")
    fig, axes = _figure(WIDTH, 5.4, title, rows=2) if validated else _figure(WIDTH, 3.2, title)
    above, below = axes[0], axes[-1]
    if validated:
        below.sharex(above)
        above.tick_params(labelbottom=False)
    _training_loss(above, history["step"], history["loss"])
    above.set_ylabel("loss (nats)")
    if validated:
        _curve(above, 1, "validation", (history["val_step"], history["val_loss"]))
        percent = 100 * _array(history["val_accuracy"])
        _curve(below, 1, "validation", (history["val_step"], percent))
        below.set_ylabel("top-1 accuracy (%)")
    if len(above.lines) > 1:
        above.legend(handlelength=3)
    below.set_xlabel("training step")
    below.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    return fig


# Below: the parts that the figures share.


def _array(values: Array) -> np.ndarray:
    """A tensor of any type and device, an array, or a sequence of them, as one float array."""
    if isinstance(values, list | tuple) and values and hasattr(values[0], "shape"):
        return np.stack([_array(value) for value in values])
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()  # also of bfloat16, which numpy does not know
    return np.asarray(values, dtype=float)


def _stack(values: Array, name: str, dims: int, expected: str) -> np.ndarray:
    array = _array(values)
    if array.ndim != dims or array.size == 0:
        raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {expected}")
    return array


def _images(images: Array) -> np.ndarray:
    """Images of either layout, as floats in [0, 1], ``[N, H, W, C]``."""
    first = images[0] if isinstance(images, list | tuple) and images else images
    whole = "int" in str(getattr(first, "dtype", ""))
    array = _stack(images, "images", 4, "[N, C, H, W] or [N, H, W, C]; for one image pass image[None]")
    if array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in (1, 3):
        raise ValueError(f"images have shape {tuple(array.shape)}: neither place has 1 or 3 channels")
    if whole:
        array = array / 255
    low, high = array.min(), array.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"float images must lie in [0, 1], these in [{low:.3g}, {high:.3g}]: "
            "undo the normalisation first (images * std + mean)"
        )
    return array.clip(0, 1)


def _image(image: Array) -> np.ndarray:
    shape = tuple(getattr(image, "shape", np.shape(image)))
    if len(shape) != 3:
        raise ValueError(f"image has shape {shape}, expected one image, [C, H, W] or [H, W, C]")
    return _images(image[None])[0]


def _patch_counts(
    height: int, width: int, patch_size: int | tuple[int, int]
) -> tuple[int, int, tuple[int, int]]:
    tall, wide = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    for side, patch in ((height, tall), (width, wide)):
        if patch < 1 or side % patch:
            raise ValueError(
                f"image is {height}×{width}, patch size is {tall}×{wide}: {side} is not a multiple of "
                f"{patch}; crop or pad the image, or pass another patch_size"
            )
    return height // tall, width // wide, (tall, wide)


def _check_count(name: str, texts: Sequence[str] | None, count: int, thing: str) -> None:
    if texts is not None and len(texts) != count:
        raise ValueError(f"{name} has {len(texts)} entries for {count} {thing}s: pass one for each")


def _figure(
    width: float,
    height: float,
    title: str | None,
    rows: int = 1,
    columns: int = 1,
    count: int | None = None,
    layout: str = "constrained",
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


def _grid(
    count: int,
    columns: int,
    width: float,
    height: float,
    captions: Sequence[str] | None,
    title: str | None,
    below: float = 0.0,
    bar: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """A closed figure of ``count`` bare axes, ``width`` × ``height`` inches each, and its title.

    It leaves ``below`` inches under each row, and ``bar`` inches under all of them.
    """
    _check_count("titles", captions, count, "picture")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    across = min(max(columns * width, 3.2), WIDEST)
    scale = across / (columns * width)
    caption_lines = 1 + max(caption.count("\n") for caption in captions) if captions else 0
    down = rows * (height * scale + 0.22 * caption_lines + below) + bar
    fig, axes = _figure(across, down, title, rows, columns, count, layout="compressed")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    if captions:
        longest = max(1, *(len(line) for caption in captions for line in caption.split("\n")))
        points = min(11.0, 72 * width * scale / (0.62 * longest))
        for ax, caption in zip(axes, captions, strict=True):
            ax.set_title(caption, loc="center", pad=3, fontsize=points)
    return fig, axes


def _bar_below(fig: Figure, axes: list[Axes], label: str | None) -> None:
    """One colour bar under all ``axes``, for what was drawn last into the last of them."""
    fig.colorbar(axes[-1].images[-1], ax=axes, label=label, location="bottom", aspect=40, shrink=0.8)


def _show(ax: Axes, picture: np.ndarray) -> None:
    smooth = None if max(picture.shape[:2]) > SMALL_IMAGE else "nearest"
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation=smooth)


def _cuts(ax: Axes, rows: int, cols: int, tall: int, wide: int) -> None:
    """Lines between the patches, dark under white, so that they show on any image."""
    for width, colour in ((2.0, "black"), (0.9, "white")):
        for row in range(1, rows):
            ax.axhline(row * tall - 0.5, color=colour, linewidth=width, linestyle="-", marker="")
        for col in range(1, cols):
            ax.axvline(col * wide - 0.5, color=colour, linewidth=width, linestyle="-", marker="")


def _outlined(ax: Axes, x: float, y: float, text: str, points: float) -> None:
    drawn = ax.text(x, y, text, ha="center", va="center", color="white", fontsize=points, fontweight="bold")
    drawn.set_path_effects([effects.withStroke(linewidth=points / 5, foreground="black")])


def _names(
    ax: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None, shape: tuple[int, ...]
) -> None:
    _check_count("rows", rows, shape[0], "row")
    _check_count("columns", columns, shape[1], "column")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if rows is not None:
        ax.set_yticks(range(shape[0]), rows)
    if columns is not None:
        crowded = shape[1] * max(len(name) for name in columns) > 40
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        ax.set_xticks(range(shape[1]), columns, **turn)


def _write_cells(ax: Axes, texts: list[list[str]]) -> None:
    """A text on each cell of the matrix drawn in ``ax``, dark on light cells and light on dark ones."""
    drawn = ax.images[0]
    colours = drawn.cmap(drawn.norm(drawn.get_array()))
    light = colours[..., :3] @ np.array([0.299, 0.587, 0.114]) > 0.55
    longest = max(len(text) for row in texts for text in row)
    points = float(np.clip(72 * 4.4 / len(texts[0]) / (0.75 * longest), 6, 12))
    for row, col in np.ndindex(light.shape):
        colour = "black" if light[row, col] else "white"
        ax.text(col, row, texts[row][col], ha="center", va="center", color=colour, fontsize=points)


def _curve(ax: Axes, index: int, label: str, parts: Sequence[Array], **style: Any) -> None:
    """One line of ``lines``, in the ``index``-th colour, line style and marker."""
    arrays = [_array(part) for part in parts]
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
    ax.plot(arrays[0], arrays[1], label=label, **(look | style))
    if len(arrays) == 4:
        ax.fill_between(arrays[0], arrays[2], arrays[3], color=look["color"], alpha=0.18, linewidth=0)


def _log_x(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic x axis; where the curves have few different x, these are its ticks."""
    ax.set_xscale("log")
    if len(values) <= 8:
        ax.set_xticks(values, [_short(value) for value in values])
        ax.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """Three digits of a small number, all places before the point of a large one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _training_loss(ax: Axes, step: Array, loss: Array) -> None:
    """The loss of every logged step; of a long run also its running mean, which is easier to follow."""
    window = len(loss) // 50
    if window < 2:
        _curve(ax, 0, "training", (step, loss))
        return
    _curve(ax, 0, "training, each step", (step, loss), color="#9fc5e8", linewidth=0.7, marker="")
    mean = np.convolve(_array(loss), np.ones(window) / window, mode="valid")
    _curve(ax, 0, f"training, mean of {window} entries", (_array(step)[window - 1 :], mean))
