"""The built pages: read as files, then opened in a browser, from the disk and from a server."""

import functools
import http.server
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page, Request

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "book/tools"))

import pdf  # noqa: E402
import vendor  # noqa: E402

SITE = ROOT / "_build/html"
MOVED = {"notebooks/02_positions.html": "notebooks/03_positions.html",
         "notebooks/03_attention.html": "notebooks/02_attention.html"}
PAGES = sorted({str(path.relative_to(SITE)) for part in ("book", "notebooks") for path in (SITE / part).glob("*.html")}
               - set(MOVED))
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}
MARKUP = r"\{(term|cite|doc|ref|eq|numref|glue)[:a-z]*\}|\[\?\]|\?\?\?|\| *(-+|–|—) *\||\*\*[^*\n]+\*\*"
PRINTED = "() => document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(() => true)"

BYTES = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, x) => sum + x.encodedBodySize, 0)"""

STICKING_OUT = """() => [...document.querySelectorAll('.bd-article *')]
    .filter(x => x.checkVisibility() && x.getBoundingClientRect().right > innerWidth + 1)
    .filter(x => {  // what scrolls in a box of its own does not stick out
        for (let box = x.parentElement; box; box = box.parentElement)
            if (box.matches('.bd-article')) return true;
            else if (getComputedStyle(box).overflowX !== 'visible') return false;
        return true;
    }).map(x => x.outerHTML.slice(0, 160))"""

# What has the focus: its text and tag, its distance from the left, and whether a ring is drawn around it.
FOCUS = """() => { const at = document.activeElement, style = getComputedStyle(at);
    return [at.tagName + " " + (at.ariaLabel || at.innerText), at.getBoundingClientRect().left,
            style.outlineStyle !== "none" && style.outlineWidth !== "0px" || style.boxShadow !== "none"] }"""
# What axe calls critical or serious: the rule, how often, and the first of the elements.
AXE = """options => axe.run(document, { resultTypes: ["violations"], ...options }).then(({ violations }) => violations
    .filter(x => ["critical", "serious"].includes(x.impact))
    .map(x => [x.impact, x.id, x.nodes.length, x.nodes[0].html.slice(0, 160), x.nodes[0].failureSummary]))"""


@functools.cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")


if not (SITE / "index.html").exists():
    pytest.fail("there are no pages to check: run `make book` or `make html` first", pytrace=False)


# ---------------------------------------------------------------- as files


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in soup(page).select("a[href], link[href], img[src], script[src]"):
        address = urlsplit(link.get("href") or link.get("src"))
        if address.scheme or address.netloc:
            continue
        target = (SITE / page).parent / unquote(address.path) if address.path else SITE / page
        assert target.is_file(), f"{link} leads to no file"
        if address.fragment and link.name == "a":
            there = soup(str(target.resolve().relative_to(SITE)))
            name = unquote(address.fragment)
            assert there.find(id=name) or there.find(attrs={"name": name}), f"{link} leads to no place on its page"


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_described(page: str) -> None:
    for picture in soup(page).select(".bd-article img"):
        text = picture.get("alt", "").strip()
        assert text, f"{picture.get('src')} has no alternative text"
        assert " " in text, f"{text!r} is no description"
        assert not text.endswith((".png", ".svg", ".jpg", ".jpeg", ".webp")), f"{text!r} is a file's name"


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_printed_as_it_stands(page: str) -> None:
    article = soup(page).select_one(".bd-article")
    for code in article.select("pre, code, script"):
        code.extract()
    left = re.search(MARKUP, article.get_text())
    soup.cache_clear()
    assert not left, f"{left[0]} is printed as it stands"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_leads_to_the_questions_and_to_its_neighbours(page: str) -> None:
    order = [f"{name}.html" for _, names in pdf.contents() for name in names]
    place = order.index(page)
    neighbours = [*order[max(0, place - 1):place], *order[place + 1:place + 2]]
    links = {(SITE / page).parent.joinpath(urlsplit(link["href"]).path).resolve() if urlsplit(link["href"]).path
             else SITE / page for link in soup(page).select("a[href]")}
    assert {SITE / name for name in neighbours} <= {
        (SITE / page).parent.joinpath(link["href"]).resolve() for link in soup(page).select(".prev-next-area a[href]")}
    assert SITE / "book/questions.html" in links


def test_the_site_is_light() -> None:
    total = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    assert total < 45e6, f"{total / 1e6:.1f} MB"


def test_the_joined_page_for_paper_leads_to_places_within_itself() -> None:
    joined = BeautifulSoup(pdf.joined(), "html.parser")
    names = {part["id"] for part in joined.select("[id]")}
    links = [link["href"] for link in joined.select("a[href^='#']")]
    assert len(links) > 100
    assert {link for link in links if unquote(link[1:]) not in names} == set()
    elsewhere = {link["href"] for link in joined.select("a[href]")} - set(links)
    assert {link for link in elsewhere if urlsplit(link).scheme != "https"} == set()  # a book on paper has no folder
    assert len(joined.select("article.bd-article")) == sum(len(pages) for _, pages in pdf.contents())
    for picture in joined.select("img[src]"):
        if not urlsplit(picture["src"]).scheme:
            assert (SITE.parent / unquote(urlsplit(picture["src"]).path)).is_file(), picture["src"]


def test_the_printed_contents_name_the_page_on_which_a_chapter_begins(tmp_path: Path) -> None:
    file = tmp_path / "book.pdf"
    file.write_bytes(b"7 0 obj\n<</Type /Page\n>>\n9 0 obj\n<</Type /Page\n>>\n10 0 obj\n<</Type /Pages\n>>\n"
                     b"11 0 obj\n<</book.preface [7 0 R /XYZ 0 842 0]\n/notebooks.01..cut [9 0 R /XYZ 0 5 0]>>")
    numbers = pdf.beginnings(file)
    assert numbers == {"notebooks.01..cut": 2, "book.preface": 1}
    pages = [page for _, names in pdf.contents() for page in names]
    joined = BeautifulSoup(pdf.joined({pdf.place(page): 10 + at for at, page in enumerate(pages)}), "html.parser")
    assert [part.get_text() for part in joined.select(".contents p span")] == [str(10 + at) for at in range(len(pages))]


# ---------------------------------------------------------------- in a browser


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a local server of the pages."""
    handler = functools.partial(QuietHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(params=["file", "http"])
def base(request: pytest.FixtureRequest) -> str:
    """Where the pages are opened from."""
    return f"{SITE.as_uri()}/" if request.param == "file" else request.getfixturevalue("server")


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A browser's tab that writes down what went wrong, in ``tab.trouble``."""
    context = browser.new_context(viewport=DESKTOP)
    tab = context.new_page()
    tab.trouble = []
    tab.on("console", lambda line: line.type in ("error", "warning") and tab.trouble.append(f"console: {line.text}"))
    tab.on("pageerror", lambda error: tab.trouble.append(f"script: {error}"))
    tab.on("requestfailed", lambda request: tab.trouble.append(f"not found: {request.url}"))
    tab.on("request", lambda request: is_elsewhere(request) and tab.trouble.append(f"elsewhere: {request.url}"))
    yield tab
    context.close()


def is_elsewhere(request: Request) -> bool:
    address = urlsplit(request.url)
    return address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1"


def open_page(tab: Page, address: str) -> None:
    """Open a page and wait until its fonts, formulas and scripts are done."""
    tab.goto(address, wait_until="load")
    tab.wait_for_function(PRINTED)
    tab.wait_for_timeout(200)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_trouble(tab: Page, base: str, page: str) -> None:
    open_page(tab, base + page)
    assert tab.trouble == []
    broken = tab.evaluate("[...document.images].filter(x => x.complete && !x.naturalWidth).map(x => x.src)")
    assert broken == []
    assert tab.locator(".bd-article .math mjx-container").count() >= len(soup(page).select(".bd-article .math"))
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0, "MathJax cannot read a formula"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_light_with_all_that_it_loads(tab: Page, server: str, page: str) -> None:
    open_page(tab, server + page)
    assert tab.evaluate(BYTES) < 3e6


def test_every_icon_is_drawn(tab: Page) -> None:
    """The theme's script has lost the icons that no page names, and no other."""
    open_page(tab, f"{SITE.as_uri()}/{PAGES[-1]}")
    assert tab.locator("svg.svg-inline--fa path").count() > 5
    assert tab.locator("svg.svg-inline--fa.fa-circle-question, svg .missing, i[class*=fa-]:visible").count() == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_scrolls_down_only(tab: Page, page: str) -> None:
    tab.set_viewport_size(PHONE)
    open_page(tab, f"{SITE.as_uri()}/{page}")
    assert tab.evaluate(STICKING_OUT) == [], "this sticks out of the page to the right"
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_tab_key_stays_on_a_phones_page_and_one_sees_where_it_is(tab: Page) -> None:
    tab.set_viewport_size(PHONE)
    open_page(tab, f"{SITE.as_uri()}/notebooks/02_attention.html")
    stops = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        stops.append(tab.evaluate(FOCUS))
    assert len({name for name, _, _ in stops}) > 20
    assert [name for name, left, _ in stops if not 0 <= left < PHONE["width"]] == []
    assert [name for name, _, ring in stops if not ring] == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_keeps_people_from_a_page(tab: Page, page: str, until_still: Callable[[Page], None]) -> None:
    open_page(tab, f"{SITE.as_uri()}/{page}")
    tab.evaluate(vendor.axe().read_text(encoding="utf-8"))
    assert tab.evaluate(AXE, {}) == []
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    until_still(tab)
    assert tab.evaluate(AXE, {"runOnly": ["color-contrast"]}) == []


def test_axe_is_not_part_of_the_book() -> None:
    assert not list(SITE.rglob("axe*.js"))


def test_the_button_changes_the_mode(tab: Page) -> None:
    open_page(tab, f"{SITE.as_uri()}/{PAGES[-1]}")
    seen = set()
    for _ in range(3):
        seen.add(tab.locator("html").get_attribute("data-theme"))
        tab.locator("button.theme-switch-button:visible").first.click()
    assert seen == {"light", "dark"}


def test_figures_lie_on_white_in_the_dark(tab: Page) -> None:
    tab.add_init_script("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    with_figures = [page for page in PAGES if soup(page).select(".bd-article .cell_output img")]
    assert with_figures
    open_page(tab, f"{SITE.as_uri()}/{with_figures[0]}")
    style = "x => [getComputedStyle(x).backgroundColor, getComputedStyle(x).filter]"
    assert tab.locator(".bd-article .cell_output img").first.evaluate(style) == ["rgb(255, 255, 255)", "none"]


def test_search_finds_a_word(tab: Page, base: str) -> None:
    open_page(tab, f"{base}search.html?q=patch")
    tab.locator("#search-results li a").first.wait_for(timeout=10_000)
    assert tab.locator("#search-results li").count() >= 2
    assert tab.trouble == []


def test_the_front_door_leads_to_the_first_page(tab: Page, base: str) -> None:
    tab.goto(f"{base}index.html")
    tab.wait_for_url("**/book/preface.html")


@pytest.mark.parametrize("old", MOVED)
def test_an_old_address_leads_to_the_page_that_moved(tab: Page, base: str, old: str) -> None:
    tab.goto(f"{base}{old}#summary")
    tab.wait_for_url(f"**/{MOVED[old]}#summary")
