"""What tests of more than one file share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium that the machine has."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if not path and not mac.exists():
        pytest.skip("no Chromium or Chrome here: nothing was opened in a browser")
    from playwright.sync_api import sync_playwright  # which the library's own tests do not need

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or mac)
        yield browser
        browser.close()
