"""The runner: it turns an experiment into a record.

An experiment is a module with a card as its docstring (``Question:``, ``Expectation:``, ``Command:``, ``Cost:``) and

- ``DATASET``: what it is measured on;
- ``SCALES``: a configuration for each scale it can run at, ``"quick"``, ``"cpu"`` or ``"full"``; what varies by chance
  has its ``"seeds"`` there;
- ``points(config)``: the runs to make, the most telling first: dicts with a ``"seed"`` and a place on the grid;
- ``run(point, config, work)``: make one run; ``work`` is a folder for its checkpoints. It returns what it measured;
- ``summarise(runs)``: the answer, in a few figures, out of what the runs measured and where on the grid they stand;
- ``show(record, what)`` (see ``records.views``), or ``show(record)`` where there is one view: a table (Markdown), lines
  of text, or a figure. Every experiment that has a record has it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import math
import os
import pkgutil
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import ModuleType

import torch

from experiments import records
from vitlite.files import decoding, held, try_writing, written_whole
from vitlite.train.device import autocast_dtype

__all__ = ["card", "find", "names", "run"]

WORK = records.ROOT / "data" / "runs"
GRACE = 60  # seconds to save a run in
FINISHED = "finished.json"

# What stands beside the experiments and is none.
TOOLS = {"__main__", "captions", "disturb", "drawing", "families", "measure", "real", "records", "runner", "scale",
         "statistics", "timing"}


def names() -> list[str]:
    """The experiments there are."""
    return sorted({module.name for module in pkgutil.iter_modules([Path(__file__).parent])} - TOOLS)


def find(name: str) -> ModuleType:
    """The experiment of that name.

    Raises:
        ValueError: If there is none; the message gives the nearest names.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names()) or names()
        raise ValueError(f"experiment is {name!r}; expected one of {', '.join(near)}")
    return importlib.import_module(f"experiments.{name}")


def card(experiment: ModuleType) -> dict[str, str]:
    """The entries of an experiment's card, each on one line, by name: question, expectation, command, cost."""
    entries = re.findall(r"^(\w+):[ ]+(.+(?:\n[ ]+.+)*)", experiment.__doc__ or "", flags=re.MULTILINE)
    return {name.lower(): " ".join(text.split()) for name, text in entries}


def run(
    name: str,
    scale: str = "cpu",
    *,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    minutes: float = math.inf,
    force: bool = False,
    folder: Path = records.FOLDER,
    work: Path = WORK,
) -> Path:
    """Make an experiment's runs, resuming where an earlier call stopped, and write its record.

    A record of the same configuration grows, on another machine too: the runs that it holds and the notes of its trials
    are taken over, and the runs that it lacks are added. Each run says in ``made`` when, on which processor, in which
    reduced precision (where the device gains from one, else float32) and with which commit it was made.

    Args:
        name: Which experiment.
        scale: ``"quick"``, ``"cpu"`` or ``"full"``.
        seeds: Make the runs of these seeds; by default those that the experiment names.
        jobs: How many runs to make at a time, each in a process of its own: small ones may share a GPU. Their times are
            then longer than alone. An experiment whose runs are ``IN_ORDER`` makes one at a time.
        minutes: Begin no run after so long, and write the record of those made; a later call makes the others.
        force: Make every run again, and replace a record of a larger scale. After an interruption the next call, with
            ``force`` or without, makes those that are missing.
        folder: Where the record goes.
        work: Where finished runs and checkpoints wait until the record is written.

    Returns:
        The path of the record.

    Raises:
        ValueError: If there is no such experiment, it does not run at that scale, it has no seeds to choose, or no run
            was made.
        FileExistsError: If a record of a larger scale, or of other settings, stands there and ``force`` is not given.
        RuntimeError: If another call is making the same runs.
    """
    experiment = find(name)
    if scale not in experiment.SCALES:
        raise ValueError(f"scale is {scale!r}; {name} runs at {', '.join(experiment.SCALES)}")
    config, entries = experiment.SCALES[scale], card(experiment)
    jobs = 1 if getattr(experiment, "IN_ORDER", False) else jobs
    fingerprint = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    place = work / f"{name}-{scale}-{fingerprint}"  # another configuration does not resume this one
    if seeds is not None:
        if "seeds" not in config:
            raise ValueError(f"seeds are {list(seeds)}, but {name} has none to choose; leave them out")
        seeds = list(dict.fromkeys(seeds))  # a seed that is named twice is one run
        config = config | {"seeds": seeds}
    for path in (folder / f"{name}.json", place / FINISHED):
        try_writing(path)  # before hours of work count on it
    with held(place):  # two at once would lose each other's runs
        forced = place / "forced"
        if force and not forced.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True, exist_ok=True)
            forced.touch()
        force = forced.exists()
        there = {} if force else _recorded(name, scale, config, folder)
        if there and "seeds" in config:
            config = config | {"seeds": sorted({*config["seeds"], *(run["seed"] for run in there["runs"])})}
        _take_over(there.get("notes", {}), place)
        runs = _finish(experiment, config, seeds, place, there.get("runs", []), jobs, 60 * minutes)
        if not runs:
            raise ValueError(f"minutes is {minutes}: no run of {name} was made; give it more time")
        command = f"python -m experiments {name} --scale {scale}"
        if config.get("seeds") != experiment.SCALES[scale].get("seeds"):
            command += f" --seeds {' '.join(map(str, config['seeds']))}"
        record = {"name": name, "question": entries["question"], "expectation": entries["expectation"],
                  "command": command, "scale": scale, "config": config, "dataset": experiment.DATASET,
                  "runs": runs, "summary": experiment.summarise(runs), "notes": _notes(place),
                  **records.provenance(config.get("device", "cpu"))}
        written = records.write(record, force=force, folder=folder)
        forced.unlink(missing_ok=True)
        return written


def _recorded(name: str, scale: str, config: dict, folder: Path) -> dict:
    """The record that stands there, if it is of the same scale and settings, the seeds apart; else nothing.

    Raises:
        FileExistsError: If it is of a larger scale, or of the same scale with other settings.
    """
    if name not in records.names(folder):
        return {}
    records.refuse_weaker(name, scale, folder)
    record = records.read(name, folder)
    if record["scale"] != scale:
        return {}
    there = record["config"]
    differ = sorted(key for key in there | config if key != "seeds" and there.get(key) != config.get(key))
    if differ:
        raise FileExistsError(
            f"{name}.json holds runs with other settings ({', '.join(differ)}); pass --force to make all runs anew and "
            "replace it"
        )
    return record


def _notes(place: Path) -> dict[str, dict | list]:
    """What the experiment noted beside its runs, such as its trials of learning rates, by the name of the file."""
    notes = {}
    for path in sorted({*place.glob("*.json")} - {place / FINISHED}):
        with decoding(path, "damaged", "remove it, and what it noted is made again"):
            notes[path.name] = json.loads(path.read_text(encoding="utf-8"))
    return notes


def _take_over(notes: dict[str, dict | list], place: Path) -> None:
    """Write a record's notes where this machine has none of its own."""
    for name, noted in notes.items():
        path = place / Path(name).name
        if not path.exists():
            with written_whole(path) as beside:
                beside.write_text(json.dumps(noted), encoding="utf-8")


def _finish(
    experiment: ModuleType,
    config: dict,
    seeds: Sequence[int] | None,
    place: Path,
    recorded: list[dict],
    jobs: int,
    seconds: float,
) -> list[dict]:
    """Make the runs that are not made yet, of these seeds alone where some are given, noting each; returns all that
    there are in the order of the points, each with its point."""
    finished, points = place / FINISHED, experiment.points(config)
    made = _runs_made(finished)
    for run in recorded:
        made += [{"point": point} | run for point in points if point.items() <= run.items()]
    wanted = [point for point in points if seeds is None or point["seed"] in seeds]
    todo = [point for point in wanted if point not in [run["point"] for run in made]]
    began, stamp = time.perf_counter(), _stamp(config)
    for count, (point, result) in enumerate(_results(experiment, todo, config, place, jobs, began + seconds), start=1):
        made.append({"point": point} | result | {"made": stamp})
        with written_whole(finished) as beside:
            beside.write_text(json.dumps(made), encoding="utf-8")
        left = (time.perf_counter() - began) / count * (len(todo) - count)
        print(f"{len(wanted) - len(todo) + count} of {len(wanted)} runs made: {_short(point)}; "
              f"about {_duration(left)} left", file=sys.stderr, flush=True)
    by_point = {_short(run["point"]): run for run in made}  # a run that is both noted and recorded counts once
    runs = [by_point[_short(point)] for point in points if _short(point) in by_point]
    return [run["point"] | {key: value for key, value in run.items() if key != "point"} for run in runs]


def _runs_made(finished: Path) -> list[dict]:
    """The runs that a file says are made."""
    with decoding(finished, "damaged", "remove it, and its runs are made again"):
        made = json.loads(finished.read_text(encoding="utf-8")) if finished.exists() else []
        if not isinstance(made, list) or not all(isinstance(run["point"], dict) for run in made):
            raise ValueError("expected a list of runs, each with its point")
    return made


def _stamp(config: dict) -> dict:
    made = records.provenance(config.get("device", "cpu"))
    hardware = made["hardware"]
    reduced = autocast_dtype(torch.device(hardware["device"])) or torch.float32
    return {"date": made["date"], "processor": hardware.get("gpu", hardware["processor"]),
            "precision": str(reduced).removeprefix("torch."), "commit": made["commit"]}


def _results(
    experiment: ModuleType, todo: list[dict], config: dict, place: Path, jobs: int, until: float
) -> Iterator[tuple]:
    """Each point with its result, as they come; none is begun after that time."""
    if jobs == 1:
        for point in todo:
            if time.perf_counter() > until:
                return
            print(f"begun: {_short(point)}", file=sys.stderr, flush=True)
            yield point, experiment.run(point, config, place)
        return
    waiting, begun, failed = list(todo), {}, None
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        while True:
            while waiting and not failed and len(begun) < jobs and time.perf_counter() <= until:
                point = waiting.pop(0)
                begun[pool.submit(experiment.run, point, config, place)] = point
            if not begun:
                break
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                point = begun.pop(future)
                if future.exception():
                    failed = failed or future.exception()  # the others are not lost with it
                else:
                    yield point, future.result()
    if failed:
        raise failed


def _end_with_parent() -> None:
    """Should the parent be killed, have this process save its run and end: nobody is left to stop it."""

    def watch() -> None:
        parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves what it has; all else ends
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _short(point: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
