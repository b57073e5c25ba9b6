"""Killed at random moments, nothing is half-written, and the run that goes on has the same weights."""

import os
import random
import signal
import sys
import types
from pathlib import Path

import pytest
import torch

from experiments import records, runner
from vitlite import weights
from vitlite.train import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "vitlite" / "train"))
from tiny import RECIPE, dropping, same, splits

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"), pytest.mark.filterwarnings("ignore")]


def counted(call):
    """How many functions a call enters: its length on any machine, fast or slow."""
    entered = 0

    def count(frame, event, argument):
        nonlocal entered
        entered += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


def killed(call, entering, rest):
    """Run a call in a process of its own, dead ``rest`` seconds after it enters that many functions; whether it did.

    The alarm ends a process as SIGKILL does, between any two instructions and with no word of Python. It is the child
    that sets it, so whether it comes before the end depends on no other process and on no clock but these ``rest``.
    """
    child = os.fork()
    if child == 0:
        left = entering

        def count(frame, event, argument):
            nonlocal left
            left -= event in ("call", "c_call")
            if left == 0:
                sys.setprofile(None)
                signal.setitimer(signal.ITIMER_REAL, rest)

        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.setprofile(count)
            call()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGALRM


def test_a_training_that_is_killed_goes_on_to_the_same_weights(tmp_path, often):
    torch.set_num_threads(1)  # a fork has no threads but its own

    def run(folder):
        net = dropping()
        Trainer(net, RECIPE, device="cpu", checkpoint=folder / "run.safetensors", checkpoint_every=1).fit(splits())
        weights.save(net, folder / "model.safetensors")

    run(tmp_path / "warm")  # the first one also loads what the later ones find loaded
    length = counted(lambda: run(tmp_path / "whole"))
    whole, draw, hits = weights.load(tmp_path / "whole" / "model.safetensors"), random.Random(0), 0
    folder, kills = tmp_path / "first", often(3, 35)
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
