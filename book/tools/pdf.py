"""Print the whole book into one file, _build/book.pdf, from the built pages and through the browser.

The pages are joined in the order of the contents into one page, whose links lead to places within it: so they work in
the file too. The file has an outline, and contents in front. It is printed twice: the first time says on which page
each chapter begins, and the second puts these numbers into the contents.
"""

import re
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from chromium import chromium
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build/html"
JOINED = ROOT / "_build/book.html"  # beside the site, whose files it uses
PDF = ROOT / "_build/book.pdf"
NUMBER = '<div style="width: 100%; font-size: 8px; text-align: center"><span class="pageNumber"></span></div>'
PRINTED = "() => document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(() => true)"
LOADED = "Promise.all([...document.images].map(x => { x.loading = 'eager'; return x.decode().catch(() => 0) }))"
# What is of no use on paper: buttons, marks beside headings, what only a hand can use.
UNPRINTED = ".headerlink, button, .copybtn, noscript, .toggle-button"


def contents() -> list[tuple[str, list[str]]]:
    """The parts of the book with the pages of each, by their names without ending."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [("", [toc["root"]])]
    return parts + [(part.get("caption", ""), [entry["file"] for entry in part["chapters"]]) for part in toc["parts"]]


def place(page: str, fragment: str = "") -> str:
    """The name within the joined page of a place on a page of the site."""
    name = page.replace("/", ".")
    return f"{name}..{fragment}" if fragment else name


def article(page: str, pages: set[str]) -> Tag:
    """The body of a page of the site, its names and addresses those of the joined page."""
    soup = BeautifulSoup((SITE / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    body = soup.select_one(".bd-article")
    for part in body.select(UNPRINTED):
        part.decompose()
    for part in body.select("[id]"):
        if not part.find_parent(class_="text_html"):  # within an interactive figure a script looks for its names
            part["id"] = place(page, part["id"])
    for link in body.select("a[href]"):
        link["href"] = address(link["href"], page, pages)
        if link["href"].startswith("html/"):
            link.unwrap()  # a file beside the pages is not in the book: its name alone is printed
    for name in ("src", "data"):
        for part in body.select(f"[{name}]"):
            part[name] = address(part[name], page, pages)
    for part in body.select("details:not(.hide)"):
        part["open"] = ""  # solutions are read, the code of a drawing is not
    body.name, body.attrs = "article", {"class": "bd-article", "id": place(page)}
    return body


def address(link: str, page: str, pages: set[str]) -> str:
    """An address on a page of the site as the joined page has it."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return link
    target = PurePosixPath(page).parent / unquote(parts.path) if parts.path else PurePosixPath(f"{page}.html")
    steps: list[str] = []
    for step in target.parts:
        steps = steps[:-1] if step == ".." else [*steps, step]
    name = "/".join(steps)
    if name.removesuffix(".html") in pages:
        return f"#{place(name.removesuffix('.html'), unquote(parts.fragment))}"
    return f"html/{name}{f'?{parts.query}' if parts.query else ''}{f'#{parts.fragment}' if parts.fragment else ''}"


def joined(numbers: dict[str, int] | None = None) -> str:
    """The whole book as one page; with `numbers`, the contents say where in the file each chapter begins."""
    parts = contents()
    pages = {page for _, those in parts for page in those}
    first = BeautifulSoup((SITE / f"{parts[0][1][0]}.html").read_text(encoding="utf-8"), "html.parser")
    styles = "\n".join(f'<link rel="stylesheet" href="{address(link["href"], parts[0][1][0], pages)}">'
                       for link in first.select('head link[rel="stylesheet"]'))
    title = first.title.get_text().rpartition("—")[2].strip()
    bodies, lines = [], []
    for caption, those in parts:
        lines.append(f"<h2>{caption}</h2>" if caption else "")
        for page in those:
            body = article(page, pages)
            heading = re.sub(r"\s+", " ", body.find("h1").get_text()).strip()
            number = numbers[place(page)] if numbers else "000"
            lines.append(f'<p><a href="#{place(page)}">{heading}</a><span>{number}</span></p>')
            bodies.append(str(body))
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{title}</title>
{styles}
<script>window.MathJax = {{options: {{processHtmlClass: "tex2jax_process|mathjax_process|math|output_area"}},
loader: {{load: ["input/tex", "output/chtml", "a11y/assistive-mml"]}}}}</script>
<script defer src="html/_static/vendor/mathjax/startup.js"></script>
</head>
<body class="whole-book"><nav class="contents"><h1>{title}</h1>
{"".join(lines)}
</nav>
{"".join(bodies)}
</body></html>
"""


def write(source: Path, target: Path) -> None:
    """Print a page into a file, once its formulas stand and its pictures are there."""
    path = chromium()
    if not path:
        sys.exit("make pdf prints through Chromium or Chrome, and there is none here: install one of them")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path)
        tab = running.new_page()
        tab.set_default_timeout(300_000)
        tab.goto(source.as_uri(), wait_until="load")
        tab.wait_for_function(PRINTED)
        tab.evaluate(LOADED)
        tab.pdf(path=target, format="A4", print_background=True, outline=True, tagged=True, display_header_footer=True,
                header_template="<span></span>", footer_template=NUMBER,
                margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"})
        running.close()


def beginnings(file: Path) -> dict[str, int]:
    """The number of the page of each named place in a file that the browser printed."""
    content = file.read_bytes()
    pages = [match[1] for match in re.finditer(rb"(\d+) 0 obj\s*<</Type /Page\s", content)]
    return {match[1].decode(): pages.index(match[2]) + 1
            for match in re.finditer(rb"/(\S+) \[(\d+) 0 R /XYZ", content)}


def main() -> None:
    """Join the pages, print them, and say where the file is."""
    numbers = None
    for _ in range(2):
        JOINED.write_text(joined(numbers), encoding="utf-8")
        write(JOINED, PDF)
        numbers = beginnings(PDF)
    print(f"{PDF.relative_to(ROOT)}: {PDF.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
