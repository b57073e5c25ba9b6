"""Safetensors files that know when they are damaged: tensors, a description in JSON, and a digest of both.

The description holds the SHA-256 of the tensors, and the file that of the description. So one changed bit anywhere is
seen, which safetensors alone does not: it checks the layout of a file, not its numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vitlite.files import decoding, digest, written_whole


def start(path: str | Path) -> bytes:
    """The first bytes of a file, which tell its kind."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; pass the file itself")
    with open(path, "rb") as file:
        return file.read(16)


def write(path: str | Path, key: str, description: dict, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and their description, which stands under ``key``; the file appears whole or not at all."""
    # A copy each: safetensors refuses tensors that share their numbers, as tied weights do.
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
               for name, tensor in tensors.items()}
    text = json.dumps(description | {"sha256": digest(tensors)})
    seal = hashlib.sha256(text.encode()).hexdigest()
    with written_whole(path) as beside:
        # save_file would leave a file of its own, under a name of its own, if it were killed
        beside.write_bytes(safetensors.torch.save(tensors, metadata={key: text, "sha256": seal}))


@contextmanager
def opened(path: str | Path, key: str, kind: str, advice: str) -> Iterator[tuple[object, dict]]:
    """Open a file and check its description; the tensors are not read yet.

    Yields:
        The open file and the description, None if there is none; its ``sha256`` is None where no digest was written.
    """
    start(path)
    with decoding(path, "not a whole safetensors file", advice):
        file = safetensors.safe_open(path, "pt")
    with file:
        header = file.metadata() or {}
        description = None
        if key in header:
            with decoding(path, f"damaged in its description of {kind}", advice):
                description = json.loads(header[key])
                if not isinstance(description, dict):
                    raise ValueError(f"it is a {type(description).__name__}, expected an object")
                seal = header.get("sha256")
                if seal != (hashlib.sha256(header[key].encode()).hexdigest() if "sha256" in description else None):
                    raise ValueError("it differs from what was written")
            description.setdefault("sha256", None)
        yield file, description


def tensors(file, path: str | Path, sha256: str | None, advice: str) -> dict[str, Tensor]:
    """All tensors of an open file, checked against their digest if there is one."""
    with decoding(path, "damaged in its tensors", advice):
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if sha256 is not None and digest(found) != sha256:
            raise ValueError("their SHA-256 differs from the one that was written with them")
    return found
