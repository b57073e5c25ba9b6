"""Weights in and out: our own safetensors files, and the models of torchvision.

A file of ours carries all that is needed to use the model: its configuration, the classes, the mean and standard
deviation its images were normalised with, and the record it came from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vitlite.files import written_whole
from vitlite.model import ViT, ViTConfig

__all__ = ["from_torchvision", "info", "load", "save"]


def save(
    model: ViT,
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
        model: The model, with the patch embedding of the paper.
        path: Where to; ``.safetensors`` by custom.
        classes: Name of each class, in the order of the logits.
        mean: Mean of each channel that images are normalised with, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale.
        record: Name of the record that says how the weights came about.
        dtype: Store in this precision, for example ``torch.bfloat16``; by default as it is.

    Raises:
        ValueError: If the number of classes or channels does not fit the model.
        OSError: If the file cannot be written; what stood there stays.
    """
    config = model.config
    for name, given, wanted in (("classes", classes, config.num_classes), ("mean", mean, config.in_channels),
                                ("std", std, config.in_channels)):  # fmt: skip
        if given is not None and len(given) != wanted:
            raise ValueError(f"{name} has {len(given)} entries; the model has {wanted}")
    told = {"config": dataclasses.asdict(config), "classes": classes, "mean": mean, "std": std, "record": record}
    state = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(path) as beside:
        safetensors.torch.save_file(state, beside, metadata={"vitlite": json.dumps(told)})
    return Path(path)


def info(path: str | Path) -> dict:
    """What a file says of its model, read without its weights.

    Returns:
        ``config`` (a ``ViTConfig``), ``classes``, ``mean``, ``std``, ``record``, ``parameters`` (how many) and
        ``dtype`` (as stored).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no model of vitlite's.
    """
    with _opened(path) as file:
        return _told(file, path) | _counted(file)


def load(path: str | Path, device: torch.device | str = "cpu") -> ViT:
    """Rebuild a model from a file that ``save`` wrote: in float32, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no model of vitlite's, or its tensors do not fit its configuration.
    """
    with _opened(path) as file:
        config = _told(file, path)["config"]
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    model = ViT(config)
    fill(model, state, str(path))
    return model.to(device).eval()


def from_torchvision(source: nn.Module | Mapping[str, Tensor] | str | Path, *, num_heads: int | None = None) -> ViT:
    """A ViT with the weights of torchvision's ``VisionTransformer`` (``vit_b_16`` and the like).

    Args:
        source: The model, its state dict, or a file with the state dict (``.pth``, read with ``weights_only``).
        num_heads: Heads of the attention. A model tells it; a state dict does not: then 64 channels a head are
            assumed, as in Base and Large (80 at width 1280, Huge), unless it is given.

    Returns:
        A new model whose logits equal torchvision's.

    Raises:
        ValueError: If the weights are of another architecture, or a tensor does not fit; the message lists them.
    """
    if isinstance(source, nn.Module):
        num_heads = num_heads or getattr(_first(source), "num_heads", None)
        source = source.state_dict()
    elif isinstance(source, (str, Path)):
        source = torch.load(source, map_location="cpu", weights_only=True)
    stem = source.get("conv_proj.weight")
    if stem is None or "encoder.pos_embedding" not in source:
        near = ", ".join(list(source)[:3])
        raise ValueError(
            "these are not the weights of a torchvision VisionTransformer with a plain patch projection: "
            f"'conv_proj.weight' or 'encoder.pos_embedding' is missing (first keys: {near})"
        )
    width, channels, *patch_size = stem.shape
    side = round((source["encoder.pos_embedding"].shape[1] - 1) ** 0.5)
    config = ViTConfig(
        image_size=(side * patch_size[0], side * patch_size[1]), patch_size=tuple(patch_size), in_channels=channels,
        num_classes=len(source["heads.head.bias"]), embed_dim=width, depth=sum("ln_1.weight" in k for k in source),
        num_heads=num_heads or width // (80 if width == 1280 else 64),
        mlp_dim=len(source["encoder.layers.encoder_layer_0.mlp.0.bias"]),
        head="mlp" if "heads.pre_logits.weight" in source else "linear",
    )  # fmt: skip
    model = ViT(config)
    state = {_from_torchvision_name(name, config): tensor for name, tensor in source.items()}
    state["patch_embed.projection.weight"] = state["patch_embed.projection.weight"].flatten(1)  # kernel -> matrix
    fill(model, state, "the torchvision weights")
    return model.eval()


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


def _first(module: nn.Module) -> nn.Module | None:
    return next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)


# torchvision's names and ours, in the order in which they are replaced
_TORCHVISION = (
    ("conv_proj.", "patch_embed.projection."),
    ("encoder.pos_embedding", "position"),
    ("encoder.layers.encoder_layer_", "blocks."),
    ("encoder.ln.", "norm."),
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("self_attention.in_proj_", "attention.qkv."),
    ("self_attention.out_proj.", "attention.projection."),
    ("mlp.0.", "mlp.expand."),
    ("mlp.3.", "mlp.contract."),
    ("heads.pre_logits.", "head.0."),
)


def _from_torchvision_name(name: str, config: ViTConfig) -> str:
    for theirs, ours in _TORCHVISION:
        name = name.replace(theirs, ours)
    return name.replace("heads.head.", "head.2." if config.head == "mlp" else "head.0.")


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
    told = json.loads(told)
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in told["config"].items()}
    return told | {"config": ViTConfig(**config)}


def _counted(file) -> dict:
    slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
    return {"parameters": sum(torch.Size(s.get_shape()).numel() for s in slices), "dtype": slices[0].get_dtype()}
