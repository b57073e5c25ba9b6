"""Checkpoints of a run: one safetensors file, whole or absent, read without running anything it contains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vitlite import sealed
from vitlite.files import sweep

ADVICE = "give this run another checkpoint path, or remove that file to start afresh"


def save(path: Path, metadata: dict, **parts: Mapping[str, Tensor]) -> None:
    """Write tensors and the metadata of the run.

    Args:
        metadata: Anything that JSON can hold, with the run's identity under ``"run"``.
        **parts: Named groups of named tensors, such as ``model=model.state_dict()``.
    """
    sealed.write(path, "trainer", metadata,
                 {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()})


def load(path: Path, run: dict) -> tuple[dict[str, dict[str, Tensor]], dict] | None:
    """Read what ``save`` wrote, tensors and metadata; None if there is no file.

    What a killed writer left half done is removed.
    """
    sweep(path)
    if not path.exists():
        return None
    with sealed.opened(path, "trainer", "a run", ADVICE) as (file, metadata):
        if metadata is None or not isinstance(metadata.get("run", {}), dict):
            raise ValueError(f"{path} is no checkpoint, for it does not say which run it is of; {ADVICE}")
        if (sha256 := metadata.pop("sha256")) is None:
            raise ValueError(f"{path} is damaged, or of an older vitlite (it holds no digest of its tensors); {ADVICE}")
        tensors = sealed.tensors(file, path, sha256, ADVICE)
    _refuse_another(path, metadata.get("run", {}), json.loads(json.dumps(run)))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts, metadata


def _refuse_another(path: Path, there: dict, here: dict) -> None:
    there, here = _flat(there), _flat(here)
    differ = [name for name in there | here if there.get(name) != here.get(name)]
    if differ:
        shown = ", ".join(f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in differ[:3])
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(f"checkpoint {path} belongs to another run ({shown}{more}); {ADVICE}")


def _flat(nested: dict, prefix: str = "") -> dict:
    """Nested dicts as one, with dotted names."""
    flat: dict = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
