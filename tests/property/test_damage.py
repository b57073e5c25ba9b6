"""Damaged files of every kind that weights come in: a clear error that names the file, or the same result."""

import json
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from experiments import measure, records, runner
from vitlite import ViT, ViTConfig, data, weights
from vitlite.__main__ import main
from vitlite.data import pictures
from vitlite.train import checkpoint

sys.path.append(str(Path(__file__).parents[2] / "book/tools"))
import execute

CONFIG = ViTConfig(8, 4, 3, 2, embed_dim=16, depth=1, num_heads=2, mlp_dim=16, zero_head=False)


def theirs():
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=1, num_classes=2).eval()


def ours():
    torch.manual_seed(0)
    return ViT(CONFIG).eval()


def official(path):
    draw, width = np.random.default_rng(0), 16
    block, attention = "Transformer/encoderblock_0", "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    shapes = {"cls": (1, 1, width), "embedding/kernel": (4, 4, 3, width), "embedding/bias": (width,),
              "Transformer/posembed_input/pos_embedding": (1, 5, width), "head/kernel": (width, 2), "head/bias": (2,),
              f"{attention}/out/kernel": (2, 8, width), f"{attention}/out/bias": (width,),
              f"{block}/MlpBlock_3/Dense_0/kernel": (width, 16), f"{block}/MlpBlock_3/Dense_0/bias": (16,),
              f"{block}/MlpBlock_3/Dense_1/kernel": (16, width), f"{block}/MlpBlock_3/Dense_1/bias": (width,)}
    for norm in ("Transformer/encoder_norm", f"{block}/LayerNorm_0", f"{block}/LayerNorm_2"):
        shapes |= {f"{norm}/scale": (width,), f"{norm}/bias": (width,)}
    for part in ("query", "key", "value"):
        shapes |= {f"{attention}/{part}/kernel": (width, 2, 8), f"{attention}/{part}/bias": (2, 8)}
    arrays = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez_compressed(path, **arrays)


def onnx_file(path):
    torch.onnx.export(theirs(), (torch.zeros(1, 3, 8, 8),), path, dynamo=False, opset_version=17)


GIVEN = {"num_heads": 2, "image_size": 8, "pool": "token", "gelu": "exact", "layer_norm_eps": 1e-6}
# How each kind is written and read, and whether its format can tell that a number has changed.
KINDS = {
    "ours.safetensors": (lambda path: weights.save(ours(), path, classes=["a", "b"], mean=[0.5] * 3, std=[0.2] * 3),
                         weights.load, True),
    "theirs.safetensors": (lambda path: safetensors.torch.save_file(theirs().state_dict(), path),
                           lambda path: weights.from_timm(path, **GIVEN), False),
    "theirs.pth": (lambda path: torch.save(theirs().state_dict(), path),
                   lambda path: weights.from_timm(path, **GIVEN), False),
    "official.npz": (official, weights.from_npz, True),
    "encoder.onnx": (onnx_file, weights.from_onnx, False),
}


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """One fault: flipped bits, a cut, zeros, bytes that moved, or an edit of a number or a word in the header."""
    fault, data = draw.choice(["bit", "bits", "cut", "zeros", "insert", "head", "text"]), bytearray(whole)
    if fault in ("bit", "bits"):
        for _ in range(1 if fault == "bit" else draw.randint(2, 50)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif fault == "cut":
        del data[draw.randrange(len(data)):]
    elif fault == "zeros":
        at = draw.randrange(len(data))
        data[at : at + draw.randint(1, 4096)] = bytes(len(data[at : at + draw.randint(1, 4096)]))
    elif fault == "insert":
        at = draw.randrange(len(data))
        data[at:at] = draw.randbytes(draw.randint(1, 9))
    elif fault == "head":
        at = draw.randrange(min(len(data), 600))
        data[at] = draw.randrange(256)
    else:
        digits = [i for i, byte in enumerate(data[:3000]) if 48 <= byte < 58]
        if digits:
            data[draw.choice(digits)] = draw.choice(b"0123456789-e")
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_ends_in_a_clear_error_or_the_same_result(tmp_path, often, kind, capsys):
    write, read, sealed = KINDS[kind]
    path = tmp_path / kind
    write(path)
    whole, draw = path.read_bytes(), random.Random(f"{kind} 1")
    wanted = read(path).state_dict()
    for number in range(often(20, 120)):
        path.write_bytes(damaged(whole, draw))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = read(path).state_dict()
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
            assert kind in said or "nothing was loaded" in said or " is " in said, (number, said)
        else:
            assert all(tensor.isfinite().all() for tensor in state.values())
            if sealed:
                assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items()), number
        if kind.startswith("ours"):
            assert main(["info", str(path)]) in (0, 1)
            assert "Traceback" not in capsys.readouterr().err


HOSTILE = [None, True, -1, 0, 0.5, 10**12, 10**40, "", "ViT", [], {}, [[]], float("nan"), float("inf"), "x" * 5000,
           [1] * 1000, {"a": {"b": 1}}]


def test_any_field_of_a_description_may_hold_nonsense(tmp_path, often):
    path = weights.save(ours(), tmp_path / "m.safetensors", classes=["a", "b"], mean=[0.5] * 3, std=[0.2] * 3)
    with safetensors.safe_open(path, "pt") as file:
        told, state = json.loads(file.metadata()["vitlite"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    del told["sha256"]
    wanted, draw = weights.load(path).state_dict(), random.Random(1)
    fields = [(told, name) for name in told] + [(told["config"], name) for name in told["config"]]
    for _ in range(often(60, 300)):
        part, name = draw.choice(fields)
        before, part[name] = part[name], draw.choice(HOSTILE)
        safetensors.torch.save_file(state, path, {"vitlite": json.dumps(told)})
        part[name] = before
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it holds no digest
                again = weights.load(path).state_dict()
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.items())


def picture(kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    pixels[:, 16:] = [200, 30, 60]

    def write(path):
        Image.fromarray(pixels).save(path, kind, **options)

    return write, pictures.read, kind == "png"  # which alone has check sums


def cache(path):
    draw, labels = np.random.default_rng(0), np.arange(40) % 2
    pixels = draw.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels,
             classes=np.array(["cat", "fish"]))


def read_cache(path):
    return np.concatenate([split.images.numpy().ravel() for split in data.load(path)])


def read_run(path):
    parts, metadata = checkpoint.load(path, {"seed": 0})
    return np.array([*parts["model"]["weight"].tolist(), metadata["step"]])


def note(path):
    path.write_text(json.dumps({"0.001": 0.25, "0.003": 0.5, "0.009": 0.125}), encoding="utf-8")


def read_note(path):
    return np.array(list(measure.tuned([0.001], lambda rate: 0.25, path).values()))


def chapter(path):
    execute.write(execute.nbformat.v4.new_notebook(cells=[execute.nbformat.v4.new_code_cell("print(1)")]), path)


def finished(path):
    path.write_text(json.dumps([{"point": {"seed": 0}, "val_accuracy": 0.5}]), encoding="utf-8")


# How each other kind of file is written and read; whether its format shows that a number has changed.
OTHERS = {f"x.{suffix}": picture(suffix, **options) for suffix, options in
          {"png": {}, "jpeg": {}, "gif": {}, "bmp": {}, "tiff": {}, "webp": {}, "ppm": {}}.items()} | {
    "cache.npz": (cache, read_cache, True),
    "run.safetensors": (lambda path: checkpoint.save(path, {"run": {"seed": 0}, "step": 7},
                                                     model={"weight": torch.ones(50)}), read_run, True),
    "train_cifar10.json": (lambda path: path.write_bytes((records.FOLDER / "train_cifar10.json").read_bytes()),
                           lambda path: records.read("train_cifar10", path.parent), False),
    "finished.json": (finished, runner._noted, False),
    "search.json": (note, read_note, False),
    "chapter.ipynb": (chapter, execute.read, False),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_whatever_else_is_damaged_is_named_or_means_the_same(tmp_path, often, kind):
    write, read, sealed = OTHERS[kind]
    path = tmp_path / kind
    write(path)
    whole, draw = path.read_bytes(), random.Random(f"{kind} 2")
    wanted, clear = read(path), 0
    for number in range(often(12, 60)):
        path.write_bytes(damaged(whole, draw))
        try:
            found = read(path)
        except (ValueError, FileNotFoundError, execute.ChapterError) as error:
            said, clear = str(error), clear + 1
            assert path.name in said, (number, said)
        else:
            assert not sealed or np.array_equal(found, wanted), number
    assert clear
