"""Build vitlite as a wheel into dist/, and try it in an environment that has nothing else of this project.

What vitlite needs, PyTorch above all, is taken from this environment. To upload the wheel is a person's act.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
TRIAL = """
import vitlite, vitlite.explore, torch
from importlib import metadata, resources
assert metadata.version("vitlite") == vitlite.__version__, "the version of the package is not that of its metadata"
assert not vitlite.__file__.startswith(ROOT), f"vitlite is that of the checkout: {vitlite.__file__}"
for name in ("figure.css", "figure.js"):
    assert resources.files("vitlite.explore").joinpath(name).is_file(), f"{name} is missing"
"""
TRAIN = ["--data", "scenes", "--train-images", "64", "--steps", "2", "--batch-size", "16", "--depth", "1",
         "--device", "cpu"]


def build() -> Path:
    """The wheel of the version that pyproject.toml names, in place of those that were there."""
    for folder in (DIST, ROOT / "build"):  # else what was deleted since would come along
        shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-w", DIST, ROOT], check=True)
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    return next(DIST.glob("vitlite-*.whl"))


def try_it(wheel: Path) -> None:
    """Install a wheel into a new environment, and use it there as a reader would."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
        python = Path(folder, "venv/bin/python")
        purelib = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                                 stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", wheel], check=True)
        Path(purelib, "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        for words in (["-c", f"ROOT = {str(ROOT)!r}{TRIAL}"], ["-m", "vitlite", "train", "model.safetensors", *TRAIN],
                      ["-m", "vitlite", "info", "model.safetensors"]):
            subprocess.run([python, "-I", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    built = build()
    try_it(built)
    print(f"{built.relative_to(ROOT)}: built, installed into an empty environment, and tried there")
