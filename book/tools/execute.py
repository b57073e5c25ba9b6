"""Run chapters from their first cell to their last, and store what they show.

    python book/tools/execute.py                     every chapter, in place
    python book/tools/execute.py 02_attention        one of them
    python book/tools/execute.py --into FOLDER       leave the chapters alone, write the run ones there

Chapters run at the same time, one on each core, each with one thread: so what a chapter computes does not depend on how
many run beside it. Two runs on one machine write the same bytes: no times, no random names.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from workers import workers

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "notebooks"
COSTS = ROOT / "data/records/chapters.json"  # the seconds that each chapter took
CELL_SECONDS = 300
COLOURS = "\x1b\\[[0-9;]*m"  # that a terminal would show
QUICK = {"VITLITE_SCALE": "quick", "CUDA_VISIBLE_DEVICES": ""}  # stored outputs are those of a CPU, everywhere
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
RUNNING: set[NotebookClient] = set()  # those whose kernels are to be stopped when this script is
KEPT_METADATA = {"tags", "mystnb", "jupyter"}
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


class ChapterError(Exception):
    """A chapter that did not run to its end; the message names the cell."""


class ThisPython(AsyncKernelManager):
    """Runs chapters with the interpreter that runs this script, whatever kernels the machine has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The one kernel there is."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook, in place.

    Raises:
        ChapterError: If a cell fails, takes longer than ``CELL_SECONDS``, or takes the kernel with it.
    """
    notebook.metadata.pop("widgets", None)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        timeout=CELL_SECONDS,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(CHAPTERS)}},
    )
    seen = []
    client.on_cell_start = lambda cell, cell_index: seen.append(cell_index)
    RUNNING.add(client)
    try:
        asyncio.run(client.async_execute(env={**os.environ, **QUICK, **ONE_THREAD}))
    except (CellExecutionError, CellTimeoutError, RuntimeError) as error:  # the last: the kernel died or never answered
        where = f"cell {seen[-1] + 1} of {len(notebook.cells)}" if seen else "before the first cell"
        raise ChapterError(f"{where}: {re.sub(COLOURS, '', str(error))}") from error
    finally:
        RUNNING.discard(client)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without what changes from run to run: times, versions, random ids."""
    notebook = nbformat.from_dict({**notebook, "nbformat": 4, "nbformat_minor": 5})
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    taken: set[str] = set()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_METADATA})
        cell.id = cell_id(cell, taken)
    if widgets and any(view.get("state") for view in widgets.values()):
        notebook.metadata.widgets = widgets
        notebook = renumber_widgets(notebook)
    return notebook


def cell_id(cell: nbformat.NotebookNode, taken: set[str]) -> str:
    """An id that depends on the cell's source alone, and on how often that came before."""
    copies = 0
    while True:
        text = f"{cell.cell_type}\n{copies}\n{cell.source}"
        name = hashlib.sha256(text.encode()).hexdigest()[:8]
        if name not in taken:
            taken.add(name)
            return name
        copies += 1


def renumber_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Widgets numbered in the order in which they were made, in place of their random ids."""
    text = json.dumps(notebook)
    states = [view["state"] for view in notebook.metadata.widgets.values() if "state" in view]
    names = {old: f"{number:032x}" for number, old in enumerate((key for state in states for key in state), 1)}
    text = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda match: names.get(match[0], match[0]), text)
    return nbformat.from_dict(json.loads(text))


def run_chapters(names: list[str], into: Path) -> list[str]:
    """Run chapters, as many at a time as the machine has room for, and write each to a folder as it ends.

    Returns:
        One message for each chapter that failed; the others ran to their end all the same.
    """
    paths = longest_first([path for path in CHAPTERS.glob("*.ipynb") if not names or path.stem in names])
    failures = {}
    with ThreadPoolExecutor(workers()) as pool:
        chapters = {pool.submit(run_chapter, path, into): path.stem for path in paths}
        try:
            for chapter in as_completed(chapters):
                name = chapters[chapter]
                try:
                    print(f"  {name:<32}{chapter.result():6.1f} s", flush=True)
                except ChapterError as error:
                    print(f"  {name:<32}  failed", flush=True)
                    failures[name] = f"{name}, {error}"
        except KeyboardInterrupt:
            sys.exit("stopped: each chapter is whole, as it was or as it is now")
        finally:
            stop(pool, chapters)
    return [failures[name] for name in sorted(failures)]


def longest_first(paths: list[Path]) -> list[Path]:
    """Chapters in an order that leaves no long one for the end; one that was never timed may be long."""
    try:
        seconds = {run["chapter"]: run["seconds"] for run in json.loads(COSTS.read_text(encoding="utf-8"))["runs"]}
    except (LookupError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{COSTS} is no record of what chapters took ({error}); restore it from git")
    return sorted(paths, key=lambda path: (-seconds.get(path.stem, math.inf), path.stem))


def run_chapter(path: Path, into: Path) -> float:
    """Run one chapter and write it to a folder; returns the seconds it took."""
    start = time.monotonic()
    notebook = read(path)
    execute(notebook)
    write(tidy(notebook), into / path.name)
    return time.monotonic() - start


def read(path: Path) -> nbformat.NotebookNode:
    """A chapter, as it stands in its file.

    Raises:
        ChapterError: If that is no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # of nbformat, of its schema, of JSON, or of the encoding
        raise ChapterError(f"{path} is no notebook ({str(error)[:200]}); restore it from git") from error


def stop(pool: ThreadPoolExecutor, chapters: Iterable[Future]) -> None:
    """Begin no further chapter, and kill the kernels of those that run, also one that is only about to start."""
    pool.shutdown(wait=False, cancel_futures=True)
    while any(chapter.running() for chapter in chapters):
        for client in tuple(RUNNING):
            kernel = getattr(client.km, "provisioner", None)
            if kernel and kernel.pgid:
                with contextlib.suppress(OSError):  # it has ended by itself
                    os.killpg(kernel.pgid, signal.SIGKILL)
        time.sleep(0.2)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, beside)
    beside.replace(path)


def main() -> None:
    """Read the command line and run what it names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NN_name", help="chapters to run (default: all)")
    parser.add_argument("--into", type=Path, default=CHAPTERS, help="where to write (default: in place)")
    options = parser.parse_args()
    known = {path.stem for path in CHAPTERS.glob("*.ipynb")}
    if unknown := set(options.names) - known:
        parser.error(f"no such chapter: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C
    if failures := run_chapters(options.names, options.into):
        sys.exit("\n".join(f"\nFAILED {failure}" for failure in failures))


if __name__ == "__main__":
    main()
