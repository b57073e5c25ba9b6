"""Killed at random moments, nothing is half-written, and the run that goes on has the same weights."""

import contextlib
import hashlib
import io
import itertools
import os
import random
import signal
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from experiments import records, runner
from vitlite import data, weights
from vitlite.data import datasets
from vitlite.train import Trainer

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/vitlite/train"), str(ROOT / "tests/vitlite/data"), str(ROOT / "book/tools")]
import execute  # noqa: E402
from alone import alone  # noqa: E402
from test_datasets import _archive  # noqa: E402
from tiny import EVERYTHING, dropping, same, splits  # noqa: E402

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"), pytest.mark.filterwarnings("ignore")]


def profiled(count, file):
    """Have a function called for each one that is entered in any thread, from a file of that name if one is given."""
    def seen(frame, event, argument):
        if event in ("call", "c_call") and frame.f_code.co_filename.endswith(file):
            count()

    threading.setprofile(seen)
    sys.setprofile(seen)


def counted(call, file=""):
    """How many functions a call enters: its length on any machine, fast or slow."""
    entered = itertools.count()
    profiled(lambda: next(entered), file)
    try:
        call()
    finally:
        threading.setprofile(None)
        sys.setprofile(None)
    return next(entered)


def killed(call, entering, rest, file=""):
    """Run a call in a process of its own, dead ``rest`` seconds after it enters that many functions; whether it did.

    The alarm ends a process as SIGKILL does, between any two instructions and with no word of Python. It is the child
    that sets it, so whether it comes before the end depends on no other process and on no clock but these ``rest``.
    """
    child = os.fork()
    if child == 0:
        left = itertools.count(entering, -1)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            profiled(lambda: next(left) or signal.setitimer(signal.ITIMER_REAL, rest), file)
            call()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGALRM


@alone
def test_a_training_that_is_killed_goes_on_to_the_same_weights(tmp_path, often):
    torch.set_num_threads(1)  # a fork has no threads but its own

    def run(folder):
        net = dropping()
        Trainer(net, EVERYTHING, device="cpu", checkpoint=folder / "run.safetensors", checkpoint_every=1).fit(splits())
        weights.save(net, folder / "model.safetensors")

    run(tmp_path / "warm")  # the first one also loads what the later ones find loaded
    length = counted(lambda: run(tmp_path / "whole"))
    whole, draw, hits = weights.load(tmp_path / "whole" / "model.safetensors"), random.Random(0), 0
    folder, kills = tmp_path / "first", often(8, 35)
    for number in range(2 * kills):  # one that ends unhurt is followed by one from the start, which cannot
        entering = int(draw.uniform(0.1, 0.9) * length)
        hits += killed(lambda folder=folder: run(folder), entering, draw.uniform(1e-6, 5e-4))
        if (folder / "model.safetensors").exists():
            assert same(weights.load(folder / "model.safetensors"), whole)
            folder = tmp_path / str(number)
        if hits >= kills:
            break
    run(folder)
    assert same(weights.load(folder / "model.safetensors"), whole)
    assert not list(folder.glob(".*.part")), "what the killed ones left is gone"
    assert hits >= kills


def test_an_experiment_that_is_killed_goes_on_to_the_same_record(tmp_path, often, monkeypatch):
    def one(point, config, place):
        torch.manual_seed(point["seed"])
        return {"val_accuracy": torch.rand(()).item(), "history": {}}

    experiment = types.ModuleType("try")
    experiment.__doc__ = "Question:    Does it resume?\nExpectation: Yes.\nCommand:     c\nCost:        none\n"
    experiment.__dict__.update(
        DATASET="none", SCALES={"quick": {"seeds": list(range(12))}}, run=one,
        points=lambda config: [{"seed": seed} for seed in config["seeds"]],
        summarise=lambda runs: {"mean": sum(run["val_accuracy"] for run in runs) / len(runs)})
    monkeypatch.setattr(runner, "find", lambda name: experiment)

    def run(place):
        return runner.run("try", "quick", folder=place / "records", work=place / "work")

    run(tmp_path / "warm")
    length, draw, hits = counted(lambda: run(tmp_path / "whole")), random.Random(0), 0
    wanted = [each["val_accuracy"] for each in records.read("try", tmp_path / "whole" / "records")["runs"]]
    place, kills = tmp_path / "first", often(2, 15)
    for number in range(2 * kills):
        hits += killed(lambda place=place: run(place), int(draw.uniform(0.1, 0.9) * length), draw.uniform(1e-6, 5e-4))
        if records.names(place / "records"):
            assert [each["val_accuracy"] for each in records.read("try", place / "records")["runs"]] == wanted
            place = tmp_path / str(number)
        if hits >= kills:
            break
    run(place)
    assert [each["val_accuracy"] for each in records.read("try", place / "records")["runs"]] == wanted
    assert hits >= kills


def test_a_download_that_is_killed_leaves_nothing_half(tmp_path, often, monkeypatch):
    content = _archive("cifar10")
    made = replace(datasets.CIFAR["cifar10"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(datasets.CIFAR, "cifar10", made)

    class Opener:
        def open(self, *_, **__):
            return contextlib.closing(io.BytesIO(content))

    monkeypatch.setattr(datasets.urllib.request, "build_opener", lambda *_: Opener())

    def run(root):
        return data.load("cifar10", root)

    wanted = run(tmp_path / "warm")
    length = counted(lambda: run(tmp_path / "whole"))
    draw, hits, root = random.Random(0), 0, tmp_path / "killed"
    for _ in range(2 * (kills := often(4, 20))):
        hits += killed(lambda: run(root), int(draw.uniform(0.02, 0.9) * length), draw.uniform(1e-6, 5e-4))
        if (root / "cifar10.npz").exists():
            assert torch.equal(run(root).train.images, wanted.train.images)
            (root / "cifar10.npz").unlink()
        if hits >= kills:
            break
    assert torch.equal(run(root).test.images, wanted.test.images)
    assert [path.name for path in root.iterdir()] == ["cifar10.npz"]
    assert hits >= kills


def test_chapters_are_whole_when_their_execution_is_killed(tmp_path, often, monkeypatch):
    monkeypatch.setattr(execute, "workers", lambda: 2)
    (chapters := tmp_path / "chapters").mkdir()
    for name in ("01_one", "02_two"):
        cells = [nbformat.v4.new_code_cell(f"print({number} + 1)") for number in range(3)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), chapters / f"{name}.ipynb")
    monkeypatch.setattr(execute, "CHAPTERS", chapters)
    before = {path.name: path.read_bytes() for path in chapters.iterdir()}
    length = counted(lambda: execute.run_chapters([], tmp_path / "whole"), "execute.py")
    after = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    draw, hits = random.Random(0), 0
    for _ in range(kills := often(1, 8)):
        hits += killed(lambda: execute.run_chapters([], chapters), int(draw.uniform(0.1, 0.9) * length),
                       draw.uniform(1e-6, 5e-4), "execute.py")
        assert all(path.read_bytes() in (before[path.name], after[path.name]) for path in chapters.glob("*.ipynb"))
    assert execute.run_chapters([], chapters) == []
    assert {path.name: path.read_bytes() for path in chapters.iterdir()} == after
    assert hits >= kills
