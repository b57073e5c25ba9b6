"""Interactive figures: small, described, exact, and answering to mouse, touch and keys with the network cut."""

import json
import re
import tomllib
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Locator, Page

from vitlite import ViT, ViTConfig, analysis, explore

ROOT = Path(__file__).resolve().parents[2]
LAYERS, HEADS, GRID, PREFIX = 3, 2, (4, 6), 1
TOKENS = PREFIX + GRID[0] * GRID[1]
YELLOW = matplotlib.colormaps["viridis"](1.0)[:3]


def similarity() -> np.ndarray:
    """Positions are alike as they are near: 1 on the spot, and 0.1 less for each step in the longer direction."""
    rows, cols = np.indices(GRID)
    steps = [np.maximum(abs(rows - row), abs(cols - col)) for row, col in np.ndindex(GRID)]
    return 1 - 0.1 * np.stack(steps).reshape(*GRID, *GRID)


def target(layer: int, head: int, query: int) -> int:
    """The one token that ``attention`` looks at."""
    return (query + 7 * layer + 3 * head) % TOKENS


def attention() -> torch.Tensor:
    """Each token gives 0.75 of its attention to one token more than to each other."""
    maps = torch.full((LAYERS, HEADS, TOKENS, TOKENS), 0.25 / TOKENS)
    for layer, head, query in np.ndindex(LAYERS, HEADS, TOKENS):
        maps[layer, head, query, target(layer, head, query)] += 0.75
    return maps


def rollout() -> np.ndarray:
    """Two images; the largest weight of the first walks along the top row, layer by layer."""
    maps = np.full((2, LAYERS, *GRID), 0.01)
    for layer in range(LAYERS):
        maps[0, layer, 0, layer] = 0.5
        maps[1, layer, 3, 5] = 0.25
    return maps


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 8, 12), generator=torch.manual_seed(0), dtype=torch.uint8)


def tables() -> dict[str, np.ndarray]:
    return {f"{4 * n} px": np.arange(n * n).reshape(n, n) / n**2 for n in (2, 4, 8)}


KINDS: dict[str, Callable[[], explore.Explorer]] = {
    "similarity": lambda: explore.similarity_explorer(similarity()),
    "attention": lambda: explore.attention_explorer(attention(), images()[0], GRID),
    "rollout": lambda: explore.rollout_explorer(rollout(), images()),
    "resolution": lambda: explore.resolution_explorer(tables(), "share of the sequence"),
    "colours": lambda: explore.resolution_explorer({"8 px": np.eye(3).reshape(3, 1, 3)}, "components as colours"),
}


@pytest.fixture(params=KINDS)
def figure(request: pytest.FixtureRequest) -> explore.Explorer:
    """Each kind of figure."""
    return KINDS[request.param]()


def root(figure: explore.Explorer) -> BeautifulSoup:
    return BeautifulSoup(figure._repr_html_(), "html.parser").select_one(".vitlite-explorer")


def data(figure: explore.Explorer) -> dict:
    return json.loads(root(figure)["data-figure"])


def stored(figure: explore.Explorer) -> np.ndarray:
    """The values that a figure shows, ``[frames, values]``."""
    found = data(figure)
    whole = np.frombuffer(b64decode(found["bytes"]), np.uint8).reshape(-1, found["size"])
    ends = np.broadcast_to(np.array(found["high"])[:, None], whole.shape).copy()
    ends[:, : len(found["prefix"])] = 1
    return found["low"] + whole / 255 * (ends - found["low"])


# ---------------------------------------------------------------- what a notebook stores


def test_a_figure_has_its_text_beside_it(figure: explore.Explorer) -> None:
    box = root(figure)
    assert box["role"] == "group"
    assert box["aria-label"] == box.select_one(".ve-title").text == figure.title
    assert box["aria-description"] == box.select_one(".ve-caption").text == figure.description
    assert "arrow keys" in figure.description
    assert "JavaScript" in box.noscript.text
    assert repr(figure) == f"Interactive figure: {figure.title}. {figure.description}"


def test_a_figure_is_one_piece_and_the_same_each_time(figure: explore.Explorer, request: pytest.FixtureRequest) -> None:
    assert not re.search(r"https?:|//\w+\.\w|\b(?:src|href|id)=", figure.html)
    assert figure == KINDS[request.node.callspec.params["figure"]]()


def test_what_a_title_holds_cannot_leave_its_place() -> None:
    title = """'"><script>alert(1)</script> & $x$"""
    shown = explore.resolution_explorer({title: np.eye(2)}, title, title=title)
    assert root(shown)["aria-label"] == title
    assert data(shown)["sliders"][0]["values"] == [title]
    assert len(BeautifulSoup(shown.html, "html.parser").select("script")) == 1


def test_a_wheel_carries_the_style_and_the_script() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = {path.name for path in Path(explore.__file__).parent.iterdir() if path.suffix in (".css", ".js")}
    assert set(declared["vitlite.explore"]) == files == {"figure.css", "figure.js"}


def test_values_are_exact_to_half_a_step_of_256() -> None:
    assert np.abs(stored(KINDS["similarity"]()) - similarity().reshape(24, 24)).max() <= 0.5 * 0.5 / 255 + 1e-9
    found, maps = stored(KINDS["attention"]()), attention().reshape(-1, TOKENS).numpy()
    assert np.abs(found - maps)[:, PREFIX:].max() <= 0.76 * 0.5 / 255 + 0.001  # the scale has 3 digits
    assert np.abs(found - maps)[:, :PREFIX].max() <= 0.5 / 255 + 1e-6  # its scale ends at 1
    assert np.abs(stored(KINDS["rollout"]()) - rollout().reshape(6, 24)).max() <= 0.5 * 0.5 / 255 + 1e-9
    finest = tables()["32 px"].ravel()
    assert np.abs(stored(KINDS["resolution"]())[2] - finest).max() <= 0.5 / 255


def test_colours_are_kept_as_they_are() -> None:
    assert stored(KINDS["colours"]()).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1]]


def test_a_map_of_one_value_is_shown() -> None:
    assert stored(explore.similarity_explorer(np.ones((2, 2, 2, 2)))).min() == 1
    assert stored(explore.rollout_explorer(np.zeros((1, 2, 2, 2)), np.zeros((1, 4, 4, 3)))).max() == 0


def test_attention_comes_as_a_model_gives_it() -> None:
    config = ViTConfig(image_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, mlp_dim=8, num_classes=2)
    model = ViT(config).eval().bfloat16()
    image = torch.rand(3, 8, 8)
    with torch.no_grad():
        given = model(image[None].bfloat16(), return_attention=True)[1]
        layers = explore.attention_explorer(model.iter_attention(image[None].bfloat16()), image, (2, 2))
    assert layers == explore.attention_explorer([layer[0] for layer in given], image, (2, 2))
    assert layers == explore.attention_explorer(given, image, (2, 2))
    assert data(layers)["prefix"] == ["class token"]


def test_the_analyses_give_what_the_figures_take() -> None:
    model = ViT(ViTConfig(image_size=16, patch_size=4, embed_dim=8, depth=3, num_heads=2, mlp_dim=8, num_classes=2))
    pictures = torch.rand(2, 3, 16, 16)
    similar = analysis.position_similarity(model.position[0, 1:], (4, 4))
    assert np.abs(stored(explore.similarity_explorer(similar)) - similar.reshape(16, 16).numpy()).max() < 0.01
    with torch.no_grad():
        steps = [analysis.token_map(r, (4, 4)) for r in analysis.iter_rollout(model.iter_attention(pictures))]
    shown = stored(explore.rollout_explorer(torch.stack(steps, dim=1), pictures))
    np.testing.assert_allclose(shown[5], steps[2][1].flatten(), atol=0.01 * steps[2].max().item())


def test_chosen_layers_keep_their_numbers() -> None:
    shown = explore.attention_explorer(iter(attention()), images()[0], GRID, layers=(1, 3))
    assert data(shown)["sliders"][0]["values"] == ["1 of 3", "3 of 3"]
    half = len(stored(shown)) // 2
    whole = stored(KINDS["attention"]())
    np.testing.assert_array_equal(stored(shown), np.concatenate([whole[:half], whole[-half:]]))


def test_more_than_one_prefix_token() -> None:
    maps = np.full((1, 1, 6, 6), 1 / 6)
    assert data(explore.attention_explorer(maps, np.zeros((4, 4, 1)), (2, 2)))["prefix"] == [
        "class token",
        "prefix token 2",
    ]
    assert data(explore.attention_explorer(maps, np.zeros((4, 6, 1)), (2, 3)))["prefix"] == []


# ---------------------------------------------------------------- how large


def uniform(layers: int, heads: int, tokens: int) -> np.ndarray:
    return np.full((layers, heads, tokens, tokens), 1 / tokens)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


@pytest.mark.parametrize(
    "shown",
    [
        lambda: explore.attention_explorer(uniform(6, 8, 65), noise(32, 32, 3), (8, 8)),
        lambda: explore.attention_explorer(uniform(9, 12, 65), noise(32, 32, 3), (8, 8), layers=(1, 3, 5, 7, 9)),
        lambda: explore.attention_explorer(uniform(3, 1, 197), noise(224, 224, 3), (14, 14)),
        lambda: explore.similarity_explorer(noise(14, 14, 14, 14)),
        lambda: explore.rollout_explorer(noise(8, 12, 14, 14), noise(8, 112, 112, 3)),
        lambda: explore.resolution_explorer({str(n): noise(n, n, 3) for n in range(4, 57, 4)}, "components"),
    ],
)
def test_what_a_chapter_shows_fits(shown: Callable[[], explore.Explorer]) -> None:
    assert len(shown().html.encode()) <= 400_000


def test_what_does_not_fit_says_what_to_leave_out() -> None:
    with pytest.raises(ValueError, match=r"takes 6\d\d KB, at most 400.*9 layers × 12 heads × 65².*\(1, 3, 5, 7, 9\)"):
        explore.attention_explorer(uniform(9, 12, 65), noise(32, 32, 3), (8, 8))
    with pytest.raises(ValueError, match=r"at most 400 .*every second position"):
        explore.similarity_explorer(noise(24, 24, 24, 24))


# ---------------------------------------------------------------- what is refused

NOT_FINITE = np.array([[[[0.0, np.nan]]]])
REFUSED = [
    (lambda: explore.similarity_explorer(np.ones((4, 4))), r"similarity has shape \(4, 4\), expected \[rows"),
    (lambda: explore.similarity_explorer(np.ones((2, 3, 3, 2))), r"has shape \(2, 3, 3, 2\), expected \[rows"),
    (lambda: explore.similarity_explorer(NOT_FINITE), "1 values that are not finite"),
    (lambda: explore.attention_explorer([], images()[0], GRID), "attention has no layer"),
    (lambda: explore.attention_explorer(attention()[0], images()[0], GRID), r"has shape \[1, 25, 25\]; expected"),
    (lambda: explore.attention_explorer([attention()], images()[0], GRID), r"of 3 images: choose one, \[layer\[0\]"),
    (lambda: explore.attention_explorer(attention()[..., :-1], images()[0], GRID), r"\[1, 2, 25, 24\]; expected"),
    (lambda: explore.attention_explorer(attention() * 2, images()[0], GRID), "do not sum to 1: sums from 2 to 2"),
    (lambda: explore.attention_explorer(attention(), images()[0], GRID, layers=(0, 4)), r"asks for \[0, 4\].*1 to 3"),
    (lambda: explore.attention_explorer(attention(), images()[0], GRID, layers=()), "layers is empty: name one"),
    (lambda: explore.attention_explorer(attention(), images()[0], (8, 12)), "25 tokens, and a grid of 8×12"),
    (lambda: explore.attention_explorer(attention(), images()[0], (4, 5)), "8×12: it cannot be cut into 4 × 5"),
    (lambda: explore.attention_explorer(attention(), images(), GRID), r"image has shape \(2, 3, 8, 12\)"),
    (
        lambda: explore.attention_explorer([attention()[0], attention()[0, :1]], images()[0], GRID),
        "all layers must agree",
    ),
    (lambda: explore.rollout_explorer(rollout()[0], images()[0]), r"maps has shape \(3, 4, 6\).*maps\[None\]"),
    (lambda: explore.rollout_explorer(rollout(), images()[:1]), "maps are of 2 images, and there are 1"),
    (lambda: explore.rollout_explorer(-rollout(), images()), "must not be negative.*-0.5"),
    (lambda: explore.resolution_explorer({}, "x"), "grids is no mapping or empty"),
    (lambda: explore.resolution_explorer([np.eye(2)], "x"), "grids is no mapping"),
    (lambda: explore.resolution_explorer({"8 px": np.ones(4)}, "x"), r"grid '8 px' has shape \(4,\), expected"),
    (lambda: explore.resolution_explorer({"a": np.eye(2), "b": np.ones((2, 2, 3))}, "x"), "pass all as"),
    (lambda: explore.resolution_explorer({"a": np.full((2, 2, 3), 2.0)}, "x"), r"lie in \[2, 2\], expected \[0, 1\]"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_does_not_fit_is_refused(call: Callable[[], explore.Explorer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("nothing", [None, 5])
def test_what_are_no_maps_is_refused(nothing: object) -> None:
    with pytest.raises(TypeError, match="attention is (None: fused attention forms no maps|int; expected tensors)"):
        explore.attention_explorer(nothing, images()[0], GRID)


@pytest.mark.parametrize("grid", [None, 4, (4.0, 6.0)])
def test_what_is_no_grid_is_refused(grid: object) -> None:
    with pytest.raises(TypeError, match=r"grid is .*; expected two ints, \(rows, columns\)"):
        explore.attention_explorer(attention(), images()[0], grid)


# ---------------------------------------------------------------- in a browser, with the network cut

READING = "willReadFrequently"  # Chromium's advice to a script that reads a canvas, which only the tests do
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ background: #fff; color: #222; }} [data-theme=dark] {{ background: #14181e; color: #ced6dd; }}
</style></head><body>{}</body></html>"""


@pytest.fixture
def tab(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page of every kind of figure, once in a notebook's way and in the order of ``KINDS``."""
    page = tmp_path / "page.html"
    page.write_text(PAGE.format("".join(make()._repr_html_() for make in KINDS.values())), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1000, "height": 800}, has_touch=True, offline=True)
    tab = context.new_page()
    trouble = []
    tab.on("console", lambda line: READING in line.text or trouble.append(line.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or trouble.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert trouble == []


def shown(tab: Page, kind: str) -> Locator:
    return tab.locator(".vitlite-explorer").nth(list(KINDS).index(kind))


def live(box: Locator) -> str:
    return box.get_by_role("status").last.inner_text()


def point(canvas: Locator, row: int, col: int, grid: tuple[int, int] = GRID) -> dict[str, float]:
    """The middle of a patch, in pixels from the canvas's corner."""
    canvas.scroll_into_view_if_needed()
    size = canvas.bounding_box()
    return {"x": (col + 0.5) / grid[1] * size["width"], "y": (row + 0.5) / grid[0] * size["height"]}


def colour(canvas: Locator, row: float, col: float, grid: tuple[int, int] = GRID) -> list[float]:
    """What is drawn in the middle of a patch, red, green and blue in [0, 1]."""
    pixel = """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(
        Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]"""
    return [part / 255 for part in canvas.evaluate(pixel, [(col + 0.5) / grid[1], (row + 0.5) / grid[0]])[:3]]


def brightest(canvas: Locator) -> list[tuple[int, int]]:
    """The patches in the last colour of the scale."""
    return [cell for cell in np.ndindex(GRID) if np.allclose(colour(canvas, *cell), YELLOW, atol=0.01)]


def is_outlined(canvas: Locator, row: int, col: int) -> bool:
    """Whether the left side of a patch is drawn white."""
    return colour(canvas, row, col - 0.5) == [1, 1, 1]


def place(token: int) -> str:
    row, col = divmod(token - PREFIX, GRID[1])
    return f"row {row + 1}, column {col + 1}"


def test_pointing_with_the_mouse_shows_and_a_click_keeps(tab: Page) -> None:
    box = shown(tab, "similarity")
    tiles, chosen = box.locator("canvas").all()
    first = live(box)
    assert first.startswith("Row 3, column 4: most like row ")
    tiles.hover(position=point(tiles, 0, 0))
    assert live(box).startswith("Row 1, column 1: most like row ")
    assert live(box).endswith("(0.9), least like row 1, column 6 (0.5).")
    assert brightest(chosen) == [(0, 0)]
    tab.mouse.move(1, 1)
    assert live(box) == first
    chosen.click(position=point(chosen, 3, 5))
    tab.mouse.move(1, 1)
    assert live(box).startswith("Row 4, column 6: ")
    assert brightest(chosen) == [(3, 5)]


def test_a_tap_keeps(tab: Page) -> None:
    box = shown(tab, "attention")
    canvas = box.locator("canvas").first
    where, corner = point(canvas, 1, 4), canvas.bounding_box()
    tab.touchscreen.tap(corner["x"] + where["x"], corner["y"] + where["y"])
    query = PREFIX + 1 * GRID[1] + 4
    assert target(LAYERS - 1, 0, query) == 0, "this patch looks at the class token"
    assert live(box).endswith("(0.01); class token: 0.76.")
    assert len(brightest(box.locator("canvas").last)) == GRID[0] * GRID[1], "among the patches, all are alike"


def test_the_arrow_keys_walk_and_stop_at_the_edge(tab: Page) -> None:
    box = shown(tab, "attention")
    canvas = box.get_by_role("application")
    canvas.focus()
    scrolled = tab.evaluate("scrollY")
    for key, then in [
        ("ArrowUp", "Row 2, column 4"),
        ("ArrowUp", "Row 1, column 4"),
        ("ArrowUp", "Row 1, column 4"),
        ("ArrowLeft", "Row 1, column 3"),
        ("ArrowRight", "Row 1, column 4"),
        ("ArrowDown", "Row 2, column 4"),
    ]:
        tab.keyboard.press(key)
        assert f" {then}: " in live(box)
    assert tab.evaluate("scrollY") == scrolled
    query = PREFIX + 1 * GRID[1] + 3
    row, col = divmod(target(LAYERS - 1, 0, query) - PREFIX, GRID[1])
    assert brightest(box.locator("canvas").last) == [(row, col)]
    assert all(is_outlined(x, 1, 3) and not is_outlined(x, 2, 3) for x in box.locator("canvas").all())


def test_sliders_choose_layer_and_head_with_the_keys(tab: Page) -> None:
    box = shown(tab, "attention")
    layer, head = box.get_by_role("slider", name="layer"), box.get_by_role("slider", name="head")
    query = PREFIX + 2 * GRID[1] + 3
    layer.press("Home")
    head.press("ArrowRight")
    assert (layer.get_attribute("aria-valuetext"), head.get_attribute("aria-valuetext")) == ("1 of 3", "2 of 2")
    at = target(0, 1, query)
    assert live(box).startswith("Layer 1 of 3, head 2 of 2. Row 3, column 4: ")
    assert f": of the patches, looks most at {place(at)} (0.76)" in live(box)
    assert brightest(box.locator("canvas").last) == [divmod(at - PREFIX, GRID[1])]


def test_the_class_token_can_look(tab: Page) -> None:
    box = shown(tab, "attention")
    button = box.get_by_role("button", name="class token")
    button.press("Enter")
    at = target(LAYERS - 1, 0, 0)
    assert button.get_attribute("aria-pressed") == "true"
    assert f"Class token: of the patches, looks most at {place(at)} (0.76); class token: 0.012." in live(box)
    assert brightest(box.locator("canvas").last) == [divmod(at - PREFIX, GRID[1])]
    box.get_by_role("application").press("ArrowUp")
    assert button.get_attribute("aria-pressed") == "false"
    assert " Row 3, column 4: " in live(box)


def test_rollout_moves_through_its_layers(tab: Page) -> None:
    box = shown(tab, "rollout")
    slider = box.get_by_role("slider", name="layer")
    _, first, _, second = box.locator("canvas").all()
    for layer in (3, 2, 1):
        assert live(box).startswith(f"Layer {layer} of 3. Row 3, column 4: map 1: 0.0")
        assert f"the largest at row 1, column {layer} (0.5); map 2: " in live(box)
        assert brightest(first) == [(0, layer - 1)]
        assert brightest(second) == [(3, 5)]
        slider.press("ArrowLeft")


def test_resolution_keeps_the_place_on_every_grid(tab: Page) -> None:
    box = shown(tab, "resolution")
    canvas, slider = box.get_by_role("application"), box.get_by_role("slider", name="table")
    canvas.press("ArrowUp")
    assert live(box) == "Table 8 px (2 × 2 patches). Row 1, column 2: 0.25, the largest at row 2, column 2 (0.75)."
    slider.press("End")
    assert live(box).startswith("Table 32 px (8 × 8 patches). Row 3, column 7: 0.34, ")
    value = (7 * 8 + 7) / 64 / (63 / 64)  # of the finest table's last position on the scale from 0 to 63 / 64
    expected = matplotlib.colormaps["viridis"](value)[:3]
    np.testing.assert_allclose(colour(canvas, 7, 7, (8, 8)), expected, atol=0.01)


def test_colours_are_drawn_as_they_are(tab: Page) -> None:
    box = shown(tab, "colours")
    assert live(box) == "Table 8 px. Row 2, column 1: red 0, green 1, blue 0."
    assert [colour(box.locator("canvas"), row, 0, (3, 1)) for row in range(3)] == np.eye(3).tolist()


def test_the_image_is_drawn_with_its_pixels(tab: Page) -> None:
    canvas = shown(tab, "attention").locator("canvas").first
    tab.wait_for_function("canvas => canvas.width > 300", arg=canvas.element_handle())
    expected = images()[0, :, 2 * 0 + 1, 2 * 5 + 1] / 255  # the last pixel of the patch in row 1, column 6
    np.testing.assert_allclose(colour(canvas, 1, 11, (8, 12)), expected, atol=0.01)


def test_everything_is_reached_by_tab_and_named(tab: Page) -> None:
    focus = """() => { const x = document.activeElement;
        return [x.getAttribute("aria-label") || x.textContent, getComputedStyle(x).outlineStyle]; }"""
    reached = ["all positions", "layer", "head", "image", "class token", "layer", "image 1"]
    for name in reached + ["table", "positions"] * 2:
        tab.keyboard.press("Tab")
        assert [part.split(";")[0] for part in tab.evaluate(focus)] == [name, "solid"]


def test_jupyterlab_leaves_the_keys_to_the_figure(tab: Page) -> None:
    for element in tab.locator("input, canvas, button").all():
        assert element.get_attribute("data-lm-suppress-shortcuts") is not None


def test_a_phone_scrolls_down_only(tab: Page) -> None:
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    for canvas in tab.locator("canvas").all():
        box = canvas.bounding_box()
        assert box["width"] >= 130
        assert box["x"] + box["width"] <= 360


def test_the_text_takes_the_colour_of_the_page(tab: Page) -> None:
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    colours = "x => [...x.querySelectorAll('p, span, div, button, output')].map(y => getComputedStyle(y).color)"
    for kind in KINDS:
        assert set(shown(tab, kind).evaluate(colours)) == {"rgb(206, 214, 221)"}


def test_a_script_that_a_notebook_runs_elsewhere_finds_its_figure(tab: Page) -> None:
    tab.evaluate(
        """html => {
            const output = document.body.appendChild(document.createElement("div"));
            output.innerHTML = html;  // runs no script
            const script = document.createElement("script");
            script.textContent = output.querySelector("script").textContent;
            document.head.append(script);
        }""",
        KINDS["similarity"]().html,
    )
    assert live(tab.locator(".vitlite-explorer").last).startswith("Row 3, column 4: ")
    assert tab.locator("canvas").count() == 2 + 2 + 4 + 1 + 1 + 2, "no figure is built twice"


def test_without_scripts_the_text_stands(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    figure = KINDS["similarity"]()
    page.set_content(PAGE.format(figure.html))
    assert page.locator("body").inner_text().split("\n\n") == [
        figure.title,
        "The figure itself needs JavaScript.",
        figure.description,
    ]
    context.close()
