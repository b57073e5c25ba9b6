"""What a token costs: time and memory of one block, for pixels and for patches as tokens.

Question:    How do tokens, time and memory grow with the image, if each pixel is a token, or each patch?
Expectation: Tokens fall by P². The memory of explicit attention falls by nearly P⁴ once its maps [T, T]
             outweigh the rest; that of fused attention, which never forms them, by P². Time falls by P² to
             P⁴. Below some hundred tokens fixed costs hide all this.
Command:     python -m vitlite experiment cost
Cost:        1 to 3 minutes on two CPU cores, below 1 GB of memory. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from vitlite.model import Block, ViTConfig

__all__ = ["DATASET", "SCALES", "peak_bytes", "points", "run", "seconds", "summarise"]

DATASET = "none: tokens drawn at random"

# One block of ViT-Ti, the smallest of the family; it sees one image at a time, in float32.
BLOCK = {"embed_dim": 192, "depth": 1, "num_heads": 3, "mlp_dim": 768}
GRID = {
    "block": BLOCK,
    "image_sizes": [16, 32, 48, 64, 96, 128, 224],
    "patch_sizes": [1, 4, 8, 16],  # a patch of 1 is a pixel
    "attention": ["explicit", "fused"],
    "repeats": 11,
}

# Where to measure, the longest sequence, and for how long at least a point is repeated.
SCALES = {
    "quick": GRID | {"device": "cpu", "max_tokens": 256, "repeat_seconds": 0.0},
    "cpu": GRID | {"device": "cpu", "max_tokens": 4096, "repeat_seconds": 0.5},
    "full": GRID | {"device": "cuda", "max_tokens": 16384, "repeat_seconds": 0.5},
}
WARM_UP = 3


def points(config: dict) -> list[dict]:
    """Every image size cut by every patch size into no more than the most tokens, with either attention."""
    return [
        {
            "chapter": 1,
            "what": "pixels" if patch_size == 1 else "patches",
            "patch_size": patch_size,
            "image_size": image_size,
            "tokens": (image_size // patch_size) ** 2,
            "attention": attention,
            "seed": 0,
        }
        for patch_size in config["patch_sizes"]
        for image_size in config["image_sizes"]
        for attention in config["attention"]
        if (image_size // patch_size) ** 2 <= config["max_tokens"]
    ]


def run(point: dict, config: dict, work: Path) -> dict:
    """Time and memory of one block's forward pass over so many tokens.

    Args:
        point: One of ``points``.
        config: One of ``SCALES``.
        work: Not needed.

    Returns:
        The median ``seconds`` with the quartiles ``seconds_low`` and ``seconds_high``, the number of
        ``repeats``, and ``peak_bytes``, the most memory the pass held beyond its input and its weights.
    """
    torch.manual_seed(point["seed"])
    block = Block(ViTConfig(**config["block"])).eval().to(config["device"])
    z = torch.randn(1, point["tokens"], config["block"]["embed_dim"], device=config["device"])
    with torch.inference_mode():
        forward = partial(
            block, z, return_attention=point["attention"] == "explicit"
        )  # asked for, maps are formed
        durations = seconds(forward, config["repeats"], config["repeat_seconds"])
        peak = peak_bytes(forward, config["device"])
    low, median, high = statistics.quantiles(durations, n=4)
    return {
        "seconds": median,
        "seconds_low": low,
        "seconds_high": high,
        "repeats": len(durations),
        "peak_bytes": peak,
    }


def summarise(runs: list[dict]) -> dict:
    """What the largest image that was measured pixel by pixel costs, over what its largest patches cost."""
    image_size = max(entry["image_size"] for entry in runs if entry["what"] == "pixels")
    patch_size = max(entry["patch_size"] for entry in runs)
    at = {
        (entry["patch_size"], entry["attention"]): entry
        for entry in runs
        if entry["image_size"] == image_size
    }
    ratios = {
        f"{quantity}_{attention}": at[1, attention][quantity] / at[patch_size, attention][quantity]
        for quantity in ("tokens", "seconds", "peak_bytes")
        for attention in ("explicit", "fused")
    }
    return {"image_size": image_size, "patch_size": patch_size, "pixels_over_patches": ratios}


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
        events = json.loads(path.read_text())["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
