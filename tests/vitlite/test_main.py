"""The command line, from training to evaluation, and what it says when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors
import safetensors.torch
from PIL import Image

from vitlite import weights
from vitlite.__main__ import main
from vitlite.resnet import ResNet, ResNetConfig

TINY = ["--embed-dim", "16", "--depth", "1", "--num-heads", "2", "--mlp-dim", "32", "--device", "cpu"]


@pytest.fixture
def images(tmp_path):
    """A set in the project's own form: bright and dark squares."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pixels = (generator.integers(0, 100, (200, 8, 8, 3)) + 120 * labels[:, None, None, None]).astype(np.uint8)
    path = tmp_path / "squares.npz"
    np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels[:50], test_labels=labels[:50],
             classes=np.array(["dark", "bright"]))
    return path


def test_train_info_evaluate(tmp_path, images, capsys):
    model = tmp_path / "model.safetensors"
    assert main(["train", str(model), "--data", str(images), "--steps", "70", "--learning-rate", "0.003", *TINY]) == 0
    assert "validation accuracy" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "squares.npz"]
    assert main(["info", str(model)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["config"]["embed_dim"], told["classes"]) == (16, ["dark", "bright"])
    assert main(["evaluate", str(model), "--data", str(images)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["split"], result["images"]) == ("test", 50)
    assert result["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "none.safetensors"], "there is no file none.safetensors"),
        (["train", "m.safetensors", "--recipe", "fast"], "recipe is 'fast'"),
        (["train", "m.safetensors", "--data", "scene"], "scenes"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(words, message, capsys):
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitlite: ")
    assert message in error


def test_evaluate_refuses_other_classes(tmp_path, images, capsys):
    model = tmp_path / "model.safetensors"
    main(["train", str(model), "--data", str(images), "--steps", "61", *TINY])
    with np.load(images) as arrays:
        np.savez(tmp_path / "other.npz", **(dict(arrays) | {"classes": np.array(["night", "day"])}))
    assert main(["evaluate", str(model), "--data", str(tmp_path / "other.npz")]) == 1
    assert "trained on the classes dark, bright" in capsys.readouterr().err


def test_evaluate_and_info_of_a_resnet(tmp_path, images, capsys):
    path = weights.save(ResNet(ResNetConfig(num_classes=2, width=4, blocks=1)), tmp_path / "model.safetensors")
    assert main(["info", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["width"] == 4
    assert main(["evaluate", str(path), "--data", str(images)]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 50


def test_a_closed_pipe_is_no_error(tmp_path, images):
    model = tmp_path / "model.safetensors"
    main(["train", str(model), "--data", str(images), "--steps", "4", *TINY])
    words = [sys.executable, "-m", "vitlite", "info", str(model)]
    reading, writing = os.pipe()
    os.close(reading)  # as if `head` had gone
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_trained_model_has_the_rights_that_the_umask_leaves(tmp_path, images):
    model = tmp_path / "model.safetensors"
    before = os.umask(0o027)
    try:
        main(["train", str(model), "--data", str(images), "--steps", "4", *TINY])
    finally:
        os.umask(before)
    assert model.stat().st_mode & 0o777 == 0o640


def test_train_says_which_weights_the_file_holds(tmp_path, images, capsys):
    words = ["train", str(tmp_path / "model.safetensors"), "--data", str(images), "--steps", "4", *TINY]
    assert main([*words, "--batch-size", "32", "--micro-batch", "8", "--drop-path", "0.1"]) == 0
    assert "holds the weights of step 4, the last" in capsys.readouterr().out
    assert main([*words, "--micro-batch", "7"]) == 1
    assert "micro_batch is 7, batch_size is 128; the first must divide the second" in capsys.readouterr().err


def test_no_steps_are_not_the_recipes_steps(tmp_path, images, capsys):
    assert main(["train", str(tmp_path / "m.safetensors"), "--data", str(images), "--steps", "0", *TINY]) == 1
    assert "steps is 0; expected a whole number of at least 1" in capsys.readouterr().err


def test_a_target_that_is_a_folder_is_refused_before_the_data_are_read(tmp_path, capsys):
    assert main(["train", str(tmp_path), "--data", "no such set", *TINY]) == 1
    assert "a folder stands there: name a file" in capsys.readouterr().err


@pytest.fixture
def pets(tmp_path):
    """Sixteen pictures of two kinds, in class folders."""
    for number in range(16):
        path = tmp_path / "pets" / ("cat", "fish")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 200 * (number % 2))).save(path)
    return tmp_path / "pets"


def test_all_images_of_a_folder_can_be_evaluated_on(tmp_path, pets, capsys):
    model = str(tmp_path / "m.safetensors")
    assert main(["train", model, "--data", str(pets), "--steps", "2", *TINY]) == 0
    capsys.readouterr()
    assert main(["evaluate", model, "--data", str(pets)]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["images"] == 2
    assert f"test is 2 of the 16 images in {pets}; --split all takes every one" in told.err
    assert main(["evaluate", model, "--data", str(pets), "--split", "all"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 16


def test_class_names_of_another_unicode_form_are_the_same_names(tmp_path, images, capsys):
    with np.load(images) as arrays:
        for path, name in (("a.npz", "caf\u00e9"), ("b.npz", "cafe\u0301")):
            np.savez(tmp_path / path, **(dict(arrays) | {"classes": np.array(["dark", name])}))
    model = str(tmp_path / "m.safetensors")
    assert main(["train", model, "--data", str(tmp_path / "a.npz"), "--steps", "2", *TINY]) == 0
    assert main(["evaluate", model, "--data", str(tmp_path / "b.npz")]) == 0


def test_a_loss_that_is_no_number_is_an_error(tmp_path, images, capsys):
    net = ResNet(ResNetConfig(num_classes=2, width=4, blocks=1))
    path = weights.save(net, tmp_path / "m.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = safetensors.torch.load_file(path)
    state[next(name for name in state if "weight" in name)].fill_(float("nan"))
    safetensors.torch.save_file(state, path, {"vitlite": metadata["vitlite"]})
    assert main(["evaluate", str(path), "--data", str(images)]) == 1
    told = capsys.readouterr()
    assert "NaN" not in told.out
    assert told.err.startswith("vitlite: ")


def test_models_whose_names_differ_after_a_dot_have_runs_of_their_own(tmp_path, images, capsys):
    """Each is stopped in its first steps; neither takes the other's checkpoint for its own."""
    for name in ("vit_v1.5", "vit_v1.6"):
        words = [sys.executable, "-m", "vitlite", "train", name, "--data", images.name, "--steps", "100000", *TINY]
        running = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                                   env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        until = time.monotonic() + 150
        while not (tmp_path / f"{name}.run").exists():  # SIGTERM before the first step has nothing to save
            assert time.monotonic() < until
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.3)
            if (tmp_path / "go").exists():
                break
            if _handles(running.pid, signal.SIGTERM):
                running.send_signal(signal.SIGTERM)
                (tmp_path / "go").touch()
        told = running.communicate(timeout=30)[1]
        (tmp_path / "go").unlink()
        assert running.returncode == 130, told
        assert f"saved in {name}.run; the same call resumes it" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["squares.npz", "vit_v1.5.run", "vit_v1.6.run"]


def _handles(process, number):
    """Whether a process has a handler of its own for a signal."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


def test_no_fault_of_any_kind_is_a_traceback(tmp_path, capsys, monkeypatch):
    def broken(path):
        raise KeyError("config")

    monkeypatch.setattr(weights, "info", broken)
    assert main(["info", "m.safetensors"]) == 1
    assert capsys.readouterr().err == "vitlite: KeyError('config')\n"


def test_a_name_that_the_terminal_cannot_show_is_written_as_json_can_read_it(tmp_path):
    path = weights.save(ResNet(ResNetConfig(num_classes=2, width=4, blocks=1)), tmp_path / "m.safetensors",
                        classes=["\uace0\uc591\uc774", "fish"])
    done = subprocess.run([sys.executable, "-m", "vitlite", "info", str(path)], capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "latin-1"})
    assert json.loads(done.stdout)["classes"] == ["\uace0\uc591\uc774", "fish"]
