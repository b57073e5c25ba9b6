"""The official weights of the paper, an ``.npz`` of JAX arrays, in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from vitlite import sealed
from vitlite.checks import Size
from vitlite.files import decoding
from vitlite.model import ViT
from vitlite.weights import shared
from vitlite.weights.shared import Library, Options

LIBRARY = Library(
    "an official .npz of a ViT",
    "jax",
    shared.named(
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
    ),
    ("num_heads",),
)

# The ResNet-50 in front of R50+ViT: their names, which count from 1, and ours.
R50 = {
    r"^conv_root$": "patch_embed.trunk.0",
    r"^gn_root$": "patch_embed.trunk.1",
    r"^block(\d)\.unit(\d)\.": lambda part: f"patch_embed.trunk.{4 + int(part[1])}.{int(part[2]) - 1}.",
    r"^(patch_embed\..+\.)gn(\d)$": r"\1bn\2",
    r"\.conv_proj$": ".downsample.0",
    r"\.gn_proj$": ".downsample.1",
}


def from_npz(
    source: Mapping[str, np.ndarray] | str | Path, *, image_size: Size | None = None, num_classes: int | None = None,
    **options: Unpack[Options],
) -> ViT:
    """A ViT or an R50+ViT with the official weights of the paper, an ``.npz`` of JAX arrays.

    What is not said here is as for ``from_timm``.

    Args:
        source: The file (read without pickle), or its arrays by name.
        gelu: ``"tanh"`` as in the official code, or ``"exact"`` as timm runs the same weights; their logits differ by
            about 5e-4.

    Example:
        >>> model = from_npz("ViT-B_16.npz", num_classes=10)  # doctest: +SKIP
    """
    if not isinstance(source, Mapping | str | Path):
        raise TypeError(f"source is a {type(source).__name__}; expected an .npz file, or its arrays by name")
    arrays = _arrays(source) if isinstance(source, str | Path) else source
    prefix = next((p for p in ("opt/target/", "params/") if f"{p}embedding/kernel" in arrays), "")
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    known = {"layer_norm_eps": 1e-6, "gelu": "tanh"}
    if "pos_embedding" in arrays and "cls" not in arrays:  # big_vision's plain ViT
        known["pool"] = "mean"
    with decoding(source if isinstance(source, str | Path) else "source", "no .npz of a ViT", "fetch it again"):
        state = dict(_tensor(name, torch.from_numpy(np.array(array))) for name, array in arrays.items())
    queries = [array for name, array in arrays.items() if name.endswith("/query/kernel") and array.ndim == 3]
    if queries:
        known["num_heads"] = queries[0].shape[1]  # [D, h, D/h]
    with shared.naming(source):
        return shared.assemble(LIBRARY, state, known | shared.given(options), image_size, num_classes)


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    sealed.start(path)
    with (
        decoding(path, "no whole .npz of plain arrays", "fetch it again"),
        open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file,
    ):
        return {name: file[name] for name in file.files}


def _tensor(name: str, array: Tensor) -> tuple[str, Tensor]:
    """With torch's axes and a name like torch's: JAX's arrays have their inputs first, and heads axes of their own."""
    layer, _, leaf = name.replace("/", ".").rpartition(".")
    for pattern, ours in R50.items():
        layer = re.sub(pattern, ours, layer)
    if leaf == "kernel":
        if array.ndim == 4:
            array = array.permute(3, 2, 0, 1)  # [P, P, C, D] -> [D, C, P, P]
        else:
            array = (array.flatten(0, -2) if layer.endswith(".out") else array.flatten(1)).T
    elif leaf == "bias" or array.shape[:-1] == (1, 1, 1):  # a group norm's numbers, [1, 1, 1, C]
        array = array.flatten()
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return f"{layer}.{leaf}" if layer else leaf, array
