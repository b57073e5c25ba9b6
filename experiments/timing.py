"""Seconds and bytes of a call."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes", "seconds"]

WARM_UP = 3


def seconds(call: Callable[[], object], repeats: int, at_least: float = 0.0) -> list[float]:
    """Time a call, after a warm-up, on whatever device it runs.

    Args:
        call: What to time.
        repeats: How often at least.
        at_least: For how many seconds in all at least; short calls are repeated more often.

    Returns:
        One duration in seconds for each repeat.
    """
    for _ in range(WARM_UP):
        call()
    durations: list[float] = []
    while len(durations) < repeats or sum(durations) < at_least:
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        durations.append(time.perf_counter() - start)
    return durations


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most memory that a call holds at one time through torch's allocator, beyond what was there before.

    Args:
        call: What to measure; on a CUDA device torch's own peak counter is read, on a CPU every allocation
            that the profiler sees is added up.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Bytes. What a CPU library allocates for itself, behind torch's back, is not in it.
    """
    if device == "cuda":
        _wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        _wait()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler fills the screen with its own log
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for change in _memory_changes(profiler):
        held += change
        peak = max(peak, held)
    return peak


def _memory_changes(profiler: profile) -> list[int]:
    """Bytes allocated (positive) and freed (negative) on the CPU, in the order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))  # the one public way to the single allocations
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
