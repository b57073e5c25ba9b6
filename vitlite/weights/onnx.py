"""ONNX files: encoders that PyTorch exported, read as data and never run; and the models of vitlite, written.

A file's matrices often have no name of their own (``onnx::MatMul_1966``). But each node of its graph says which layer
of the exported model it belongs to, so a matrix gets its name from the node that multiplies with it.
"""

from __future__ import annotations

import ast
import copy
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlite import sealed
from vitlite.checks import Size, pair
from vitlite.files import decoding, written_whole
from vitlite.model import ViT
from vitlite.resnet import ResNet
from vitlite.weights import shared, timm, transformers

OPSETS = range(11, 25)  # what the two exporters of PyTorch write
PROJECTIONS = {  # whose exports are read, by the name of the patch projection
    "patch_embed.proj": timm.LIBRARY,
    "embeddings.patch_embeddings.projection": transformers.LIBRARY,
}
# What may happen to tokens and positions on their way to the first block, beside joining and adding.
MOVES = {"Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Resize", "Slice", "Squeeze", "Transpose",
         "Unsqueeze"}
FOLDED = ("Cast", "Gather", "Identity", "Slice", "Transpose", "Unsqueeze")  # what may be done to a stored tensor
ADVICE = "fetch or export it again"
FIRST_NORM = re.compile(r"(^|\.)(blocks|layers?)\.0\.(norm1|layernorm_before)$")
QUANTISED = re.compile(r"Quantize|Integer|^QLinear")


def onnx_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors that an ONNX file stores, by the names they have there; floating-point ones in float32.

    Returns:
        Its initializers. Matrices without a name of their own, such as ``onnx::MatMul_1966``, are ``[in, out]``.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> tensors = onnx_tensors(to_onnx(model, Path(tempfile.mkdtemp()) / "model.onnx"))
        >>> tensors["position"].shape
        torch.Size([1, 17, 24])
    """
    model = _read(path)
    with decoding(path, "damaged in its tensors", ADVICE):
        return {name: _tensor(array) for name, array in _arrays(model).items()}


def from_onnx(path: str | Path, *, image_size: Size | None = None, num_classes: int | None = None) -> ViT:
    """A ViT with the weights of an encoder that was exported from timm or transformers: ViT, DeiT or DINOv2.

    Either exporter of PyTorch may have written the file. Nothing in it is run. Layer scale goes into the layer in
    front of it. An encoder without a head gets a new one, and a warning; what stands in the file beside the encoder
    is left out, and a warning names it.

    Args:
        path: The file; tensors that it keeps in a file beside it are read too. Half precision becomes float32.
        image_size: Another size of images in pixels; a multiple of the patch size. By default the one that the
            position table in the file was made for, which may be larger than what the file takes.

    Example:
        >>> model = from_onnx("encoder.onnx").at_resolution(224, "deit")  # doctest: +SKIP
    """
    model = _read(path)
    try:
        parts = _parts(model, path)
    except Exception as error:  # a damaged graph leads anywhere
        if isinstance(error, ValueError) and Path(path).name in str(error):
            raise
        cause = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is damaged, or not as PyTorch exports an encoder ({type(error).__name__}: {cause}); "
                         f"{ADVICE}") from error
    library, state, known, remarks = parts
    with shared.naming(Path(path).name):
        return shared.assemble(library, state, known, image_size, num_classes, remarks)


def _parts(model, path: str | Path) -> tuple[shared.Library, dict[str, Tensor], dict, list[str]]:
    """Whose encoder a file holds, its tensors under our names, what the graph says beside, and remarks."""
    graph = _Graph(model, path)
    library, prefix, projection = graph.encoder()
    library = library._replace(title=f"{Path(path).name}, {library.title}", untold=())
    tokens, late, table, resampled = graph.embedding(projection)
    if late:  # of these models alone transformers resamples with antialiasing
        library = library._replace(convention="timm")
    layers = graph.layers()
    state, beside = _placed(library, layers, prefix)
    shared.refuse_names(library, [*state, *(name for name in map(graph.layer, graph.nodes) if _inside(name, prefix))])
    ours = shared.renamed(state, library.names)
    names = {name.rpartition(".")[0]: _joined(prefix, their.rpartition(".")[0])
             for name, their in zip(ours, state, strict=True)}
    queries = names.get("blocks.0.attention.qkv") or names.get("blocks.0.attention.query")
    if "blocks.0.mlp.gate" in names:
        raise ValueError(f"{library.title} with a gated MLP, which is read from a model or its state dict, not here")
    if not queries or "blocks.0.mlp.expand" not in names:
        raise ValueError(f"{library.title} without attention or MLP in its first block; first layers: {_some(layers)}")
    for norm, linear in (("norm1", queries), ("norm2", names["blocks.0.mlp.expand"])):
        if graph.before(linear) != names.get(f"blocks.0.{norm}"):
            raise ValueError(f"{library.title} whose {linear} does not read {norm}; ViTConfig's norms stand in front")
    for layer in names:  # an exporter may leave out a bias of zeros
        if ".scale" not in layer and f"{layer}.weight" in ours:
            ours.setdefault(f"{layer}.bias", np.zeros(len(ours[f"{layer}.weight"]), np.float32))
    width, _, *patch_size = ours["patch_embed.projection.weight"].shape
    pool, averaged = graph.pool(prefix)
    known = {
        "num_heads": graph.heads(queries, width),
        "layer_norm_eps": shared.one_epsilon({graph.epsilon(their) for layer, their in names.items()
                                              if re.search(r"(^|\.)norm\d?$", layer)}),
        "gelu": graph.gelu(names["blocks.0.mlp.expand"]),
        "pool": pool,
        "pool_norm": "after" if any(name.startswith("fc_norm.") for name in state) else "before",
    }
    rows = _rows(tokens, width)
    first = int(len(rows) > 0 and (pool == "token" or len(_rows(tokens[:1], width)) == 1))
    second = first + ("distillation_head.out.weight" in ours)
    parts = {"class_token": rows[:first], "distillation_token": rows[first:second], "registers": rows[second:],
             "position": _rows(table, width), "late_registers": _rows(late, width)}
    if pool == "mean" and len(rows) and averaged != "Slice":
        raise ValueError(f"{library.title} that averages the prefix tokens, too; ViTConfig's mean is of the patches")
    ours |= {name: part[None] for name, part in parts.items() if len(part)}
    known |= {} if table else {"position": "none"}
    if not resampled and (size := graph.size()):
        patches = (size[0] // patch_size[0]) * (size[1] // patch_size[1])
        if len(parts["position"]) in (0, patches, patches + len(rows)):
            known["image_size"] = size
    remarks = [f"left out, since no part of the encoder: {', '.join(beside)}"] if beside else []
    ours = {name: _tensor(array) for name, array in ours.items()}
    return library, ours, known, remarks


def to_onnx(model: ViT | ResNet, path: str | Path) -> Path:
    """Write a model as one ONNX file that takes ``images`` and gives ``logits``, for batches of any size.

    Where ONNX Runtime is installed, the file must give the model's logits for random images before it appears.

    Args:
        model: A ViT, with any patch embedding, or a ResNet, whose images may then have any size, too.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> to_onnx(model, Path(tempfile.mkdtemp()) / "model.onnx").name
        'model.onnx'
    """
    if not isinstance(model, ViT | ResNet):
        raise TypeError(f"model is a {type(model).__name__}; expected vitlite's ViT or ResNet")
    _package("onnx")
    _package("onnxscript")
    model = copy.deepcopy(model).float().cpu().eval()
    height, width = pair(model.config.image_size) if isinstance(model, ViT) else (32, 48)
    images = torch.randn(2, model.config.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    dynamic = {0: torch.export.Dim("batch")}
    if isinstance(model, ResNet):
        dynamic |= {2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    with written_whole(path) as beside:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # the one that the exporter can always take apart
            warnings.simplefilter("ignore")  # its remarks on itself
            try:
                torch.onnx.export(model, (images,), beside, input_names=["images"], output_names=["logits"],
                                  dynamo=True, dynamic_shapes=(dynamic,), external_data=False, verbose=False)
            except torch.onnx.errors.OnnxExporterError as error:
                raise ValueError("the model does something that a fixed list of operations cannot express, such as a "
                                 "choice that depends on the pixels, or layers of whole numbers: write it without, or "
                                 "keep it in PyTorch with weights.save") from error
        _compare(model, beside, images[[0, 1, 0]])
    return Path(path)


def _compare(model: nn.Module, path: Path, images: Tensor) -> None:
    """Raise an ArithmeticError if ONNX Runtime, where it is installed, gives other logits."""
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = model(images).detach().numpy()
    difference = np.abs(session.run(None, {"images": images.numpy()})[0] - wanted).max()
    if not difference <= 1e-4 * max(1, np.abs(wanted).max()):
        raise ArithmeticError(f"ONNX Runtime's logits differ from the model's by up to {difference:.2g}")


# ---- reading


def _package(name: str):
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(f"ONNX files need the package {name}: pip install 'vitlite[onnx]'") from error


def _read(path: str | Path):
    """The file's protocol buffer, with its tensors; nothing is run."""
    onnx, path = _package("onnx"), Path(path)
    sealed.start(path)
    with decoding(path, "damaged, or no ONNX file", ADVICE):
        model = onnx.load(path, format="protobuf", load_external_data=False)
    if not model.graph.node:
        raise ValueError(f"{path} holds no network, so it is no ONNX file or an empty one; fetch or export it again")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        names = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data
                 if entry.key == "location"}
        kind = FileNotFoundError if any(not (path.parent / name).is_file() for name in names) else ValueError
        raise kind(f"{path} keeps its tensors in {', '.join(sorted(names))}, which must lie whole in the same folder "
                   f"({error}); fetch both files, or export with external_data=False") from error
    version = {opset.domain: opset.version for opset in model.opset_import}.get("")
    if version not in OPSETS:
        raise ValueError(f"{path} is of opset {version}; known are {OPSETS[0]} to {OPSETS[-1]}: export it with "
                         "opset_version=18")
    quantised = {name for node in model.graph.node if QUANTISED.search(name := f"{node.op_type}")}
    if quantised:
        raise ValueError(f"{path} is quantised to whole numbers ({', '.join(sorted(quantised))}), which rounding "
                         "cannot be undone; use the file of floating-point numbers that it was made from")
    foreign = {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign:
        raise ValueError(f"{path} has operators that are not ONNX's own ({', '.join(sorted(foreign))}); use the file "
                         "as PyTorch exported it, before a runtime optimised it")
    made = {""} | {value.name for value in [*model.graph.input, *model.graph.initializer]}
    for node in model.graph.node:  # in order, so that whoever follows the values comes to an end
        if missing := set(node.input) - made:
            raise ValueError(f"{path} is damaged: its {node.op_type} reads {missing.pop()!r}, which nothing before it "
                             f"gives; {ADVICE}")
        made |= set(node.output)
    return model


def _arrays(model) -> dict[str, np.ndarray]:
    return {tensor.name: _package("onnx").numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, array.dtype if array.dtype.kind in "iub" else np.float32))


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _inside(name: str, prefix: str) -> bool:
    return not prefix or name.startswith(f"{prefix}.")


def _rows(arrays: list[np.ndarray], width: int) -> np.ndarray:
    """Tokens or positions one below the other, ``[rows, D]``; a picture of positions is ``[1, D, rows, columns]``."""
    arrays = [array.transpose(0, 2, 3, 1) if array.ndim == 4 and array.shape[1] == width else array for array in arrays]
    return np.concatenate([np.zeros((0, width), np.float32), *(array.reshape(-1, width) for array in arrays)])


def _some(tensors: dict) -> str:
    """The first layers of these tensors."""
    return ", ".join(list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))[:8])


def _placed(library: shared.Library, layers: dict, prefix: str) -> tuple[dict, list[str]]:
    """The tensors by the names they have in the library's model, and the layers that are none of its."""
    heads = {theirs for theirs, ours in library.names.items() if ours.startswith(("head.", "distillation_head."))}
    state, beside, parent = {}, [], prefix.rpartition(".")[0]
    for name, array in layers.items():
        inside = _inside(name, prefix)
        inner = name.removeprefix(f"{prefix}." if inside else f"{parent}.")
        if inside or inner.rpartition(".")[0] in heads:
            state[inner] = array
        else:
            beside.append(name)
    return state, list(dict.fromkeys(name.rpartition(".")[0] for name in beside))


class _Graph:
    """What a file says of a network, read from its nodes."""

    def __init__(self, model, path: str | Path) -> None:
        self.path, self.nodes, self.inputs = path, list(model.graph.node), model.graph.input
        self.constants = _arrays(model)
        self.producers, self.consumers, self.embedded = {}, defaultdict(list), set()
        for node in self.nodes:
            self.producers |= dict.fromkeys(node.output, node)
            for value in node.input:
                self.consumers[value].append(node)
            if node.op_type == "Constant":
                self.constants[node.output[0]] = np.asarray(next(iter(self.attributes(node).values())))
            elif node.op_type in FOLDED and all(value in self.constants for value in node.input if value):
                self.constants[node.output[0]] = self.folded(node)

    @staticmethod
    def attributes(node) -> dict:
        onnx = _package("onnx")
        return {attribute.name: onnx.numpy_helper.to_array(attribute.t) if attribute.HasField("t") else
                onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def folded(self, node) -> np.ndarray:
        """What a node makes of a stored tensor: a part of it, or other axes."""
        array, *rest = (self.constants[value] for value in node.input if value)
        more = self.attributes(node)
        if node.op_type == "Transpose":
            return array.transpose(more.get("perm"))
        if node.op_type == "Gather":
            return array.take(rest[0], axis=more.get("axis", 0))
        if node.op_type == "Unsqueeze":
            return np.expand_dims(array, tuple(rest[0] if rest else more["axes"]))
        if node.op_type == "Slice":
            starts, ends, axes, *steps = (part.reshape(-1).tolist() for part in rest)
            cuts = [slice(None)] * array.ndim
            for axis, *cut in zip(axes, starts, ends, *steps, strict=True):
                cuts[axis] = slice(*cut)
            return array[tuple(cuts)]
        return array

    @staticmethod
    def layer(node) -> str:
        """The layer of the exported model that a node belongs to, such as ``blocks.0.attn.qkv``."""
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        if scopes:  # by the newer exporter: every module around the node, then the node
            return ([""] + ast.literal_eval(scopes))[-2]
        name = node.name.strip("/").rpartition("/")[0].replace("/", ".")
        return re.sub(r"\b(\w+)\.\1\.(\d+)", r"\1.\2", name)  # a Sequential is named before its entries

    def floats(self, value: str, least: int = 2) -> np.ndarray | None:
        """A stored tensor of so many numbers at least, or None."""
        array = self.constants.get(value)
        return array if array is not None and array.dtype.kind not in "iub" and array.size >= least else None

    def layers(self) -> dict[str, np.ndarray]:
        """Every tensor that a layer computes with, by the layer's name and what it is there."""
        layers = {}
        linear = {1: "weight", 2: "bias"}
        leaves = {"MatMul": linear, "Gemm": linear, "Conv": linear, "LayerNormalization": linear,
                  "Mul": {0: "weight", 1: "weight"}, "Add": {0: "bias", 1: "bias"}}
        for node in self.nodes:
            if node.op_type in {"Concat", "Where", *MOVES} or node.output[0] in self.embedded:
                continue
            for place, value in enumerate(node.input):
                array = self.floats(value, 1 if node.op_type in ("Conv", "Gemm", "MatMul") else 2)
                if array is None or (node.op_type == "Add" and not array.any() and array.ndim > 2):  # an empty mask
                    continue
                leaf = leaves.get(node.op_type, {}).get(place, f"input{place}")
                if node.op_type == "MatMul" or (
                    node.op_type == "Gemm" and leaf == "weight" and not self.attributes(node).get("transB")
                ):
                    array = array.T
                name = _joined(self.layer(node), leaf)
                while name in layers:
                    name += "'"
                layers[name] = array
        return layers

    def encoder(self) -> tuple[shared.Library, str, str]:
        """Whose encoder this is, what stands before its names, and the layer that projects its patches."""
        for node in self.nodes:
            for name, library in PROJECTIONS.items():
                layer = self.layer(node)
                if node.op_type == "Conv" and (layer == name or layer.endswith(f".{name}")):
                    return library, layer.removesuffix(name).rstrip("."), layer
        raise ValueError(f"{self.path} is no ViT, DeiT or DINOv2 that PyTorch exported from timm or transformers: it "
                         f"has no convolution called {' or '.join(PROJECTIONS)}; its first layers are "
                         f"{_some(self.layers())}")

    # ---- tokens and positions

    def data(self, node) -> list[str]:
        """The inputs whose numbers go on."""
        return list(node.input) if node.op_type in ("Concat", "Add") else list(node.input[:1])

    def trace(self, value: str, projection: str) -> tuple[list[np.ndarray], bool, bool]:
        """The stored tensors that a value comes from, whether patches are among its sources, and any resampling."""
        if value in self.constants:
            array = self.floats(value)
            return ([] if array is None else [array]), False, False
        node = self.producers.get(value)
        if node is None or self.layer(node) == projection:
            return [], True, False
        parts = [self.trace(source, projection) for source in self.data(node)]
        arrays = [array for part in parts for array in part[0]]
        return arrays, any(part[1] for part in parts), node.op_type == "Resize" or any(part[2] for part in parts)

    def embedding(self, projection: str) -> tuple[list, list, list, bool]:
        """Tokens in front, those that come after positions are added, positions, and whether these are resampled."""
        before, after, table, resampled = [], [], [], False  # joined before and after positions are added
        first = next((node for node in self.nodes if FIRST_NORM.search(self.layer(node))), None)
        if first is None:
            raise ValueError(f"{self.path} has patches, but no first block with a norm in front")
        value = first.input[0]  # from here back to the patches
        while (node := self.producers[value]).op_type != "Conv":
            if node.op_type not in MOVES | {"Concat", "Add"}:
                raise ValueError(f"{self.path} has {node.op_type} between patches and first block, which ours has not")
            self.embedded.add(node.output[0])
            parts = {source: self.trace(source, projection) for source in self.data(node)}
            value = [source for source, part in parts.items() if part[1]][-1]
            joined = [array for arrays, patches, _ in parts.values() if not patches for array in arrays]
            resampled |= any(part[2] for part in parts.values())
            if node.op_type == "Add":
                table = joined
            else:
                (before if table else after).extend(joined)
        return *((before, after) if before else (after, before)), table, resampled

    def size(self) -> tuple[int, int] | None:
        """Height and width of the images that the file takes, if it says."""
        for value in self.inputs:
            sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim][2:]
            if len(sides) == 2 and all(sides):
                return sides[0], sides[1]
        return None

    # ---- what tensors do not say

    def before(self, layer: str) -> str:
        """The layer that gives a linear layer its input."""
        node = next(node for node in self.nodes if self.layer(node) == layer and node.op_type in ("MatMul", "Gemm"))
        while (node := self.producers[node.input[0]]).op_type == "Cast":
            pass
        return self.layer(node)

    def after(self, layer: str) -> Iterator:
        """The nodes that the output of a linear layer goes through, until the next one."""
        values = [value for node in self.nodes if self.layer(node) == layer for value in node.output]
        while values:
            for node in self.consumers[values.pop(0)]:
                if self.layer(node) != layer and node.op_type not in ("MatMul", "Gemm"):
                    yield node
                    values += node.output

    def heads(self, layer: str, width: int) -> int:
        """Into how many heads the queries are cut: the first shape with four axes ends with heads and channels."""
        for node in self.after(layer):
            sides = self.sides(node.input[1]) if node.op_type == "Reshape" else []
            if len(sides) >= 4 and max(sides[-2:]) > 0:
                heads, channels = sides[-2:]
                return heads if heads > 0 else width // channels
        raise ValueError(f"{self.path} does not say into how many heads {layer} is cut")

    def sides(self, value: str) -> list[int]:
        if value in self.constants:
            return self.constants[value].reshape(-1).tolist()
        node = self.producers.get(value)
        if node is not None and node.op_type == "Concat":
            return [side for part in node.input for side in self.sides(part)]
        return [0]

    def epsilon(self, layer: str) -> float:
        for node in self.nodes:
            if self.layer(node) == layer:
                if node.op_type == "LayerNormalization":
                    return float(f"{self.attributes(node).get('epsilon', 1e-5):.6g}")
                constants = [self.constants[value] for value in node.input if value in self.constants]
                if node.op_type == "Add" and constants and constants[0].size == 1:  # before opset 17
                    return float(f"{constants[0].item():.6g}")
        raise ValueError(f"{self.path} has no LayerNorm in {layer}")

    def gelu(self, layer: str) -> str:
        kinds = {}
        for node in self.after(layer):
            kinds[node.op_type] = self.attributes(node).get("approximate")
        if not kinds.keys() & {"Erf", "Tanh", "Gelu"}:
            raise ValueError(f"{self.path} has {', '.join(sorted(kinds))} for its activation; ViTConfig has GELU")
        return "tanh" if "Tanh" in kinds or kinds.get("Gelu") == b"tanh" else "exact"

    def pool(self, prefix: str) -> tuple[str, str]:
        """What the model itself, not one of its layers, makes of the tokens, and the operator in front of a mean."""
        own = [node for node in self.nodes if self.layer(node) == prefix]
        if any(node.op_type == "ReduceMax" for node in own):
            raise ValueError(f"{self.path} pools by the maximum; ViTConfig takes the class token or the mean")
        means = [node for node in own if node.op_type == "ReduceMean"]
        return ("mean", self.producers[means[0].input[0]].op_type) if means else ("token", "")
