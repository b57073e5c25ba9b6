"""transformers' ViT, DeiT, DINOv2 and DINOv3, in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from torch import nn

from vitlite import checks, position
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
    "a transformers ViT, DeiT, DINOv2 or DINOv3",
    "deit",
    shared.named(
        {
            "embeddings.cls_token": "class_token",
            "embeddings.distillation_token": "distillation_token",
            "embeddings.register_tokens": "late_registers",
            "embeddings.position_embeddings": "position",
            "embeddings.patch_embeddings.projection": "patch_embed.projection",
            "embeddings.patch_embeddings": "patch_embed.projection",  # DINOv3
            "layernorm": "norm",
            "norm": "norm",  # DINOv3
            "pooler.dense": "head.hidden",
            "classifier": "head.out",
            "cls_classifier": "head.out",
            "distillation_classifier": "distillation_head.out",
        },
        "layers.",
        BLOCK,
    )
    | shared.named({}, "encoder.layer.", BLOCK)
    | shared.named({}, "model.layer.", BLOCK)  # DINOv3, and the same in published files:
    | shared.named({}, "layer.", BLOCK),
    ("image_size", "num_heads", "gelu", "layer_norm_eps"),
)

GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh",
        "gelu_fast": "tanh", "gelu_accurate": "tanh"}


def from_transformers(
    source: Source, *, image_size: Size | None = None, num_classes: int | None = None, **options: Unpack[Options]
) -> ViT:
    """A ViT with the weights of transformers' ViT, DeiT, DINOv2, DINOv2 with registers or DINOv3.

    ``DeiTForImageClassificationWithTeacher`` has both heads; in ``DeiTForImageClassification`` no head reads
    the distillation token, which makes it a register. SwiGLU is taken over. Layer scale goes into the layer in front
    of it. A model without a head, such as ``Dinov2Model``, gets a new one. What is not said here is as for
    ``from_timm``.

    Args:
        source: As for ``from_timm``, with the names of version 5 or the older ones of published files; in the folder
            of ``save_pretrained``, ``config.json`` tells what tensors do not.
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
    newer = "embeddings.patch_embeddings.weight" in state  # DINOv3, whose rotary positions have no tensors
    with shared.naming(source):
        known = (_folder(source) if model is None else _known(model)) | shared.given(options)
    assumed, library = {"layer_norm_eps": 1e-5 if newer else 1e-6 if scaled else 1e-12}, LIBRARY
    if newer:
        assumed["position"], library = "rotary-image", LIBRARY._replace(untold=(*LIBRARY.untold, "position"))
    if "classifier.weight" in state:  # one head alone
        library = library._replace(names={**library.names, "embeddings.distillation_token": "registers"})
    if "embeddings.register_tokens" in state:  # of these models alone transformers resamples with antialiasing
        library = library._replace(convention="timm")
    state.pop("embeddings.mask_token", None)  # only pre-training uses it
    with shared.naming(source):
        ours = shared.assemble(library, state, known, image_size, num_classes, assumed=assumed)
    return shared.reordered(ours, halves=True) if newer else ours


def _known(model: nn.Module) -> dict:
    """What a live model says that its tensors do not."""
    shared.refuse_names(LIBRARY, [name for name in shared.names_of(model) if name != "rope_embeddings"])
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
        checks.pair(config.get("image_size") or 1, "image_size")
    if "model_type" not in config:  # another library's
        return {}
    return _told(config, f"{path}'s {config.get('architectures', 'model')}")


def _told(config: Mapping, name: str) -> dict:
    """What a configuration of transformers says that tensors do not."""
    if config.get("model_type") not in ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit"):
        raise ValueError(f"ViTConfig cannot express a {name}; expected a ViT, DeiT, DINOv2 or DINOv3 of transformers")
    if config.get("rope_theta", position.ROTARY_BASE) != position.ROTARY_BASE:
        raise ValueError(f"ViTConfig cannot express rope_theta={config['rope_theta']}; it knows {position.ROTARY_BASE}")
    gated = config.get("use_gated_mlp", False)  # in DINOv3; the gate of DINOv2 asks no configuration
    if config.get("hidden_act", "gelu") not in (["silu"] if gated else GELU):
        raise ValueError(f"ViTConfig cannot express hidden_act={config['hidden_act']!r:.40} here; it knows the exact "
                         "and tanh GELU, and the SiLU of a gate")
    names = {"image_size": "image_size", "num_attention_heads": "num_heads", "layer_norm_eps": "layer_norm_eps"}
    known = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    known |= {"position": "rotary-image"} if config["model_type"] == "dinov3_vit" else {}
    if isinstance(known.get("image_size"), list):
        known["image_size"] = tuple(known["image_size"])
    return known | ({"gelu": GELU.get(config["hidden_act"], "exact")} if "hidden_act" in config else {})
