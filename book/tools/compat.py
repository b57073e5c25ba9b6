"""Test the library with other versions than those that the book is made with.

    compat.py oldest         the lowest versions that pyproject.toml names
    compat.py colab          what Colab has
    compat.py newest         the newest versions of all

Each set is tried on one Python, or with --all on every one of 3.11 to 3.13 that this machine has and that the set's
torch was built for. Each pair has an environment of its own below _build/compat, of about 5 GB; it stays until
`make clean`, so that what was interrupted goes on where it stopped. uv makes it: in a minute, and in seconds from its
cache. A table at the end says what was tried, how long it took, what was left out, and why. On a server it also goes
into the summary of the job.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
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
ONE = {"oldest": "3.11", "colab": "3.13", "newest": HERE}  # the Python that a set goes with
TESTERS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "PyYAML", "scipy", "timm")
# Tests of the library: those of others' weights, random calls and figures in a browser are for the tested set.
TESTS = ("tests/vitlite", *(f"--ignore-glob=*{name}*.py" for name in ("weights_", "test_hard", "test_explore")))
UNTRIED = "not tried: others' weights, random calls, interactive figures, tools, chapters and pages (make test does)"


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


def uv() -> str:
    """The command that makes the environments; it comes from PyPI where the machine has none."""
    if found := shutil.which("uv"):
        return found
    place = FOLDER / "uv"
    if not (place / "bin/uv").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "uv"],
                       check=True)
    return str(place / "bin/uv")


def environment(name: str, version: str, python: str) -> Path:
    """The interpreter of the environment for a set and a Python, made or completed. ValueError: it cannot be."""
    own = FOLDER / f"{name}-{version}/bin/python"
    command = uv()
    if not own.exists():
        subprocess.run([command, "venv", "-q", "--python", python, own.parents[1]], check=True)
    newest = ["--upgrade"] if name == "newest" else []
    run = subprocess.run([command, "pip", "install", "-q", *newest, "--python", own, *NEEDED, *SETS[name], *TESTERS],
                         check=False, stderr=subprocess.PIPE, encoding="utf-8")
    if run.returncode:
        raise ValueError(f"cannot be installed: {' '.join(run.stderr.split())}")
    return own


def tried(name: str, version: str, python: str, tests: list[str]) -> tuple[bool, str]:
    """Run the tests with a set on a Python; whether all is well, and what came out in a line."""
    print(f"{name}, Python {version}: making the environment", flush=True)
    begun = time.perf_counter()
    try:
        own = environment(name, version, python)
    except ValueError as error:
        return False, str(error)
    torch = subprocess.run([own, "-c", "import torch, numpy; print(f'torch {torch.__version__}, '"
                                       "f'numpy {numpy.__version__}')"], check=True, stdout=subprocess.PIPE,
                           encoding="utf-8").stdout.strip()
    made = time.perf_counter() - begun
    print(f"{name}, Python {version}, {torch}: running the tests", flush=True)
    # Warnings are errors in the tested set alone: other versions may well announce their changes.
    words = ["-q", "-p", "no:cacheprovider", "-W", "default", *tests]
    settings = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1", "VITLITE_SCALE": "quick"}
    run = subprocess.run([own, "-m", "pytest", *words], check=False, cwd=ROOT, env=settings, stdout=subprocess.PIPE,
                         encoding="utf-8")
    said = run.stdout.strip().splitlines() or ["the tests did not begin"]
    if run.returncode:
        print("\n".join(said[-60:]), flush=True)
    return run.returncode == 0, f"{torch}: {said[-1].strip('= ')} (environment made in {made:.0f}s)"


def main() -> None:
    """Read the command line, try each set on its Pythons, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", choices=list(SETS))
    parser.add_argument("--all", action="store_true", help="every Python that is here, not one per set")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what to run, instead of the library's tests")
    options = parser.parse_args()
    here, lines, well = pythons(), [], True
    for name in options.sets:
        for version in PYTHONS:
            if version not in here:
                good, said = True, "not tried: this machine has no such Python"
            elif version != ONE[name] and not options.all:
                good, said = True, f"not tried: book/tools/compat.py {name} --all does"
            else:
                good, said = tried(name, version, here[version], options.tests)
            well &= good
            lines.append(f"{name:<8}Python {version:<6}{said[:200]}")
    lines.append(UNTRIED)
    print("\n".join(["", *lines]))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write("\n".join(["```text", *lines, "```", ""]))
    sys.exit(not well)


if __name__ == "__main__":
    main()
