"""Names as data have them, class names and files' names: on a page they are text, in a figure letters, never code."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser

from experiments import records
from vitlite import explore, plots

NAMES = ["<script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>", "</script><script>window.hit = 1//",
         "a|b", "\\|", "&lt;b&gt;", "'\"><svg onload=window.hit=1>", "<!--", "]]>", "$\\frac{1$", "_low",
         "${window.hit=1}", "a`b", "\u2028", "{{window.hit=1}}", "<a href=javascript:window.hit=1>x</a>"]
PAGE = "<!doctype html><meta charset=utf-8><title>x</title><body>"


def test_names_are_text_on_a_page(browser: Browser, tmp_path: Path) -> None:
    grids = {name: np.eye(2) for name in NAMES}
    figures = [explore.resolution_explorer(grids, NAMES[0], title=name) for name in NAMES]
    figures.append(explore.similarity_explorer(np.eye(4).reshape(2, 2, 2, 2), title=NAMES[1]))
    table = MarkdownIt("commonmark", {"html": True}).enable("table").render(
        records.table(["name", NAMES[0]], [[name, "1.0"] for name in NAMES]))
    page = tmp_path / "page.html"
    page.write_text(PAGE + table + "".join(figure.html for figure in figures), encoding="utf-8")
    tab, trouble = browser.new_page(), []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("dialog", lambda dialog: trouble.append(dialog.message))
    tab.goto(page.as_uri())
    assert tab.evaluate("window.hit") is None
    assert trouble == []
    assert tab.locator("table tbody tr").count() == len(NAMES)
    assert tab.locator("table").locator("img, script, svg, a").count() == 0
    assert tab.locator("table td").first.text_content() == NAMES[0]
    titles = tab.locator(".vitlite-explorer").evaluate_all("all => all.map(x => x.textContent)")
    assert len(titles) == len(figures)
    assert all(name.strip() in title for name, title in zip(NAMES, titles, strict=False) if name.strip())
    tab.close()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_letters_in_a_figure(name: str) -> None:
    image, two = np.zeros((2, 8, 8, 3)), [name, f"{name} 2"]
    for figure in (
        plots.confusion(np.eye(2), two), plots.image_grid(image, titles=two), plots.bars(dict.fromkeys(two, 1.0), "y"),
        plots.lines({each: ([1, 2], [1, 2]) for each in two}, "x", "y"), plots.heatmaps(np.ones((2, 2, 2)), titles=two),
        plots.dots({each: ([1, 2], [1, 2]) for each in two}, "x", "y"), plots.matrix(np.eye(2), rows=two, columns=two),
        plots.overlays(image, {name: np.ones((2, 2, 2))}),
        plots.filter_tiles({name: np.ones((4, 3, 2, 2))}), plots.distance_scatter({name: np.ones((2, 2))}),
    ):
        figure.canvas.draw()
        plt.close(figure)
