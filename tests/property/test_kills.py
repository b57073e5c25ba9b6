"""Killed at random moments, nothing is half-written, and the run that goes on has the same weights."""

import os
import random
import signal
import sys
import time
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


def killed(call, seconds):
    """Run a call in a process of its own and kill it after a while; whether it was still running."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            call()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_training_that_is_killed_goes_on_to_the_same_weights(tmp_path, often):
    torch.set_num_threads(1)  # a fork has no threads but its own

    def run(folder):
        net = dropping()
        Trainer(net, RECIPE, device="cpu", checkpoint=folder / "run.safetensors", checkpoint_every=1).fit(splits())
        weights.save(net, folder / "model.safetensors")

    run(tmp_path / "warm")  # the first one also loads what the later ones find loaded
    began = time.perf_counter()
    run(tmp_path / "whole")
    took = time.perf_counter() - began
    whole, draw, hits = weights.load(tmp_path / "whole" / "model.safetensors"), random.Random(0), 0
    folder, kills = tmp_path / "first", often(3, 35)
    for number in range(2 * kills):
        hits += killed(lambda folder=folder: run(folder), draw.uniform(0.1, 0.9) * took)
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
        time.sleep(0.02)
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

    began = time.perf_counter()
    run(tmp_path / "whole")
    took, draw, hits = time.perf_counter() - began, random.Random(0), 0
    wanted = [each["val_accuracy"] for each in records.read("try", tmp_path / "whole" / "records")["runs"]]
    place, kills = tmp_path / "first", often(2, 15)
    for number in range(3 * kills):
        hits += killed(lambda place=place: run(place), draw.uniform(0.1, 0.9) * took)
        if records.names(place / "records"):
            assert [each["val_accuracy"] for each in records.read("try", place / "records")["runs"]] == wanted
            place = tmp_path / str(number)
        if hits >= kills:
            break
    run(place)
    assert [each["val_accuracy"] for each in records.read("try", place / "records")["runs"]] == wanted
    assert hits >= kills
