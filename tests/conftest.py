"""What tests of more than one file share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium that the machine has."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if not path and not mac.exists():
        pytest.skip("no Chromium or Chrome here: nothing was opened in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or mac)
        yield browser
        browser.close()
