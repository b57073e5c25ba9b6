"""Figures for any data: images, maps, matrices, curves, bars, points, training runs."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

import vitlite.plots.parts as parts
from vitlite import checks
from vitlite.plots.parts import BAR_HEIGHT, COLOURS, DASHES, MARKERS, WIDTH, Array


def use_style() -> None:
    """Set matplotlib's defaults to the style of the book.

    The colour-blind can tell the colours apart; line styles and markers change with them, so a figure also works in
    grey. Call it once, at the top of a notebook.

    Example:
        >>> import matplotlib
        >>> use_style()
        >>> matplotlib.rcParams["figure.dpi"]
        110.0
    """
    plt.rcParams.update({
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
    })


def image_grid(
    images: Array, titles: Sequence[str] | None = None, columns: int = 8, size: float = 1.2, title: str | None = None
) -> Figure:
    """Draw images side by side, row by row.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W, C]`` with one or three channels; uint8, or floats in [0, 1].

    Example:
        >>> len(image_grid(np.random.rand(3, 8, 8, 3), titles=["a", "b", "c"]).axes)
        3
    """
    pictures = parts.as_images(images)
    height, width = pictures.shape[1:3]
    fig, axes = parts.new_grid(len(pictures), columns, size, size * height / width, titles, title)
    for ax, picture in zip(axes, pictures, strict=True):
        parts.show(ax, picture)
    return fig


def patch_grid(
    image: Array, patch_size: int | tuple[int, int], numbers: bool = False, title: str | None = None
) -> Figure:
    """Draw an image beside its patches, pulled apart.

    Args:
        image: ``[C, H, W]`` or ``[H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        patch_size: Side of a patch in pixels, or its (height, width).
        numbers: Write on each patch its place in the sequence: 1 to N, row by row, as in the paper's Figure 1, where
            place 0 is the class token's.

    Example:
        >>> len(patch_grid(np.random.rand(32, 32, 3), patch_size=8, title="16 patches of 8×8 pixels").axes)
        2
    """
    picture = parts.as_image(image)
    height, width = picture.shape[:2]
    tall, wide = checks.pair(patch_size, "patch_size")
    checks.divides((height, width), (tall, wide))
    rows, cols = height // tall, width // wide
    gap = max(1, round(min(tall, wide) / 5))
    canvas = parts.spread(picture.reshape(rows, tall, cols, wide, -1).swapaxes(1, 2), gap, 1.0)
    fig, (whole, apart) = parts.new_grid(2, 2, WIDTH / 2, WIDTH / 2 * height / width, None, title)
    parts.show(whole, picture)
    _cuts(whole, rows, cols, tall, wide)
    apart.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    points = min(12.0, 72 * WIDTH / 2 / canvas.shape[1] * min(0.45 * wide, 0.8 * tall))
    for row, col in np.ndindex(rows, cols):
        left, top = col * (wide + gap) - 0.5, row * (tall + gap) - 0.5
        apart.add_patch(Rectangle((left, top), wide, tall, fill=False, edgecolor="0.6", linewidth=0.6))
        if numbers:
            number = apart.text(left + wide / 2, top + tall / 2, str(row * cols + col + 1), ha="center", va="center",
                                color="white", fontsize=points, fontweight="bold")
            number.set_path_effects([effects.withStroke(linewidth=points / 5, foreground="black")])
    return fig


def heatmaps(
    maps: Array, titles: Sequence[str] | None = None, columns: int = 6, size: float = 1.5, vmin: float | None = None,
    vmax: float | None = None, label: str | None = None, title: str | None = None
) -> Figure:
    """Draw maps ``[N, h, w]`` side by side, on one colour scale.

    Example:
        >>> len(heatmaps(np.random.rand(3, 8, 8), label="attention").axes)  # three maps and a colour bar
        4
    """
    values = parts.as_stack(maps, "maps", 3, "[N, h, w]; for one map pass map[None]")
    vmin = float(np.nanmin(values)) if vmin is None else vmin
    vmax = float(np.nanmax(values)) if vmax is None else vmax
    tall = size * values.shape[1] / values.shape[2]
    fig, axes = parts.new_grid(len(values), columns, size, tall, titles, title, bar=BAR_HEIGHT)
    for ax, value in zip(axes, values, strict=True):
        ax.imshow(value, cmap="viridis", vmin=vmin, vmax=vmax, interpolation="nearest")
    parts.bar_below(fig, axes, label)
    return fig


def matrix(
    values: Array, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None, xlabel: str | None = None,
    ylabel: str | None = None, annotate: bool = False, label: str | None = None, title: str | None = None,
    cmap: str = "viridis", vmin: float | None = None, vmax: float | None = None, fmt: str = ".2f"
) -> Figure:
    """Draw one matrix, for example the attention of one head.

    Args:
        values: ``[rows, columns]``.
        fmt: How a value is written, as in ``format(value, fmt)``.

    Example:
        >>> len(matrix(np.eye(3), rows="abc", columns="abc", annotate=True).axes)
        1
    """
    table = parts.as_stack(values, "values", 2, "[rows, columns]")
    width = float(np.clip(0.55 * table.shape[1] + 1.6, 4.0, WIDTH))
    height = float(np.clip((width - 1.6) * table.shape[0] / table.shape[1], 1.0, 7.0))
    fig, (ax,) = parts.new_figure(width, height + 0.9, title, layout="compressed")
    drawn = ax.imshow(table, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _names(ax, rows, columns, table.shape)
    if annotate:
        _write_cells(ax, [[format(value, fmt) for value in row] for row in table.tolist()])
    if label or not annotate:
        fig.colorbar(drawn, ax=ax, label=label)
    return fig


def lines(
    series: Mapping[str, Sequence[Array]], xlabel: str, ylabel: str, title: str | None = None, logx: bool = False,
    logy: bool = False, legend_columns: int | None = None
) -> Figure:
    """Draw curves over one pair of axes; colour, line style and marker all tell them apart.

    Args:
        series: ``{label: (x, y)}``, or ``{label: (x, y, low, high)}`` for a curve with a band; all 1-D and of one
            length. A value that is not finite leaves a gap.
        legend_columns: Lay the legend below the axes, in so many columns, where it would hide curves.

    Example:
        >>> fig = lines({"loss": ([1, 2, 3], [0.9, 0.5, 0.4])}, xlabel="epoch", ylabel="loss (nats)")
        >>> fig.axes[0].get_xlabel()
        'epoch'
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: (x, y)}")
    fig, (ax,) = parts.new_figure(WIDTH, 3.5, title)
    for index, (label, curve) in enumerate(series.items()):
        parts.draw_curve(ax, index, label, curve)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if logx:
        _log_x(ax, np.unique(np.concatenate([parts.as_array(curve[0]) for curve in series.values()])))
    if logy:
        ax.set_yscale("log")
    if legend_columns:
        fig.legend(loc="outside lower center", ncols=legend_columns, handlelength=3)
    elif len(series) > 1:
        ax.legend(handlelength=3)
    return fig


def bars(
    values: Mapping[str, float], ylabel: str, title: str | None = None,
    errors: Mapping[str, float | tuple[float, float]] | None = None
) -> Figure:
    """Draw one bar a value, with the value written at its end.

    Args:
        values: ``{label: value}``.
        errors: ``{label: half of the error bar}``, or ``{label: (below, above)}``, in the values' unit, for the same
            labels.

    Example:
        >>> fig = bars({"one": 1, "two": 2}, ylabel="patches", errors={"one": 0.1, "two": 0.2})
        >>> [text.get_text() for text in fig.axes[0].get_xticklabels()]
        ['one', 'two']
    """
    if not values:
        raise ValueError("values is empty: pass at least one {label: value}")
    if errors is not None and set(errors) != set(values):
        raise ValueError(f"errors has the labels {sorted(errors)}, values has {sorted(values)}: name the same ones")
    heights = [float(value) for value in values.values()]
    spread = None if errors is None else np.array([np.broadcast_to(errors[label], 2) for label in values], float).T
    room = max(8, int(70 / len(values)))
    fig, (ax,) = parts.new_figure(WIDTH, 3.5, title)
    names = [parts.plain(textwrap.fill(label, room)) for label in values]
    drawn = ax.bar(range(len(names)), heights, width=0.65, color=COLOURS[0], yerr=spread, capsize=5)
    ax.bar_label(drawn, labels=_alike(heights), padding=3)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel(ylabel)
    ax.grid(False, axis="x")
    ax.margins(y=0.12)
    return fig


def dots(series: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str, title: str | None = None) -> Figure:
    """Draw points, each series in a colour and marker of its own.

    Args:
        series: ``{label: (x, y)}``, both 1-D and of one length.

    Example:
        >>> len(dots({"ViT": ([1, 2], [3, 4]), "ResNet": ([1, 2], [4, 5])}, "FLOP", "accuracy (%)").axes[0].lines)
        2
    """
    if not series:
        raise ValueError("series is empty: pass at least one {label: (x, y)}")
    fig, (ax,) = parts.new_figure(WIDTH, 3.6, title)
    for index, (label, curve) in enumerate(series.items()):
        parts.draw_curve(ax, index, label, curve, linestyle="", markevery=None)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return fig


def confusion(counts: Array, classes: Sequence[str], title: str | None = None) -> Figure:
    """Draw which class is taken for which.

    Args:
        counts: ``[K, K]`` numbers of images: the true class by row, the predicted class by column.

    Example:
        >>> fig = confusion([[9, 1], [2, 8]], classes=["cat", "fish"])
        >>> fig.axes[0].get_ylabel()
        'true class'
    """
    table = parts.as_stack(counts, "counts", 2, "[K, K]")
    if table.shape[0] != table.shape[1]:
        raise ValueError(f"counts must be square, one row and one column a class; its shape is {table.shape}")
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    fig = matrix(
        share, classes, classes, "predicted class", "true class", label="share of the true class",
        title=title, cmap="Blues", vmin=0, vmax=1,
    )
    _write_cells(fig.axes[0], [[format(count, ".0f") for count in row] for row in table.tolist()])
    return fig


def history(history: Mapping[str, Sequence[float]], title: str | None = None) -> Figure:
    """Draw a training run: the loss above, the validation accuracy below.

    Args:
        history: Lists by name: ``step`` and ``loss`` (one entry a logged step), and with validation ``val_step``,
            ``val_loss`` and ``val_accuracy`` (a fraction). Other entries are not drawn.

    Example:
        >>> len(history({"step": [1, 2, 3], "loss": [2.3, 1.9, 1.7]}).axes)
        1
    """
    validated = len(history.get("val_step", ())) > 0
    for name in ("step", "loss", "val_loss", "val_accuracy") if validated else ("step", "loss"):
        if name not in history:
            raise ValueError(f"history has no {name!r}, only {sorted(history)}")
    fig, axes = parts.new_figure(WIDTH, 5.4, title, rows=2) if validated else parts.new_figure(WIDTH, 3.2, title)
    above, below = axes[0], axes[-1]
    if validated:
        below.sharex(above)
        above.tick_params(labelbottom=False)
    _training_loss(above, history["step"], history["loss"])
    above.set_ylabel("loss (nats)")
    if validated:
        parts.draw_curve(above, 1, "validation", (history["val_step"], history["val_loss"]))
        percent = 100 * parts.as_array(history["val_accuracy"])
        parts.draw_curve(below, 1, "validation", (history["val_step"], percent))
        below.set_ylabel("top-1 accuracy (%)")
    if len(above.lines) > 1:
        above.legend(handlelength=3)
    below.set_xlabel("training step")
    below.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    return fig


# Below: what only these figures need.


def _cuts(ax: Axes, rows: int, cols: int, tall: int, wide: int) -> None:
    """Lines between the patches, dark under white, so that they show on any image."""
    for width, colour in ((2.0, "black"), (0.9, "white")):
        for row in range(1, rows):
            ax.axhline(row * tall - 0.5, color=colour, linewidth=width, linestyle="-", marker="")
        for col in range(1, cols):
            ax.axvline(col * wide - 0.5, color=colour, linewidth=width, linestyle="-", marker="")


def _names(ax: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None, shape: tuple[int, ...]) -> None:
    parts.check_count("rows", rows, shape[0], "row")
    parts.check_count("columns", columns, shape[1], "column")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if rows is not None:
        ax.set_yticks(range(shape[0]), map(parts.plain, rows))
    if columns is not None:
        crowded = shape[1] * max(len(name) for name in columns) > 40
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        ax.set_xticks(range(shape[1]), map(parts.plain, columns), **turn)


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


def _log_x(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic x axis; where the curves have few different x, and far enough apart, these are its ticks."""
    ax.set_xscale("log")
    if len(values) <= 8 and (1.2 * values[:-1] < values[1:]).all():
        ax.set_xticks(values, [_short(value) for value in values])
        ax.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """Three digits of a small number, all places before the point of a large one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _training_loss(ax: Axes, step: Array, loss: Array) -> None:
    """The loss of every logged step; of a long run also its running mean, which is easier to follow."""
    window = len(loss) // 50
    if window < 2:
        parts.draw_curve(ax, 0, "training", (step, loss))
        return
    parts.draw_curve(ax, 0, "training, each entry of the log", (step, loss), color="#9fc5e8", linewidth=0.7, marker="")
    mean = np.convolve(parts.as_array(loss), np.ones(window) / window, mode="valid")
    parts.draw_curve(ax, 0, f"training, mean of {window} entries", (parts.as_array(step)[window - 1 :], mean))


def _alike(values: Sequence[float]) -> list[str]:
    """Values as ``_short`` writes them, each with at least the decimals of the largest: 69.0 beside 69.4."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    if all(value.is_integer() for value in finite):
        return [_short(value) for value in values]
    decimals = min(3, max(1, 2 - math.floor(math.log10(max(finite)))))
    return [max(_short(value), f"{value:,.{decimals}f}", key=len) for value in values]
