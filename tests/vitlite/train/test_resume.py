"""Stopped, killed or broken off, a run goes on to the weights it would have reached."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors
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
