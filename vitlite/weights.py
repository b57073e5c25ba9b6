"""Weights in and out: our own safetensors files, and the models of torchvision, timm, transformers and the paper.

A file of ours carries all that is needed to use the model: its configuration, the classes, the mean and standard
deviation its images were normalised with, and the record it came from.

The four ``from_...`` functions work alike. Each takes a live model, a state dict or a file, gives a new model in
evaluation mode whose logits are the same, and loads everything or nothing. A live model tells all there is to know;
a state dict leaves out the number of heads, the epsilon of the LayerNorms and the form of the GELU, so these are
assumed as the library has them unless they are given. Dropout rates are not taken over. What ``ViTConfig`` cannot
express, such as layer scale, is refused by name. Another ``image_size`` or ``num_classes`` than the weights were made
for can be asked for: positions are resampled by the library's own convention, the head starts anew at zero,
and a warning says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from vitlite import hybrid
from vitlite.config import Size, ViTConfig, pair
from vitlite.files import written_whole
from vitlite.model import PatchEmbed, ViT
from vitlite.resnet import ResNet, ResNetConfig

__all__ = [
    "fill", "from_npz", "from_pretrained", "from_timm", "from_torchvision", "from_transformers", "info", "load", "save",
    "to_timm", "to_torchvision",
]  # fmt: skip

Source = nn.Module | Mapping[str, Tensor] | str | Path

# ---- our own files

# The models that a file can hold, by the name that stands in it.
MODELS = {"ViT": (ViT, ViTConfig), "ResNet": (ResNet, ResNetConfig)}


def save(
    model: ViT | ResNet,
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    record: str | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model as one safetensors file; it appears whole or not at all.

    Args:
        model: A ViT, with the patch embedding of the paper or one that ``vitlite.hybrid`` can build again, or a
            ResNet.
        path: Where to; ``.safetensors`` by custom.
        classes: Name of each class, in the order of the logits.
        mean: Mean of each channel that images are normalised with, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale.
        record: Name of the record that says how the weights came about.
        dtype: Store in this precision, for example ``torch.bfloat16``; by default as it is.

    Raises:
        TypeError: If the model is of another kind.
        ValueError: If the number of classes or channels does not fit the model, or its patch embedding is of a
            kind that ``load`` could not rebuild.
        OSError: If the file cannot be written; what stood there stays.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> import tempfile
        >>> path = save(model, Path(tempfile.mkdtemp()) / "model.safetensors", record="cifar")
        >>> info(path)["record"], load(path).config == model.config
        ('cifar', True)
    """
    kind, config = type(model).__name__, getattr(model, "config", None)
    if MODELS.get(kind) != (type(model), type(config)):
        raise TypeError(
            f"model is a {kind}; expected vitlite's {' or '.join(MODELS)}; of another, keep model.state_dict()"
        )
    for name, given, wanted in (("classes", classes, config.num_classes), ("mean", mean, config.in_channels),
                                ("std", std, config.in_channels)):  # fmt: skip
        if given is not None and len(given) != wanted:
            raise ValueError(f"{name} has {len(given)} entries; the model has {wanted}")
    told = {"model": kind, "config": dataclasses.asdict(config), "classes": classes, "mean": mean, "std": std,
            "record": record, "patch_embed": _spec(model.patch_embed) if kind == "ViT" else None,
            "parameters": sum(parameter.numel() for parameter in model.parameters())}  # fmt: skip
    state = {name: _cast(tensor, dtype or tensor.dtype).contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(path) as beside:
        safetensors.torch.save_file(state, beside, metadata={"vitlite": json.dumps(told)})
    return Path(path)


def info(path: str | Path) -> dict:
    """What a file says of its model, read without its weights.

    Returns:
        ``model`` (``"ViT"`` or ``"ResNet"``), ``config`` (its ``ViTConfig`` or ``ResNetConfig``), ``classes``,
        ``mean``, ``std``, ``record``, ``patch_embed`` (what a hybrid's stem is built from, or None), ``parameters``
        (how many) and ``dtype`` (as stored).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no model of vitlite's.
    """
    with _opened(path) as file:
        return _counted(file) | _told(file, path)  # an older file does not tell its parameters


def load(path: str | Path, device: torch.device | str = "cpu") -> ViT | ResNet:
    """Rebuild a model, of the kind it was, from a file that ``save`` wrote: in float32, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no model of vitlite's, or its tensors do not fit its configuration.
    """
    with _opened(path) as file:
        told = _told(file, path)
        state = {name: _cast(file.get_tensor(name), torch.float32) for name in file.keys()}  # noqa: SIM118 (not a dict)
    stem = {"patch_embed": hybrid.build(told["patch_embed"])} if told["patch_embed"] else {}
    model = MODELS[told["model"]][0](told["config"], **stem)
    fill(model, state, str(path))
    return model.to(device).eval()


def fill(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict, all of it or nothing.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape; the message lists every one.
    """
    wanted = model.state_dict()
    wrong = [f"{name}: {list(state[name].shape)} there, {list(tensor.shape)} in the model"
             for name, tensor in wanted.items() if name in state and state[name].shape != tensor.shape]  # fmt: skip
    wrong += [f"{name}: missing" for name in wanted if name not in state]
    wrong += [f"{name}: not in the model" for name in state if name not in wanted]
    if wrong:
        raise ValueError(f"{origin} does not fit the model; nothing was loaded:\n  " + "\n  ".join(wrong))
    model.load_state_dict(dict(state))


# ---- models of other libraries, in


def from_torchvision(
    source: Source,
    *,
    image_size: Size | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
    gelu: str | None = None,
) -> ViT:
    """A ViT with the weights of torchvision's ``VisionTransformer`` (``vit_b_16`` and the like).

    Args:
        source: The model, its state dict, or a file with the state dict (``.safetensors``, or ``.pth``, read with
            ``weights_only``).
        image_size: Another size of images in pixels; a multiple of the patch size.
        num_classes: Another number of classes.
        num_heads: Heads of the attention. A model tells it; for a state dict 64 channels a head are assumed, as in
            Base and Large (80 at width 1280, Huge).
        layer_norm_eps: Epsilon of the LayerNorms; as the model has it, or else 1e-6.
        gelu: ``"exact"`` or ``"tanh"``; as the model has it, or else exact.

    Returns:
        A new model whose logits equal torchvision's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.

    Example:
        >>> theirs = torchvision.models.VisionTransformer(32, 8, 1, 2, 128, 256, num_classes=5)
        >>> from_torchvision(theirs)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 5])
    """
    state, model = _read(source)
    told = {}
    if isinstance(model, torchvision.models.VisionTransformer):
        told = {"image_size": model.image_size, "num_heads": _first(model, nn.MultiheadAttention).num_heads,
                "layer_norm_eps": _eps(model), "gelu": _gelu(_first(model, nn.GELU))}  # fmt: skip
    told |= _given(num_heads=num_heads, layer_norm_eps=layer_norm_eps, gelu=gelu)
    return _assembled(state, _TORCHVISION, told, "torchvision", image_size, num_classes)


def from_timm(
    source: Source,
    *,
    image_size: Size | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
    gelu: str | None = None,
    pool: str | None = None,
) -> ViT:
    """A ViT with the weights of timm's ``VisionTransformer`` or ``VisionTransformerDistilled`` (DeiT).

    Class token or average pooling, register tokens, prefix tokens with or without positions, and the norm before
    or after pooling are taken over. The released weights of DeiT itself bear the same names.

    Args:
        source: The model, its state dict, or a file with the state dict (``.safetensors``, or ``.pth``, read with
            ``weights_only``).
        image_size: Another size of images in pixels; a multiple of the patch size. A state dict is taken to be made
            for square images; where its positions form no square, this says what it was made for.
        num_classes: Another number of classes.
        num_heads: Heads of the attention. A model tells it; for a state dict 64 channels a head are assumed (80 at
            width 1280).
        layer_norm_eps: Epsilon of the LayerNorms; as the model has it, or else 1e-6.
        gelu: ``"exact"`` or ``"tanh"``; as the model has it, or else exact.
        pool: ``"token"`` or ``"mean"``. A model tells it; for a state dict the mean is assumed where the norm follows
            pooling (``fc_norm``), else the class token.

    Returns:
        A new model whose logits equal timm's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.

    Example:
        >>> import timm  # doctest: +SKIP
        >>> model = from_timm(timm.create_model("deit_tiny_distilled_patch16_224"))  # doctest: +SKIP
        >>> model.config.distillation  # doctest: +SKIP
        True
    """
    state, model = _read(source)
    norm_after = any(name.startswith("fc_norm.") for name in state)
    told = {"pool": "mean", "pool_norm": "after"} if norm_after else {"pool": "token"}
    if model is not None:
        told |= _told_by_timm(model)
    told |= _given(num_heads=num_heads, layer_norm_eps=layer_norm_eps, gelu=gelu, pool=pool)
    return _assembled(state, _TIMM, told, "timm", image_size, num_classes)


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
        FileNotFoundError: If there is no such file.
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.

    Example:
        >>> from transformers import ViTForImageClassification  # doctest: +SKIP
        >>> theirs = ViTForImageClassification.from_pretrained("google/vit-base-patch16-224")  # doctest: +SKIP
        >>> model = from_transformers(theirs)  # doctest: +SKIP
    """
    state, model = _read(source)
    state = {re.sub(r"^(vit|deit)\.", "", name): tensor for name, tensor in state.items()}
    told = {"layer_norm_eps": 1e-12}
    if model is not None:
        told = _told_by_transformers(model)
    told |= _given(num_heads=num_heads, layer_norm_eps=layer_norm_eps, gelu=gelu)
    names = _TRANSFORMERS
    if "classifier.weight" in state:  # one head alone
        names = names | {"embeddings.distillation_token": "registers"}
    return _assembled(state, names, told, "transformers", image_size, num_classes)


def from_npz(
    source: Mapping[str, np.ndarray] | str | Path,
    *,
    image_size: Size | None = None,
    num_classes: int | None = None,
    layer_norm_eps: float = 1e-6,
    gelu: str = "tanh",
) -> ViT:
    """A ViT with the official weights of the paper, an ``.npz`` of JAX arrays.

    Args:
        source: The file (read without pickle), or its arrays by name.
        image_size: Another size of images in pixels; a multiple of the patch size.
        num_classes: Another number of classes; also needed where the file has no head.
        layer_norm_eps: Epsilon of the LayerNorms.
        gelu: ``"tanh"`` as in the official code, or ``"exact"`` as timm runs the same weights; their logits differ by
            about 5e-4.

    Returns:
        A new model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.

    Example:
        >>> model = from_npz("ViT-B_16.npz", num_classes=10)  # doctest: +SKIP
    """
    arrays = _arrays(source) if isinstance(source, (str, Path)) else dict(source)
    prefix = next((p for p in ("opt/target/", "params/") if f"{p}embedding/kernel" in arrays), "")
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    told = {"layer_norm_eps": layer_norm_eps, "gelu": gelu}
    if "pos_embedding" in arrays and "cls" not in arrays:  # big_vision's plain ViT
        told["pool"] = "mean"
    queries = [array for name, array in arrays.items() if name.endswith("/query/kernel") and array.ndim == 3]
    if queries:
        told["num_heads"] = queries[0].shape[1]  # [D, h, D/h]
    state = dict(_from_jax(name, torch.from_numpy(np.array(array))) for name, array in arrays.items())
    return _assembled(state, _NPZ, told, "npz", image_size, num_classes)


def from_pretrained(name: str, *, image_size: Size | None = None, num_classes: int | None = None) -> ViT:
    """A ViT with the weights that torchvision publishes under a name; fetched once, then from torch's cache.

    Args:
        name: ``"vit_b_16"``, ``"vit_b_32"``, ``"vit_l_16"``, ``"vit_l_32"`` or ``"vit_h_14"``: torchvision's default
            weights for it, trained on ImageNet-1k (1000 classes).
        image_size: Another size of images in pixels; a multiple of the patch size.
        num_classes: Another number of classes.

    Raises:
        ValueError: If torchvision knows no such ViT.
        ConnectionError: If the weights are not in the cache and cannot be fetched.

    Example:
        >>> model = from_pretrained("vit_b_16")  # doctest: +SKIP
    """
    known = [known for known in torchvision.models.list_models() if known.startswith("vit_")]
    if name not in known:
        raise ValueError(f"name is {name!r}; torchvision publishes {', '.join(known)}")
    published = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ConnectionError(
            f"could not fetch the weights of {name} from {published.url} ({error}); connect to the network, or put the "
            f"file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return from_torchvision(state, image_size=image_size, num_classes=num_classes)


# ---- models of other libraries, out


def to_torchvision(model: ViT) -> torchvision.models.VisionTransformer:
    """torchvision's model with the same logits, in evaluation mode; its ``state_dict()`` is what torchvision loads.

    Any position table becomes the learned one. Dropout rates are not taken over.

    Raises:
        ValueError: If torchvision's architecture cannot express the model; the message says why.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> type(to_torchvision(model)).__name__
        'VisionTransformer'
    """
    config = model.config
    (height, width), patch_size = pair(config.image_size), pair(config.patch_size)
    _refuse("torchvision's VisionTransformer has no", {
        "non-square images or patches": height != width or patch_size[0] != patch_size[1],
        "images of other than 3 channels": config.in_channels != 3,
        "pooling of the mean": config.pool == "mean",
        "distillation or register tokens": config.distillation or config.registers > 0,
        "approximate GELU": config.gelu == "tanh",
    } | _never_expressed(model))  # fmt: skip
    theirs = torchvision.models.VisionTransformer(
        height, patch_size[0], config.depth, config.num_heads, config.embed_dim, config.mlp_dim,
        num_classes=config.num_classes, norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        representation_size=config.embed_dim if config.head == "mlp" else None,
    )  # fmt: skip
    theirs.load_state_dict(_exported(model, _TORCHVISION, _full_table(model)))
    return theirs.to(model.norm.weight).eval()


def to_timm(model: ViT) -> nn.Module:
    """timm's model with the same logits, in evaluation mode; its ``state_dict()`` is what timm loads.

    A ``VisionTransformerDistilled`` if there is a distillation token, else a ``VisionTransformer``. Any position
    table becomes the learned one. Dropout rates are not taken over.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm's architecture cannot express the model; the message says why.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> to_timm(model)(torch.zeros(1, 3, 16, 16)).shape  # doctest: +SKIP
        torch.Size([1, 5])
    """
    config = model.config
    _refuse("timm's VisionTransformer has no", {
        "head with a hidden layer": config.head == "mlp",
        "registers beside a distillation token": config.distillation and config.registers > 0,
        "pooling of the mean beside a distillation token": config.distillation and config.pool == "mean",
    } | _never_expressed(model))  # fmt: skip
    try:
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError("to_timm makes a model of timm's: install timm first") from error
    table = _full_table(model) if config.distillation else model.position_table()
    after = config.pool == "mean" and config.pool_norm == "after"  # the same thing for a token
    theirs = (VisionTransformerDistilled if config.distillation else VisionTransformer)(
        img_size=pair(config.image_size), patch_size=pair(config.patch_size), in_chans=config.in_channels,
        num_classes=config.num_classes, embed_dim=config.embed_dim, depth=config.depth, num_heads=config.num_heads,
        mlp_ratio=(config.mlp_dim + 0.5) / config.embed_dim,  # timm rounds down
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps), fc_norm=after,
        act_layer=partial(nn.GELU, approximate="none" if config.gelu == "exact" else "tanh"),
        global_pool="token" if config.pool == "token" else "avg", class_token=config.has_class_token,
        reg_tokens=config.registers, pos_embed="none" if table is None else "learn",
        no_embed_class=table is not None and table.shape[1] == config.num_patches,
    )  # fmt: skip
    names = _TIMM | ({"fc_norm": "norm"} if after else {})
    if after:
        del names["norm"]
    theirs.load_state_dict(_exported(model, names, table))
    return theirs.to(model.norm.weight).eval()


# ---- names: theirs and ours. A block's number is {}; an entry stands for a tensor or for a layer with its weight and
# bias. Where they have two names for one thing, the first is the one that is written.


def _names(outside: dict[str, str], block: str, inside: dict[str, str]) -> dict[str, str]:
    return outside | {f"{block}{{}}.{theirs}": f"blocks.{{}}.{ours}" for theirs, ours in inside.items()}


_TORCHVISION = _names(
    {
        "class_token": "class_token",
        "encoder.pos_embedding": "position",
        "conv_proj": "patch_embed.projection",
        "encoder.ln": "norm",
        "heads.pre_logits": "head.hidden",
        "heads.head": "head.out",
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
)

_TIMM = _names(
    {
        "cls_token": "class_token",
        "dist_token": "distillation_token",
        "reg_token": "registers",
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
        "mlp.fc1": "mlp.expand",
        "mlp.fc2": "mlp.contract",
    },
)

_TRANSFORMERS_OUTSIDE = {
    "embeddings.cls_token": "class_token",
    "embeddings.distillation_token": "distillation_token",
    "embeddings.position_embeddings": "position",
    "embeddings.patch_embeddings.projection": "patch_embed.projection",
    "layernorm": "norm",
    "pooler.dense": "head.hidden",
    "classifier": "head.out",
    "cls_classifier": "head.out",
    "distillation_classifier": "distillation_head.out",
}
_TRANSFORMERS = _names(
    _TRANSFORMERS_OUTSIDE,
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
) | _names(  # before version 5, and in published files
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
)

_NPZ = _names(
    {
        "cls": "class_token",
        "Transformer.posembed_input.pos_embedding": "position",
        "pos_embedding": "position",  # big_vision
        "embedding": "patch_embed.projection",
        "Transformer.encoder_norm": "norm",
        "pre_logits": "head.hidden",
        "head": "head.out",
    },
    "Transformer.encoderblock_",
    {"LayerNorm_0": "norm1", "LayerNorm_2": "norm2", "LayerNorm_1": "norm2"}
    | {
        f"MultiHeadDotProductAttention_{n}.{theirs}": f"attention.{ours}"
        for n in (1, 0)
        for theirs, ours in {"query": "query", "key": "key", "value": "value", "out": "projection"}.items()
    }
    | {
        f"MlpBlock_{n}.Dense_{layer}": f"mlp.{ours}"
        for n in (3, 0)
        for layer, ours in enumerate(("expand", "contract"))
    },
)

_BLOCK = re.compile(r"(?<=blocks\.)\d+|(?<=encoder_layer_)\d+|(?<=layers\.)\d+|(?<=layer\.)\d+|(?<=encoderblock_)\d+")

# Whose weights, and whose way of resampling positions.
_ORIGINS = {
    "torchvision": ("a torchvision VisionTransformer", "torchvision"),
    "timm": ("a timm VisionTransformer", "timm"),
    "transformers": ("a transformers ViT or DeiT", "deit"),
    "npz": ("an official .npz of a ViT", "jax"),
}

# What ViTConfig cannot express, by the names it has in the four libraries.
_INEXPRESSIBLE = {
    r"\bls[12]\b|gamma_[12]|layer_?scale|lambda1": "layer scale",
    r"\b[qk]_norm|norm_[qk]\b": "normalised queries and keys",
    r"rope|rotary": "rotary positions",
    r"norm_pre|pre_?layr?norm": "a norm before the first block",
    r"attn_pool|MAPHead": "attention pooling",
    r"w12|fc1_g|weights_in|\bgate": "a gated MLP or attention",
    r"rel_pos|relative_position": "relative position biases",
    r"attn\.norm|mlp\.norm": "a norm inside attention or MLP",
    r"patch_embed\.(backbone|norm)|conv_root|conv_proj\.\w+\.": "a stem that is no plain patch projection",
}


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every tensor under its other name, or under its own where the table has none."""
    renamed = {}
    for name, tensor in state.items():
        number = _BLOCK.search(name)
        blank = _BLOCK.sub("{}", name, count=1)
        layer, _, leaf = blank.rpartition(".")
        other = names.get(blank) or (f"{names[layer]}.{leaf}" if layer in names else blank)
        other = other.replace("{}", number.group() if number else "")
        if other in renamed:
            raise ValueError(f"{name} has the place of another tensor: both are {other} in a vitlite model")
        renamed[other] = tensor
    return renamed


def _exported(model: ViT, names: Mapping[str, str], table: Tensor | None) -> dict[str, Tensor]:
    """The state dict under another library's names, with one table of positions (or none)."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("position")}
    last = len(model.head) - 1
    for head in ("head", "distillation_head"):
        state = {name.replace(f"{head}.{last}.", f"{head}.out.") if name.startswith(head) else name: tensor
                 for name, tensor in state.items()}  # fmt: skip
    state = {name.replace("head.0.", "head.hidden."): tensor for name, tensor in state.items()}
    kernel = state["patch_embed.projection.weight"].unflatten(1, (-1, *model.patch_embed.patch_size))
    state |= {"patch_embed.projection.weight": kernel} | ({} if table is None else {"position": table})
    return _renamed(state, {ours: theirs for theirs, ours in reversed(names.items())})


def _full_table(model: ViT) -> Tensor:
    """The position table with a row for every token: zeros where a token has no position."""
    config, table = model.config, model.position_table()
    tokens = config.prefix_tokens + config.num_patches
    if table is None:
        return model.norm.weight.new_zeros(1, tokens, config.embed_dim)
    return F.pad(table, (0, 0, tokens - table.shape[1], 0))


def _never_expressed(model: ViT) -> dict[str, bool]:
    return {
        "relative positions": model.config.position == "relative",
        "hybrid stem of vitlite's": not isinstance(model.patch_embed, PatchEmbed),
    }


def _refuse(beginning: str, reasons: Mapping[str, bool]) -> None:
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"{beginning} {', no '.join(found)}")


# ---- the way in, the same for all


def _assembled(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    told: dict,
    library: str,
    image_size: Size | None,
    num_classes: int | None,
) -> ViT:
    """A model out of their tensors and what their model told; changed on request."""
    origin, convention = _ORIGINS[library]
    refused = [f"{name}: {what}" for pattern, what in _INEXPRESSIBLE.items()
               for name in state if re.search(pattern, name)]  # fmt: skip
    if refused:
        raise ValueError(f"{origin} with what ViTConfig cannot express; nothing was loaded:\n  " + "\n  ".join(refused))
    first_names = ", ".join(list(state)[:3])
    state = _renamed(state, names)
    for needed in ("patch_embed.projection.weight", "blocks.0.norm1.weight", "blocks.0.mlp.contract.weight"):
        if needed not in state or (needed.startswith("patch") and state[needed].ndim != 4):
            raise ValueError(
                f"these are not the weights of {origin} with a plain patch projection: nothing in them is "
                f"{needed} (first names: {first_names})"
            )
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    _join_qkv(state, depth, origin)
    config = _config(state, told, depth, origin, image_size)
    if num_classes is None and "head.out.weight" not in state:
        raise ValueError(f"{origin} without a head; pass num_classes= for a new one")
    new_head = num_classes is not None and len(state.get("head.out.weight", ())) != num_classes
    if new_head:
        state = {name: tensor for name, tensor in state.items() if not _of_head(name)}
        config = dataclasses.replace(config, num_classes=num_classes, head="linear", zero_head=True)
    model = ViT(config)
    if new_head:
        state |= {name: tensor for name, tensor in model.state_dict().items() if _of_head(name)}
        warnings.warn(f"the head is new, for {num_classes} classes, and starts at zero: train it", stacklevel=3)
    last = len(model.head) - 1
    state = {name.replace("head.out.", f"head.{last}.").replace("head.hidden.", "head.0."): tensor
             for name, tensor in state.items()}  # fmt: skip
    state["patch_embed.projection.weight"] = state["patch_embed.projection.weight"].flatten(1)  # kernel -> matrix
    fill(model, state, f"the state of {origin}")
    if image_size is not None and pair(image_size) != pair(config.image_size):
        model = model.at_resolution(image_size, convention)
        (old_height, old_width), (height, width) = pair(config.image_size), pair(image_size)
        warnings.warn(
            f"the model was made for images of {old_height}×{old_width}; its positions are resampled for "
            f"{height}×{width} as by convention {convention!r}", stacklevel=3,
        )  # fmt: skip
    return model.eval()


def _of_head(name: str) -> bool:
    return name.startswith(("head.", "distillation_head."))


def _join_qkv(state: dict[str, Tensor], depth: int, origin: str) -> None:
    """Three projections become one layer; where a model has no bias there, a bias of zeros is the same."""
    for block in range(depth):
        for leaf in ("weight", "bias"):
            parts = [f"blocks.{block}.attention.{part}.{leaf}" for part in ("query", "key", "value")]
            if all(part in state for part in parts):
                state[f"blocks.{block}.attention.qkv.{leaf}"] = torch.cat([state.pop(part) for part in parts])
    if not any(name.endswith("qkv.bias") or ".query.bias" in name for name in state):
        warnings.warn(f"{origin} whose query, key and value have no bias: zeros stand in for it", stacklevel=4)
        zeros = state["blocks.0.norm1.weight"].new_zeros(3 * len(state["blocks.0.norm1.weight"]))
        state |= {f"blocks.{block}.attention.qkv.bias": zeros for block in range(depth)}


def _config(state: dict[str, Tensor], told: Mapping, depth: int, origin: str, image_size: Size | None) -> ViTConfig:
    """The shape that the tensors have, with what they do not say from ``told``."""
    width, channels, *patch_size = state["patch_embed.projection.weight"].shape
    prefix = {"class_token": "class_token" in state, "distillation": "distillation_token" in state,
              "registers": state["registers"].shape[1] if "registers" in state else 0}  # fmt: skip
    told = {"pool": "token"} | told
    rows = state["position"].shape[1] if "position" in state else None
    if rows is None and told.get("position") != "none":
        raise ValueError(f"{origin} without position embeddings; if it has none, pass the live model")
    size, carried = _size(rows, sum(prefix.values()), told, patch_size, image_size, origin)
    if prefix["class_token"] == (told["pool"] == "token"):
        del prefix["class_token"]  # as by default
    head = state.get("head.out.weight")
    if "num_heads" not in told and width % 64:
        raise ValueError(
            f"a state dict of {origin} does not tell the number of heads, width is {width}; pass num_heads="
        )
    return ViTConfig(**({
        "image_size": size, "patch_size": _tidy(patch_size), "in_channels": channels, "embed_dim": width,
        "num_classes": 1 if head is None else len(head), "depth": depth,
        "num_heads": width // (80 if width == 1280 else 64),
        "mlp_dim": state["blocks.0.mlp.contract.weight"].shape[1], "prefix_positions": carried,
        "head": "mlp" if "head.hidden.weight" in state else "linear",
    } | prefix | {name: value for name, value in told.items() if name != "image_size"}))  # fmt: skip


def _size(
    rows: int | None, prefix: int, told: Mapping, patch_size: Sequence[int], asked: Size | None, origin: str
) -> tuple[Size, bool]:
    """Size of the images that a position table of so many rows was made for; whether it has rows for the prefix."""
    known = told.get("image_size")
    if known is None:
        for carried in (True, False) if prefix else (True,):
            patches = max(rows - prefix * carried, 0)
            side = math.isqrt(patches)
            if side and side * side == patches:
                return _tidy([side * patch_size[0], side * patch_size[1]]), carried
        if asked is None:
            raise ValueError(
                f"the {rows} positions of {origin} are no square grid, with or without {prefix} prefix tokens; pass "
                "the image_size= that the weights were made for"
            )
        known = asked
    height, width = pair(known)
    return _tidy([height, width]), prefix == 0 or rows != (height // patch_size[0]) * (width // patch_size[1])


def _tidy(size: Sequence[int]) -> Size:
    return size[0] if size[0] == size[1] else (size[0], size[1])


# ---- what a live model tells


def _expect(module: nn.Module, *names: str) -> None:
    kind = type(module)
    if kind.__name__ not in names or kind.__module__.partition(".")[0] != "timm":
        raise ValueError(
            f"ViTConfig cannot express a {kind.__module__}.{kind.__name__} here; expected timm's {' or '.join(names)}"
        )


def _told_by_timm(model: nn.Module) -> dict:
    _expect(model, "VisionTransformer", "VisionTransformerDistilled")
    _expect(model.patch_embed, "PatchEmbed")
    for block in model.blocks:
        _expect(block, "Block")
        _expect(block.attn, "Attention")
        _expect(block.mlp, "Mlp")
    distilled = hasattr(model, "head_dist")
    _refuse("ViTConfig cannot express", {
        f"global_pool={model.global_pool!r}": model.global_pool not in ("token", "avg"),
        "pooling of the prefix tokens": model.pool_include_prefix and model.global_pool == "avg",
        "register tokens that timm's distilled model leaves out": distilled and model.reg_token is not None,
    })  # fmt: skip
    return {
        "image_size": model.patch_embed.img_size,
        "num_heads": block.attn.num_heads,
        "pool": "token" if model.global_pool == "token" else "mean",
        "position": "none" if model.pos_embed is None else "learned-1d",
        "layer_norm_eps": _eps(model),
        "gelu": _gelu(block.mlp.act),
    }


_TRANSFORMERS_GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh",
                      "gelu_fast": "tanh", "gelu_accurate": "tanh"}  # fmt: skip


def _told_by_transformers(model: nn.Module) -> dict:
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in ("vit", "deit"):
        raise ValueError(f"ViTConfig cannot express a {type(model).__name__}; expected a ViT or DeiT of transformers")
    if config.hidden_act not in _TRANSFORMERS_GELU:
        raise ValueError(f"ViTConfig cannot express hidden_act={config.hidden_act!r}; it knows the exact and tanh GELU")
    return {
        "image_size": config.image_size,
        "num_heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps,
        "gelu": _TRANSFORMERS_GELU[config.hidden_act],
    }


def _eps(model: nn.Module) -> float:
    found = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    if len(found) != 1:
        raise ValueError(
            f"ViTConfig has one epsilon for every LayerNorm; this model has {sorted(found) or 'no LayerNorm'}"
        )
    return found.pop()


def _gelu(activation: nn.Module) -> str:
    """Which GELU an activation is, by what it does."""
    x = torch.linspace(-4, 4, 81)
    for approximate, name in (("none", "exact"), ("tanh", "tanh")):
        if torch.allclose(activation(x), F.gelu(x, approximate=approximate), rtol=0, atol=1e-5):
            return name
    raise ValueError(f"ViTConfig cannot express the activation {type(activation).__name__}; it knows two forms of GELU")


def _first(model: nn.Module, kind: type) -> nn.Module:
    return next(module for module in model.modules() if isinstance(module, kind))


def _given(**told) -> dict:
    return {name: value for name, value in told.items() if value is not None}


# ---- files


def _read(source: Source) -> tuple[Mapping[str, Tensor], nn.Module | None]:
    """The state dict, and the model if it is one."""
    if isinstance(source, nn.Module):
        return source.state_dict(), source
    return (_state_file(Path(source)) if isinstance(source, (str, Path)) else source), None


def _state_file(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".npz":
        raise ValueError(f"{path} is an .npz of arrays; read it with from_npz")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors ({str(error).splitlines()[0]}); fetch it again, or save "
            "model.state_dict() alone"
        ) from error
    for name in ("model", "state_dict"):  # as DeiT publishes its weights
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}; expected a state dict")
    return state


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} is no whole .npz of plain arrays ({error}); fetch it again") from error


def _from_jax(name: str, array: Tensor) -> tuple[str, Tensor]:
    """JAX's arrays have their inputs first; heads have axes of their own."""
    layer, _, leaf = name.replace("/", ".").rpartition(".")
    if leaf == "kernel":
        if array.ndim == 4:
            array = array.permute(3, 2, 0, 1)  # [P, P, C, D] -> [D, C, P, P]
        else:
            array = (array.flatten(0, -2) if layer.endswith(".out") else array.flatten(1)).T
    elif leaf == "bias":
        array = array.flatten()
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return f"{layer}.{leaf}" if layer else leaf, array


def _opened(path: str | Path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return safetensors.safe_open(path, "pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch or save it again") from error


def _told(file, path: str | Path) -> dict:
    told = (file.metadata() or {}).get("vitlite")
    if told is None:
        raise ValueError(
            f"{path} carries no description of a vitlite model; expected a file written by vitlite.weights.save "
            "(a run's own checkpoint is for its Trainer alone)"
        )
    told = {"model": "ViT", "patch_embed": None} | json.loads(told)  # an older file does not tell these
    name, config, spec = told["model"], _tuples(told["config"]), told["patch_embed"]
    kind = MODELS[name][1] if name in MODELS else None
    unknown = sorted(config.keys() - {field.name for field in dataclasses.fields(kind)}) if kind else [f"a {name}"]
    if unknown:
        raise ValueError(f"{path} was written by a newer vitlite: it holds {', '.join(unknown)}; update vitlite")
    return told | {"config": kind(**config), "patch_embed": spec and _tuples(spec)}


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor  # a batch norm counts in whole numbers


def _tuples(told: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}


def _spec(patch_embed: nn.Module) -> dict | None:
    if isinstance(patch_embed, PatchEmbed):
        return None
    spec = getattr(patch_embed, "spec", None)
    if spec is None:
        raise ValueError(
            f"the patch embedding is a {type(patch_embed).__name__}, which load could not rebuild; use one of "
            "vitlite.hybrid.STEMS, or keep model.state_dict() and build the model yourself"
        )
    return spec


def _counted(file) -> dict:
    slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
    return {"parameters": sum(torch.Size(s.get_shape()).numel() for s in slices), "dtype": slices[0].get_dtype()}
