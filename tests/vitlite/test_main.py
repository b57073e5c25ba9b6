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
import torch
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


@pytest.fixture
def squares(tmp_path, images):
    """A model that tells dark squares from bright ones, and a picture of each, larger than it takes them."""
    model = tmp_path / "model.safetensors"
    assert main(["train", str(model), "--data", str(images), "--steps", "70", "--learning-rate", "0.003", *TINY]) == 0
    for name, grey in (("dark", 50), ("bright", 170)):
        Image.new("RGB", (20, 12), (grey,) * 3).save(tmp_path / f"{name}.png")
    return model


def test_predict_names_the_classes_with_their_probabilities(tmp_path, squares, capsys):
    paths = [str(tmp_path / f"{name}.png") for name in ("dark", "bright")]
    capsys.readouterr()
    assert main(["predict", str(squares), *paths, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in told] == paths
    assert [next(iter(line["probabilities"])) for line in told] == ["dark", "bright"]  # the likeliest comes first
    assert all(sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-3) for line in told)
    assert main(["predict", str(squares), *paths, "--top", "1"]) == 0
    for line, path, known in zip(capsys.readouterr().out.splitlines(), paths, told, strict=True):
        name, share = next(iter(known["probabilities"].items()))
        assert line == f"{path}: {name} {share:.1%}"


def test_predict_does_what_evaluate_does(tmp_path, pets, capsys):
    """The same pictures, read one by one, get the same answers."""
    model, right = tmp_path / "model.safetensors", 0
    assert main(["train", str(model), "--data", str(pets), "--steps", "30", *TINY]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(model), "--data", str(pets), "--split", "all"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    paths = sorted(pets.glob("*/*.png"))
    assert main(["predict", str(model), *map(str, paths), "--json"]) == 0
    for path, line in zip(paths, capsys.readouterr().out.splitlines(), strict=True):
        right += path.parent.name == next(iter(json.loads(line)["probabilities"]))
    assert right / len(paths) == accuracy


def test_predict_says_what_is_missing(tmp_path, squares, capsys):
    bare = weights.save(weights.load(squares), tmp_path / "bare.safetensors")
    grey = ResNet(ResNetConfig(in_channels=1, num_classes=2, width=4, blocks=1))
    grey = weights.save(grey, tmp_path / "grey.safetensors", mean=[0.5], std=[0.5])
    picture = str(tmp_path / "dark.png")
    for words, message in (
        ([str(bare), picture], "does not say how its images are normalised"),
        ([str(grey), picture], "takes 1 channel(s); predict reads colour images"),
        ([str(squares), picture, "--top", "0"], "--top is 0; name at least one class"),
        ([str(squares), str(tmp_path / "none.png")], "none.png is no image that can be read"),
        ([str(squares), str(squares)], "model.safetensors is no image that can be read"),
    ):
        assert main(["predict", *words]) == 1
        assert message in capsys.readouterr().err


def test_predict_of_a_resnet_takes_images_of_any_size(tmp_path, squares, capsys):
    net = ResNet(ResNetConfig(num_classes=2, width=4, blocks=1))
    path = weights.save(net, tmp_path / "resnet.safetensors", mean=[0.5] * 3, std=[0.5] * 3)
    capsys.readouterr()
    assert main(["predict", str(path), str(tmp_path / "dark.png")]) == 0
    assert "class 0" in capsys.readouterr().out


@pytest.fixture
def slopes(tmp_path):
    """Another set, larger than the squares: three classes, by how high the picture is bright."""
    generator = np.random.default_rng(1)
    labels = np.arange(240) % 3
    pixels = generator.integers(0, 60, (240, 12, 12, 3)).astype(np.uint8)
    for pixel, label in zip(pixels, labels, strict=True):
        pixel[4 * label:4 * label + 4] += 150  # which a mirror leaves alone
    path = tmp_path / "slopes.npz"
    np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels[:60], test_labels=labels[:60],
             classes=np.array(["top", "middle", "bottom"]))
    return path


def test_training_from_a_saved_model_probes_first_then_trains_all(tmp_path, squares, slopes, capsys):
    out = tmp_path / "tuned.safetensors"
    capsys.readouterr()
    words = ["train", str(out), "--from", str(squares), "--data", str(slopes), "--device", "cpu"]
    assert main([*words, "--steps", "30", "--learning-rate", "0.001"]) == 0
    told = capsys.readouterr().out.splitlines()
    probe, trained = (float(line.partition("validation accuracy ")[2].split("%")[0]) for line in told)
    assert told[0].startswith(f"{squares}: with a linear map on its features")
    assert trained >= probe > 50  # a third by chance
    before, after = weights.info(squares), weights.info(out)
    assert after["classes"] == ["top", "middle", "bottom"]
    assert (after["mean"], after["std"]) == (before["mean"], before["std"])
    assert after["config"].image_size in (8, (8, 8))  # the pictures come at the size that the model takes
    assert after["config"].embed_dim == 16
    kept, new = weights.load(squares).state_dict(), weights.load(out).state_dict()
    assert all(not kept[name].equal(new[name]) for name in kept if "attention" in name and "weight" in name)


def test_training_from_a_saved_model_at_another_size(tmp_path, squares, slopes, capsys):
    out = tmp_path / "tuned.safetensors"
    words = ["train", str(out), "--from", str(squares), "--data", str(slopes), "--steps", "2", "--device", "cpu"]
    assert main([*words, "--image-size", "12"]) == 0
    assert weights.info(out)["config"].grid == (3, 3)
    assert main([*words, "--image-size", "13"]) == 1
    assert "13 is not a multiple of 4" in capsys.readouterr().err


def test_a_seed_that_torch_cannot_take_is_named(tmp_path, capsys):
    assert main(["train", str(tmp_path / "m"), "--seed", str(2**64)]) == 1
    assert capsys.readouterr().err == f"vitlite: --seed is {2**64}; it must fit into 64 bits\n"


def test_training_from_a_saved_model_refuses_what_does_not_fit(tmp_path, squares, slopes, capsys):
    resnet = weights.save(ResNet(ResNetConfig(num_classes=2, width=4, blocks=1)), tmp_path / "resnet.safetensors")
    with np.load(slopes) as arrays:
        grey = {name: array[..., :1] if name.endswith("images") else array for name, array in arrays.items()}
        np.savez(tmp_path / "grey.npz", **grey)
    words = ["train", str(tmp_path / "m.safetensors"), "--data", str(slopes), "--steps", "2", "--device", "cpu"]
    for more, message in (
        (["--from", str(squares), "--depth", "3", "--drop-path", "0"], "--depth, --drop-path shape a new model"),
        (["--from", str(resnet)], "resnet.safetensors is a ResNet; --from takes a ViT"),
        (["--from", str(squares), "--data", str(tmp_path / "grey.npz")], "has images of 1 channel(s)"),
        (["--from", str(tmp_path / "none.safetensors")], "there is no file"),
    ):
        assert main([*words, *more]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_training_from_a_saved_model_is_gentle_unless_said(tmp_path, squares, slopes, monkeypatch):
    rates = []

    def stop(model, recipe, **more):
        rates.append(recipe.learning_rate)
        raise RuntimeError("far enough")

    monkeypatch.setattr("vitlite.__main__.Trainer", stop)
    words = ["train", str(tmp_path / "m.safetensors"), "--data", str(slopes), "--steps", "2", "--device", "cpu"]
    for more in ([], ["--recipe", "quick"], ["--learning-rate", "0.5"]):
        main([*words, "--from", str(squares), *more])
    main(words)
    assert rates == [1e-4, 2e-3, 0.5, 2e-3]


def test_export_writes_what_onnx_runtime_reads(tmp_path, squares, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "model.onnx"
    capsys.readouterr()
    assert main(["export", str(squares), str(out)]) == 0
    assert f"{out}: gives logits for images [batch, 3, 8, 8], normalised by mean" in capsys.readouterr().out
    images = np.zeros((2, 3, 8, 8), np.float32)
    logits = onnxruntime.InferenceSession(out.read_bytes()).run(None, {"images": images})[0]
    np.testing.assert_allclose(logits, weights.load(squares)(torch.zeros(2, 3, 8, 8)).detach(), atol=1e-5)
    assert main(["export", str(tmp_path / "none.safetensors"), str(out)]) == 1
    assert "there is no file" in capsys.readouterr().err


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
    assert "steps is 0; it must be at least 1" in capsys.readouterr().err


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
