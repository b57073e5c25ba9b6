"""Build the pages into _build/html, with warnings as errors.

    python book/tools/build.py             from the outputs that the chapters have stored
    python book/tools/build.py --fresh     run every chapter first

The pages are made from a copy, so the chapters in notebooks/ stay as they are.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import exercises
import playground
import results
import yaml
from execute import CHAPTERS, read, run_chapters
from figures import covers
from lighten import lighten
from stamp import stamped
from vendor import scripts
from workers import workers

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "_build/source"
SITE = ROOT / "_build/html"

# Pages that have moved: the old address, and the new one beside it.
MOVED = {"notebooks/02_positions.html": "03_positions.html", "notebooks/03_attention.html": "02_attention.html"}
REDIRECT = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="1; url={new}">
<link rel="canonical" href="{new}">
<title>This page has moved</title>
<script>location.replace("{new}" + location.hash)</script>
<p>This page has moved to <a href="{new}">{new}</a>.</p>
</html>
"""


def stage() -> None:
    """Copy what the pages are made from to a folder of their own."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("book", "notebooks"):
        shutil.copytree(ROOT / folder, SOURCE / folder, ignore=skip)
    shutil.copy(ROOT / "_toc.yml", SOURCE)
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address, tag = stamped(read(min(CHAPTERS.glob("*.ipynb"))))  # the button opens what the chapter fetches
    settings["repository"] |= {"url": address, "branch": tag or "main"}
    (SOURCE / "_config.yml").write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    shutil.copytree(scripts(), SOURCE / "book/_static/vendor")
    playground.write(SOURCE / "book/_static/playground")
    exercises.write(SOURCE / "book/exercises.ipynb")
    results.write(SOURCE / "book/all-results.md")


def build() -> int:
    """Build every page anew, show all warnings, and return 0 if there was none."""
    shutil.rmtree(SITE, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", SOURCE, "--path-output", ROOT]
    options = ["--all", "--quiet", "--warningiserror", "--nitpick", "--keep-going"]
    run = subprocess.run([*command, *options], check=False, stdout=subprocess.PIPE, encoding="utf-8",
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
    if run.returncode:
        print(run.stdout)
    return run.returncode


def redirect(site: Path = SITE) -> None:
    """Write a page at each old address that leads to the new one, from a disk as from a server."""
    for old, new in MOVED.items():
        (site / old).write_text(REDIRECT.format(new=new), encoding="utf-8")


def main() -> None:
    """Read the command line, build, and say where the pages are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="run every chapter first")
    options = parser.parse_args()
    stage()
    if options.fresh:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C
        print(f"running the chapters, {workers()} at a time", flush=True)
        if failures := run_chapters([], SOURCE / "notebooks"):
            sys.exit("\n".join(f"\nFAILED {failure}" for failure in failures))
    covers(SOURCE / "notebooks", SOURCE / "book/covers")
    print("building the pages", flush=True)
    if build():
        (SITE / "index.html").unlink(missing_ok=True)  # so that no test takes these pages for the book
        sys.exit("FAILED the pages: see the warnings above")
    lighten(SITE)
    redirect()
    print(f"\nThe book is built. Open {(SITE / 'index.html').as_uri()}")


if __name__ == "__main__":
    main()
