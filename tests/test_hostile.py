"""Names as data have them, class names and files' names: on a page they are text, never code."""

from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from playwright.sync_api import Browser

from experiments import records
from vitlite import explore

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
