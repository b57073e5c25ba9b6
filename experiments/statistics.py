"""Runs in groups; intervals of a mean over seeds, and of differences between runs of one seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

__all__ = ["curve", "grouped", "interval", "paired"]


def grouped(runs: Iterable[dict], *keys: str) -> dict[Any, list[dict]]:
    """The runs that have the same values of some keys, together.

    Args:
        runs: Runs of a record.
        keys: What they are grouped by, one key or more.

    Returns:
        The runs of each group, by the value of the key, or by the tuple of the values of several; groups and runs in
        the order in which they first appear.

    Example:
        >>> runs = [{"model": "vit", "seed": 0}, {"model": "mlp", "seed": 0}, {"model": "vit", "seed": 1}]
        >>> {model: len(those) for model, those in grouped(runs, "model").items()}
        {'vit': 2, 'mlp': 1}
        >>> list(grouped(runs, "model", "seed"))
        [('vit', 0), ('mlp', 0), ('vit', 1)]
    """
    groups: dict[Any, list[dict]] = {}
    for run in runs:
        values = tuple(run[key] for key in keys)
        groups.setdefault(values if len(keys) > 1 else values[0], []).append(run)
    return groups


def interval(values: Iterable[float]) -> dict:
    """The mean of some values, one a seed, and where it lies 95 times of 100, by Student's t.

    Returns:
        ``mean``; ``low`` and ``high``, None for a single value; ``seeds``, the number of values.

    Example:
        >>> round(interval([0.70, 0.71, 0.72])["low"], 4)
        0.6852
    """
    values = list(values)
    mean = statistics.mean(values)
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": 1}
    from scipy import stats  # here, for it takes a second

    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def curve(rows: dict[float, dict]) -> tuple:
    """Intervals of shares over a number, as ``plots.lines`` draws them: x, per cent, and where all have several seeds
    the ends of the band.

    Example:
        >>> curve({500: {"mean": 0.5, "low": None, "high": None}, 100: {"mean": 0.25, "low": None, "high": None}})
        ([100, 500], [25.0, 50.0])
    """
    rows = dict(sorted(rows.items()))
    ends = ("mean",) if any(row["low"] is None for row in rows.values()) else ("mean", "low", "high")
    return (list(rows), *([100 * row[end] for row in rows.values()] for end in ends))


def paired(runs: Iterable[dict], others: Iterable[dict], key: str = "test_accuracy") -> dict | None:
    """How far some runs lie above others, taken seed by seed: the ``interval`` of these differences.

    Args:
        runs: Runs, one a seed.
        others: Those they are compared with, one a seed.
        key: What is compared.

    Returns:
        As ``interval``; None if they have no seed in common.

    Example:
        >>> paired([{"seed": 0, "test_accuracy": 0.75}], [{"seed": 0, "test_accuracy": 0.5}])["mean"]
        0.25
    """
    theirs = {run["seed"]: run[key] for run in others}
    gains = [run[key] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    return interval(gains) if gains else None
