"""Intervals of a mean over seeds, and of differences between runs of one seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

__all__ = ["interval", "paired"]

# Student's t at 97.5 %, by the number of values: a mean lies within so many standard errors, 95 times of 100.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262,
           11: 2.228, 12: 2.201, 13: 2.179, 14: 2.160, 15: 2.145, 16: 2.131, 17: 2.120, 18: 2.110, 19: 2.101,
           20: 2.093}


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
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


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
