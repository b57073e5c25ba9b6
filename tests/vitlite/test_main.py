"""The command line, from training to evaluation, and what it says when something is wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

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
