"""Figures for what ``vitlite.analysis`` finds, after Figures 6 and 7 of the paper."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import vitlite.plots.parts as parts
from vitlite.plots.parts import BAR_HEIGHT, COLOURS, MARKERS, SMALL_IMAGE, WIDEST, WIDTH, Array, plain

MOST_TICKS = 16  # of one axis of a mosaic


def filter_tiles(series: Mapping[str, Array], columns: int = 14, title: str | None = None) -> Figure:
    """Draw filters as colour tiles, each scaled for itself, with grey for zero (Figure 7, left, of the paper).

    Args:
        series: ``{label: [n, C, P, P]}`` with one or three channels; one block of rows for each label.

    Example:
        >>> len(filter_tiles({"before": np.random.randn(28, 3, 4, 4), "after": np.random.randn(28, 3, 4, 4)}).axes)
        2
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: tiles}")
    stacks = {label: parts.as_stack(tiles, label, 4, "[n, C, P, P]") for label, tiles in series.items()}
    blocks = {label: _tile_block(tiles, columns) for label, tiles in stacks.items()}
    height = sum(WIDEST * block.shape[0] / block.shape[1] + 0.3 for block in blocks.values())
    fig, axes = parts.new_figure(WIDEST, height, title, rows=len(blocks))
    for ax, (label, block) in zip(axes, blocks.items(), strict=True):
        ax.imshow(block, interpolation="nearest" if max(block.shape) < SMALL_IMAGE * columns else None)
        ax.set_title(plain(label))
        ax.set_axis_off()
    return fig


def similarity_grid(similarity: Array, title: str | None = None) -> Figure:
    """Draw a grid of grids: for each patch, in its place, the map of its similarity with every patch.

    The layout is that of Figure 7, centre, of the paper.

    Args:
        similarity: ``[rows, cols, rows, cols]``, between -1 and 1, as ``vitlite.analysis.position_similarity`` gives.

    Example:
        >>> fig = similarity_grid(np.eye(12).reshape(3, 4, 3, 4))
        >>> fig.axes[0].get_xlabel()
        'column of the patch'
    """
    values = parts.as_stack(similarity, "similarity", 4, "[rows, cols, rows, cols]")
    return _mosaic(values, title, "column of the patch", "row of the patch", "cosine similarity", (-1, 1))


def head_maps(maps: Array, title: str | None = None) -> Figure:
    """Draw all heads of all layers at a glance: layers below each other, each map on a scale of its own.

    Args:
        maps: ``[layers, heads, rows, cols]``, not negative: of one image, one query, as
            ``vitlite.analysis.class_attention(..., per_head=True)[:, image]`` gives.

    Example:
        >>> head_maps(np.random.rand(6, 4, 8, 8)).axes[0].get_ylabel()
        'layer'
    """
    values = parts.peak_shares(parts.as_stack(maps, "maps", 4, "[layers, heads, rows, cols]"))
    return _mosaic(values, title, "head", "layer", "share of the map's largest weight", (0, 1))


def overlays(images: Array, maps: Mapping[str, Array], masks: Array | None = None, title: str | None = None) -> Figure:
    """Draw images, one a row, and beside each what its maps show (Figure 6 of the paper).

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        maps: ``{label: [N, h, w]}``, not negative, of any grid; each a share of its own largest value.
        masks: ``[N, H, W]``, true on the object, whose outline is drawn on every picture.

    Example:
        >>> images, maps = np.random.rand(2, 32, 32, 3), np.random.rand(2, 8, 8)
        >>> len(overlays(images, {"rollout": maps, "last layer": maps}).axes)  # 2 rows of 3, and the colour bar
        7
    """
    if not maps:
        raise ValueError("maps is empty: pass at least one {label: [N, h, w]}")
    pictures = parts.as_images(images)
    count, height, width = pictures.shape[:3]
    shares = {label: parts.peak_shares(parts.as_stack(each, label, 3, "[N, h, w]")) for label, each in maps.items()}
    outlines = None if masks is None else parts.as_stack(masks, "masks", 3, "[N, H, W]")
    for label, each in (shares if outlines is None else shares | {"masks": outlines}).items():
        if len(each) != count:
            raise ValueError(f"{label} has {len(each)} maps for {count} images: pass one for each")
    places = np.arange(-1, width + 1), np.arange(-1, height + 1)  # with a rim, so that every outline closes
    across = 1 + len(shares)
    captions = ["image", *shares] + [""] * across * (count - 1)
    fig, axes = parts.new_grid(across * count, across, 1.5, 1.5 * height / width, captions, title, bar=BAR_HEIGHT)
    for index, ax in enumerate(axes):
        row, column = divmod(index, across)
        if column == 0:
            parts.show(ax, pictures[row])
        else:
            parts.lay_over(ax, pictures[row], list(shares.values())[column - 1][row])
        if outlines is not None:
            for colour, line in (("black", 2.4), ("white", 1.0)):  # shows on any picture
                ax.contour(*places, np.pad(outlines[row], 1), levels=[0.5], colors=colour, linewidths=line)
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    parts.bar_below(fig, axes, "share of the map's largest value")
    return fig


def distance_scatter(
    series: Mapping[str, Array], baseline: float | None = None, title: str | None = None,
    ylabel: str = "mean attention distance (px)",
) -> Figure:
    """Draw a number for every head against its layer: one dot a head (Figure 7, right, of the paper).

    Args:
        series: ``{label: [layers, heads]}``; the dots of different labels stand side by side.
        baseline: What uniform attention would give; a dashed line.

    Example:
        >>> fig = distance_scatter({"ViT": np.random.rand(6, 4)}, baseline=0.5, ylabel="distance (px)")
        >>> [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
        ['ViT', 'uniform attention']
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: [layers, heads]}")
    fig, (ax,) = parts.new_figure(WIDTH, 3.6, title)
    for index, (label, values) in enumerate(series.items()):
        heads = parts.as_stack(values, label, 2, "[layers, heads]")
        aside = 0.3 * (index / max(1, len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        depth = np.repeat(np.arange(1, len(heads) + 1) + aside, heads.shape[1])
        look = {"marker": MARKERS[index % len(MARKERS)], "color": COLOURS[index % len(COLOURS)]}
        ax.plot(depth, heads.ravel(), linestyle="", alpha=0.8, label=plain(label), **look)
    if baseline is not None:
        ax.axhline(baseline, color="0.3", linestyle="--", linewidth=1.5, marker="", label="uniform attention")
    ax.set(xlabel="layer", ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return fig


# Below: what only these figures need.


def _mosaic(
    values: np.ndarray, title: str | None, xlabel: str, ylabel: str, label: str, ends: tuple[float, float]
) -> Figure:
    """Maps ``[down, across, h, w]`` in one picture, a gap between them, counted from 1."""
    down, across, tall, wide = values.shape
    gap = max(1, round(min(tall, wide) / 6))
    canvas = parts.spread(values, gap, np.nan)
    width = min(WIDTH, max(3.2, across * 0.9))
    fig, (ax,) = parts.new_figure(width, width * canvas.shape[0] / canvas.shape[1] + 1.1, title, layout="compressed")
    ax.imshow(canvas, vmin=ends[0], vmax=ends[1], interpolation="nearest")
    for axis, count, side in ((ax.xaxis, across, wide), (ax.yaxis, down, tall)):
        ticks = range(0, count, math.ceil(count / MOST_TICKS))
        axis.set_ticks([(side - 1) / 2 + i * (side + gap) for i in ticks], [str(i + 1) for i in ticks])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    parts.bar_below(fig, [ax], label)
    return fig


def _tile_block(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles ``[n, C, P, P]`` -> one picture ``[H, W, 3]``, white between the tiles."""
    count, channels, tall, wide = tiles.shape
    if channels not in (1, 3):
        raise ValueError(f"tiles have {channels} channels; 1 or 3 can be drawn")
    columns, gap = min(columns, count), max(1, round(wide / 5))
    drawn = np.ones((math.ceil(count / columns) * columns, tall, wide, 3))
    largest = np.maximum(abs(tiles).max(axis=(1, 2, 3), keepdims=True), np.finfo(float).tiny)
    drawn[:count] = (tiles / largest / 2 + 0.5).transpose(0, 2, 3, 1)
    return parts.spread(drawn.reshape(-1, columns, tall, wide, 3), gap, 1.0)
