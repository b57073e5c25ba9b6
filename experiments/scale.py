"""Two scales, one code path: each chapter opens with two sets of numbers and takes one of them.

``VITLITE_SCALE`` is ``quick`` (a CPU, seconds) or ``full`` (a GPU, minutes); unset, a CUDA device means full.
With ``VITLITE_SMOKE=1`` the full numbers are cut to two steps and a few images, to try the path and no more.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import torch

__all__ = ["pick"]


def pick(*, quick: dict, full: dict) -> SimpleNamespace:
    """The numbers of the scale in force, as attributes; ``name`` and ``device`` are added.

    Args:
        quick: Numbers for a CPU.
        full: The same names, with numbers for a GPU.

    Returns:
        A namespace with one attribute a number, ``name`` (the scale) and ``device`` (where to compute).

    Raises:
        ValueError: If the two sets do not have the same names, or ``VITLITE_SCALE`` is neither ``quick`` nor ``full``.

    Example:
        >>> numbers = pick(quick={"depth": 3}, full={"depth": 9})
        >>> numbers.depth == {"quick": 3, "full": 9}[numbers.name]
        True
    """
    if quick.keys() != full.keys():
        raise ValueError(
            f"quick and full must have the same names; they differ in {sorted(quick.keys() ^ full.keys())}"
        )
    name = os.environ.get("VITLITE_SCALE") or ("full" if torch.cuda.is_available() else "quick")
    if name not in ("quick", "full"):
        raise ValueError(f"VITLITE_SCALE is {name!r}; expected 'quick' or 'full', or leave it unset")
    numbers = dict(quick if name == "quick" else full)
    if name == "full":
        print("Full scale. The text tells of the quick run: your numbers will be others.", file=sys.stderr)
    if os.environ.get("VITLITE_SMOKE") == "1":
        numbers |= {key: 2 for key in numbers if key == "steps" or key.endswith("_steps")}
        numbers |= {key: min(200, value) for key, value in numbers.items() if key.endswith("_images")}
    device = "cuda" if name == "full" and torch.cuda.is_available() else "cpu"
    return SimpleNamespace(name=name, device=device, **numbers)
