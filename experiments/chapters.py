"""What each chapter of the book costs to run.

Question:    How long does each chapter run at quick scale, and how much memory does it need?
Expectation: On one thread of a processor with bfloat16 instructions below 60 seconds each, a few of them below 90, and
             below 3 GB of memory.
Command:     python -m experiments chapters
Cost:        About 12 minutes on one core with bfloat16 instructions, twice as long without: one chapter at a time, each
             on one thread. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import records

__all__ = ["DATASET", "SCALES", "points", "run", "show", "summarise"]

DATASET = "what each chapter uses at quick scale"
SCALES = {"cpu": {"seed": 0, "device": "cpu", "threads": 1}}  # execute.py gives each kernel one thread


def points(config: dict) -> list[dict]:
    """One run a chapter."""
    chapters = sorted(path.stem for path in (records.ROOT / "notebooks").glob("*.ipynb"))
    return [{"chapter": chapter, "seed": config["seed"]} for chapter in chapters]


def run(point: dict, config: dict, work: Path) -> dict:
    """Run a chapter alone and on one thread, from its first cell to its last, leaving the stored one as it is.

    Returns:
        ``seconds`` from start to end, the kernel's start included, and ``peak_bytes``, the most memory that
        one of its processes held.
    """
    program = records.ROOT / "book" / "tools" / "execute.py"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        words = [sys.executable, program, point["chapter"], "--into", folder]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"chapter {point['chapter']} did not run to its end; `make execute` shows where")
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def summarise(runs: list[dict]) -> dict:
    """The longest chapter, and all together."""
    return {"longest_seconds": max(run["seconds"] for run in runs), "all_seconds": sum(run["seconds"] for run in runs)}


def show(record: dict) -> str:
    """The record as *How to read and run* shows it, in MyST: a row for each chapter, and where it was measured."""
    rows = [[f"{{doc}}`../notebooks/{run['chapter']}`", f"{run['seconds']:.0f}", f"{run['peak_bytes'] / 1e9:.1f}"]
            for run in record["runs"]]
    threads, made = record["config"]["threads"], record["runs"][0]["made"]
    count = "one thread" if threads == 1 else f"{threads} threads"
    table = records.table(["chapter", "seconds", "memory (GB)"], rows)
    return (f"{table}\n\nMeasured on {record['date']} with {count} "
            f"({record['hardware']['processor']}), one chapter at a time; training in {made['precision']}.")
