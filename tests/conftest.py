"""What tests of more than one file share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sys.path.append(str(Path(__file__).resolve().parents[1] / "book/tools"))
from chromium import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium that the machine has."""
    path = chromium()
    if not path:
        pytest.skip("no Chromium or Chrome here: nothing was opened in a browser")
    from playwright.sync_api import sync_playwright  # which the library's own tests do not need

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def until_still() -> Callable[[Page], None]:
    """Waits until nothing on a page fades or moves."""
    return lambda tab: tab.wait_for_function("document.getAnimations().every(x => x.playState === 'finished')")
