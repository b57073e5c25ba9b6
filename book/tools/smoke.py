"""Run every chapter as a plain script at full scale, cut to two steps on tiny data, so that the full path cannot rot.

    python book/tools/smoke.py                 every chapter
    python book/tools/smoke.py 02_attention    one of them

Uses a GPU where there is one. Two steps teach nothing, so the chapters' own assertions are not evaluated.
"""

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import nbformat
import numpy as np
from execute import CHAPTERS, ROOT, read

SECONDS = 600  # a chapter may take
HEADER = "from IPython.display import display\n\n"


def script(notebook: nbformat.NotebookNode) -> str:
    """A chapter's code cells one after the other; a cell that fails on purpose is let fail."""
    parts = [HEADER]
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        if "raises-exception" in cell.metadata.get("tags", []):
            source = f"try:\n{textwrap.indent(source, '    ')}\nexcept Exception as error:\n    print(error)"
        parts.append(source)
    return "\n\n".join(parts) + "\n"


def tiny_cifar10(path: Path) -> None:
    """Write noise in the form of CIFAR-10: 2,000 images to train on and 500 to test."""
    draw = np.random.default_rng(0)
    arrays = {"classes": np.array([f"class {number}" for number in range(10)])}
    for split, images in (("train", 2000), ("test", 500)):
        arrays[f"{split}_images"] = draw.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(images) % 10
    np.savez(path, **arrays)


def main() -> None:
    """Run the chapters named on the command line, or all."""
    chosen = sys.argv[1:] or [path.stem for path in sorted(CHAPTERS.glob("*.ipynb"))]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder, "data"), Path(folder, "notebooks")
        data.mkdir()
        work.mkdir()
        tiny_cifar10(data / "cifar10.npz")
        settings = {"VITLITE_SCALE": "full", "VITLITE_SMOKE": "1", "VITLITE_DATA": str(data), "MPLBACKEND": "Agg"}
        environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(ROOT), str(CHAPTERS)])}
        for name in chosen:
            print(f"  {name:<32}", end="", flush=True)
            path = work / f"{name}.py"
            path.write_text(script(read(CHAPTERS / f"{name}.ipynb")), encoding="utf-8")
            start = time.monotonic()
            run = subprocess.run(
                [sys.executable, "-O", path], cwd=work, env=environment, timeout=SECONDS, capture_output=True,
                encoding="utf-8",
            )
            print(f"{time.monotonic() - start:6.1f} s" if run.returncode == 0 else "failed", flush=True)
            if run.returncode:
                failed.append(f"FAILED {name}\n{run.stderr}")
    if failed:
        sys.exit("\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
