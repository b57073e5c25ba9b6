"""torchvision's ``VisionTransformer``, both ways."""

from __future__ import annotations

from functools import partial
from typing import Unpack

import torchvision
from torch import nn

from vitlite import position
from vitlite.checks import Size, pair
from vitlite.model import ViT
from vitlite.weights import shared
from vitlite.weights.shared import Library, Options, Source

LIBRARY = Library(
    "a torchvision VisionTransformer",
    "torchvision",
    shared.named(
        {
            "class_token": "class_token",
            "encoder.pos_embedding": "position",
            "conv_proj": "patch_embed.projection",
            "encoder.ln": "norm",
            "heads.pre_logits": "head.hidden",
            "heads.head": "head.out",
            "heads": "head.out",  # where a single layer has taken the place of the heads, as for fine-tuning
        },
        "encoder.layers.encoder_layer_",
        {
            "ln_1": "norm1",
            "ln_2": "norm2",
            "self_attention.in_proj_weight": "attention.qkv.weight",
            "self_attention.in_proj_bias": "attention.qkv.bias",
            "self_attention.out_proj": "attention.projection",
            "mlp.0": "mlp.expand",
            "mlp.3": "mlp.contract",
            "mlp.linear_1": "mlp.expand",  # before torchvision 0.13
            "mlp.linear_2": "mlp.contract",
        },
    ),
    ("num_heads",),
)


def from_torchvision(
    source: Source, *, image_size: Size | None = None, num_classes: int | None = None, **options: Unpack[Options]
) -> ViT:
    """A ViT with the weights of torchvision's ``VisionTransformer`` (``vit_b_16`` and the like).

    The arguments are those of ``from_timm``.

    Example:
        >>> import torchvision
        >>> theirs = torchvision.models.VisionTransformer(32, 8, 1, 2, 128, 256, num_classes=5)
        >>> from_torchvision(theirs)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 5])
    """
    state, model = shared.read(source)
    known = {}
    if isinstance(model, torchvision.models.VisionTransformer):
        parts = {type(module): module for module in model.modules()}
        known = {"image_size": model.image_size, "num_heads": parts[nn.MultiheadAttention].num_heads,
                 "layer_norm_eps": shared.epsilon(model), "gelu": shared.gelu_of(parts[nn.GELU])}
    known |= shared.given(options)
    with shared.naming(source):
        return shared.assemble(LIBRARY, state, known, image_size, num_classes)


def to_torchvision(model: ViT) -> torchvision.models.VisionTransformer:
    """torchvision's model with the same logits, in evaluation mode; its ``state_dict()`` is what torchvision loads.

    Any position table becomes the learned one. Dropout rates are not taken over.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> type(to_torchvision(model)).__name__
        'VisionTransformer'
    """
    never, config = shared.never_expressed(model), model.config
    (height, width), patch_size = pair(config.image_size), pair(config.patch_size)
    shared.refuse("torchvision's VisionTransformer has no", {
        "non-square images or patches": height != width or patch_size[0] != patch_size[1],
        "images of other than 3 channels": config.in_channels != 3,
        "pooling of the mean": config.pool == "mean",
        "distillation or register tokens": config.distillation or config.registers > 0,
        "approximate GELU": config.gelu == "tanh",
        "normalised queries and keys": config.qk_norm,
        "gated MLP": config.mlp == "swiglu",
        "rotary positions": config.position in position.ROTARY,
    } | never)
    theirs = torchvision.models.VisionTransformer(
        height, patch_size[0], config.depth, config.num_heads, config.embed_dim, config.mlp_dim,
        num_classes=config.num_classes, norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        representation_size=config.embed_dim if config.head == "mlp" else None,
    )
    theirs.load_state_dict(shared.exported(model, LIBRARY, shared.full_table(model)))
    return theirs.to(model.norm.weight).eval()
