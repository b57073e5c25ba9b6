"""The runner makes each run once, in order, and one record of all."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from experiments import cost, position, records, runner

CARD = "Question:    Does it\n             resume?\nExpectation: Yes.\nCommand:     c\nCost:        none\n"


@pytest.fixture
def places(tmp_path):
    return {"folder": tmp_path / "records", "work": tmp_path / "work"}


@pytest.fixture
def made(monkeypatch):
    """An experiment that notes which runs it makes, and breaks off once, at seed 1."""
    made, whole = [], []

    def run(point, config, work):
        if point["seed"] == 1 and not whole:
            whole.append(True)
            raise OSError("interrupted")
        made.append(point["seed"])
        return {"val_accuracy": 0.5}

    experiment = SimpleNamespace(
        __doc__=CARD,
        DATASET="none",
        SCALES={"quick": {"seeds": [0, 1, 2]}, "cpu": {}},
        points=lambda config: [{"seed": seed} for seed in config.get("seeds", [7])],
        run=run,
        summarise=lambda runs: {"seeds": [run["seed"] for run in runs]},
    )
    monkeypatch.setattr(runner, "find", lambda name: experiment)
    return made


@pytest.fixture
def pretend(monkeypatch):
    """Let the runner find an experiment that makes its runs so, with these settings at quick scale."""

    def pretend(run, **config):
        experiment = SimpleNamespace(__doc__=CARD, DATASET="none", SCALES={"quick": config}, run=run, summarise=len,
                                     points=lambda config: [{"seed": seed} for seed in config.get("seeds", [0])])
        monkeypatch.setattr(runner, "find", lambda name: experiment)
        return experiment

    return pretend


def test_every_experiment_has_a_full_card():
    for name in runner.names():
        card = runner.card(runner.find(name))
        assert {"question", "expectation", "command", "cost"} <= set(card), name
        assert card["command"].startswith(f"python -m experiments {name}")


def test_every_configuration_is_plain_data_and_has_points_each_once():
    for name in runner.names():
        experiment = runner.find(name)
        for config in experiment.SCALES.values():
            assert json.loads(json.dumps(config)) == config, name
            points = experiment.points(config)
            assert len({json.dumps(point) for point in points}) == len(points) > 0, name
            seeds = [point["seed"] for point in points]
            assert seeds == sorted(seeds) or name in ("bias", "same_or_different"), f"{name}: seeds mixed"


def test_every_card_that_counts_its_runs_counts_right():
    uncounted = {"attention_distance", "bias", "chapters", "cost", "rollout_localisation", "train_cifar10"}
    for name in set(runner.names()) - uncounted:
        experiment = runner.find(name)
        for scale in {"cpu", "full"} & experiment.SCALES.keys():
            count = len(experiment.points(experiment.SCALES[scale]))
            assert re.search(rf"\b{scale}: {count} (?:longer )?runs", runner.card(experiment)["cost"]), (name, scale)


def test_it_resumes_and_writes_one_record(made, places):
    with pytest.raises(OSError, match="interrupted"):
        runner.run("try", "quick", **places)
    assert records.names(places["folder"]) == []
    runner.run("try", "quick", **places)
    assert made == [0, 1, 2], "nothing twice, nothing left out"
    record = records.read("try", places["folder"])
    assert record["question"] == "Does it resume?"
    assert [(run["seed"], run["val_accuracy"]) for run in record["runs"]] == [(seed, 0.5) for seed in range(3)]
    assert record["summary"] == {"seeds": [0, 1, 2]}


def test_chosen_seeds_add_to_what_is_there(made, places):
    runner.run("try", "quick", seeds=[2, 0], **places)
    record = records.read("try", places["folder"])
    assert (record["summary"], record["config"]) == ({"seeds": [2, 0]}, {"seeds": [2, 0]})
    assert record["command"] == "python -m experiments try --scale quick --seeds 2 0"
    with pytest.raises(OSError, match="interrupted"):
        runner.run("try", "quick", **places)
    runner.run("try", "quick", **places)
    assert made == [2, 0, 1]
    assert records.read("try", places["folder"])["summary"] == {"seeds": [0, 1, 2]}, "in the order of the points"


def test_force_makes_every_run_again(made, places):
    runner.run("try", "quick", seeds=[0], **places)
    runner.run("try", "quick", seeds=[0], force=True, **places)
    runner.run("try", "quick", seeds=[0], force=True, **places)
    assert made == [0, 0, 0]


@pytest.mark.parametrize("force", [True, False])
def test_an_interrupted_forced_call_resumes(made, places, force):
    runner.run("try", "quick", seeds=[0, 2], **places)
    with pytest.raises(OSError, match="interrupted"):
        runner.run("try", "quick", force=True, **places)
    assert made == [0, 2, 0]
    runner.run("try", "quick", force=force, **places)
    assert made == [0, 2, 0, 1, 2]


def test_a_seed_named_twice_is_one_run(made, places):
    runner.run("try", "quick", seeds=[0, 0, 2], **places)
    assert made == [0, 2]
    assert records.read("try", places["folder"])["config"] == {"seeds": [0, 2]}


def test_what_may_not_be_replaced_is_refused_before_any_run(made, places):
    path = runner.run("try", "quick", seeds=[0], **places)
    there = json.loads(path.read_text())
    path.write_text(json.dumps(there | {"config": {"seeds": [0], "steps": 7}}))
    with pytest.raises(FileExistsError, match=r"try.json holds runs with other settings \(steps\); pass --force"):
        runner.run("try", "quick", seeds=[2], **places)
    path.write_text(json.dumps(there | {"scale": "full"}))
    with pytest.raises(FileExistsError, match="holds a 'full' record, this one is 'quick'; pass --force"):
        runner.run("try", "quick", seeds=[2], **places)
    assert made == [0]


def test_without_time_for_a_run_there_is_no_record(made, places):
    with pytest.raises(ValueError, match="minutes is -1: no run of try was made; give it more time"):
        runner.run("try", "quick", minutes=-1, **places)


def test_seeds_are_for_experiments_that_have_some(made, places):
    with pytest.raises(ValueError, match="try has none to choose"):
        runner.run("try", "cpu", seeds=[1], **places)


def test_it_tells_the_time_left(made, places, capsys, monkeypatch):
    clock = iter([0.0, 0.0, 60.0, 60.0, 60.0])
    runner.run("try", "quick", seeds=[-1], **places)
    capsys.readouterr()
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    with pytest.raises(OSError, match="interrupted"):
        runner.run("try", "quick", seeds=[-1, 0, 1], **places)
    assert "2 of 3 runs made: seed 0; about 1 min left" in capsys.readouterr().err


def test_several_runs_at_a_time_make_the_same_record(places, monkeypatch):
    tiny = cost.SCALES["quick"] | {"image_sizes": [16], "patch_sizes": [1, 16], "repeats": 2}
    monkeypatch.setitem(cost.SCALES, "quick", tiny)
    runner.run("cost", "quick", jobs=2, **places)
    runs = records.read("cost", places["folder"])["runs"]
    assert [run["tokens"] for run in runs] == [256, 256, 1, 1]
    assert all(run["seconds"] > 0 for run in runs)


def test_one_of_several_runs_at_a_time_that_fails_takes_no_other_with_it(places, monkeypatch):
    tiny = position.SCALES["quick"] | {"positions": ["none", "learned-1d", "polar"], "steps": 2}
    monkeypatch.setitem(position.SCALES, "quick", tiny)
    with pytest.raises(ValueError, match="position is 'polar'"):
        runner.run("position", "quick", jobs=2, **places)
    (finished,) = places["work"].glob("*/finished.json")
    assert {run["point"]["position"] for run in json.loads(finished.read_text())} == {"none", "learned-1d"}
    assert records.names(places["folder"]) == []


def test_several_runs_at_a_time_keep_to_the_time_too(places, monkeypatch):
    with pytest.raises(ValueError, match="no run of cost was made"):
        runner.run("cost", "quick", jobs=2, minutes=-1, **places)


def test_runs_that_need_the_one_before_are_made_one_at_a_time(places, pretend):
    made = []  # of this process: a worker would not be seen here
    experiment = pretend(lambda point, config, work: made.append(point) or {"val_accuracy": 0.5}, seeds=[0, 1, 2])
    experiment.IN_ORDER = True
    runner.run("try", "quick", jobs=2, **places)
    assert [point["seed"] for point in made] == [0, 1, 2]


def test_a_record_grows_by_the_seeds_it_lacks(places, pretend):
    made = []

    def run(point, config, work):
        made.append(point["seed"])
        return {"val_accuracy": 0.5}

    pretend(run, seeds=[0, 1], device="cpu")
    runner.run("try", "quick", seeds=[0], **places)
    for _ in range(2):  # on another machine, whose work folder is empty; then on that one again
        runner.run("try", "quick", seeds=[2], folder=places["folder"], work=places["work"] / "other")
    record = records.read("try", places["folder"])
    assert record["command"] == "python -m experiments try --scale quick --seeds 0 2", "what makes all of it"
    path = runner.run("try", "quick", folder=places["folder"], work=places["work"] / "third")
    record = json.loads(path.read_text())
    assert record["command"].endswith("--seeds 0 1 2")
    assert made == [0, 2, 1]
    assert [run["seed"] for run in record["runs"]] == record["config"]["seeds"] == [0, 1, 2]
    assert {"date", "processor", "precision", "commit"} == set(record["runs"][0]["made"])
    runner.run("try", "quick", seeds=[0], force=True, **places)
    assert made == [0, 2, 1, 0]


def test_what_the_trials_chose_goes_to_another_machine_with_the_record(places, pretend):
    """A rate is chosen once, and a ladder is climbed once, on whichever machine the next seed is run."""

    def run(point, config, work):
        path = work / "chosen.json"
        work.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps({"rate": point["seed"]}))
        return {"val_accuracy": 0.5, "rate": json.loads(path.read_text())["rate"]}

    pretend(run, seeds=[3, 4, 5])
    runner.run("try", "quick", seeds=[3], **places)
    other = {"folder": places["folder"], "work": places["work"] / "other"}
    record = json.loads(runner.run("try", "quick", seeds=[4], **other).read_text())
    assert record["notes"] == {"chosen.json": {"rate": 3}}
    assert [run["rate"] for run in record["runs"]] == [3, 3]
    (chosen,) = other["work"].glob("*/chosen.json")
    chosen.write_text("{")
    with pytest.raises(ValueError, match=r"chosen.json is damaged \(.*\); remove it, and what it noted is made again"):
        runner.run("try", "quick", seeds=[3], **other)
    record = json.loads(runner.run("try", "quick", seeds=[5], force=True, **other).read_text())
    assert record["notes"] == {"chosen.json": {"rate": 5}}, "runs made anew begin without notes"


def test_chosen_seeds_leave_the_others_unfinished(places, pretend, monkeypatch):
    made = []

    def run(point, config, work):
        made.append((point["seed"], point["place"]))
        return {"val_accuracy": 0.5}

    experiment = pretend(run, seeds=[0, 1])
    experiment.points = lambda config: [{"seed": seed, "place": place} for seed in config["seeds"] for place in "ab"]
    clock = iter(range(100))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    runner.run("try", "quick", minutes=1 / 60, **places)  # time for one run
    assert made == [(0, "a")]
    runner.run("try", "quick", seeds=[1], **places)
    assert made == [(0, "a"), (1, "a"), (1, "b")]
    assert len(records.read("try", places["folder"])["runs"]) == 3, "what was there stays"


def test_a_limit_of_time_leaves_the_rest_for_later(places, pretend, monkeypatch):
    pretend(lambda point, config, work: {"val_accuracy": 0.5}, seeds=[0, 1])
    clock = iter(range(100))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    path = runner.run("try", "quick", minutes=1.5 / 60, **places)
    assert json.loads(path.read_text())["summary"] == 1
    assert json.loads(runner.run("try", "quick", **places).read_text())["summary"] == 2


@pytest.mark.parametrize("text", ["[", "null", "[3]", '[{"seed": 0}]', "\udcff"])
def test_a_damaged_note_of_finished_runs_is_named_and_the_advice_works(made, places, text):
    with pytest.raises(OSError, match="interrupted"):
        runner.run("try", "quick", **places)
    (finished,) = places["work"].glob("*/finished.json")
    finished.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"finished.json is damaged \(.*\); remove it, and its runs are made again"):
        runner.run("try", "quick", **places)
    finished.unlink()
    runner.run("try", "quick", **places)
    assert made == [0, 0, 1, 2]


@pytest.mark.parametrize("place", ["folder", "work"])
def test_a_folder_that_cannot_be_written_is_found_before_the_first_run(made, places, tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="could not write"):
        runner.run("try", "quick", **(places | {place: tmp_path / "file"}))
    assert made == []


ORPHANS = """
    import os, pathlib, sys, time
    from types import SimpleNamespace
    from experiments import runner

    def run(point, config, work):
        pathlib.Path(f"{point['seed']}.pid").write_text(str(os.getpid()), encoding="ascii")
        time.sleep(120)

    if __name__ == "__main__":
        experiment = SimpleNamespace(run=run)
        list(runner._results(experiment, [{"seed": 0}, {"seed": 1}], {}, pathlib.Path("."), 2, float("inf")))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(ORPHANS),
                                         encoding="utf-8")
    parent = subprocess.Popen([sys.executable, "orphans.py"], cwd=tmp_path)
    until = time.monotonic() + 90
    while len(pids := [path for path in tmp_path.glob("*.pid") if path.read_text("ascii")]) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 90
    for path in pids:
        while _runs(int(path.read_text("ascii"))):
            assert time.monotonic() < until, "a worker outlives its parent"
            time.sleep(0.1)


def _runs(process):
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().split()[2] != "Z"  # ended, and not yet fetched
    except OSError:
        return False


def test_the_same_runs_are_not_made_twice_at_once(places, pretend):
    def run(point, config, work):
        with pytest.raises(RuntimeError, match="tiny-quick-.* is in use by another run: wait for its end"):
            runner.run("tiny", "quick", **places)
        return {"val_accuracy": 0.5}

    pretend(run)
    runner.run("tiny", "quick", **places)
    assert [path.name[:11] for path in places["work"].iterdir()] == ["tiny-quick-"]
