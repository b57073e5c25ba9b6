"""Records: what an experiment measured, where, when and with what, as one JSON file each in ``data/records``.

A chapter that states a result reads it from here. Accuracies are fractions, times seconds, sizes bytes.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch
from matplotlib.figure import Figure

from vitlite import checks
from vitlite.files import decoding, written_whole

__all__ = ["FOLDER", "names", "percent", "percent_between", "provenance", "read", "refuse_weaker", "table",
           "views", "write"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "records"

# Every record has these keys; "runs" has an entry for each run.
KEYS = ("name", "question", "expectation", "command", "scale", "config", "dataset", "runs", "summary",
        "hardware", "versions", "commit", "date")
SCALES = ("quick", "cpu", "full")  # from the weakest evidence to the strongest


def names(folder: Path = FOLDER) -> list[str]:
    """The records there are.

    Example:
        >>> "train_cifar10" in names()
        True
    """
    return sorted(path.stem for path in folder.glob("*.json"))


def read(name: str, folder: Path = FOLDER) -> dict:
    """The record of that name, checked.

    Raises:
        FileNotFoundError: If there is none; the message gives the nearest names.
        ValueError: If the file is not a complete record.

    Example:
        >>> read("train_cifar10")["name"]
        'train_cifar10'
    """
    path = _path(name, folder)
    if not path.exists():
        near = difflib.get_close_matches(name, names(folder)) or names(folder) or ["none yet"]
        maker = "make benchmark" if name.startswith("benchmark_") else f"python -m experiments {name}"
        raise FileNotFoundError(f"there is no record {name!r}; near it: {', '.join(near)}. `{maker}` makes it")
    with decoding(f"record {path.name}", "not JSON", "make it again with --force, or restore it from git"):
        record = json.loads(path.read_text(encoding="utf-8"))
    _check(record, path.name)
    if record["name"] != name:
        raise ValueError(f"record {path.name} has the name {record['name']!r}; rename the file, or make it again")
    return record


def _path(name: str, folder: Path) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise ValueError(f"name is {name!r}; expected letters, digits, _, - and dots, and no folder")
    return folder / f"{name}.json"


def _check(record: dict, file: str) -> None:
    """See that a record is complete: every key, a run at least, a seed in each, accuracies that are fractions."""
    if not isinstance(record, dict):
        raise ValueError(f"record {file} holds a {type(record).__name__}; expected an object with {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise ValueError(f"record {file!r} lacks {', '.join(missing)}")
    if record["scale"] not in SCALES:
        raise ValueError(
            f"record {record['name']!r} has scale {record['scale']!r}; expected one of {', '.join(SCALES)}"
        )
    if not record["runs"] or not isinstance(record["runs"], list):
        raise ValueError(f"record {record['name']!r} has no runs")
    for run in record["runs"]:
        if not isinstance(run, dict) or "seed" not in run:
            raise ValueError(f"record {record['name']!r} has a run without its seed: {run}")
        for key, value in run.items():
            if key.endswith("accuracy") and isinstance(value, float) and not 0 <= value <= 1:
                raise ValueError(f"record {record['name']!r} has {key} {value}; an accuracy is a fraction in [0, 1]")


def percent(interval: dict, sign: str = "") -> str:
    """A share as text in per cent, or a difference of shares in points, with its interval.

    Args:
        interval: Of a record's summary: ``mean``, and ``low`` and ``high``, which are None for a single run. Fractions.
        sign: ``"+"`` to write the sign of positive values too.

    Example:
        >>> percent({"mean": 0.448, "low": 0.439, "high": 0.457})  # the spaces do not break
        '44.8\\xa0±\\xa00.9'
        >>> percent({"mean": 0.016, "low": None, "high": None}, sign="+")
        '+1.6'
    """
    reach = "" if interval["high"] is None else f"\u00a0±\u00a0{100 * (interval['high'] - interval['mean']):.1f}"
    return f"{100 * interval['mean']:{sign}.1f}{reach}".replace("-", "−")


def percent_between(mean: float, low: float, high: float) -> str:
    """A share as text in per cent, and between which ends it lies; also a difference of shares in points.

    Args:
        mean: The share, a fraction.
        low: The lower end of its interval.
        high: The upper end.

    Example:
        >>> percent_between(0.935, 0.922, 0.947)
        '93.5 (92.2 to 94.7)'
    """
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})".replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table as Markdown.

    Args:
        head: What stands over each column.
        rows: The cells of each row, as text: Markdown, in which ``|`` and the brackets of HTML stand for themselves.
        left: So many columns from the left hold words and begin at the left; the others hold numbers and end at the
            right.

    Raises:
        ValueError: If a row has not as many cells as the head.

    Example:
        >>> print(table(["model", "%"], [["ViT", "44.8"]]))
        | model | % |
        |:--|--:|
        | ViT | 44.8 |
    """
    lines = [f"| {' | '.join(map(_cell, head))} |", "|" + ":--|" * left + "--:|" * (len(head) - left)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"row {list(row)} has {len(row)} cells; expected {len(head)}, as in {list(head)}")
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot end its cell, nor become a tag on the page."""
    text = " ".join(str(text).splitlines()).replace("\\|", "|").replace("|", "\\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def views(**known: Callable[[dict], Figure | str]) -> Callable[[dict, str], Figure | str]:
    """The ``show(record, what)`` of an experiment: by its name, what makes a view of a record, a figure or Markdown.

    Example:
        >>> views(seeds=lambda record: f"{len(record['runs'])} seeds")({"runs": [{}, {}]}, "seeds")
        '2 seeds'
    """

    def show(record: dict, what: str) -> Figure | str:
        checks.choice(known, what=what)
        return known[what](record)

    show.__doc__ = f"A view of the record, as a chapter shows it; ``what`` is {' or '.join(map(repr, known))}."
    return show


def write(record: dict, force: bool = False, folder: Path = FOLDER) -> Path:
    """Write a record, whole, unless a better one stands there.

    Args:
        record: All of ``KEYS``.
        force: Replace even a record of a larger scale.
        folder: Where records stand.

    Raises:
        ValueError: If the record is not complete.
        FileExistsError: If a record of a larger scale is there and ``force`` is not given.
    """
    _check(record, record.get("name", "?"))
    path = _path(record["name"], folder)
    if not force:
        refuse_weaker(record["name"], record["scale"], folder)
    try:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"record {record['name']!r} holds a number that is not finite ({error})") from error
    with written_whole(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
    return path


def refuse_weaker(name: str, scale: str, folder: Path = FOLDER) -> None:
    """See that no record of a larger scale stands where one of this scale is to be written.

    Raises:
        FileExistsError: If one does.
    """
    path = _path(name, folder)
    there = read(name, folder)["scale"] if path.exists() else SCALES[0]
    if SCALES.index(there) > SCALES.index(scale):
        raise FileExistsError(
            f"{path.name} holds a {there!r} record, this one is {scale!r}; pass --force to replace it"
        )


def provenance(device: torch.device | str = "cpu") -> dict:
    """Where, when and with what: the keys ``hardware``, ``versions``, ``commit`` and ``date`` of a record.

    Example:
        >>> sorted(provenance())
        ['commit', 'date', 'hardware', 'versions']
    """
    return {
        "hardware": _hardware(torch.device(device)),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "torchvision", "numpy")},
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def _hardware(device: torch.device) -> dict:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware = {"device": device.type, "processor": _processor(), "cores": cores, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


def _commit() -> str:
    """The commit the code stands at, with ``+changes`` if what results rest on differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, encoding="utf-8",
                              check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "vitlite", "experiments", "benchmarks")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("VITLITE_COMMIT", "unknown")  # what a copy without git was made from
