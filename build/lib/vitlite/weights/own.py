"""Our own files: one safetensors file holds a model, what it is, and how to use it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from vitlite import hybrid
from vitlite.config import ViTConfig
from vitlite.files import written_whole
from vitlite.model import PatchEmbed, ViT
from vitlite.resnet import ResNet, ResNetConfig
from vitlite.weights.shared import fill

# The models that a file can hold, by the name that stands in it.
MODELS = {"ViT": (ViT, ViTConfig), "ResNet": (ResNet, ResNetConfig)}
EXTRA = "extra."  # in front of the names of tensors that are not the model's


def save(
    model: ViT | ResNet,
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    record: str | None = None,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
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
        extra: Tensors that are not the model's own, such as the head of its pre-training; ``extra`` reads them.

    Returns:
        The path.

    Raises:
        TypeError: If the model is of another kind, ``dtype`` no floating-point type of torch's, or one of the lists
            no list.
        ValueError: If the number of classes or channels does not fit the model, or its patch embedding is of a
            kind that ``load`` could not rebuild.
        OSError: If the file cannot be written; what stood there stays.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> path = save(model, Path(tempfile.mkdtemp()) / "model.safetensors", record="cifar")
        >>> info(path)["record"], load(path).config == model.config
        ('cifar', True)
    """
    kind, config = type(model).__name__, getattr(model, "config", None)
    if MODELS.get(kind) != (type(model), type(config)):
        raise TypeError(
            f"model is a {kind}; expected vitlite's {' or '.join(MODELS)}; of another, keep model.state_dict()"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {dtype!r}; expected a floating-point type such as torch.bfloat16")
    for name, given, wanted in (("classes", classes, config.num_classes), ("mean", mean, config.in_channels),
                                ("std", std, config.in_channels)):
        if given is not None and (not hasattr(given, "__len__") or isinstance(given, str)):
            raise TypeError(f"{name} is {given!r}; expected a list of {wanted}")
        if given is not None and len(given) != wanted:
            raise ValueError(f"{name} has {len(given)} entries; the model has {wanted}")
    names = None if classes is None else [str(name) for name in classes]
    metadata = {"model": kind, "config": dataclasses.asdict(config), "classes": names,
                "mean": _numbers(mean), "std": _numbers(std), "record": record,
                "patch_embed": _spec(model.patch_embed) if kind == "ViT" else None,
                "parameters": sum(parameter.numel() for parameter in model.parameters())}
    state = model.state_dict() | {EXTRA + name: tensor.detach() for name, tensor in (extra or {}).items()}
    state = {name: _cast(tensor, dtype or tensor.dtype).contiguous() for name, tensor in state.items()}
    with written_whole(path) as beside:
        safetensors.torch.save_file(state, beside, metadata={"vitlite": json.dumps(metadata)})
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

    Example:
        >>> import tempfile
        >>> from vitlite.resnet import ResNet, ResNetConfig
        >>> model = ResNet(ResNetConfig(width=8, blocks=1))
        >>> file = info(save(model, Path(tempfile.mkdtemp()) / "model.safetensors", dtype=torch.bfloat16))
        >>> file["model"], file["config"].width, file["parameters"], file["dtype"]
        ('ResNet', 8, 19954, 'BF16')
    """
    with _opened(path) as file:
        metadata = _metadata(file, path)
        return _counted(file) | metadata  # an older file does not say how many parameters


def load(path: str | Path, device: torch.device | str = "cpu") -> ViT | ResNet:
    """Rebuild a model, of the kind it was, from a file that ``save`` wrote: in float32, in evaluation mode.

    Args:
        path: The file.
        device: Where the model shall be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no model of vitlite's, or its tensors do not fit its configuration.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> load(save(model, Path(tempfile.mkdtemp()) / "model.safetensors"))(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 5])
    """
    with _opened(path) as file:
        metadata = _metadata(file, path)
        own = [name for name in file.keys() if not name.startswith(EXTRA)]  # noqa: SIM118 (not a dict)
        state = {name: _cast(file.get_tensor(name), torch.float32) for name in own}
    stem = {"patch_embed": hybrid.build(metadata["patch_embed"])} if metadata["patch_embed"] else {}
    model = MODELS[metadata["model"]][0](metadata["config"], **stem)
    fill(model, state, str(path))
    return model.to(device).eval()


def extra(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors that were saved beside a model, in float32; none if there were none.

    Args:
        path: A file that ``save`` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or no model of vitlite's.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> extra(save(model, Path(tempfile.mkdtemp()) / "model.safetensors", extra={"mask_token": torch.zeros(2)}))
        {'mask_token': tensor([0., 0.])}
    """
    with _opened(path) as file:
        _metadata(file, path)
        names = [name for name in file.keys() if name.startswith(EXTRA)]  # noqa: SIM118 (not a dict)
        return {name.removeprefix(EXTRA): _cast(file.get_tensor(name), torch.float32) for name in names}


def _numbers(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor  # a batch norm counts in whole numbers


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


def _opened(path: str | Path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return safetensors.safe_open(path, "pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch or save it again") from error


def _counted(file) -> dict:
    slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a dict)
    return {"parameters": sum(torch.Size(s.get_shape()).numel() for s in slices), "dtype": slices[0].get_dtype()}


def _metadata(file, path: str | Path) -> dict:
    metadata = (file.metadata() or {}).get("vitlite")
    if metadata is None:
        raise ValueError(
            f"{path} has no description of a vitlite model; expected a file written by vitlite.weights.save "
            "(a run's own checkpoint is for its Trainer alone)"
        )
    metadata = {"model": "ViT", "patch_embed": None} | json.loads(metadata)  # an older file lacks these
    name, config, spec = metadata["model"], _tuples(metadata["config"]), metadata["patch_embed"]
    kind = MODELS[name][1] if name in MODELS else None
    unknown = sorted(config.keys() - {field.name for field in dataclasses.fields(kind)}) if kind else [f"a {name}"]
    if unknown:
        raise ValueError(f"{path} was written by a newer vitlite: it holds {', '.join(unknown)}; update vitlite")
    return metadata | {"config": kind(**config), "patch_embed": spec and _tuples(spec)}


def _tuples(fields: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
