"""Checkpoints of a run: one safetensors file, whole or absent, read without running anything it contains."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from vitlite.files import digest, sweep, written_whole

__all__ = ["load", "save"]


def save(path: Path, metadata: dict, **parts: Mapping[str, Tensor]) -> None:
    """Write tensors and the metadata of the run.

    Args:
        path: The file; the new one replaces the old one in one go.
        metadata: Anything that JSON can hold, with the run's identity under ``"run"``.
        **parts: Named groups of named tensors, such as ``model=model.state_dict()``.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> save(path, {"run": {"seed": 0}, "step": 7}, model={"weight": torch.ones(2)})
        >>> load(path, {"seed": 0})
        ({'model': {'weight': tensor([1., 1.])}}, {'run': {'seed': 0}, 'step': 7})
    """
    tensors = {f"{part}.{name}": tensor.contiguous() for part, state in parts.items() for name, tensor in state.items()}
    told = json.dumps(metadata)
    with written_whole(path) as beside:
        # save_file would leave a file of its own, under a name of its own, if it were killed
        beside.write_bytes(safetensors.torch.save(tensors, {"trainer": told, "digest": digest(tensors, told)}))


def load(path: Path, run: dict) -> tuple[dict[str, dict[str, Tensor]], dict] | None:
    """Read what ``save`` wrote, tensors and metadata; None if there is no file.

    What a killed writer left half done is removed.

    Args:
        path: The file.
        run: Identity of the run that wants to go on: a dict of plain values and dicts of these.

    Raises:
        ValueError: If the checkpoint belongs to another run, is none, or is damaged; the message says what to do.

    Example:
        >>> load(Path("none.safetensors"), {"seed": 0}) is None
        True
    """
    sweep(path)
    if not path.exists():
        return None
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise ValueError("it is no regular file")
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = json.loads(header.get("trainer", "null"))
        if not isinstance(metadata, dict) or not isinstance(metadata.get("run", {}), dict):
            raise ValueError("it does not say which run it is of")
    except Exception as error:  # a damaged file makes many kinds
        raise ValueError(f"{path} is no checkpoint ({error}); give this run another checkpoint path") from error
    if "digest" not in header and not run:  # where there is a run to compare with, there was a digest
        warnings.warn(f"{path} was written without a digest: damage to it would not show", stacklevel=3)
    elif header.get("digest") != digest(tensors, header["trainer"]):
        raise damaged(path, "its digest is another")
    _refuse_another(path, metadata.get("run", {}), json.loads(json.dumps(run)))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts, metadata


def damaged(path: Path, why: str) -> ValueError:
    """The error for a checkpoint that belongs to the run and cannot be used."""
    return ValueError(f"checkpoint {path} is damaged ({why}); remove it to start afresh")


def _refuse_another(path: Path, there: dict, here: dict) -> None:
    there, here = _flat(there), _flat(here)
    differ = [name for name in there | here if there.get(name) != here.get(name)]
    if differ:
        shown = ", ".join(f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in differ[:3])
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(f"checkpoint {path} belongs to another run ({shown}{more}); give this run another checkpoint "
                         "path, or remove that file to start afresh")


def _flat(nested: dict, prefix: str = "") -> dict:
    """Nested dicts as one, with dotted names."""
    flat: dict = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
