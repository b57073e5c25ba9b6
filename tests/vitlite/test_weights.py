"""Weights come back as they went, equal torchvision's, and are never loaded in part."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from vitlite import ViT, ViTConfig, hybrid, sealed, weights
from vitlite.resnet import ResNet, ResNetConfig

SMALL = ViTConfig(image_size=16, patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=4, mlp_dim=40)


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean"},
        {"head": "mlp"},
        {"image_size": (16, 24), "patch_size": (4, 8)},
        {"position": "none"},
        {"position": "learned-2d", "registers": 2},
        {"position": "relative", "distillation": True},
        {"position": "sincos-2d", "pool": "mean", "class_token": True},
        {"position": "rotary", "num_heads": 3, "image_size": (16, 24)},
        {"prefix_positions": False, "registers": 1},
    ],
)
def test_a_model_comes_back_from_its_file(tmp_path, changes):
    torch.manual_seed(0)
    model = perturbed(ViT(dataclasses.replace(SMALL, **changes)))
    path = weights.save(
        model, tmp_path / "m.safetensors", classes=list("abcde"), mean=[0.5] * 3, std=[0.2] * 3, record="r"
    )
    again, metadata = weights.load(path), weights.info(path)
    assert again.config == metadata["config"] == model.config
    assert not again.training
    images = torch.randn(2, 3, *(changes.get("image_size") or (16, 16)))
    assert torch.equal(again(images), model(images))
    assert (metadata["classes"], metadata["record"], metadata["mean"]) == (list("abcde"), "r", [0.5] * 3)
    assert metadata["parameters"] == sum(p.numel() for p in model.parameters())


def test_bfloat16_halves_the_file(tmp_path):
    model = perturbed(ViT(SMALL))
    whole, half = (weights.save(model, tmp_path / f"{d}.safetensors", dtype=d) for d in (torch.float32, torch.bfloat16))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = weights.load(half)
    assert weights.info(half)["dtype"] == "BF16"
    for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine.bfloat16().float(), theirs)


def test_what_is_saved_beside_a_model_is_none_of_its_own(tmp_path):
    model = perturbed(ViT(SMALL))
    path = weights.save(model, tmp_path / "m.safetensors", extra={"head.weight": torch.full((2, 3), 0.1)},
                        dtype=torch.bfloat16)
    alone = weights.save(model, tmp_path / "alone.safetensors", dtype=torch.bfloat16)
    assert weights.extra(path)["head.weight"].tolist() == torch.full((2, 3), 0.1).bfloat16().tolist()
    assert weights.extra(alone) == {}
    for name, tensor in weights.load(alone).state_dict().items():
        assert torch.equal(weights.load(path).state_dict()[name], tensor)
    assert weights.info(path)["parameters"] == weights.info(alone)["parameters"]
    with pytest.raises(FileNotFoundError):
        weights.extra(tmp_path / "none.safetensors")


def test_a_resampled_table_comes_back(tmp_path):
    for kind in ("learned-1d", "learned-2d", "relative", "sincos-2d", "rotary"):
        model = perturbed(ViT(dataclasses.replace(SMALL, num_heads=3, position=kind))).at_resolution((24, 16))
        again = weights.load(weights.save(model, tmp_path / "m.safetensors"))
        images = torch.randn(2, 3, 24, 16)
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    "stem",
    [
        lambda: hybrid.ResNetStem(24, stride=4, norm="group"),
        lambda: hybrid.ResNetStem(24, stride=4, norm="batch"),
    ],
)
def test_a_hybrid_comes_back_from_its_file(tmp_path, stem):
    torch.manual_seed(0)
    model = perturbed(ViT(SMALL, patch_embed=stem())).train()
    model(torch.randn(4, 3, 16, 16))  # a batch norm remembers
    model.eval()
    images = torch.randn(2, 3, 16, 16)
    path = weights.save(model, tmp_path / "m.safetensors")
    assert weights.info(path)["patch_embed"] == model.patch_embed.spec
    assert weights.info(path)["parameters"] == sum(p.numel() for p in model.parameters())
    assert torch.equal(weights.load(path)(images), model(images))
    half = weights.load(weights.save(model, path, dtype=torch.bfloat16))
    for name, tensor in model.state_dict().items():
        wanted = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert torch.equal(half.state_dict()[name], wanted)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_resnet_comes_back_from_its_file(tmp_path, norm):
    torch.manual_seed(0)
    model = perturbed(ResNet(ResNetConfig(in_channels=1, num_classes=5, width=8, blocks=2, norm=norm))).train()
    model(torch.randn(4, 1, 16, 16))  # a batch norm remembers
    path = weights.save(model.eval(), tmp_path / "m.safetensors", classes=list("abcde"), mean=[0.5], std=[0.2])
    metadata, again = weights.info(path), weights.load(path)
    assert (metadata["model"], metadata["config"], metadata["classes"]) == ("ResNet", model.config, list("abcde"))
    assert metadata["parameters"] == sum(p.numel() for p in model.parameters())
    assert type(again) is ResNet
    assert not again.training
    images = torch.randn(2, 1, 20, 16)
    assert torch.equal(again(images), model(images))
    half = weights.load(weights.save(model, path, dtype=torch.bfloat16))
    for name, tensor in model.state_dict().items():
        wanted = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert torch.equal(half.state_dict()[name], wanted)


def test_a_model_of_another_kind_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="model is a Linear; expected vitlite's ViT or ResNet"):
        weights.save(nn.Linear(1, 1), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_stem_that_cannot_be_rebuilt_is_not_saved(tmp_path):
    model = ViT(SMALL, patch_embed=nn.Sequential(nn.Conv2d(3, 24, 4, stride=4)))
    with pytest.raises(ValueError, match="Sequential, which load could not rebuild; use one of vitlite.hybrid.STEMS"):
        weights.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_of_other_versions(tmp_path):
    path = weights.save(ViT(SMALL), tmp_path / "m.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        metadata, state = json.loads(file.metadata()["vitlite"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    del metadata["model"], metadata["patch_embed"], metadata["config"]["registers"], metadata["config"]["position"]
    del metadata["sha256"]
    safetensors.torch.save_file(state, path, {"vitlite": json.dumps(metadata)})
    with pytest.warns(UserWarning, match="no digest of its tensors, so damage to them would not be seen"):
        older = weights.load(path)
    assert older.config == SMALL, "an older file, from before these were known"
    weights.load(weights.save(older, path))  # as the warning advises
    metadata["config"]["flavour"] = "up"
    safetensors.torch.save_file(state, path, {"vitlite": json.dumps(metadata)})
    with pytest.raises(ValueError, match="newer vitlite: it holds flavour"):
        weights.load(path)
    safetensors.torch.save_file(state, path, {"vitlite": json.dumps(metadata | {"model": "Mixer"})})
    with pytest.raises(ValueError, match="newer vitlite: it holds a Mixer"):
        weights.load(path)


# ---- torchvision


TV = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}


@pytest.mark.parametrize("sizes", [
    TV, TV | {"num_classes": 7}, TV | {"representation_size": 48},
    {"image_size": 48, "patch_size": 16, "num_layers": 1, "num_heads": 8, "hidden_dim": 64, "mlp_dim": 32},
    {"image_size": 28, "patch_size": 14, "num_layers": 3, "num_heads": 1, "hidden_dim": 40, "mlp_dim": 80},
    {"image_size": 64, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64,
     "num_classes": 3},
])
def test_logits_equal_torchvisions(sizes):
    torch.manual_seed(0)
    theirs = perturbed(torchvision.models.VisionTransformer(**sizes))
    images = torch.randn(2, 3, sizes["image_size"], sizes["image_size"])
    for source in (theirs, theirs.state_dict()):
        ours = weights.from_torchvision(source, num_heads=sizes["num_heads"])
        with torch.no_grad():
            assert (ours(images) - theirs(images)).abs().max() < 1e-4
            assert theirs(images).std() > 0.01, "or zeros would be compared with zeros"


def test_a_torchvision_file_is_read_without_unpickling_code(tmp_path):
    theirs = perturbed(torchvision.models.VisionTransformer(32, 8, 1, 2, 128, 64))
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = weights.from_torchvision(tmp_path / "vit.pth", num_heads=2)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-4)


def test_other_architectures_are_refused_by_name():
    with pytest.raises(ValueError, match="not the weights of a torchvision VisionTransformer.*conv1.weight"):
        weights.from_torchvision(torchvision.models.resnet18(num_classes=2))


# ---- bad files


def test_tensors_that_do_not_fit_are_all_listed_and_none_is_loaded():
    model, other = ViT(SMALL), ViT(dataclasses.replace(SMALL, embed_dim=32, pool="mean")).state_dict()
    before = model.norm.weight.clone()
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        weights.fill(model, other | {"extra": torch.zeros(1)}, "the file")
    message = str(error.value)
    assert "patch_embed.projection.weight: [32, 48] there, [24, 48] in the model" in message
    assert "class_token: missing" in message
    assert "extra: not in the model" in message
    assert torch.equal(model.norm.weight, before)


def test_weights_for_another_patch_size_are_refused_with_what_to_do():
    larger = ViT(dataclasses.replace(SMALL, image_size=32, patch_size=8)).state_dict()
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        weights.fill(ViT(SMALL), larger, "the file")
    assert "patch_embed.projection.weight: [24, 192] there, [24, 48] in the model" in str(error.value)
    assert "Build the model that these weights are of, or fetch them again" in str(error.value)


def test_class_names_may_come_as_an_array(tmp_path):
    path = weights.save(ViT(SMALL), tmp_path / "model.safetensors", classes=np.array(list("abcde")))
    assert weights.info(path)["classes"] == list("abcde")


def test_a_file_without_tensors_is_no_model(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="no description of a vitlite model"):
        weights.info(tmp_path / "empty.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = weights.save(ViT(SMALL), tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        weights.load(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no description of a vitlite model"):
        weights.load(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError, match="no file .*none.safetensors"):
        weights.info(tmp_path / "none.safetensors")


def test_a_file_whose_tensors_do_not_fit_its_configuration_is_refused(tmp_path):
    path = weights.save(ViT(SMALL), tmp_path / "m.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state["norm.weight"] = torch.ones(25)
    safetensors.torch.save_file(state, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged in its tensors .their SHA-256 differs"):
        weights.load(path)
    sealed.write(path, "vitlite", {k: v for k, v in json.loads(metadata["vitlite"]).items() if k != "sha256"}, state)
    with pytest.raises(ValueError, match=r"norm.weight: \[25\] there, \[24\] in the model"):
        weights.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mean": 0.5}, "mean is 0.5; expected a list of 3"), ({"classes": "abcde"}, "expected a list of 5"),
     ({"dtype": "bf16"}, "dtype is 'bf16'; expected a floating-point type"),
     ({"dtype": torch.int8}, "dtype is torch.int8")],
)
def test_what_cannot_be_saved_is_refused(tmp_path, options, message):
    with pytest.raises(TypeError, match=message):
        weights.save(ViT(SMALL), tmp_path / "m.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_a_mean_may_be_a_tensor(tmp_path):
    path = weights.save(ViT(SMALL), tmp_path / "m.safetensors", mean=torch.tensor([0.5, 0.25, 1]), std=[1, 1, 1])
    assert weights.info(path)["mean"] == [0.5, 0.25, 1.0]


def test_a_state_that_is_none_is_refused():
    with pytest.raises(TypeError, match="state is None; expected a Mapping"):
        weights.fill(ViT(SMALL), None, "it")
    with pytest.raises(TypeError, match="'norm.weight' is a int"):
        weights.fill(ViT(SMALL), {"norm.weight": 3}, "it")


def test_classes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="classes has 2 entries; the model has 5"):
        weights.save(ViT(SMALL), tmp_path / "m.safetensors", classes=["a", "b"])
    assert not list(tmp_path.iterdir())


# ---- what a file says of itself, and damage


def rewritten(path, change, seal=True):
    """The file with another description, and with digests that fit it unless ``seal`` is false."""
    with safetensors.safe_open(path, "pt") as file:
        told, state = json.loads(file.metadata()["vitlite"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    del told["sha256"]
    told = change(told) if callable(change) else told | change
    if seal:
        sealed.write(path, "vitlite", told, state)
    else:
        safetensors.torch.save_file(state, path, {"vitlite": told if isinstance(told, str) else json.dumps(told)})
    return path


def test_every_changed_bit_of_a_file_is_seen(tmp_path):
    path = weights.save(ViT(dataclasses.replace(SMALL, depth=1)), tmp_path / "m.safetensors", classes=list("abcde"),
                        mean=[0.5] * 3, std=[0.2] * 3)
    whole = path.read_bytes()
    wanted, told = weights.load(path).state_dict(), weights.info(path)
    for bit in range(0, 8 * len(whole), 8 * len(whole) // 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            again = weights.load(path)
        except ValueError as error:
            assert str(path) in f"{error}"  # noqa: PT017 (a flip in a blank of the header is none)
        else:
            assert weights.info(path) == told
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"depth": 10**12}}, "depth is 1000000000000, more than its tensors allow"),
        ({"config": {"depth": 100_000}}, "depth is 100000, more than its tensors allow"),
        ({"config": {"embed_dim": 10**12}}, "embed_dim is 1000000000000, more than its tensors allow"),
        ({"config": {"depth": -1}}, "depth is -1; it must be at least 1"),
        ({"config": {"dropout": float("nan")}}, "dropout is nan"),
        ({"config": 3}, "config is 3; expected a dict"),
        ({"config": None}, "config is None; expected a dict"),
        ({"model": ["ViT"]}, r"model is \['ViT'\]; expected a str"),
        ({"classes": 3}, "classes is no list of names"),
        ({"classes": list("abc")}, "classes has 3 entries; the model has 5"),
        ({"classes": [1, 2, 3, 4, 5]}, "classes is no list of names"),
        ({"mean": "half", "std": [1, 1, 1]}, "mean is no list of numbers"),
        ({"mean": [float("nan")] * 3, "std": [1, 1, 1]}, "mean is .*nan.*; expected finite numbers"),
        ({"mean": [0, 0, 0], "std": [1, 1, 0]}, "std is .*; expected finite numbers, above 0"),
        ({"mean": [0, 0, 0]}, "one alone is given"),
        ({"record": {}}, "record is {}; expected the name"),
        ({"parameters": "many"}, "parameters is 'many'; expected an int"),
        ({"patch_embed": {"stem": "resnet", "embed_dim": 24, "width": 10**9}}, "width is 1000000000, more than"),
        ({"patch_embed": {"stem": "rope"}}, "stem is 'rope'; expected one of"),
        ({"patch_embed": 7}, "damaged in its description"),
        (lambda told: [told], "it is a list, expected an object"),
        (lambda told: "[" * 100_000, "damaged in its description of a model"),
        (lambda told: "{", "damaged in its description of a model"),
    ],
)
def test_a_description_with_nonsense_is_refused_before_anything_is_built(tmp_path, change, message):
    path = weights.save(ViT(SMALL), tmp_path / "m.safetensors")
    if isinstance(change, dict) and isinstance(change.get("config"), dict):
        change = {"config": dataclasses.asdict(SMALL) | change["config"]}
    rewritten(path, change, seal=isinstance(change, dict))
    with pytest.raises(ValueError, match=message) as error:
        weights.load(path)
    assert str(path) in str(error.value)
    if "stem is" not in message:
        with pytest.raises(ValueError, match=message):
            weights.info(path)


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(tmp_path):
    for value in (float("nan"), float("inf"), -float("inf")):
        model = ViT(SMALL)
        with torch.no_grad():
            model.norm.weight[3] = value
        with pytest.raises(ValueError, match="norm.weight: 1 of 24 values not finite"):
            weights.save(model, tmp_path / "m.safetensors")
        state = model.state_dict()
        with pytest.raises(ValueError, match="nothing was loaded:\n  norm.weight: 1 of 24 values not finite"):
            weights.fill(ViT(SMALL), state, "the file")
    state = ViT(SMALL).state_dict()
    for tensor in (torch.ones(24, dtype=torch.int64), torch.ones(24, dtype=torch.bool), torch.ones(24).to(torch.int8)):
        with pytest.raises(ValueError, match=f"norm.weight: {tensor.dtype} there, torch.float32 in the model"):
            weights.fill(ViT(SMALL), state | {"norm.weight": tensor}, "the file")
    for tensor in (torch.ones(24, dtype=torch.complex64), torch.ones(24, device="meta"), torch.ones(24).to_sparse()):
        with pytest.raises(ValueError, match="norm.weight: "):
            weights.fill(ViT(SMALL), state | {"norm.weight": tensor}, "the file")
    assert not list(tmp_path.iterdir())


def test_what_half_precision_cannot_hold_is_refused_with_what_can(tmp_path):
    model = ViT(SMALL)
    with torch.no_grad():
        model.norm.weight[3] = 1e6
    with pytest.raises(ValueError, match="not fit into torch.float16; save in torch.bfloat16.*\n  norm.weight: 1 "):
        weights.save(model, tmp_path / "m.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    again = weights.load(weights.save(model, tmp_path / "m.safetensors", dtype=torch.bfloat16))
    assert again.norm.weight[3] == torch.tensor(1e6).bfloat16()


def test_tied_and_wrapped_models_are_saved(tmp_path):
    model = perturbed(ViT(SMALL))
    model.blocks[1].mlp.expand.weight = model.blocks[0].mlp.expand.weight
    for wrapped in (model, torch.compile(model), nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        again = weights.load(weights.save(wrapped, tmp_path / "m.safetensors", extra={"x": model.norm.weight[::2]}))
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(again(images), model(images))
        assert torch.equal(weights.extra(tmp_path / "m.safetensors")["x"], model.norm.weight[::2].detach())
    with pytest.raises(TypeError, match="extra tensor x is 3; expected a Tensor"):
        weights.save(model, tmp_path / "m.safetensors", extra={"x": 3})


def test_another_kind_of_file_is_called_what_it_is(tmp_path):
    theirs = torchvision.models.VisionTransformer(32, 8, 1, 2, 128, 64)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="vit.pth is no safetensors file but one of torch.save.*with from_timm"):
        weights.load(tmp_path / "vit.pth")
    weights.from_torchvision(tmp_path / "vit.pth", num_heads=2)  # as advised
    path = weights.save(ViT(SMALL), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=f"{path} is a model of vitlite's; read it with weights.load"):
        weights.from_torchvision(path)
    with pytest.raises(ValueError, match="is a folder; pass the file itself"):
        weights.load(tmp_path)
