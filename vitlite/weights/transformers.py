"""transformers' ViT, DeiT and DINOv2, in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from torch import nn

from vitlite import checks
from vitlite.checks import Size
from vitlite.files import decoding
from vitlite.model import ViT
from vitlite.weights import shared
from vitlite.weights.shared import Library, Options, Source

BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_scale1": "scale1",
    "layer_scale2": "scale2",
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.projection",
    "mlp.fc1": "mlp.expand",
    "mlp.fc2": "mlp.contract",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.contract",
    "mlp.weights_in": "mlp.expand",  # these before version 5, and in published files
    "mlp.weights_out": "mlp.contract",
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    "attention.output.dense": "attention.projection",
    "intermediate.dense": "mlp.expand",
    "output.dense": "mlp.contract",
}
LIBRARY = Library(
    "a transformers ViT, DeiT or DINOv2",
    "deit",
    shared.named(
        {
            "embeddings.cls_token": "class_token",
            "embeddings.distillation_token": "distillation_token",
            "embeddings.register_tokens": "late_registers",
            "embeddings.position_embeddings": "position",
            "embeddings.patch_embeddings.projection": "patch_embed.projection",
            "layernorm": "norm",
            "pooler.dense": "head.hidden",
            "classifier": "head.out",
            "cls_classifier": "head.out",
            "distillation_classifier": "distillation_head.out",
        },
        "layers.",
        BLOCK,
    )
    | shared.named({}, "encoder.layer.", BLOCK),
    ("image_size", "num_heads", "gelu", "layer_norm_eps"),
)

GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh",
        "gelu_fast": "tanh", "gelu_accurate": "tanh"}


def from_transformers(
    source: Source, *, image_size: Size | None = None, num_classes: int | None = None, **options: Unpack[Options]
) -> ViT:
    """A ViT with the weights of transformers' ViT, DeiT, DINOv2 or DINOv2 with registers.

    ``DeiTForImageClassificationWithTeacher`` has both heads; in ``DeiTForImageClassification`` no head reads
    the distillation token, which makes it a register. SwiGLU is taken over. Layer scale goes into the layer in front
    of it. A model without a head, such as ``Dinov2Model``, gets a new one. What is not said here is as for
    ``from_timm``.

    Args:
        source: The model, its state dict, a file with the state dict (safetensors, or torch's, read with
            ``weights_only``), with the names of version 5 or the older ones of published files; or the folder that
            ``save_pretrained`` wrote, whose ``config.json`` tells what tensors do not. Of a state dict, a warning
            names what was assumed.
        layer_norm_eps: As for ``from_timm``, or else 1e-12 (with layer scale 1e-6, as in DINOv2).

    Example:
        >>> import transformers
        >>> shape = transformers.ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=3)
        >>> theirs = transformers.ViTForImageClassification(shape)
        >>> from_transformers(theirs).config.num_heads
        3
    """
    state, model = shared.read(source)
    state = {re.sub(r"^(vit|deit|dinov2|dinov2_with_registers)\.", "", name): value for name, value in state.items()}
    scaled = any("layer_scale" in name for name in state)
    known = _folder(source) if model is None else _known(model)
    known |= shared.given(options)
    assumed, library = {"layer_norm_eps": 1e-6 if scaled else 1e-12}, LIBRARY
    if "classifier.weight" in state:  # one head alone
        library = library._replace(names={**library.names, "embeddings.distillation_token": "registers"})
    if "embeddings.register_tokens" in state:  # of these models alone transformers resamples with antialiasing
        library = library._replace(convention="timm")
    state.pop("embeddings.mask_token", None)  # only pre-training uses it
    return shared.assemble(library, state, known, image_size, num_classes, assumed=assumed)


def _known(model: nn.Module) -> dict:
    """What a live model says that its tensors do not."""
    shared.refuse_names(LIBRARY, shared.names_of(model))
    config = getattr(model, "config", None)
    return _told(vars(config) | {"model_type": config.model_type} if config else {}, type(model).__name__)


def _folder(source: object) -> dict:
    """What the configuration beside the weights says, if the source is a folder that has one."""
    path = Path(source) / "config.json" if isinstance(source, str | Path) else None
    if path is None or not path.is_file():
        return {}
    with decoding(path, "damaged as the configuration of a model", "fetch the folder again"):
        config = json.loads(path.read_text(encoding="utf-8"))
        checks.kind(dict, configuration=config)
        for name, kind in {"hidden_act": str, "num_attention_heads": int, "layer_norm_eps": float}.items():
            checks.kind(kind, **{name: config.get(name, kind())})
    if "model_type" not in config:  # another library's
        return {}
    return _told(config, f"{path}'s {(config.get('architectures') or ['model'])[0]}")


def _told(config: Mapping, name: str) -> dict:
    """What a configuration of transformers says that tensors do not."""
    if config.get("model_type") not in ("vit", "deit", "dinov2", "dinov2_with_registers"):
        raise ValueError(f"ViTConfig cannot express a {name}; expected a ViT, DeiT or DINOv2 of transformers")
    if config.get("hidden_act", "gelu") not in GELU:
        raise ValueError(
            f"ViTConfig cannot express hidden_act={config['hidden_act']!r}; it knows the exact and tanh GELU"
        )
    names = {"image_size": "image_size", "num_attention_heads": "num_heads", "layer_norm_eps": "layer_norm_eps"}
    known = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    if isinstance(known.get("image_size"), list):
        known["image_size"] = tuple(known["image_size"])
    return known | ({"gelu": GELU[config["hidden_act"]]} if "hidden_act" in config else {})
