"""The browser that tests open pages in and that prints the book."""

import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def chromium() -> str | None:
    """The path of a Chromium or Chrome, if this machine has one."""
    return next(filter(None, map(shutil.which, NAMES)), str(MAC) if MAC.exists() else None)
