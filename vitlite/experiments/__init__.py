"""The experiments of the book: one file each, and the runner that turns one into a record.

An experiment is a module with a card as its docstring (``Question:``, ``Expectation:``, ``Command:``, ``Cost:``) and

- ``DATASET``: what it is measured on;
- ``SCALES``: a configuration for each scale it can run at, ``"quick"``, ``"cpu"`` or ``"full"``;
- ``points(config)``: the runs to make, the most telling first: dicts with a ``"seed"`` and a place on the grid;
- ``run(point, config, work)``: make one run; ``work`` is a folder for its checkpoints. It returns what it measured;
- ``summarise(runs)``: the answer, in a few figures.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from vitlite import records
from vitlite.files import written_whole

__all__ = ["card", "find", "names", "run"]

WORK = records.ROOT / "data" / "runs"


def names() -> list[str]:
    """The experiments there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The experiment of that name.

    Raises:
        ValueError: If there is none; the message gives the nearest names.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names()) or names()
        raise ValueError(f"experiment is {name!r}; expected one of {', '.join(near)}")
    return importlib.import_module(f"{__name__}.{name}")


def card(experiment: ModuleType) -> dict[str, str]:
    """The entries of an experiment's card, each on one line, by name: question, expectation, command, cost."""
    entries = re.findall(r"^(\w+):[ ]+(.+(?:\n[ ]+.+)*)", experiment.__doc__ or "", flags=re.MULTILINE)
    return {name.lower(): " ".join(text.split()) for name, text in entries}


def run(name: str, scale: str = "cpu", force: bool = False, folder: Path = records.FOLDER, work: Path = WORK) -> Path:
    """Make an experiment's runs, resuming where an earlier call stopped, and write its record.

    Args:
        name: Which experiment.
        scale: ``"quick"``, ``"cpu"`` or ``"full"``.
        force: Make every run again, and replace a record of a larger scale.
        folder: Where the record goes.
        work: Where finished runs and checkpoints wait until the record is written.

    Returns:
        The path of the record.

    Raises:
        ValueError: If there is no such experiment, or it does not run at that scale.
        FileExistsError: If a record of a larger scale stands there and ``force`` is not given.
    """
    experiment = find(name)
    if scale not in experiment.SCALES:
        raise ValueError(f"scale is {scale!r}; {name} runs at {', '.join(experiment.SCALES)}")
    config, told = experiment.SCALES[scale], card(experiment)
    fingerprint = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    place = work / f"{name}-{scale}-{fingerprint}"  # another configuration does not resume this one
    finished = place / "finished.json"
    runs = json.loads(finished.read_text()) if finished.exists() and not force else []
    done = [run["point"] for run in runs]
    todo = [point for point in experiment.points(config) if point not in done]
    for point in tqdm(todo, desc=name, unit="run", disable=None):
        print(f"{name}: {point}", file=sys.stderr, flush=True)
        runs.append({"point": point} | experiment.run(point, config, place))
        with written_whole(finished) as beside:
            beside.write_text(json.dumps(runs))
    record = {"name": name, "question": told["question"], "expectation": told["expectation"],
              "command": f"python -m vitlite experiment {name} --scale {scale}", "scale": scale, "config": config,
              "dataset": experiment.DATASET, "runs": [run["point"] | _without(run, "point") for run in runs],
              "summary": experiment.summarise(runs), **records.provenance(config.get("device", "cpu"))}  # fmt: skip
    return records.write(record, force=force, folder=folder)


def _without(run: dict, key: str) -> dict:
    return {name: value for name, value in run.items() if name != key}
