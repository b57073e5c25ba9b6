"""The playground's Vision Transformer in a browser, in plain JavaScript, beside PyTorch on one thread.

Question:    Is the model in the page fast enough to follow a hand, and how far is it from PyTorch?
Expectation: Yes: a whole update, which is the forward pass, every map, the lens and the drawing, takes at most 60 ms in
             headless Chromium and at most 250 ms on a processor a quarter as fast. PyTorch's forward pass alone, in
             float32 on one thread, is some five times as fast as the page's.
Command:     python -m benchmarks.browser
Cost:        About a minute and 1 GB of memory. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright

from benchmarks.shared import interleaved, main, spread
from vitlite.data import augment

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "book/tools"))

import playground  # noqa: E402
from chromium import chromium  # noqa: E402

DATASET = "scenes at 32 px, seed 0: the first test image"
SCALES = {
    "quick": {"device": "cpu", "rounds": 2, "slower": [1]},
    "cpu": {"device": "cpu", "rounds": 50, "slower": [1, 4]},
    "full": {"device": "cpu", "rounds": 50, "slower": [1, 4]},  # a browser computes on the CPU
}
WARM_UP = 10  # updates that are not counted: the browser compiles what runs often
# Seconds of each update, drawn and laid out, and of each forward pass.
TIMED = """rounds => {
    const { page } = playground, seconds = { update: [], forward: [] };
    const timed = (name, call) => {
        const start = performance.now();
        call();
        seconds[name].push((performance.now() - start) / 1000);
    };
    for (let round = 0; round < rounds; round++) {
        timed('update', () => { page.update(); document.body.getBoundingClientRect(); });
        timed('forward', () => page.vit.forward(playground.normalise(page.pixels, page.file), page.state));
    }
    return seconds;
}"""


def measure(config: dict) -> list[dict]:
    """A whole update and the forward pass alone in the page, and PyTorch's forward pass on one thread."""
    theirs = pytorch(config["rounds"])
    with ThreadPoolExecutor(1) as apart:  # playwright wants a thread without an event loop
        ours = apart.submit(in_browser, config).result()
    runs = [{"seed": 0, "what": "forward", "where": "PyTorch, one thread", "slower": 1} | spread(theirs)]
    for (slower, what), seconds in ours.items():
        runs.append({"seed": 0, "what": what, "where": "browser", "slower": slower} | spread(seconds))
    return runs


def pytorch(rounds: int) -> list[float]:
    model, file = playground.read(playground.CHECKPOINTS / f"{next(iter(playground.NETWORKS))}.safetensors")
    image = augment.normalise(playground.test_scenes()[0][:1], file["mean"], file["std"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        times = interleaved({"forward": lambda: model(image, return_attention=True)}, rounds, "cpu")["forward"]
    torch.set_num_threads(threads)
    return times


def in_browser(config: dict) -> dict[tuple[int, str], list[float]]:
    """Seconds by slow-down of the processor and by what is timed."""
    if not (path := chromium()):
        raise FileNotFoundError("no browser here: install Chromium or Chrome")
    found = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(playground.alone(Path(folder)).as_uri())
        for slower in config["slower"]:
            throttle(tab, slower)
            tab.evaluate(TIMED, WARM_UP)
            for what, seconds in tab.evaluate(TIMED, config["rounds"]).items():
                found[slower, what] = seconds
        browser.close()
    return found


def throttle(tab: Page, slower: int) -> None:
    tab.context.new_cdp_session(tab).send("Emulation.setCPUThrottlingRate", {"rate": slower})


def summarise(runs: list[dict]) -> dict:
    """Milliseconds of a whole update by slow-down, and how many times as long as PyTorch the forward pass takes."""
    seconds = {(run["where"], run["what"], run["slower"]): run["seconds"] for run in runs}
    updates = {f"milliseconds of an update, processor {slower} times slower": 1000 * time
               for (_, what, slower), time in seconds.items() if what == "update"}
    theirs = seconds["PyTorch, one thread", "forward", 1]
    return updates | {"forward pass, browser over PyTorch": seconds["browser", "forward", 1] / theirs}


if __name__ == "__main__":
    main(sys.modules[__name__])
