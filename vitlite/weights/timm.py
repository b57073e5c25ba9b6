"""timm's ``VisionTransformer``, its distilled DeiT and the paper's R50 hybrid, in; the first two also out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from vitlite.checks import Size, pair
from vitlite.model import ViT
from vitlite.weights import shared
from vitlite.weights.shared import Library, Options, Source

LIBRARY = Library(
    "a timm VisionTransformer",
    "timm",
    shared.named(
        {
            "cls_token": "class_token",
            "dist_token": "distillation_token",
            "reg_token": "registers",
            "register_tokens": "late_registers",  # in DINOv2's own files
            "pos_embed": "position",
            "patch_embed.proj": "patch_embed.projection",
            "norm": "norm",
            "fc_norm": "norm",
            "pre_logits.fc": "head.hidden",
            "head": "head.out",
            "head_dist": "distillation_head.out",
        },
        "blocks.",
        {
            "norm1": "norm1",
            "norm2": "norm2",
            "attn.qkv": "attention.qkv",
            "attn.proj": "attention.projection",
            "attn.q_norm": "attention.query_norm",
            "attn.k_norm": "attention.key_norm",
            "mlp.fc1": "mlp.expand",
            "mlp.fc2": "mlp.contract",
            "mlp.fc1_g": "mlp.gate",
            "mlp.fc1_x": "mlp.up",
            "mlp.w12": "mlp.expand",  # in DINOv2's own files
            "mlp.w3": "mlp.contract",
            "ls1": "scale1",
            "ls2": "scale2",
            "gamma_1": "scale1.weight",  # in DeiT III's own files
            "gamma_2": "scale2.weight",
        },
    ),
    ("image_size", "num_heads", "pool", "gelu", "layer_norm_eps"),
)
# The paper's ResNet-50 in front: their names, and what is ours.
R50 = {
    r"^patch_embed\.backbone\.stem\.conv": "patch_embed.trunk.0",
    r"^patch_embed\.backbone\.stem\.norm": "patch_embed.trunk.1",
    r"^patch_embed\.backbone\.stages\.(\d)\.blocks": lambda stage: f"patch_embed.trunk.{5 + int(stage[1])}",
    r"^(patch_embed\.trunk\.\d\.\d\.)norm": r"\1bn",
    r"(\.downsample)\.conv": r"\1.0",
    r"(\.downsample)\.norm": r"\1.1",
}


def from_timm(
    source: Source, *, image_size: Size | None = None, num_classes: int | None = None, **options: Unpack[Options]
) -> ViT:
    """A ViT with the weights of timm's ``VisionTransformer`` or ``VisionTransformerDistilled`` (DeiT).

    Class token or average pooling, register tokens, prefix tokens with or without positions, the norm before or after
    pooling, normalised queries and keys, and SwiGLU are taken over. Layer scale (DeiT III, DINOv2) goes into the layer
    in front of it. The released weights of DeiT and DINOv2 themselves have the same names. Of the hybrids, those with
    the paper's ResNet-50 load.

    Args:
        source: The model, its state dict, or a file with the state dict (safetensors, or torch's, read with
            ``weights_only``), or the folder or index of ``save_pretrained``. Of a state dict, a warning names what was
            assumed since tensors do not tell it.
        image_size: Another size of images in pixels; a multiple of the patch size. A state dict with as many positions
            as this size has patches is taken to be made for it, any other one for square images.
        num_classes: Another number of classes; an encoder without a head gets a new one, for 1000 unless said.
        num_heads: Heads of the attention. A model tells it; for a state dict 64 channels a head are assumed (80 at
            width 1280), as all published ones have; another width is refused without this.
        layer_norm_eps: Epsilon of the LayerNorms; as the model has it, or else 1e-6.
        gelu: ``"exact"`` or ``"tanh"``; as the model has it, or else exact.
        pool: ``"token"`` or ``"mean"``. A model tells it; for a state dict the mean is assumed where the norm follows
            pooling (``fc_norm``), else the class token.

    Example:
        >>> import timm
        >>> model = from_timm(timm.create_model("deit_tiny_distilled_patch16_224"))
        >>> model.config.distillation, model.config.embed_dim
        (True, 192)
    """
    state, model = shared.read(source)
    norm_after = any(name.startswith("fc_norm.") for name in state)
    known = {"pool": "mean", "pool_norm": "after"} if norm_after else {}
    if model is not None:
        known |= _known(model)
    known |= shared.given(options)
    return shared.assemble(LIBRARY, own_names(state), known, image_size, num_classes)


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with our names for the ResNet-50 in front, and without the token that only pre-training uses."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in R50.items():
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    renamed.pop("mask_token", None)
    return renamed


def to_timm(model: ViT) -> nn.Module:
    """timm's model with the same logits, in evaluation mode; its ``state_dict()`` is what timm loads.

    A ``VisionTransformerDistilled`` if there is a distillation token, else a ``VisionTransformer``. Any position
    table becomes the learned one. Dropout rates are not taken over.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> to_timm(model)(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 5])
    """
    never, config = shared.never_expressed(model), model.config
    shared.refuse("timm's VisionTransformer has no", {
        "head with a hidden layer": config.head == "mlp",
        "registers beside a distillation token": config.distillation and config.registers > 0,
        "pooling of the mean beside a distillation token": config.distillation and config.pool == "mean",
    } | never)
    try:
        from timm.layers import Mlp, SwiGLUPacked
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError("to_timm makes a model of timm's: install timm first") from error
    table = shared.full_table(model) if config.distillation else model.position_table()
    gated = config.mlp == "swiglu"
    after = config.pool == "mean" and config.pool_norm == "after"  # the same thing for a token
    theirs = (VisionTransformerDistilled if config.distillation else VisionTransformer)(
        img_size=pair(config.image_size), patch_size=pair(config.patch_size), in_chans=config.in_channels,
        num_classes=config.num_classes, embed_dim=config.embed_dim, depth=config.depth, num_heads=config.num_heads,
        mlp_ratio=((2 if gated else 1) * config.mlp_dim + 0.5) / config.embed_dim,  # timm rounds down
        mlp_layer=SwiGLUPacked if gated else Mlp, qk_norm=config.qk_norm,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps), fc_norm=after,
        act_layer=nn.SiLU if gated else partial(nn.GELU, approximate="none" if config.gelu == "exact" else "tanh"),
        global_pool="token" if config.pool == "token" else "avg", class_token=config.has_class_token,
        reg_tokens=config.registers, pos_embed="none" if table is None else "learn",
        no_embed_class=table is not None and table.shape[1] == config.num_patches,
    )
    # Of the two names for the last norm, the first is written: its own name comes first here.
    names = {"fc_norm" if after else "norm": "norm"} | {**LIBRARY.names}
    theirs.load_state_dict(shared.exported(model, LIBRARY._replace(names=names), table))
    return theirs.to(model.norm.weight).eval()


def _known(model: nn.Module) -> dict:
    """What a live model says that its tensors do not."""
    shared.refuse_names(LIBRARY, [name for name in shared.names_of(model) if "backbone" not in name])
    _expect(model, "an encoder that norms before each branch", "VisionTransformer", "VisionTransformerDistilled")
    _expect(model.patch_embed, "a projection of patches, of the image or of a feature map", "PatchEmbed", "HybridEmbed")
    for block in model.blocks:
        _expect(block, "one branch after another, each with its norm in front", "Block")
        _expect(block.attn, "plain attention", "Attention")
        _expect(block.mlp, "two linear layers with a GELU between them, or a SwiGLU", "Mlp", "SwiGLU", "GluMlp")
    gated, act = type(block.mlp).__name__ != "Mlp", block.mlp.act
    distilled = hasattr(model, "head_dist")
    shared.refuse("ViTConfig cannot express", {
        f"global_pool={model.global_pool!r}": model.global_pool not in ("token", "avg"),
        "pooling of the prefix tokens": model.pool_include_prefix and model.global_pool == "avg",
        "a GluMlp other than SwiGLUPacked": gated and (getattr(block.mlp, "gate_last", False)
                                                       or not isinstance(act, nn.SiLU)),
        "register tokens that timm's distilled model leaves out": distilled and model.reg_token is not None,
    })
    return {
        "image_size": model.patch_embed.img_size,
        "num_heads": block.attn.num_heads,
        "pool": "token" if model.global_pool == "token" else "mean",
        "position": "none" if model.pos_embed is None else "learned-1d",
        "layer_norm_eps": shared.epsilon(model),
        "gelu": "exact" if gated else shared.gelu_of(act),
    }


def _expect(module: nn.Module, what: str, *names: str) -> None:
    kind = type(module)
    if kind.__name__ not in names or kind.__module__.partition(".")[0] != "timm":
        raise ValueError(
            f"ViTConfig cannot express a {kind.__module__}.{kind.__name__} here; expected timm's {' or '.join(names)}: "
            f"{what}"
        )
