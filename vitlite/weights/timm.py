"""timm's ``VisionTransformer``, its distilled DeiT, its ``Eva`` and the paper's R50 hybrid, in; all but it also out."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from vitlite import position
from vitlite.checks import Grid, Size, pair
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
            "attn.q_proj": "attention.query",
            "attn.k_proj": "attention.key",
            "attn.v_proj": "attention.value",
            "attn.q_bias": "attention.query.bias",  # beside a qkv.weight of all three
            "attn.v_bias": "attention.value.bias",
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
    """A ViT with the weights of timm's ``VisionTransformer``, ``VisionTransformerDistilled`` (DeiT) or ``Eva``.

    Class token or average pooling, register tokens, prefix tokens with or without positions, the norm before or after
    pooling, normalised queries and keys, and SwiGLU are taken over. Layer scale (DeiT III, DINOv2) goes into the layer
    in front of it. Rotary positions load where they turn as ours do, whatever the order of their channels. The released
    weights of DeiT and DINOv2 themselves have the same names. Of the hybrids, those with the paper's ResNet-50 load.

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
        position: ``"none"``, ``"rotary"`` or ``"rotary-image"``. A model tells it; a state dict without a table of
            positions is refused without this.

    Example:
        >>> import timm
        >>> model = from_timm(timm.create_model("deit_tiny_distilled_patch16_224"))
        >>> model.config.distillation, model.config.embed_dim
        (True, 192)
    """
    state, model = shared.read(source)
    norm_after = any(name.startswith("fc_norm.") for name in state)
    known = {"pool": "mean", "pool_norm": "after"} if norm_after else {}
    halves, columns_first, remarks = False, False, []
    if model is not None:
        told, halves, columns_first = _known(model)
        known |= told
    known |= shared.given(options)
    if model is None and (kind := known.get("position")) in position.ROTARY:
        halves = kind == "rotary-image"
        remarks.append(f"a state dict does not tell how {kind!r} positions turn: assumed is what to_timm writes, "
                       f"temperature 100, row before column, {'halves' if halves else 'neighbours'} paired; if the "
                       "model differs, pass it live")
    with shared.naming(source):
        ours = shared.assemble(LIBRARY, own_names(state), known, image_size, num_classes, remarks)
    return shared.reordered(ours, halves, columns_first) if ours.config.position in position.ROTARY else ours


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

    A ``VisionTransformerDistilled`` if there is a distillation token, an ``Eva`` with rotary positions, else a
    ``VisionTransformer``. Any position table becomes the learned one. Dropout rates are not taken over.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> to_timm(model)(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 5])
    """
    never, config = shared.never_expressed(model), model.config
    rotary = config.position in position.ROTARY
    shared.refuse(f"timm's {'Eva' if rotary else 'VisionTransformer'} has no", {
        "head with a hidden layer": config.head == "mlp",
        "distillation token beside rotary positions": config.distillation and rotary,
        "approximate GELU beside rotary positions": config.gelu == "tanh" and rotary,
        "registers beside a distillation token": config.distillation and config.registers > 0,
        "pooling of the mean beside a distillation token": config.distillation and config.pool == "mean",
    } | never)
    try:
        from timm.layers import Mlp, SwiGLUPacked
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError("to_timm makes a model of timm's: install timm first") from error
    table = shared.full_table(model) if config.distillation else model.position_table()
    gated = config.mlp == "swiglu"
    after = config.pool == "mean" and config.pool_norm == "after"  # the same thing for a token
    both = {
        "img_size": pair(config.image_size), "patch_size": pair(config.patch_size), "in_chans": config.in_channels,
        "num_classes": config.num_classes, "embed_dim": config.embed_dim, "depth": config.depth,
        "num_heads": config.num_heads, "qk_norm": config.qk_norm, "class_token": config.has_class_token,
        "norm_layer": partial(nn.LayerNorm, eps=config.layer_norm_eps),
        "global_pool": "token" if config.pool == "token" else "avg",
    }
    hidden = config.mlp_dim + 0.5  # timm rounds down
    if rotary:
        theirs = Eva(
            **both, mlp_ratio=hidden / config.embed_dim, swiglu_mlp=gated, attn_type="rope", use_fc_norm=after,
            num_reg_tokens=config.registers, use_abs_pos_emb=False, use_rot_pos_emb=True,
            rope_temperature=position.ROTARY_BASE, rope_type="cat" if config.position == "rotary" else "dinov3",
            rope_rotate_half=config.position == "rotary-image",
        )
    else:
        theirs = (VisionTransformerDistilled if config.distillation else VisionTransformer)(
            **both, mlp_ratio=(config.mlp_dim * gated + hidden) / config.embed_dim, fc_norm=after,
            mlp_layer=SwiGLUPacked if gated else Mlp,
            act_layer=nn.SiLU if gated else partial(nn.GELU, approximate="none" if config.gelu == "exact" else "tanh"),
            reg_tokens=config.registers, pos_embed="none" if table is None else "learn",
            no_embed_class=table is not None and table.shape[1] == config.num_patches,
        )
    # Of the two names for the last norm, the first is written: its own name comes first here.
    names = {"fc_norm" if after else "norm": "norm"} | {**LIBRARY.names}
    if config.position == "rotary-image":
        model = shared.reordered(copy.deepcopy(model), halves=True, back=True)
    theirs.load_state_dict(shared.exported(model, LIBRARY._replace(names=names), table))
    return theirs.to(model.norm.weight).eval()


def _known(model: nn.Module) -> tuple[dict, bool, bool]:
    """What a live model says that its tensors do not, and how its rotary channels are ordered."""
    shared.refuse_names(LIBRARY, [name for name in shared.names_of(model) if "backbone" not in name and name != "rope"])
    _expect(model, "an encoder that norms before each branch", "VisionTransformer", "VisionTransformerDistilled", "Eva")
    _expect(model.patch_embed, "a projection of patches, of the image or of a feature map", "PatchEmbed", "HybridEmbed")
    for block in model.blocks:
        _expect(block, "one branch after another, each with its norm in front", "Block", "EvaBlock")
        _expect(block.attn, "plain attention", "Attention", "AttentionRope", "EvaAttention")
        _expect(block.mlp, "two linear layers with a GELU between them, or a SwiGLU", "Mlp", "SwiGLU", "GluMlp")
    gated, act = type(block.mlp).__name__ != "Mlp", block.mlp.act
    distilled, rope = hasattr(model, "head_dist"), getattr(model, "rope", None)
    shared.refuse("ViTConfig cannot express", {
        f"global_pool={model.global_pool!r}": model.global_pool not in ("token", "avg"),
        "pooling of the prefix tokens": getattr(model, "pool_include_prefix", False) and model.global_pool == "avg",
        "keys that several heads share": any(getattr(block.attn, "num_kv_groups", 1) > 1 for block in model.blocks),
        "a table of positions beside rotary ones": None not in (rope, model.pos_embed),
        "a GluMlp other than SwiGLUPacked": gated and (getattr(block.mlp, "gate_last", False)
                                                       or not isinstance(act, nn.SiLU)),
        "register tokens that timm's distilled model leaves out": distilled and model.reg_token is not None,
    })
    kind, order = "none" if model.pos_embed is None else "learned-1d", (False, False)
    if rope is not None:
        kind, *order = _turning(rope, model.patch_embed.grid_size, block.attn.head_dim)
    return {
        "image_size": model.patch_embed.img_size,
        "num_heads": block.attn.num_heads,
        "pool": "token" if model.global_pool == "token" else "mean",
        "position": kind,
        "layer_norm_eps": shared.epsilon(model),
        "gelu": "exact" if gated else shared.gelu_of(act),
    }, *order


def _turning(rope: nn.Module, grid: Grid, head_width: int) -> tuple[str, bool, bool]:
    """Which kind of ours timm's rotary positions are, by what they do, and how they order the channels of a head."""
    sines, cosines = copy.deepcopy(rope).eval().get_embed(list(grid)).cpu().chunk(2, dim=-1)  # each [N, D/h]
    close = partial(torch.allclose, rtol=0, atol=max(1e-4, torch.finfo(sines.dtype).eps))
    for kind, *order in itertools.product(position.ROTARY, (False, True), (False, True)):
        channels = shared.rotary_order(head_width, *order)
        angles = position.rotary_angles(grid, head_width, kind).repeat_interleave(2, dim=1)
        if close(sines[:, channels].double(), angles.sin()) and close(cosines[:, channels].double(), angles.cos()):
            return kind, *order
    raise ValueError(f"ViTConfig cannot express the angles of this {type(rope).__name__}; it knows DINOv3's, and rows "
                     "and columns counted from 0, both at temperature 100 "
                     f"(here {getattr(rope, 'temperature', 'none')})")


def _expect(module: nn.Module, what: str, *names: str) -> None:
    kind = type(module)
    if kind.__name__ not in names or kind.__module__.partition(".")[0] != "timm":
        raise ValueError(f"ViTConfig cannot express a {kind.__module__}.{kind.__name__} here; expected timm's "
                         f"{' or '.join(names)}: {what}")
