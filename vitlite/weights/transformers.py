"""transformers' ViT and DeiT, in."""

from __future__ import annotations

import re

from torch import nn

from vitlite.checks import Size
from vitlite.model import ViT
from vitlite.weights import shared
from vitlite.weights.shared import Library, Source

LIBRARY = Library(
    "a transformers ViT or DeiT",
    "deit",
    shared.named(
        {
            "embeddings.cls_token": "class_token",
            "embeddings.distillation_token": "distillation_token",
            "embeddings.position_embeddings": "position",
            "embeddings.patch_embeddings.projection": "patch_embed.projection",
            "layernorm": "norm",
            "pooler.dense": "head.hidden",
            "classifier": "head.out",
            "cls_classifier": "head.out",
            "distillation_classifier": "distillation_head.out",
        },
        "layers.",
        {
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "attention.q_proj": "attention.query",
            "attention.k_proj": "attention.key",
            "attention.v_proj": "attention.value",
            "attention.o_proj": "attention.projection",
            "mlp.fc1": "mlp.expand",
            "mlp.fc2": "mlp.contract",
        },
    )
    | shared.named(  # before version 5, and in published files
        {},
        "encoder.layer.",
        {
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "attention.attention.query": "attention.query",
            "attention.attention.key": "attention.key",
            "attention.attention.value": "attention.value",
            "attention.output.dense": "attention.projection",
            "intermediate.dense": "mlp.expand",
            "output.dense": "mlp.contract",
        },
    ),
)

GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh",
        "gelu_fast": "tanh", "gelu_accurate": "tanh"}


def from_transformers(
    source: Source,
    *,
    image_size: Size | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
    gelu: str | None = None,
) -> ViT:
    """A ViT with the weights of transformers' ``ViTForImageClassification`` or one of its ``DeiTFor...`` models.

    ``DeiTForImageClassificationWithTeacher`` has both heads; in ``DeiTForImageClassification`` no head reads
    the distillation token, which makes it a register. ``ViTModel`` and ``DeiTModel`` have no head: pass
    ``num_classes``.

    Args:
        source: The model, its state dict, or a file with the state dict (``.safetensors``, or ``.bin``, read with
            ``weights_only``), with the names of version 5 or the older ones of published files.
        image_size: Another size of images in pixels; a multiple of the patch size. A state dict is taken to be made
            for square images; where its positions form no square, this says what it was made for.
        num_classes: Another number of classes.
        num_heads: Heads of the attention. A model tells it; for a state dict 64 channels a head are assumed (80 at
            width 1280).
        layer_norm_eps: Epsilon of the LayerNorms; as the model has it, or else 1e-12.
        gelu: ``"exact"`` or ``"tanh"``; as the model has it, or else exact.

    Returns:
        A new model whose logits equal transformers'.

    Raises:
        TypeError: If the source is none of these.
        FileNotFoundError: If there is no such file.
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.

    Example:
        >>> import transformers
        >>> shape = transformers.ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=3)
        >>> theirs = transformers.ViTForImageClassification(shape)
        >>> from_transformers(theirs).config.num_heads
        3
    """
    state, model = shared.read(source)
    state = {re.sub(r"^(vit|deit)\.", "", name): tensor for name, tensor in state.items()}
    told = {"layer_norm_eps": 1e-12} if model is None else _told(model)
    told |= shared.given(num_heads=num_heads, layer_norm_eps=layer_norm_eps, gelu=gelu)
    library = LIBRARY
    if "classifier.weight" in state:  # one head alone
        library = LIBRARY._replace(names={**LIBRARY.names, "embeddings.distillation_token": "registers"})
    return shared.assemble(library, state, told, image_size, num_classes)


def _told(model: nn.Module) -> dict:
    """What a live model tells that its tensors do not."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in ("vit", "deit"):
        raise ValueError(f"ViTConfig cannot express a {type(model).__name__}; expected a ViT or DeiT of transformers")
    if config.hidden_act not in GELU:
        raise ValueError(f"ViTConfig cannot express hidden_act={config.hidden_act!r}; it knows the exact and tanh GELU")
    return {
        "image_size": config.image_size,
        "num_heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps,
        "gelu": GELU[config.hidden_act],
    }
