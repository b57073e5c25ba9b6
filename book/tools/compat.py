"""Test the library with other versions than those that the book is made with.

    compat.py oldest         the lowest versions that pyproject.toml names
    compat.py colab          what Colab has
    compat.py newest         the newest versions of all

Each set is tried on every Python of 3.11 to 3.13 that this machine has and that the set's torch was built for, each in
an environment of its own below _build/compat, of about 6 GB while it lasts. A table at the end says what was tried.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "_build/compat"
PYTHONS = ("3.11", "3.12", "3.13")
NEEDED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
SETS = {
    "oldest": [line.replace(">=", "==") for line in NEEDED if line.startswith(("torch", "tqdm"))] + ["numpy==2.0.*"],
    "colab": ["torch==2.11.*", "torchvision==0.26.*", "numpy==2.1.*", "matplotlib==3.10.*"],
    "newest": [],
}
HERE = ".".join(map(str, sys.version_info[:2]))
ONLY = {"colab": ("3.13",), "newest": (HERE,)}  # the Python that a set goes with
TESTERS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "PyYAML")
# Tests of the library that need no other library: those against timm and its like are for the tested set.
TESTS = ("tests/vitlite", "--ignore-glob=*weights_*.py", "--ignore-glob=*test_hard.py")


def pythons() -> dict[str, str]:
    """The interpreters of the versions that the book names, by version."""
    found = {}
    for candidate in (sys.executable, *(f"python{version}" for version in PYTHONS),
                      *sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python")))):
        if path := shutil.which(candidate):
            run = subprocess.run([path, "-c", "import sys, venv, ssl; print('%d.%d' % sys.version_info[:2])"],
                                 check=False, capture_output=True, encoding="utf-8")
            if run.returncode == 0 and run.stdout.strip() in PYTHONS:
                found.setdefault(run.stdout.strip(), path)
    return dict(sorted(found.items()))


def tried(name: str, version: str, python: str, tests: list[str]) -> tuple[bool, str]:
    """Make an environment, run the tests in it, remove it; whether all is well, and the last line of what was said."""
    place = FOLDER / f"{name}-{version}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        subprocess.run([python, "-m", "venv", place], check=True)
        pip = [place / "bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
        run = subprocess.run([*pip, *NEEDED, *SETS[name], *TESTERS], check=False, stderr=subprocess.PIPE,
                             encoding="utf-8")
        if run.returncode:
            return False, f"cannot be installed: {run.stderr.strip().splitlines()[-1]}"
        # Warnings are errors in the tested set alone: other versions may well announce their changes.
        words = ["-q", "-p", "no:cacheprovider", "-W", "default", *tests]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "CUDA_VISIBLE_DEVICES": "",
                       "OMP_NUM_THREADS": "1", "VITLITE_SCALE": "quick"}
        run = subprocess.run([place / "bin/python", "-m", "pytest", *words], check=False, cwd=ROOT, env=environment,
                             stdout=subprocess.PIPE, encoding="utf-8")
        said = run.stdout.strip().splitlines()
        if run.returncode:
            print("\n".join(said[-60:]), flush=True)
        return run.returncode == 0, said[-1] if said else "the tests did not begin"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """Read the command line, try each set on each Python, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", choices=list(SETS))
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what to run, instead of the library's tests")
    options = parser.parse_args()
    here, lines, well = pythons(), [], True
    for name in options.sets:
        for version in ONLY.get(name, PYTHONS):
            good, said = (tried(name, version, here[version], options.tests) if version in here
                          else (True, "not tried: this machine has no such Python"))
            well &= good
            lines.append(f"{name:<8}Python {version:<6}{re.sub('=+ ?', '', said)[:140]}")
            print(lines[-1], flush=True)
    print("\n".join(["", *lines]))
    sys.exit(not well)


if __name__ == "__main__":
    main()
