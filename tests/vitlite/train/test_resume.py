"""Stopped, killed or broken off, a run goes on to the weights it would have reached."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import safetensors
import safetensors.torch
import torch
from tiny import EVERYTHING, RECIPE, dropping, model, same, splits, trained

from vitlite import files
from vitlite.train import Trainer, checkpoint, objectives


def test_what_a_living_process_is_writing_stays_and_what_a_dead_one_left_goes(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive, dead = (tmp_path / f".run.safetensors.{number}.part" for number in (os.getpid(), ended.pid))
    alive.touch()
    dead.touch()
    assert checkpoint.load(tmp_path / "run.safetensors", {}) is None
    assert (alive.exists(), dead.exists()) == (True, False)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    class Enough(Exception):
        pass

    def stop(trainer, moment):
        if trainer.step == 17:
            raise Enough

    whole, whole_history = trained()
    options = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 5}
    with pytest.raises(Enough):
        trained(callbacks=[stop], **options)
    net = model(seed=7, dropout=0.1, drop_path=0.1)
    again = Trainer(net, RECIPE, device="cpu", **options)
    history = again.fit(splits())
    assert same(net, whole)
    assert history["loss"] == whole_history["loss"]
    assert history["val_accuracy"] == whole_history["val_accuracy"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    path = tmp_path / "run.safetensors"

    def press(trainer, moment):
        if (trainer.step, moment) == (12, "step"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt, match="after step 12 of 30, saved in .*run.safetensors; the same call"):
        trained(checkpoint=path, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["trainer"])["step"] == 12
    (net, history), (whole, told) = trained(checkpoint=path), trained()
    assert same(net, whole)
    assert history["loss"] == told["loss"]


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_good_checkpoint(tmp_path):
    path, steps = tmp_path / "run.safetensors", []

    def broken(net, images, labels):
        steps.append(1)
        loss, right = objectives.classify()(net, images, labels)
        return (loss * float("nan") if len(steps) == 8 else loss), right

    with pytest.raises(FloatingPointError, match="not finite at step 8.*Lower learning_rate"):
        Trainer(model(), RECIPE, device="cpu", objective=broken, checkpoint=path, checkpoint_every=5).fit(splits())
    assert len(steps) == 8
    good = Trainer(model(), RECIPE, device="cpu", objective=broken, checkpoint=path)  # whole from the ninth call on
    good.fit(splits())
    assert all(p.isfinite().all() for p in good.model.parameters())
    assert good.history["step"][5] == 6, "resumed from step 5"


def test_no_space_left_is_said_and_the_checkpoint_stays(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    whole = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    recipe = RECIPE.replace(steps=31)
    with pytest.raises(ValueError, match="belongs to another run .*recipe"):
        Trainer(model(), recipe, device="cpu", checkpoint=path).fit(splits())
    with pytest.raises(OSError, match="could not write .*No space left"):
        Trainer(model(), recipe, device="cpu", checkpoint=tmp_path / "other.safetensors").fit(splits())
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_checkpoint_of_another_objective_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)

    def guess(model, images, targets):
        return model(images).square().mean(), torch.zeros(())

    with pytest.raises(ValueError, match="objective: 'classify' there, 'test_a_checkpoint_of_another_.*' here"):
        Trainer(model(), RECIPE, device="cpu", checkpoint=path, objective=guess).fit(splits())


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another run .*model.*another checkpoint path"):
        Trainer(model(embed_dim=32), RECIPE, device="cpu", checkpoint=path).fit(splits())


def test_averaged_and_best_weights_are_resumed_too(tmp_path):
    class Enough(Exception):
        pass

    def stop(trainer, moment):
        if (trainer.step, moment) == (23, "step"):
            raise Enough

    whole, told = trained(EVERYTHING)
    options = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 2}
    with pytest.raises(Enough):
        trained(EVERYTHING, callbacks=[stop], **options)
    net, history = trained(EVERYTHING, **options)
    assert same(net, whole)
    assert history["val_accuracy"] == told["val_accuracy"]
    assert history["kept_step"] == told["kept_step"]
    again, _ = trained(EVERYTHING, **options)
    assert same(again, whole), "a finished run gives its weights once more"


# Each life of the run is a fork of one process that has loaded everything, so that twenty of them take little time.
TWENTY_LIVES = """
    import json, os, random, signal, sys, time
    import safetensors.torch
    from tiny import EVERYTHING, dropping, splits
    from vitlite.train import Trainer

    def live(out, **options):
        pid = os.fork()
        if pid == 0:
            net = dropping()
            Trainer(net, EVERYTHING.replace(steps=200, micro_batch=8), device="cpu", **options).fit(splits())
            safetensors.torch.save_file(net.state_dict(), out)
            os._exit(0)
        return pid

    assert os.waitpid(live("whole.safetensors"), 0)[1] == 0
    reached, chance = [], random.Random(0)
    resumed = {"checkpoint": "run.safetensors", "checkpoint_every": 1}
    for _ in range(20):
        (seen, tell), (allowed, allow) = os.pipe(), os.pipe()
        breath = lambda *_: (os.write(tell, b"."), os.read(allowed, 1))
        pid, moments = live("early.safetensors", callbacks=[breath], **resumed), chance.randrange(16)
        os.write(allow, b"." * (moments + 3))  # however busy the machine is, it cannot run away
        for _ in range(moments):
            os.read(seen, 1)  # it lives for some steps,
        time.sleep(chance.uniform(0, 0.01))  # and dies anywhere in the next
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "it ended before it was killed"
        if os.path.exists("run.safetensors"):
            with safetensors.safe_open("run.safetensors", "pt") as file:  # whole, or this fails
                reached.append(json.loads(file.metadata()["trainer"])["step"])
    assert os.waitpid(live("end.safetensors", **resumed), 0)[1] == 0
    print(json.dumps(reached))
"""


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bits(tmp_path):
    program = f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(TWENTY_LIVES)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reached = json.loads(done.stdout)
    assert reached == sorted(reached)
    assert len(set(reached)) > 5, "it was killed in many places"
    assert max(reached) < 200
    whole, end = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "end"))
    assert whole.keys() == end.keys()
    assert all(torch.equal(whole[name], end[name]) for name in whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["end.safetensors", "run.safetensors", "whole.safetensors"]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a whole safetensors file .*another checkpoint path"):
        trained(checkpoint=path)
    assert path.read_bytes() == b"something else"


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    with pytest.raises(ValueError, match="train_images: 64 there, 32 here"):
        Trainer(dropping(), RECIPE, device="cpu", checkpoint=path).fit(splits(32))
