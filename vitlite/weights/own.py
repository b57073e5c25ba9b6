"""Our own files: one safetensors file holds a model, what it is, and how to use it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vitlite import checks, hybrid, sealed
from vitlite.config import ViTConfig
from vitlite.files import decoding
from vitlite.model import PatchEmbed, ViT
from vitlite.resnet import ResNet, ResNetConfig
from vitlite.weights.shared import bare, fill, flaw

# The models that a file can hold, by the name that stands in it.
MODELS = {"ViT": (ViT, ViTConfig), "ResNet": (ResNet, ResNetConfig)}
EXTRA = "extra."  # in front of the names of tensors that are not the model's
ADVICE = "fetch or save it again"


def save(
    model: ViT | ResNet, path: str | Path, *, classes: Sequence[str] | None = None, mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None, record: str | None = None, dtype: torch.dtype | None = None,
    extra: Mapping[str, torch.Tensor] | None = None
) -> Path:
    """Write a model as one safetensors file with a digest of all that it holds; it appears whole or not at all.

    Args:
        model: A ViT, with the patch embedding of the paper or one that ``vitlite.hybrid`` can build again, or a
            ResNet; compiled or not.
        classes: Name of each class, in the order of the logits.
        mean: Mean of each channel that images are normalised with, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale; above 0. Both or neither.
        record: Name of the record that says how the weights came about.
        dtype: Store in this precision, for example ``torch.bfloat16``; by default as it is.
        extra: Tensors that are not the model's own, such as the head of its pre-training; ``extra`` reads them.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> path = save(model, Path(tempfile.mkdtemp()) / "model.safetensors", record="cifar")
        >>> info(path)["record"], load(path).config == model.config
        ('cifar', True)
    """
    model = bare(model)
    kind, config = type(model).__name__, getattr(model, "config", None)
    if MODELS.get(kind) != (type(model), type(config)):
        raise TypeError(f"model is a {kind}; expected vitlite's {' or '.join(MODELS)}; of another, keep "
                        "model.state_dict()")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {dtype!r}; expected a floating-point type such as torch.bfloat16")
    for name, given in (("classes", classes), ("mean", mean), ("std", std)):
        if given is not None and (not hasattr(given, "__len__") or isinstance(given, str)):
            wanted = config.num_classes if name == "classes" else config.in_channels
            raise TypeError(f"{name} is {given!r}; expected a list of {wanted}")
    names = None if classes is None else [str(name) for name in classes]
    metadata = {"model": kind, "config": dataclasses.asdict(config), "classes": names,
                "mean": _numbers(mean), "std": _numbers(std), "record": record,
                "patch_embed": _spec(model.patch_embed) if kind == "ViT" else None,
                "parameters": sum(parameter.numel() for parameter in model.parameters())}
    _check(metadata, config)
    state = model.state_dict()
    for name, tensor in (extra or {}).items():
        checks.kind(torch.Tensor, **{f"extra tensor {name}": tensor})
        state[EXTRA + name] = tensor
    stored = {name: _cast(tensor, dtype or tensor.dtype) for name, tensor in state.items()}
    wrong = [f"{name}: {why}" for name, tensor in state.items() if (why := flaw(tensor))]
    if wrong:
        raise ValueError("these are not saved, since nothing can be computed with them; did the training diverge?\n  "
                         + "\n  ".join(wrong))
    wrong = [f"{name}: {why}, largest {state[name].abs().max():.3g}" for name, tensor in stored.items()
             if (why := flaw(tensor))]
    if wrong:
        raise ValueError(f"these do not fit into {dtype}; save in torch.bfloat16 or torch.float32\n  "
                         + "\n  ".join(wrong))
    sealed.write(path, "vitlite", metadata, stored)
    return Path(path)


def info(path: str | Path) -> dict:
    """What a file says of its model, read without its weights.

    Returns:
        ``model`` (``"ViT"`` or ``"ResNet"``), ``config`` (its ``ViTConfig`` or ``ResNetConfig``), ``classes``,
        ``mean``, ``std``, ``record``, ``patch_embed`` (what a hybrid's stem is built from, or None), ``parameters``
        (how many) and ``dtype`` (as stored).

    Example:
        >>> import tempfile
        >>> from vitlite.resnet import ResNet, ResNetConfig
        >>> model = ResNet(ResNetConfig(width=8, blocks=1))
        >>> file = info(save(model, Path(tempfile.mkdtemp()) / "model.safetensors", dtype=torch.bfloat16))
        >>> file["model"], file["config"].width, file["parameters"], file["dtype"]
        ('ResNet', 8, 19954, 'BF16')
    """
    with _opened(path) as (_, metadata):
        return {name: value for name, value in metadata.items() if name != "sha256"}


def load(path: str | Path, device: torch.device | str = "cpu") -> ViT | ResNet:
    """Rebuild a model, of the kind it was, from a file that ``save`` wrote: in float32, in evaluation mode.

    A file of a vitlite that wrote no digest yet loads with a warning.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> load(save(model, Path(tempfile.mkdtemp()) / "model.safetensors"))(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 5])
    """
    with _opened(path) as (file, metadata):
        tensors = sealed.tensors(file, path, metadata["sha256"], ADVICE)
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}
    with torch.device("meta"):  # nothing is computed or allocated for a description that the tensors do not fit
        shape = _built(metadata, path)
    fill(shape, state, str(path), check_only=True)
    model = _built(metadata, path)
    fill(model, {name: _cast(tensor, torch.float32) for name, tensor in state.items()}, str(path))
    if metadata["sha256"] is None:
        warnings.warn(f"{path} holds no digest of its tensors, so damage to them would not be seen; it is of an older "
                      "vitlite: weights.save(weights.load(path), path, …) writes one", stacklevel=2)
    return model.to(device).eval()


def extra(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors that were saved beside a model, in float32; none if there were none.

    Example:
        >>> import tempfile
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=1, num_heads=3, mlp_dim=48))
        >>> extra(save(model, Path(tempfile.mkdtemp()) / "model.safetensors", extra={"mask_token": torch.zeros(2)}))
        {'mask_token': tensor([0., 0.])}
    """
    with _opened(path) as (file, metadata):
        tensors = sealed.tensors(file, path, metadata["sha256"], ADVICE)
    return {name.removeprefix(EXTRA): _cast(tensor, torch.float32) for name, tensor in tensors.items()
            if name.startswith(EXTRA)}


def _numbers(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor  # a batch norm counts in whole numbers


def _spec(patch_embed: nn.Module) -> dict | None:
    if isinstance(patch_embed, PatchEmbed):
        return None
    spec = getattr(patch_embed, "spec", None)
    if spec is None:
        raise ValueError(f"the patch embedding is a {type(patch_embed).__name__}, which load could not rebuild; use "
                         "one of vitlite.hybrid.STEMS, or keep model.state_dict() and build the model yourself")
    return spec


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple]:
    """The open file and what it says of its model, checked whole; nothing is built."""
    if sealed.start(path)[:2] in (b"PK", b"\x80\x02"):  # torch.save's, and its older form
        raise ValueError(f"{path} is no safetensors file but one of torch.save or an .npz; read it with from_timm, "
                         "from_torchvision, from_transformers or from_npz, whoever made it")
    with sealed.opened(path, "vitlite", "a model", ADVICE) as (file, told):
        if told is None:
            raise ValueError(f"{path} has no description of a vitlite model; expected a file written by "
                             "vitlite.weights.save (a run's own checkpoint is for its Trainer alone; other libraries' "
                             "weights are read by from_timm, from_torchvision and from_transformers)")
        # An older file lacks some of these.
        told = {"model": "ViT", "patch_embed": None, "classes": None, "mean": None, "std": None, "record": None} | told
        name, fields = told["model"], told.get("config")
        kind = MODELS[name][1] if isinstance(name, str) and name in MODELS else None
        known = {field.name for field in dataclasses.fields(kind)} if kind else set()
        unknown = sorted(fields.keys() - known) if kind and isinstance(fields, dict) else []
        if isinstance(name, str) and (not kind or unknown):
            unknown = ", ".join(unknown) or f"a {name[:40]}"
            raise ValueError(f"{path} was written by a newer vitlite: it holds {unknown}; update vitlite")
        with decoding(path, "damaged in its description of a model", ADVICE):
            checks.kind(str, model=name)
            checks.kind(dict, config=fields)
            shapes = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            count = sum(math.prod(shape.get_shape()) for shape in shapes.values())
            spec = told["patch_embed"] and _tuples(told["patch_embed"])
            for number in ("depth", "blocks", "embed_dim", "mlp_dim", "num_classes", "width", "stride", "map_patch"):
                for part in (fields, spec or {}):
                    # so that no number makes a loop or a name without end
                    most = len(shapes) if number in ("depth", "blocks") else count
                    if isinstance(value := part.get(number), int) and value > most:
                        raise ValueError(f"{number} is {value}, more than its tensors allow")
            told |= {"config": kind(**_tuples(fields)), "patch_embed": spec}
            _check(told, told["config"])
            told = {"parameters": count, "dtype": next(iter(shapes.values())).get_dtype()} | told
            checks.at_least(0, parameters=told["parameters"])
        yield file, told


def _check(told: dict, config: ViTConfig | ResNetConfig) -> None:
    """Refuse names and statistics that do not fit the model: ``told`` is plain, as JSON has it."""
    for name, kind, wanted in (("classes", str, config.num_classes), ("mean", float, config.in_channels),
                               ("std", float, config.in_channels)):
        if (values := told[name]) is None:
            continue
        if not isinstance(values, list) or not all(type(value) in (kind, int if kind is float else kind)
                                                   for value in values):
            raise ValueError(f"{name} is no list of {'names' if kind is str else 'numbers'}")
        if len(values) != wanted:
            raise ValueError(f"{name} has {len(values)} entries; the model has {wanted}")
        if kind is float and not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise ValueError(f"{name} is {values}; expected finite numbers{', above 0' if name == 'std' else ''}")
    if (told["mean"] is None) != (told["std"] is None):
        raise ValueError("of mean and std one alone is given; images are normalised with both: pass both or neither")
    if not isinstance(told["record"], str | None):
        raise TypeError(f"record is {told['record']!r}; expected the name of a record")


def _built(metadata: dict, path: str | Path) -> ViT | ResNet:
    """The model that a file describes, not filled yet."""
    with decoding(path, "damaged in its description of a model", ADVICE):
        stem = {"patch_embed": hybrid.build(metadata["patch_embed"])} if metadata["patch_embed"] else {}
        return MODELS[metadata["model"]][0](metadata["config"], **stem)


def _tuples(fields: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
