"""The playground: its networks against PyTorch's, its page by mouse, touch and keys, and what people may feed it."""

import base64
import re
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

from vitlite import analysis
from vitlite.data import augment

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book/_static/playground"
sys.path.insert(0, str(ROOT / "book/tools"))

import playground  # noqa: E402

CLOSE = 1e-5  # relative, of every single number
LOOK = """([name, scene, options]) => {
    const { weights, scenes, ViT, ResNet, normalise } = playground;
    const file = weights[name];
    const model = (playground.built ??= {})[name] ??= new (file.kind === 'ViT' ? ViT : ResNet)(file);
    const bytes = Uint8Array.from(atob(scenes.bytes), x => x.charCodeAt(0));
    const headsOff = (options.headsOff ?? []).map(x => new Set(x));
    const off = { ...options, layersOff: new Set(options.layersOff), headsOff };
    const passed = model.forward(normalise(bytes.subarray(3072 * scene, 3072 * (scene + 1)), file), off);
    const pack = (arrays) => {
        const bytes = new Uint8Array(Float64Array.from(arrays.flatMap(x => [...x])).buffer);
        let text = '';
        for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
        return btoa(text);
    };
    if (file.kind !== 'ViT') return { logits: pack([passed.logits]) };
    const heads = model.config.num_heads, tokens = 65;
    return {
        logits: pack([passed.logits]),
        attention: pack(passed.attention),
        lens: pack(playground.lens(model, passed.states)),
        rollout: pack(playground.rollout(passed.attention, heads, tokens, off)),
        distance: pack(passed.attention.map(x => [0, 1, 2, 3].map(head => playground.distance(x, head, tokens, 4)))),
        cosine: pack([playground.cosine(passed.states[6], 9, tokens)]),
    };
}"""


FAINT = """() => {
    const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = x => {
        for (; x; x = x.parentElement) {
            const colour = getComputedStyle(x).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    return [...document.querySelectorAll('.pg *')].filter(x => !x.closest('svg, :disabled') && x.checkVisibility() &&
            [...x.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(x => {
        const [a, b] = [light(getComputedStyle(x).color), light(ground(x))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), x.className, x.textContent.slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the build step writes."""
    folder = tmp_path_factory.mktemp("generated")
    playground.write(folder)
    return folder


@pytest.fixture(scope="session")
def address(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The playground alone, as a page on the disk."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(generated, folder / "_static/playground")
    return playground.alone(folder).as_uri()


@pytest.fixture(scope="session")
def networks() -> dict[str, tuple[torch.nn.Module, dict]]:
    """PyTorch's networks in double precision, with the weights that the page has."""
    read = {name: playground.read(playground.CHECKPOINTS / f"{name}.safetensors") for name in playground.NETWORKS}
    return {name: (model.double(), file) for name, (model, file) in read.items()}


@pytest.fixture
def engine(browser: Browser, generated: Path) -> Page:
    """A bare page with both networks in it."""
    tab = browser.new_page()
    tab.goto("about:blank")
    for script in ("tensors", "vit", "resnet", "analysis"):
        tab.add_script_tag(path=STATIC / f"{script}.js")
    for script in ("scenes", *playground.NETWORKS):
        tab.add_script_tag(path=generated / f"{script}.js")
    yield tab
    tab.close()


def look(tab: Page, name: str, scene: int, **options) -> dict[str, np.ndarray]:
    """What the page's network makes of a scene."""
    packed = tab.evaluate(LOOK, [name, scene, options])
    return {key: np.frombuffer(base64.b64decode(text)) for key, text in packed.items()}


def expected(network: tuple[torch.nn.Module, dict], scene: int, positions: bool = True,
             layers_off: tuple = (), heads_off: dict | None = None) -> dict[str, np.ndarray]:
    """The same from PyTorch and vitlite."""
    model, file = network
    images, _ = playground.test_scenes()
    image = augment.normalise(images[scene : scene + 1], file["mean"], file["std"]).double()
    with torch.inference_mode():
        if file["kind"] == "ResNet":
            return {"logits": model(image).numpy().ravel()}
        z = model.embed(image)
        z = model.tokens(z) if positions else torch.cat([model.class_token, z], dim=1)
        states, maps = [z], []
        for number, block in enumerate(model.blocks):
            off = (heads_off or {}).get(number, ())
            z, attention = ablated(block, z, off)
            z = states[-1] if number in layers_off else z
            states.append(z)
            maps.append(attention)
        def logits(state: torch.Tensor) -> torch.Tensor:
            return model.head(model.norm(state)[:, 0])

        on = [[head for head in range(4) if head not in (heads_off or {}).get(number, ())] for number in range(6)]
        used = [attention[:, on[number]].mean(1, keepdim=True) for number, attention in enumerate(maps)
                if number not in layers_off]
        values = {
            "logits": logits(z),
            "attention": torch.stack(maps),
            "lens": torch.stack([logits(state).softmax(-1) for state in states]),
            "rollout": rollouts(used, layers_off),
            "distance": analysis.mean_attention_distance(maps, (8, 8), 4),
            "cosine": torch.cosine_similarity(z[0, 9:10], z[0], dim=-1),
        }
    return {key: value.numpy().ravel() for key, value in values.items()}


def ablated(block: torch.nn.Module, z: torch.Tensor, heads: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """A block whose given heads add nothing: their columns of the projection are zero."""
    kept = block.attention.projection.weight.data.clone()
    for head in heads:
        block.attention.projection.weight.data[:, 24 * head : 24 * (head + 1)] = 0
    out = block(z, return_attention=True)
    block.attention.projection.weight.data.copy_(kept)
    return out


def rollouts(used: list[torch.Tensor], layers_off: tuple) -> torch.Tensor:
    steps = list(analysis.rollout.iter_rollout(used))
    for layer in layers_off:  # a layer that is off leaves everything where it was
        steps.insert(layer, steps[layer - 1])
    return torch.stack(steps)


def furthest(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any number."""
    assert ours.keys() == theirs.keys()
    assert all(ours[key].shape == theirs[key].shape for key in theirs)
    return max(float(np.max(np.abs(ours[key] - theirs[key]) / np.abs(theirs[key]))) for key in theirs)


# ---------------------------------------------------------------- the networks


@pytest.mark.parametrize("name", playground.NETWORKS)
def test_every_scene_gives_pytorchs_numbers(engine: Page, networks: dict, name: str) -> None:
    for scene in range(playground.SCENES):
        assert furthest(look(engine, name, scene), expected(networks[name], scene)) < CLOSE, scene


@pytest.mark.parametrize("options", [
    {"positions": False},
    {"layersOff": [2]},
    {"headsOff": [[], [1, 3]]},
    {"positions": False, "layersOff": [4], "headsOff": [[0], [], [], [2, 3]]},
], ids=str)
def test_what_is_switched_off_is_off_as_in_pytorch(engine: Page, networks: dict, options: dict) -> None:
    heads = dict(enumerate(options.get("headsOff", [])))
    theirs = expected(networks["bias_vit"], 7, options.get("positions", True), options.get("layersOff", []), heads)
    assert furthest(look(engine, "bias_vit", 7, **options), theirs) < CLOSE


ERRORS = {  # what stands in vit.js, and what people write instead
    "epsilon of 1e-5": ("layer_norm_eps];", "1e-5];"),
    "tanh GELU": ("(1 + erf(x * Math.SQRT1_2))", "(1 + Math.tanh(0.7978845608 * (x + 0.044715 * x ** 3)))"),
    "scale of the whole width": ("this.headDim ** -0.5", "embed_dim ** -0.5"),
    "heads interleaved": ("part * D + head * headDim;", "head * 3 * headDim + part * headDim;"),
    "key and value exchanged": ("[query, key, value] =", "[query, value, key] ="),
    "variance by D - 1": ("** 2 / D;", "** 2 / (D - 1);"),
    "channels last in a patch": ("image[(channel * side + y) * side + x]", "image[(channel * side + x) * side + y]"),
    "patches column by column": ("(channel * side + y) * side + x",
                                 "(channel * side + y - top + left) * side + x - left + top"),
    "no final norm": ("this.head.forward(this.norm.forward(z.subarray(0, this.config.embed_dim)))",
                      "this.head.forward(z.subarray(0, this.config.embed_dim))"),
    "norm after the residual": ("this.mlp.forward(this.norm2.forward(z))", "this.mlp.forward(z)"),
    "residual forgotten": ("z = add(z, mixed);", "z = mixed;"),
    "softmax over the queries": ("key, this.headDim); // [T, T]",
                                 "key, this.headDim); logits.set(transpose(logits, T));"),
    "head reads the last patch": ("z.subarray(0, this.config.embed_dim)",
                                  "z.subarray(z.length - this.config.embed_dim)"),
    "positions one off": ("add(z, this.position)",
                          "add(z, [...this.position.slice(96), ...this.position.slice(0, 96)])"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_deliberate_error_is_noticed(browser: Browser, generated: Path, networks: dict, error: str) -> None:
    right, wrong = ERRORS[error]
    source = (STATIC / "vit.js").read_text()
    assert source.count(right) == 1
    tab = browser.new_page()
    tab.goto("about:blank")
    tab.add_script_tag(path=STATIC / "tensors.js")
    tab.add_script_tag(content=source.replace(right, wrong))
    for script in (STATIC / "analysis.js", generated / "scenes.js", generated / "bias_vit.js"):
        tab.add_script_tag(path=script)
    assert not furthest(look(tab, "bias_vit", 0), expected(networks["bias_vit"], 0)) < CLOSE
    tab.close()


def test_the_forward_pass_is_short_enough_to_read() -> None:
    assert len((STATIC / "vit.js").read_text().splitlines()) <= 200


def test_files_stay_small(generated: Path) -> None:
    for name in playground.NETWORKS:
        assert (generated / f"{name}.js").stat().st_size <= 1.5e6
    others = [path.stat().st_size for path in STATIC.iterdir()]
    assert sum(others) + sum(path.stat().st_size for path in generated.iterdir()) <= 5e6


def test_the_still_picture_says_what_the_model_says(generated: Path, networks: dict) -> None:
    shares = np.exp(expected(networks["bias_vit"], playground.STILL)["logits"])
    share = shares.max() / shares.sum()
    says = f"says {playground.scenes.CLASSES[shares.argmax()]}, with {share:.0%}"
    assert says in (generated / "still.html").read_text()


# ---------------------------------------------------------------- pictures and links


@pytest.fixture
def tab(browser: Browser, address: str) -> Page:
    """The page, opened from the disk without a network; it fails on any error and any request elsewhere."""
    context = browser.new_context(offline=True, has_touch=True, viewport={"width": 1100, "height": 1000})
    tab = context.new_page()
    tab.trouble, tab.asked = [], []
    tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
    tab.on("console", lambda line: line.type in ("error", "warning") and tab.trouble.append(line.text))
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(address)
    tab.wait_for_function("playground.page")
    yield tab
    assert tab.trouble == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in tab.asked)
    context.close()


def go(tab: Page, state: str) -> None:
    tab.evaluate("hash => { location.hash = hash }", state)
    tab.wait_for_timeout(30)


def pixels(tab: Page) -> torch.Tensor:
    """What the network sees: uint8 ``[3, 32, 32]``."""
    seen = torch.tensor(tab.evaluate("[...playground.page.pixels]"), dtype=torch.uint8)
    return seen.view(32, 32, 3).permute(2, 0, 1)


def live(tab: Page) -> str:
    return tab.locator(".pg-live").text_content()


def until_it_says(tab: Page, text: str) -> None:
    tab.wait_for_function("text => playground.page.live.textContent.includes(text)", arg=text)


def test_edits_make_the_pixels_that_their_names_say(tab: Page) -> None:
    images, _ = playground.test_scenes()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    go(tab, f"#v=1&scene=12&turn=1&shift=3,-2&order={''.join(letters[i] for i in order)}&cover=8000000000000001")
    image = torch.rot90(images[11], -1, (1, 2)).roll((-2, 3), (1, 2))
    tiles = image.view(3, 8, 4, 8, 4).permute(1, 3, 0, 2, 4).reshape(64, 3, 4, 4)[order]
    tiles[[0, 63]] = torch.tensor([round(255 * x) for x in tab.evaluate("playground.page.file.mean")],
                                  dtype=torch.uint8).view(3, 1, 1)
    wanted = tiles.view(8, 8, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 32, 32)
    assert torch.equal(pixels(tab), wanted)


def test_a_link_without_a_scene_shows_the_first_picture(tab: Page) -> None:
    go(tab, "#v=1&turn=0")
    assert torch.equal(pixels(tab), playground.test_scenes()[0][playground.STILL])


def test_a_link_leads_back_to_its_state(tab: Page) -> None:
    link = ("#v=1&scene=5&turn=3&shift=-3,2&order=POnl_uNMj1xr-37XHs4cWRGaQvJwVepb9YAFdtiIUZCgkq65BTDzKL2E0yfo8hSm"
            "&cover=00106060f0ec7c10&layer=2&token=17&light=rollout&positions=off&off=3,2.1,2.4&beside=bias_resnet")
    assert tab.evaluate("link => playground.format(playground.parse(link))", link) == link
    go(tab, link)
    assert "link" in live(tab)
    go(tab, "")
    press(tab, "Link to this state")
    assert tab.evaluate("location.hash") == link
    tab.reload()
    assert tab.evaluate("playground.format(playground.page.state)") == link


@pytest.mark.parametrize(("link", "says"), [
    *[(f"#v=1&{part}", "damaged") for part in (
        "scene=41", "scene=x", "scene=3=3", "order=AAB", "shift=1", "cover=zz", "beside=else", "off=9", "token=1e1",
        "__proto__=1", "toString=1", "&")],
    ("#v=2&scene=1", "another version"), ("#rubbish", "no state"), ("#%E0%A4%A", "no state"),
    ("#toString", "no state"), ("#__proto__", "no state"),
])
def test_a_damaged_link_gets_a_sentence(tab: Page, link: str, says: str) -> None:
    go(tab, link)
    assert says in live(tab)
    assert "first picture" in live(tab)
    assert tab.locator(".pg-best").count() == 1


# ---------------------------------------------------------------- by hand


def top(tab: Page) -> tuple[str, float]:
    answer = tab.evaluate("playground.page.answer")
    return answer["name"], answer["share"]


def centre(tab: Page, patch: int) -> tuple[float, float]:
    tab.locator(".pg-stage").scroll_into_view_if_needed()
    box = tab.locator(".pg-stage").bounding_box()
    return box["x"] + (patch % 8 + 0.5) * box["width"] / 8, box["y"] + (patch // 8 + 0.5) * box["height"] / 8


def press(tab: Page, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def state(tab: Page, expression: str) -> object:
    return tab.evaluate(f"(({{ state }}) => {expression})(playground.page)")


def test_after_any_edits_the_page_says_what_pytorch_says(tab: Page, networks: dict) -> None:
    press(tab, "Shuffle")
    press(tab, "Rotate")
    press(tab, "Shift left by one pixel")
    press(tab, "Cover")
    tab.mouse.click(*centre(tab, 20))
    model, file = networks["bias_vit"]
    with torch.inference_mode():
        logits, attention = model(augment.normalise(pixels(tab)[None], file["mean"], file["std"]).double(), True)
    ours = tab.evaluate("[[...playground.page.shares], playground.page.passed.attention.map(x => [...x])]")
    np.testing.assert_allclose(ours[0], logits.softmax(-1)[0], rtol=CLOSE)
    np.testing.assert_allclose(ours[1], torch.stack(attention).view(6, -1), rtol=CLOSE)
    assert tab.locator(".pg-best .pg-class").text_content() == playground.scenes.CLASSES[logits.argmax()]


def test_patches_are_covered_by_mouse_touch_and_keys(tab: Page) -> None:
    press(tab, "Cover")
    tab.mouse.move(*centre(tab, 0))
    tab.mouse.down()
    for patch in (1, 2, 3):
        tab.mouse.move(*centre(tab, patch))
    tab.mouse.up()
    assert state(tab, "[...state.covered]") == [0, 1, 2, 3]
    tab.touchscreen.tap(*centre(tab, 9))
    assert state(tab, "state.covered.has(9)")
    tab.touchscreen.tap(*centre(tab, 9))
    assert not state(tab, "state.covered.has(9)")
    tab.locator(".pg-stage").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):
        tab.keyboard.press(key)
    assert state(tab, "state.covered.has(10)")
    assert "Covered row 2, column 3" in live(tab)
    press(tab, "Undo")
    press(tab, "Undo")
    press(tab, "Undo")
    assert state(tab, "[...state.covered]") == [0, 1, 2, 3]
    press(tab, "Undo")
    assert state(tab, "state.covered.size") == 0


@pytest.mark.parametrize("tool", ["Cover", "Draw"])
def test_a_stroke_may_begin_beside_the_picture(tab: Page, tool: str) -> None:
    press(tab, tool)
    before = pixels(tab)
    x, y = centre(tab, 8)
    tab.mouse.move(x - 80, y)
    tab.mouse.down()
    for patch in (8, 9, 10):
        tab.mouse.move(*centre(tab, patch))
    tab.mouse.up()
    changed = (pixels(tab) != before).any(0)
    assert changed[4:8, 2:11].any(0).all()
    assert not changed[9:].any()
    press(tab, "Undo")
    assert torch.equal(pixels(tab), before)


def slide(tab: Page, *patches: int) -> None:
    """A finger that goes from patch to patch."""
    devtools = tab.context.new_cdp_session(tab)
    points = [dict(zip("xy", centre(tab, patch), strict=True)) for patch in patches]
    for kind, at in zip(["touchStart", *["touchMove"] * (len(points) - 1)], points, strict=True):
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tab.wait_for_timeout(50)


def test_a_finger_covers_swaps_and_draws_as_it_slides(tab: Page) -> None:
    press(tab, "Cover")
    slide(tab, 16, 17, 18)
    assert state(tab, "[...state.covered]") == [16, 17, 18]
    press(tab, "Undo")
    press(tab, "Swap")
    slide(tab, 0, 30, 63)
    assert state(tab, "[state.order[0], state.order[63], state.order[30]]") == [63, 0, 30]
    press(tab, "Undo")
    before = pixels(tab)
    press(tab, "Draw")
    slide(tab, 9, 10, 14)
    changed = (pixels(tab) != before).any(0)
    assert changed[4:8, 6:26].any(0).all()
    assert not changed[9:].any()


def test_two_patches_are_swapped_by_mouse_and_keys(tab: Page) -> None:
    press(tab, "Swap")
    tab.mouse.move(*centre(tab, 0))
    tab.mouse.down()
    tab.mouse.move(*centre(tab, 30))
    tab.mouse.move(*centre(tab, 63))
    tab.mouse.up()
    assert state(tab, "[state.order[0], state.order[63], state.order[30]]") == [63, 0, 30]
    tab.locator(".pg-stage").focus()
    for key in ("Space", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert state(tab, "state.order.slice(0, 2)") == [1, 63]


def test_the_asking_patch_is_pointed_at_kept_and_moved(tab: Page) -> None:
    first = tab.locator(".pg-maps canvas").first
    described = first.get_attribute("aria-label")
    tab.mouse.move(*centre(tab, 36))
    assert "row 5, column 5" in first.get_attribute("aria-label") != described
    tab.mouse.move(5, 5)
    assert first.get_attribute("aria-label") == described
    tab.touchscreen.tap(*centre(tab, 36))
    assert state(tab, "state.token") == 37
    tab.locator(".pg-stage").focus()
    tab.keyboard.press("ArrowUp")
    assert state(tab, "state.token") == 29
    assert "row 4, column 5" in live(tab)
    press(tab, "Class token")
    assert state(tab, "state.token") == 0
    press(tab, "Layer 2")
    assert state(tab, "state.layer") == 1


def test_switches_change_the_answer_and_come_back(tab: Page) -> None:
    before = top(tab)
    for label in ("positions on", "layer on"):
        tab.get_by_label(label).uncheck()
        assert top(tab) != before
        tab.get_by_label(label).check()
        assert top(tab) == before
    tab.get_by_label("Head 2 on").uncheck()
    assert state(tab, "[...state.headsOff[5]]") == [1]
    assert top(tab) != before
    press(tab, "Reset")
    assert top(tab) == before


def test_turns_and_shifts_close_their_circles(tab: Page) -> None:
    start = pixels(tab)
    for _ in range(4):
        press(tab, "Rotate")
    assert torch.equal(pixels(tab), start)
    press(tab, "Shift up by one pixel")
    assert torch.equal(pixels(tab), start.roll(-1, 1))
    press(tab, "Shift right by one pixel")
    assert torch.equal(pixels(tab), start.roll((-1, 1), (1, 2)))


def test_a_drawing_takes_the_brush_and_keys(tab: Page) -> None:
    press(tab, "Draw")
    press(tab, "Blank sheet")
    assert len(pixels(tab).flatten(1).unique(dim=1).T) == 1
    press(tab, "blue")
    tab.mouse.move(*centre(tab, 9))
    tab.mouse.down()
    tab.mouse.move(*centre(tab, 14))
    tab.mouse.up()
    painted = (pixels(tab) == torch.tensor([0x2F, 0x6F, 0xC4], dtype=torch.uint8)[:, None, None]).all(0)
    assert painted[4:8, 6:26].any(0).all()
    assert not painted[12:].any()
    tab.locator(".pg-stage").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Space"):
        tab.keyboard.press(key)
    assert tab.locator(".pg-link").is_hidden()
    press(tab, "Undo")
    press(tab, "Undo")
    press(tab, "Undo")
    assert state(tab, "state.scene") == 24


def test_scenes_are_chosen_by_click_and_arrow(tab: Page) -> None:
    tab.get_by_role("radio", name="scene 3, butterfly").click()
    assert state(tab, "state.scene") == 2
    tab.keyboard.press("ArrowRight")
    assert state(tab, "state.scene") == 3
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "scene 4, cat"


@pytest.mark.parametrize("name", list(playground.NETWORKS)[1:])
def test_a_second_network_loads_when_it_is_asked_for(tab: Page, networks: dict, name: str) -> None:
    assert tab.evaluate("Object.keys(playground.weights)") == ["bias_vit"]
    tab.get_by_label("compare with").select_option(playground.NETWORKS[name])
    tab.wait_for_function("playground.page.otherAnswer")
    logits = expected(networks[name], 24)["logits"]
    share = np.exp(logits).max() / np.exp(logits).sum()
    assert tab.evaluate("playground.page.otherAnswer.share") == pytest.approx(share, rel=CLOSE)
    assert f"{playground.NETWORKS[name]}: {playground.scenes.CLASSES[logits.argmax()]}" in live(tab)


# ---------------------------------------------------------------- stories


def told(tab: Page, story: str) -> list[dict]:
    """What both networks answer at each step of a story, by clicking through it."""
    go(tab, f"#{story}")
    steps = []
    for number in range(3):
        assert tab.locator(".pg-count").text_content() == f"{number + 1} of 3"
        if state(tab, "state.beside"):
            tab.wait_for_timeout(60)
            tab.wait_for_function("!playground.page.live.textContent.includes('…')")
        assert "undefined" not in tab.locator(".pg-card").text_content()
        steps.append(tab.evaluate("(({ answer, otherAnswer }) => ({ answer, other: otherAnswer }))(playground.page)"))
        tab.locator(".pg-main").click()
    assert tab.locator(".pg-card").is_hidden()
    return steps


def test_every_story_has_its_anchor_and_three_steps(tab: Page) -> None:
    steps = tab.evaluate("Object.entries(playground.stories).map(([id, story]) => [id, story.steps.length])")
    anchors = re.findall(r"^\((play-\w+)\)=$", (ROOT / "book/playground.md").read_text(), re.MULTILINE)
    assert steps == [[anchor, 3] for anchor in anchors]
    assert len(anchors) == 6


def test_every_story_is_where_its_chapters_lead() -> None:
    led = {}
    for chapter in (1, 2, 3, 6, 13, 14):
        [path] = (ROOT / "notebooks").glob(f"{chapter:02}_*.ipynb")
        led[chapter] = set(re.findall(r"\]\([^)\s]*#(play-\w+)\)", path.read_text(encoding="utf-8")))
    assert all(led.values()), led
    anchors = re.findall(r"^\((play-\w+)\)=$", (ROOT / "book/playground.md").read_text(), re.MULTILINE)
    assert set().union(*led.values()) == set(anchors)


def test_story_an_image_is_a_sequence(tab: Page) -> None:
    assert [step["answer"]["name"] for step in told(tab, "play-sequence")] == ["house"] * 3


def test_story_order_is_nothing_without_positions(tab: Page) -> None:
    plain, mixed, bare = told(tab, "play-order")
    assert mixed["other"]["share"] == pytest.approx(plain["other"]["share"], rel=1e-12)
    assert mixed["answer"]["share"] != pytest.approx(plain["answer"]["share"], rel=1e-3)
    go(tab, "#v=1&scene=4&positions=off")
    assert top(tab) == (bare["answer"]["name"], pytest.approx(bare["answer"]["share"], rel=1e-12))


def test_what_is_done_within_a_story_is_said(tab: Page) -> None:
    go(tab, "#play-order")
    tab.wait_for_function("playground.page.otherAnswer")
    press(tab, "Shuffle")
    until_it_says(tab, "ViT without positions: ")
    assert live(tab).startswith("Shuffled all patches. ViT: ")


def test_story_where_it_looks(tab: Page) -> None:
    assert [step["answer"]["name"] for step in told(tab, "play-look")] == ["mushroom"] * 3


def test_story_one_patch_decides(tab: Page) -> None:
    plain, many, one = (step["answer"] for step in told(tab, "play-decides"))
    assert plain["name"] == many["name"] == "mushroom"
    assert many["share"] > plain["share"] - 0.05
    assert one["name"] != "mushroom"
    go(tab, "#v=1&scene=25")
    weights = np.array(tab.evaluate("[...playground.meanHead(playground.page.passed.attention[5], 4).slice(1, 65)]"))
    covered = [tab.evaluate("hash => [...playground.parse(hash).covered]", step[0])
               for step in tab.evaluate("playground.stories['play-decides'].steps")[1:]]
    assert covered[1] == [weights.argmax()]
    assert sorted(covered[0]) == sorted(weights.argsort()[:40])


def test_story_the_convolution_does_not_mind(tab: Page) -> None:
    plain, shifted, shuffled = told(tab, "play-shift")
    assert plain["answer"]["name"] == plain["other"]["name"] == shifted["other"]["name"] == "butterfly"
    assert shifted["answer"]["name"] != "butterfly"
    assert shuffled["answer"]["name"] == "fish" != shuffled["other"]["name"]


def test_story_when_it_is_fooled(tab: Page) -> None:
    green, moved, star = told(tab, "play-fooled")
    assert (green["answer"]["name"], green["other"]["name"]) == ("fir", "duck")
    assert moved["answer"]["name"] == "duck"
    assert (star["answer"]["name"], star["other"]["name"]) == ("fir", "star")


# ---------------------------------------------------------------- what people feed it


def offer(tab: Page, name: str, content: bytes, says: str, kind: str = "") -> None:
    tab.locator(".pg-file").set_input_files({"name": name, "mimeType": kind, "buffer": content})
    until_it_says(tab, says)


def encoded(images: list[Image.Image], form: str, **options) -> bytes:
    out = BytesIO()
    images[0].save(out, form, save_all=len(images) > 1, append_images=images[1:], **options)
    return out.getvalue()


def random_image(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_picture_of_ones_own_is_read_pixel_by_pixel(tab: Page) -> None:
    image = random_image()
    offer(tab, "mine.png", encoded([image], "png"), "Your picture", "image/png")
    assert torch.equal(pixels(tab), torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert "animated" not in live(tab)
    assert tab.locator(".pg-link").is_hidden()


@pytest.mark.parametrize(("name", "content", "says"), [
    ("notes.txt", b"no picture", "no picture that this browser can read"),
    ("empty.png", b"", "no picture that this browser can read"),
    ("cut.jpg", b"\xff\xd8\xff\xe0 cut short", "no picture that this browser can read"),
    ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is a drawing without pixels"),
    ("heavy.png", bytes(31_000_000), "31 MB"),
], ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "")
def test_what_is_no_picture_gets_a_sentence(tab: Page, name: str, content: bytes, says: str) -> None:
    before = pixels(tab)
    offer(tab, name, content, says)
    assert torch.equal(pixels(tab), before)


def test_a_picture_of_too_many_pixels_gets_a_sentence(tab: Page) -> None:
    offer(tab, "wide.png", encoded([Image.new("1", (9000, 8000))], "png"), "9000 × 8000 pixels, too many", "image/png")


@pytest.mark.parametrize("form", ["gif", "png", "webp", "avif"])
def test_of_an_animation_the_first_frame_is_taken(tab: Page, form: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    offer(tab, f"moving.{form}", encoded(frames, form, duration=20), "first frame", f"image/{form}")
    red, green, blue = pixels(tab).float().mean((1, 2))
    assert red > 240
    assert max(green, blue) < 15


def test_transparent_becomes_white_and_long_is_cut_to_its_middle(tab: Page) -> None:
    image = Image.new("RGBA", (96, 32), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    offer(tab, "long.png", encoded([image], "png"), "middle", "image/png")
    assert (pixels(tab) == 255).all()


def test_a_file_is_dropped(tab: Page) -> None:
    tab.evaluate("""() => {
        const files = new DataTransfer();
        files.items.add(new File(['no picture'], 'dropped.txt'));
        const drop = new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true });
        document.querySelector('.pg-stage').dispatchEvent(drop);
    }""")
    until_it_says(tab, "dropped.txt")


def drop(tab: Page, path: Path, x: float, y: float) -> None:
    devtools = tab.context.new_cdp_session(tab)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})


def test_a_dropped_folder_gets_a_sentence(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    drop(tab, tmp_path / "holiday", *centre(tab, 9))
    until_it_says(tab, "If it is a folder")


@pytest.mark.parametrize("place", [".pg-stage", "body"])
def test_a_file_dropped_beside_the_playground_does_not_replace_the_page(tab: Page, tmp_path: Path, place: str) -> None:
    (tmp_path / "dropped.html").write_text("<title>another page</title>", encoding="utf-8")
    before = tab.url
    x, y = centre(tab, 9) if place == ".pg-stage" else (3, 3)
    drop(tab, tmp_path / "dropped.html", x, y)
    until_it_says(tab, "dropped.html")
    assert tab.url == before


# ---------------------------------------------------------------- where it runs


@pytest.mark.parametrize("missing", ["bias_vit.js", "scenes.js", "vit.js", "page.js"])
def test_where_a_script_is_missing_the_still_picture_stays(browser: Browser, address: str, missing: str) -> None:
    tab = browser.new_page()
    tab.route(f"**/{missing}", lambda route: route.abort())
    tab.goto(address)
    assert tab.locator("#playground-problem").is_visible()
    assert tab.locator(".pg-still img").evaluate("image => image.naturalWidth") > 0
    tab.close()


def test_without_javascript_a_picture_and_a_sentence_are_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(address)
    assert tab.locator(".pg-still img").is_visible()
    assert "needs JavaScript" in tab.locator(".pg-still").text_content()
    context.close()


def test_a_missing_second_network_gets_a_sentence(tab: Page, address: str, tmp_path: Path) -> None:
    shutil.copytree(Path(unquote(urlsplit(address).path)).parents[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "_static/playground/bias_resnet.js").write_text("playground.weights.bias_resnet = { kind: 'ResNet' };")
    tab.goto((tmp_path / "book/playground.html").as_uri())
    tab.get_by_label("compare with").select_option("ResNet")
    tab.wait_for_function("playground.page.live.textContent.includes('could not be loaded')")


@pytest.mark.parametrize("width", [320, 360, 800])
def test_nothing_sticks_out(tab: Page, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 740})
    go(tab, "#play-shift")
    press(tab, "Draw")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(tab: Page) -> None:
    unnamed = """[...document.querySelectorAll('.pg button, .pg select, .pg input:not(.pg-file)')]
        .filter(x => !(x.textContent.trim() || x.getAttribute('aria-label') || x.labels?.[0]?.textContent.trim()))
        .map(x => x.outerHTML)"""
    assert tab.evaluate(unnamed) == []


def test_text_has_contrast_in_light_and_dark(tab: Page, until_still: Callable[[Page], None]) -> None:
    go(tab, "#play-shift")
    for theme in ("light", "dark"):
        tab.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        until_still(tab)
        assert tab.evaluate(FAINT) == [], theme
