"""Damaged files of every kind that is read: one clear error that names the file, or what the whole file means."""

import json
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import timm
import torch
import transformers
from PIL import Image, ImageCms

from experiments import measure, recipe_ladder, records, runner
from vitlite import ViT, ViTConfig, data, weights
from vitlite.__main__ import main
from vitlite.data import pictures
from vitlite.train import Recipe, Trainer

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


def external(path):
    onnx_file(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="encoder.data", size_threshold=0)


def folder(*, shards=False, pickled=False):
    """A writer of what transformers' ``save_pretrained`` leaves: settings and tensors, whole or in shards."""
    def write(path):
        torch.manual_seed(0)
        shape = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                                       image_size=8, patch_size=4, num_labels=2)
        net = transformers.ViTForImageClassification(shape)
        net.save_pretrained(path, max_shard_size="4KB" if shards else "1GB")
        if pickled:
            (path / "model.safetensors").unlink()
            torch.save(net.state_dict(), path / "pytorch_model.bin")
    return write


def state_of(read, **options):
    """A reader that gives the numbers of a model, none of which may be missing or infinite."""
    def state(path):
        found = {name: tensor.numpy() for name, tensor in read(path, **options).state_dict().items()}
        assert all(np.isfinite(array).all() for array in found.values())
        return found
    return state


def read_ours(path):
    code = main(["info", str(path)])  # the command line ends with a sentence, too
    assert code in (0, 1)
    found = state_of(weights.load)(path)
    assert code == 0
    return found | {"extra": weights.extra(path)["token"].numpy()}


def write_ours(path):
    weights.save(ours(), path, classes=["a", "b"], mean=[0.5] * 3, std=[0.2] * 3, extra={"token": torch.ones(3)})


GIVEN = {"num_heads": 2, "image_size": 8, "pool": "token", "gelu": "exact", "layer_norm_eps": 1e-6}
from_timm = state_of(weights.from_timm, **GIVEN)


def picture(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    pixels[:, 16:] = [200, 30, 60]
    image = Image.fromarray(pixels)
    image = Image.fromarray(257 * np.array(image.convert("L")).astype(np.uint16)) if mode == "I;16" else (
        image.convert(mode))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return lambda path: image.save(path, kind, **options), lambda path: {"": pictures.read(path)}, kind == "png"


def turned():
    """EXIF data that a phone writes: the picture lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURES = {
    "plain.png": picture("png"),
    "deep.png": picture("png", "I;16"),
    "palette.png": picture("png", "P", transparency=3),
    "alpha.png": picture("png", "RGBA", icc_profile=PROFILE),
    "photo.jpeg": picture("jpeg", exif=turned(), icc_profile=PROFILE),
    "progressive.jpg": picture("jpeg", progressive=True),
    "ink.jpg": picture("jpeg", "CMYK"),
    "moving.gif": picture("gif", save_all=True, append_images=[Image.new("RGB", (32, 24))]),
    "x.bmp": picture("bmp"),
    "x.tiff": picture("tiff"),
    "deep.tif": picture("tiff", "I;16"),
    "packed.tif": picture("tiff", compression="tiff_lzw"),
    "x.webp": picture("webp"),
    "lossless.webp": picture("webp", lossless=True),
    "x.ppm": picture("ppm"),
    "x.pgm": picture("ppm", "L"),
}


def arrays():
    draw, labels = np.random.default_rng(0), np.arange(40) % 2
    pixels = draw.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    return {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels,
            "classes": np.array(["cat", "fish"])}


def class_folder(path):
    for number, pixels in enumerate(arrays()["train_images"]):
        place = path / ("cat", "fish")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)


def read_sets(path):
    sets = data.load(path)
    images, labels = (np.concatenate([getattr(split, part).numpy() for split in sets]) for part in ("images", "labels"))
    return {"": np.unique(np.column_stack([labels, images.reshape(len(labels), -1)]), axis=0)}  # in any order


RECIPE = Recipe("try", steps=2, batch_size=4, average=0.9, keep_best=True)
SETS = data.load("scenes", train_images=20, held_out=10, image_size=8)


def run(path):
    """A run that is over: to go on with it takes no step."""
    torch.manual_seed(0)
    net = ViT(ViTConfig(8, 4, 3, 10, embed_dim=8, depth=1, num_heads=2, mlp_dim=8))
    history = Trainer(net, RECIPE, device="cpu", checkpoint=path, progress=False).fit(SETS)
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()} | {"loss": np.array(history["loss"])}


def once(path):
    """A model that several runs start from, trained once."""
    net = torch.nn.Linear(4, 4)
    measured = measure.once(net, path, lambda: {"accuracy": 0.5})
    return {"weight": net.weight.detach().numpy(), "accuracy": np.array(measured["accuracy"])}


def text(content):
    return lambda path: path.write_text(json.dumps(content), encoding="utf-8")


def chapter(path):
    execute.write(execute.nbformat.v4.new_notebook(cells=[execute.nbformat.v4.new_code_cell("print(1)")]), path)


def whatever(read):
    """A reader of what has no check sums: it comes back as it is, or not at all."""
    return lambda path: {"": np.array(repr(read(path)))}


CLIMBED = [{"change": "start", "fields": {"steps": 3}, "val_accuracy": 0.5, "kept": True}]
# How each kind of file is written and read, and whether its format can tell that a number has changed.
KINDS = {
    "ours.safetensors": (write_ours, read_ours, True),
    "theirs.safetensors": (lambda path: safetensors.torch.save_file(theirs().state_dict(), path), from_timm, False),
    "theirs.pth": (lambda path: torch.save(theirs().state_dict(), path), from_timm, True),
    "old.pth": (lambda path: torch.save(theirs().state_dict(), path, _use_new_zipfile_serialization=False), from_timm,
                False),
    "official.npz": (official, state_of(weights.from_npz), True),
    "encoder.onnx": (onnx_file, state_of(weights.from_onnx), False),
    "external/encoder.onnx": (external, state_of(weights.from_onnx), False),
    "pretrained/": (folder(), state_of(weights.from_transformers), False),
    "pickled/": (folder(pickled=True), state_of(weights.from_transformers), False),
    "shards/": (folder(shards=True), state_of(weights.from_transformers), False),
    **PICTURES,
    "cache.npz": (lambda path: np.savez(path, **arrays()), read_sets, True),
    "packed.npz": (lambda path: np.savez_compressed(path, **arrays()), read_sets, True),
    "classes/": (class_folder, read_sets, True),
    "run.safetensors": (run, run, True),
    "once.safetensors": (once, once, True),
    "train_cifar10.json": (lambda path: path.write_bytes((records.FOLDER / "train_cifar10.json").read_bytes()),
                           whatever(lambda path: records.read("train_cifar10", path.parent)), False),
    "finished.json": (text([{"point": {"seed": 0}, "val_accuracy": 0.5}]), whatever(runner._runs_made), False),
    "search.json": (text({"0.001": 0.25, "0.003": 0.5, "0.009": 0.125}), whatever(measure._noted), False),
    "climbed.json": (text(CLIMBED), whatever(recipe_ladder._climbed), False),
    "chapter.ipynb": (chapter, whatever(execute.read), False),
}
CLEAR = (ValueError, FileNotFoundError, execute.ChapterError)
SECONDS = 20  # in which any file here is read, or refused


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
@pytest.mark.timeout(1200)
def test_a_damaged_file_is_named_or_means_the_same(tmp_path, often, kind):
    write, read, sealed = KINDS[kind]
    path = tmp_path / kind
    path.parent.mkdir(exist_ok=True)
    write(path)
    whole = {part: part.read_bytes() for part in sorted(tmp_path.rglob("*")) if part.is_file()}
    wanted, draw, outcomes, wrong = read(path), random.Random(f"{kind} 1"), Counter(), []
    for number in range(often(6, 500)):
        part = draw.choice(list(whole))
        part.write_bytes(damaged(whole[part], draw))
        began = time.monotonic()
        try:
            found = read(path)
        except CLEAR as error:
            said = str(error)
            outcome = "clear" if part.name in said or path.name in said else "obscure"
        except Exception as error:  # of a class that a reader does not raise
            outcome, said = "obscure", repr(error)
        else:
            same = found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
            outcome, said = "right" if same else "silent" if sealed else "not shown by the format", ""
        outcome = "hang" if time.monotonic() - began > SECONDS else outcome
        outcomes[outcome] += 1
        if outcome in ("obscure", "silent", "hang"):
            wrong.append((number, outcome, said))
        part.write_bytes(whole[part])
    print(f"{kind}: {dict(outcomes)}")
    assert not wrong
    assert outcomes["clear"] >= often(0, 1)


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


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.filterwarnings("ignore")
def test_any_field_beside_the_weights_may_hold_nonsense(tmp_path, often, name):
    folder(shards=True)(tmp_path / "vit")
    path, draw = tmp_path / "vit" / name, random.Random(2)
    told = json.loads(path.read_text(encoding="utf-8"))
    fields, wanted = list(told), weights.from_transformers(tmp_path / "vit").state_dict()
    refused = 0
    for _ in range(often(60, 500)):
        nonsense = draw.choice(HOSTILE)
        changed = draw.choice([nonsense, told | {draw.choice(fields): nonsense}, told | {"image_size": nonsense}])
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            again = weights.from_transformers(tmp_path / "vit").state_dict()
        except ValueError as error:
            refused += 1
            assert str(tmp_path) in str(error)  # noqa: PT017
        else:
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.items())
    assert refused
