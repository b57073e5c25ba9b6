"""Every kind of figure in the book, in one style.

Each function takes tensors or arrays, and returns a matplotlib ``Figure``. The figure is already closed for pyplot, so
a notebook shows it once: make the call the last line of its cell, or pass it to ``display``. Titles are the caller's:
``title`` states what the figure shows, and wraps to its width. What cannot be drawn is refused with a ``ValueError``
that says what was expected.

What is called alike means the same everywhere: ``xlabel``, ``ylabel`` and ``label`` (of the colours) say what is
measured, with its unit; ``vmin`` and ``vmax`` are the ends of the colour scale, by default the smallest and the largest
value; ``titles`` are one short text above each picture, ``columns`` the pictures in a row, and ``size`` the width of
one in inches, less where a row would be wider than 7.
"""

from vitlite.plots.figures import (
    bars,
    confusion,
    dots,
    heatmaps,
    history,
    image_grid,
    lines,
    matrix,
    patch_grid,
    use_style,
)
from vitlite.plots.inside import distance_scatter, filter_tiles, head_maps, overlays, similarity_grid
from vitlite.plots.parts import COLOURS as COLOURS
from vitlite.plots.parts import SMALL_IMAGE as SMALL_IMAGE
from vitlite.plots.parts import WIDEST as WIDEST
from vitlite.plots.parts import Array as Array

__all__ = [
    "bars", "confusion", "distance_scatter", "dots", "filter_tiles", "head_maps", "heatmaps", "history", "image_grid",
    "lines", "matrix", "overlays", "patch_grid", "similarity_grid", "use_style",
]
