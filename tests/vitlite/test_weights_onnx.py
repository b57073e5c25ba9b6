"""ONNX files of encoders give the same model as ONNX Runtime runs, whoever wrote them; and ours go out the same."""

import logging
import sys
import warnings
from functools import partial

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from vitlite import ViT, ViTConfig, checks, hybrid, weights
from vitlite.model import PatchEmbed
from vitlite.resnet import ResNet, ResNetConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "mlp_ratio": 2}
HF = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
      "intermediate_size": 40, "num_labels": 5}


def perturbed(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


class Asked(nn.Module):
    """A model under another name, of which one answer is asked for: its logits or its final states."""

    def __init__(self, model, answer):
        super().__init__()
        self.backbone, self.answer = model, answer

    def forward(self, images):
        return self.answer(self.backbone, images)


def timm_vit(states=False, kind=timm.models.vision_transformer.VisionTransformer, **changes):
    model = kind(**(TINY | changes))
    return Asked(model, lambda model, images: model.forward_features(images)) if states else model


def hf_vit(name, **changes):
    kind, shape = getattr(transformers, name), HF | changes
    if "Dinov2" in name:
        shape = {key: value for key, value in shape.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
    config = kind.config_class(**shape)
    field = "logits" if "ForImage" in name else "last_hidden_state"
    return Asked(kind(config), lambda model, images: getattr(model(images), field))


MODELS = {
    "timm": timm_vit,
    "timm, not square": partial(timm_vit, img_size=(16, 24), patch_size=(4, 8)),
    "timm, mean, norm after": partial(timm_vit, global_pool="avg", class_token=False),
    "timm, mean beside a class token": partial(timm_vit, global_pool="avg", fc_norm=False),
    "timm, DeiT": partial(timm_vit, kind=timm.models.deit.VisionTransformerDistilled),
    "timm, DeiT III": partial(timm_vit, init_values=0.1, no_embed_class=True, img_size=(24, 16)),
    "timm, DINOv2": partial(timm_vit, states=True, init_values=0.1, num_classes=0),
    "timm, DINOv2 with registers": partial(timm_vit, init_values=0.1, reg_tokens=3, no_embed_class=True),
    "timm, QK-norm": partial(timm_vit, qk_norm=True),
    "timm, no positions, 1 class": partial(timm_vit, pos_embed="none", num_classes=1, act_layer="gelu_tanh"),
    "ViT": partial(hf_vit, "ViTForImageClassification"),
    "ViT, states": partial(hf_vit, "ViTModel", image_size=(16, 24), num_attention_heads=4),
    "DeiT": partial(hf_vit, "DeiTForImageClassificationWithTeacher"),
    "DeiT, one head": partial(hf_vit, "DeiTForImageClassification"),
    "DINOv2": partial(hf_vit, "Dinov2Model"),
    "DINOv2 with registers": partial(hf_vit, "Dinov2WithRegistersModel", num_register_tokens=3),
}


def exported(model, path, size, dynamo, batch=True, opset=18, **options):
    """Write a model as a file; with a batch of any size, or of one image for good."""
    images, options = torch.zeros(2 if batch else 1, 3, *size), {"dynamo": dynamo, "opset_version": opset} | options
    if batch and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif batch:
        options["dynamic_axes"] = {"images": {0: "batch"}}
    if dynamo:
        options["verbose"] = False
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), path, input_names=["images"], **options)
    logging.disable(logging.NOTSET)
    return path


def quiet(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weights.from_onnx(path, **options)


def same(ours, path, size, count=2):
    """Logits, or the final states, equal ONNX Runtime's."""
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    with torch.no_grad():
        got = ours.encode(ours.embed(images)) if wanted.ndim == 3 else ours(images)
    assert wanted.std() > 0.05 or wanted.numel() < 3, "or zeros would be compared with zeros"
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def size_of(model):
    """What images a model was made for: timm's says it itself, transformers' in its configuration."""
    model = getattr(model, "backbone", model)
    return checks.pair(model.config.image_size if hasattr(model, "config") else model.patch_embed.img_size)


# The tracer has no antialiased resampling, so it cannot export what transformers does with registers.
PAIRS = [(case, dynamo) for case in MODELS for dynamo in (False, True)]
PAIRS.remove(("DINOv2 with registers", False))


@pytest.mark.parametrize(("case", "dynamo"), PAIRS)
def test_a_file_gives_what_onnx_runtime_gives(tmp_path, case, dynamo):
    model = perturbed(MODELS[case]())
    path = exported(model, tmp_path / "model.onnx", size_of(model), dynamo)
    ours = quiet(path)
    same(ours, str(path), size_of(model))
    assert checks.pair(ours.config.image_size) == size_of(model)


@pytest.mark.parametrize(("case", "dynamo", "opset"), [("DINOv2", False, 14), ("timm, DeiT III", False, 14),
                                                       ("timm, mean, norm after", False, 16), ("ViT", True, 23)])
def test_other_opsets_and_a_batch_of_one_for_good(tmp_path, case, dynamo, opset):
    model = perturbed(MODELS[case]())
    path = exported(model, tmp_path / "model.onnx", size_of(model), dynamo, batch=False, opset=opset)
    same(quiet(path), str(path), size_of(model), count=1)


@pytest.mark.parametrize(("dynamo", "side"), [(False, 28), (True, 28), (True, 88)])
def test_dinov2_exported_for_another_size_resamples_as_by_deit(tmp_path, dynamo, side):
    model = perturbed(MODELS["DINOv2"](image_size=side))
    path = exported(model, tmp_path / "model.onnx", (16, 24), dynamo)
    ours = quiet(path)
    if (dynamo, side) == (True, 28):  # the newer exporter has resampled a small table for good
        assert ours.config.image_size == (16, 24)
    else:
        assert ours.config.image_size == side
        ours = ours.at_resolution((16, 24), "deit")
    same(ours, str(path), (16, 24))


@pytest.mark.parametrize(("case", "side", "options"), [
    ("DINOv2", 28, {"dynamo": False, "do_constant_folding": False}),
    ("DINOv2 with registers", 88, {"dynamo": True}),
])
def test_a_table_that_is_cut_within_the_file_is_read_once(tmp_path, case, side, options):
    model = perturbed(MODELS[case](image_size=side))
    path = exported(model, tmp_path / "model.onnx", (16, 24), **options)
    ours = quiet(path)
    assert ours.config.image_size == side
    same(ours.at_resolution((16, 24), "timm" if ours.config.registers else "deit"), str(path), (16, 24))


@pytest.mark.parametrize("dynamo", [False, True])
def test_equal_tensors_that_an_exporter_stores_once_are_told_apart(tmp_path, dynamo):
    torch.manual_seed(0)
    model = timm_vit(init_values=1.0).eval()  # fresh norms, biases and layer scales are all alike
    nn.init.normal_(model.head.weight)
    path = exported(model, tmp_path / "model.onnx", (16, 16), dynamo)
    assert len(weights.onnx_tensors(path)) < len(model.state_dict()) or dynamo
    same(quiet(path), str(path), (16, 16))


def test_queries_keys_and_values_are_taken_by_name_in_whatever_order_they_come(tmp_path):
    path = exported(perturbed(MODELS["ViT"]()), tmp_path / "model.onnx", (16, 16), False)
    model = onnx.load(path)
    nodes = list(model.graph.node)
    linear = [node for node in nodes if node.op_type == "MatMul" and node.name.endswith("_proj/MatMul")][:3]
    assert [node.name.split("/")[-2] for node in linear] == ["q_proj", "k_proj", "v_proj"]
    nodes.remove(linear[2])
    nodes.insert(nodes.index(linear[0]), linear[2])  # as good an order as the other
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    tensors = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    onnx.save(model, tmp_path / "shuffled.onnx")
    same(quiet(tmp_path / "shuffled.onnx"), str(tmp_path / "shuffled.onnx"), (16, 16))


def test_another_head_size_and_what_stands_beside_the_encoder(tmp_path):
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.decoder = hf_vit("Dinov2Model").backbone, nn.ConvTranspose2d(24, 1, 4)

        def forward(self, images):
            states = self.backbone(images).last_hidden_state[:, 1:]
            return self.decoder(states.transpose(1, 2).unflatten(2, (4, 4)))

    path = exported(perturbed(Decoder()), tmp_path / "model.onnx", (16, 16), False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = weights.from_onnx(path, num_classes=3, image_size=(16, 24))
    messages = [str(warning.message) for warning in said]
    for part in ("left out, since no part of the encoder: decoder", "without a head: a new one, for 3 classes",
                 "resampled for 16×24 as by convention 'deit'"):
        assert any(part in message for message in messages), messages
    assert {warning.filename for warning in said} == {__file__}
    assert not ours(torch.randn(1, 3, 16, 24)).any()


def test_a_model_in_half_precision_is_read(tmp_path):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = timm_vit(init_values=0.1)

        def forward(self, images):
            return self.model(images.half())

    model = perturbed(Half()).half()
    ours = quiet(exported(model, tmp_path / "model.onnx", (16, 16), True))
    images = torch.randn(2, 3, 16, 16)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    torch.testing.assert_close(ours(images), model.model.float()(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read(tmp_path, dtype):
    model = perturbed(timm_vit())
    path = exported(model, tmp_path / "model.onnx", (16, 16), False)
    graph = onnx.load(path)
    kind = getattr(onnx.TensorProto, dtype.upper())
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).to(getattr(torch, dtype))
            tensor.raw_data, tensor.data_type = array.view(torch.int16).numpy().tobytes(), kind
    onnx.save(graph, tmp_path / "half.onnx")
    ours, images = quiet(tmp_path / "half.onnx"), torch.randn(2, 3, 16, 16)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    rounded = model.to(getattr(torch, dtype)).float()
    torch.testing.assert_close(ours(images), rounded(images), rtol=0, atol=1e-4)


# ---- out


TO_ONNX = {
    "a ViT": lambda: ViT(ViTConfig((16, 24), 4, 3, 5, 24, 2, 3, 40)),
    "every token": lambda: ViT(ViTConfig(16, 4, 1, 5, 24, 2, 3, 40, distillation=True, registers=2, gelu="tanh")),
    "relative positions": lambda: ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40, position="relative", pool="mean")),
    "rotary positions": lambda: ViT(ViTConfig((16, 24), 4, 3, 5, 24, 1, 3, 40, position="rotary")),
    "rotary positions of the image": lambda: ViT(ViTConfig((16, 24), 4, 3, 5, 24, 1, 3, 40, position="rotary-image")),
    "a modern block": lambda: ViT(ViTConfig(16, 4, 3, 5, 24, 2, 3, 16, registers=4, qk_norm=True, mlp="swiglu")),
    "a hybrid": lambda: ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40), hybrid.ResNetStem(24, width=8, blocks=1)),
    "a ResNet": lambda: ResNet(ResNetConfig(width=8, blocks=1, num_classes=5)),
}


@pytest.mark.parametrize("case", TO_ONNX)
def test_what_goes_out_gives_the_same_logits_for_any_batch(tmp_path, case):
    model = perturbed(TO_ONNX[case]()).train()
    path = weights.to_onnx(model, tmp_path / "folder" / "model.onnx")
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert model.training, "the model itself stays as it was"
    size = checks.pair(getattr(model.config, "image_size", (40, 56)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = torch.randn(count, model.config.in_channels, *size)
        logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        torch.testing.assert_close(logits, model.eval()(images), rtol=0, atol=1e-4)
    assert logits.std() > 0.05


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    model = perturbed(ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)))
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda other, *rest, **how: export(
        perturbed(ViT(model.config)), *rest, **how))
    with pytest.raises(ArithmeticError, match="ONNX Runtime's logits differ from the model's by up to"):
        weights.to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_only_our_models_go_out(tmp_path):
    with pytest.raises(TypeError, match="model is a Linear; expected vitlite's ViT or ResNet"):
        weights.to_onnx(nn.Linear(1, 1), tmp_path / "model.onnx")


class Choosing(PatchEmbed):
    """Patches whose treatment depends on the pixels, which no fixed list of operations can express."""

    def forward(self, images):
        return super().forward(images if images.mean() > 0 else -images)


def test_what_onnx_cannot_express_is_one_sentence_and_no_file(tmp_path):
    config = ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)
    model = ViT(config, Choosing(4, 3, 24)).eval()
    model(torch.randn(2, 3, 16, 16))  # a good model in PyTorch
    with pytest.raises(ValueError, match="a fixed list of operations cannot express.*weights.save"):
        weights.to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# ---- bad input


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return exported(perturbed(timm_vit()), tmp_path_factory.mktemp("onnx") / "good.onnx", (16, 16), False)


def test_damaged_and_foreign_files_are_refused(tmp_path, good):
    with pytest.raises(FileNotFoundError, match="no file .*none.onnx"):
        weights.from_onnx(tmp_path / "none.onnx")
    for content in (good.read_bytes()[:-5000], b"hello", b""):
        (tmp_path / "half.onnx").write_bytes(content)
        for read in (weights.from_onnx, weights.onnx_tensors):
            with pytest.raises(ValueError, match="half.onnx (is damaged, or no ONNX file|holds no network).*export it"):
                read(tmp_path / "half.onnx")


def test_other_networks_are_refused_with_what_they_have(tmp_path):
    resnet = exported(torchvision.models.resnet18(num_classes=2).eval(), tmp_path / "resnet.onnx", (32, 32), False)
    with pytest.raises(ValueError, match="resnet.onnx is no ViT, DeiT or DINOv2 .* its first layers are conv1, layer1"):
        weights.from_onnx(resnet)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    text = transformers.BertModel(transformers.BertConfig(vocab_size=50, **shape)).eval()
    words = Asked(text, lambda model, words: model(words).last_hidden_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(words, (torch.zeros(1, 4, dtype=torch.long),), tmp_path / "text.onnx", dynamo=False)
    with pytest.raises(ValueError, match="text.onnx is no ViT, DeiT or DINOv2 .* its first layers are .*embeddings"):
        weights.from_onnx(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_norm": True}, "norm_pre.weight: a norm before the first block|LayerNormalization between patches"),
        ({"global_pool": "map"}, "attn_pool.*: attention pooling, a layer of its own"),
        ({"global_pool": "max"}, "pools by the maximum"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "averages the prefix tokens, too"),
        ({"act_layer": "quick_gelu"}, "Sigmoid for its activation"),
        ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "MatMul between patches and first block"),
        ({"mlp_layer": timm.layers.SwiGLU}, "a gated MLP, which is read from a model or its state dict"),
    ],
)
def test_what_we_cannot_express_is_refused_by_name(tmp_path, changes, message):
    path = exported(perturbed(timm_vit(**changes)), tmp_path / "model.onnx", (16, 16), False)
    with pytest.raises(ValueError, match=message):
        weights.from_onnx(path)


@pytest.mark.parametrize("changes", [{}, {"qkv_fused": False}, {"use_abs_pos_emb": False, "qkv_bias": False}])
def test_rotary_positions_are_refused_with_what_reads_them(tmp_path, changes):
    model = timm_vit(kind=timm.models.eva.Eva, use_rot_pos_emb=True, **changes)
    path = exported(perturbed(model), tmp_path / "model.onnx", (16, 16), True)
    with pytest.raises(ValueError, match="numbers of no layer, as of rotary positions: pass the model or"):
        weights.from_onnx(path)


def test_tensors_in_a_file_beside_must_be_there_and_in_its_folder(tmp_path, good):
    model = onnx.load(good)
    (tmp_path / "a").mkdir()
    onnx.save_model(model, tmp_path / "a" / "model.onnx", save_as_external_data=True, location="tensors.bin",
                    size_threshold=0)
    same(quiet(tmp_path / "a" / "model.onnx"), str(good), (16, 16))
    (tmp_path / "a" / "tensors.bin").rename(tmp_path / "tensors.bin")
    with pytest.raises(FileNotFoundError, match="keeps its tensors in tensors.bin, which must lie whole in the same"):
        weights.from_onnx(tmp_path / "a" / "model.onnx")
    model = onnx.load(tmp_path / "a" / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../tensors.bin" if entry.key == "location" else entry.value
    (tmp_path / "a" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="keeps its tensors in ../tensors.bin, which must lie whole in the same"):
        weights.from_onnx(tmp_path / "a" / "model.onnx")


def test_unknown_opsets_operators_and_whole_numbers_are_refused(tmp_path, good):
    model = onnx.load(good)
    for version in (9, 99):
        model.opset_import[0].version = version
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=f"is of opset {version}; known are 11 to 24: export it with opset_v"):
            weights.from_onnx(tmp_path / "model.onnx")
    model = onnx.load(good)
    model.graph.node[5].domain = "com.example"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="operators that are not ONNX's own .com.example"):
        weights.from_onnx(tmp_path / "model.onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    quantize_dynamic(good, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    with pytest.raises(ValueError, match="int8.onnx is quantised to whole numbers .*Integer.* use the file of"):
        weights.from_onnx(tmp_path / "int8.onnx")


def test_without_onnx_it_is_said(monkeypatch, good):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="ONNX files need the package onnx: pip install 'vitlite.onnx.'"):
        weights.from_onnx(good)
    with pytest.raises(ImportError, match="the package onnx"):
        weights.to_onnx(ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)), good)
