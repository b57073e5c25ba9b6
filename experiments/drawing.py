"""The drawing of the whole model, which returns at the opening of each chapter of Part I."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from vitlite.plots import parts
from vitlite.plots.parts import COLOURS, WIDTH, Array

__all__ = ["whole_model"]

INK, PALE, MARK = "#222222", "#e4e4e4", COLOURS[1]
FILL = {"patches": "#cfe3f3", "positions": "#cdebdd", "attention": "#f9d9b8", "block": "#ecdcf0"}
CHAPTER = {"patches": 1, "attention": 2, "positions": 3, "block": 4}
BOXES = (  # name, left edge, part; those from the norms to the MLP stand inside the block
    ("cut, project", 1.22, "patches"), ("norm", 3.05, "block"), ("attention", 3.4, "attention"),
    ("norm", 4.06, "block"), ("MLP", 4.4, "block"), ("norm", 5.2, "block"), ("head", 5.55, "block"),
)
MIDDLE = {"patches": 1.35, "positions": 2.47, "attention": 3.53, "block": 4.54}  # of the mark, in inches


def whole_model(image: Array, here: str | None = None, title: str | None = None) -> Figure:
    """Draw the Vision Transformer from image to answer, with one part marked: you are here.

    Args:
        image: ``[C, H, W]`` or ``[H, W, C]`` with one or three channels; uint8, or floats in [0, 1].
        here: The part to mark: ``"patches"``, ``"attention"``, ``"positions"`` or ``"block"``. None marks no part, and
            writes below each the number of its chapter.

    Raises:
        ValueError: If there is no such part.

    Example:
        >>> whole_model(np.random.rand(48, 48, 3), here="attention").axes[0].texts[-1].get_text()
        'you are here'
    """
    picture = parts.as_image(image)
    if here is not None and here not in CHAPTER:
        raise ValueError(f"here is {here!r}; expected one of {', '.join(map(repr, CHAPTER))}, or None")
    fig, (ax,) = parts.new_figure(WIDTH, 2.45, title)
    ax.set(xlim=(0, 6.2), ylim=(-0.45, 2.0), aspect="equal")
    ax.axis("off")
    fill = FILL if here is None else {part: FILL[part] if part == here else PALE for part in FILL}
    _patches(ax, picture)
    _tokens(ax, fill)
    ax.add_patch(FancyBboxPatch((2.82, 0.05), 2.1, 1.5, boxstyle="round,pad=0,rounding_size=0.08", fill=False,
                                edgecolor=INK, linestyle="--", linewidth=1))
    ax.text(3.87, 1.62, "block, L times", ha="center", va="bottom", color=INK)
    line = {"color": INK, "linewidth": 1, "marker": "", "linestyle": "-", "zorder": 0}
    ax.plot([2.66, 5.1], [0.75, 0.75], **line)
    for left, plus in ((2.94, 3.82), (3.97, 4.81)):  # residual connections: round the branch, to the sum
        ax.plot([left, left, plus, plus], [0.75, 1.42, 1.42, 0.75], **line)
        ax.text(plus, 0.75, "+", ha="center", va="center", color=INK, fontsize=10,
                bbox={"boxstyle": "circle,pad=0.05", "facecolor": "white", "edgecolor": INK})
    for name, left, part in BOXES:
        _box(ax, left, 0.2, 0.26, 1.1, fill[part])
        ax.text(left + 0.13, 0.75, name, rotation=90, ha="center", va="center", color=INK)
    for start, end in ((1.0, 1.2), (1.5, 1.72), (2.6, 3.05), (4.9, 5.19), (5.83, 5.98)):
        ax.annotate("", (end, 0.75), (start, 0.75),
                    arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})
    ax.text(6.01, 0.75, "class", rotation=90, ha="left", va="center", color=INK)
    for part, x in MIDDLE.items():
        if here is None:
            ax.text(x, -0.05, f"chapter {CHAPTER[part]}", ha="center", va="top", color=INK, fontsize=10)
        elif part == here:
            ax.annotate("you are here", (x, 0.08), (x, -0.2), ha="center", va="top", color=MARK, fontweight="bold",
                        arrowprops={"arrowstyle": "-|>", "color": MARK, "linewidth": 2, "shrinkA": 0, "shrinkB": 0})
    return fig


def _patches(ax: Axes, picture: np.ndarray) -> None:
    """The image as nine pieces, a little apart."""
    rows, columns = (np.linspace(0, side, 4).astype(int) for side in picture.shape[:2])
    for row, column in np.ndindex(3, 3):
        piece = picture[rows[row]:rows[row + 1], columns[column]:columns[column + 1]]
        left, low = 0.03 + 0.32 * column, 0.28 + 0.32 * (2 - row)
        ax.imshow(piece.repeat(3 // piece.shape[2], axis=2), extent=(left, left + 0.3, low, low + 0.3))


def _tokens(ax: Axes, fill: dict[str, str]) -> None:
    """A column of tokens, one a patch, the class token on top, and a column of positions that is added to it."""
    for i in range(10):
        for x, part in ((1.83, "patches"), (2.4, "positions")):
            ax.add_patch(Rectangle((x, 0.08 + 0.135 * i), 0.115, 0.115, facecolor=fill[part], edgecolor=INK,
                                   linewidth=2 if i == 9 and part == "patches" else 0.8))
    ax.text(2.18, 0.75, "+", ha="center", va="center", color=INK, fontweight="bold")
    ax.text(1.72, 1.48, "class token", ha="center", va="bottom", color=INK, fontsize=10)
    ax.text(2.5, 1.48, "position", ha="center", va="bottom", color=INK, fontsize=10)


def _box(ax: Axes, left: float, low: float, width: float, height: float, colour: str) -> None:
    ax.add_patch(FancyBboxPatch((left, low), width, height, boxstyle="round,pad=0,rounding_size=0.05", facecolor=colour,
                                edgecolor=INK, linewidth=1))
