"""What a token costs: time and memory of one block, for pixels and for patches as tokens.

Question:    How do tokens, time and memory grow with the image, if each pixel is a token, or each patch?
Expectation: Tokens fall by P². The memory of explicit attention falls by nearly P⁴ once its maps [T, T]
             outweigh the rest; that of fused attention, which never forms them, by P². Time falls by P² to
             P⁴. Below some hundred tokens fixed costs hide all this.
Command:     python -m experiments cost
Cost:        1 to 3 minutes on two CPU cores, below 1 GB of memory. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from experiments import records
from experiments.timing import peak_bytes, seconds
from vitlite import plots
from vitlite.model import Block, ViTConfig

__all__ = ["DATASET", "SCALES", "factors", "largest", "peaks", "points", "run", "show", "summarise"]

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


def points(config: dict) -> list[dict]:
    """Every image size cut by every patch size into no more than the most tokens, with either attention."""
    return [{"chapter": 1, "what": "pixels" if patch_size == 1 else "patches", "patch_size": patch_size,
             "image_size": image_size, "tokens": (image_size // patch_size) ** 2, "attention": attention, "seed": 0}
            for patch_size in config["patch_sizes"] for image_size in config["image_sizes"]
            for attention in config["attention"] if (image_size // patch_size) ** 2 <= config["max_tokens"]]


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
        forward = partial(block, z, return_attention=point["attention"] == "explicit")  # asked for, maps are formed
        durations = seconds(forward, config["repeats"], config["repeat_seconds"])
        peak = peak_bytes(forward, config["device"])
    low, median, high = statistics.quantiles(durations, n=4)
    return {"seconds": median, "seconds_low": low, "seconds_high": high, "repeats": len(durations), "peak_bytes": peak}


def summarise(runs: list[dict]) -> dict:
    """What the largest image that was measured pixel by pixel costs, over what its largest patches cost."""
    at, patch_size = largest(runs), max(run["patch_size"] for run in runs)
    ratios = {f"{quantity}_{attention}": at[1, attention][quantity] / at[patch_size, attention][quantity]
              for quantity in ("tokens", "seconds", "peak_bytes") for attention in ("explicit", "fused")}
    image_size = at[1, "explicit"]["image_size"]
    return {"image_size": image_size, "patch_size": patch_size, "pixels_over_patches": ratios}


# ---- what a chapter shows


def largest(runs: list[dict]) -> dict[tuple[int, str], dict]:
    """The runs at the largest image that was measured pixel by pixel, by patch size (1 for pixels) and attention."""
    image_size = max(run["image_size"] for run in runs if run["what"] == "pixels")
    return {(run["patch_size"], run["attention"]): run for run in runs if run["image_size"] == image_size}


def factors(record: dict) -> dict[int, dict[str, float]]:
    """How many times as much pixels cost as patches of each size, at the largest image measured pixel by pixel:
    ``tokens``, with explicit attention ``seconds`` and ``peak_bytes``, with fused attention ``peak_bytes_fused``."""
    at = largest(record["runs"])

    def ratio(patch_size: int, quantity: str, attention: str = "explicit") -> float:
        return at[1, attention][quantity] / at[patch_size, attention][quantity]

    return {size: {quantity: ratio(size, quantity) for quantity in ("tokens", "seconds", "peak_bytes")}
            | {"peak_bytes_fused": ratio(size, "peak_bytes", "fused")}
            for size in sorted({size for size, _ in at} - {1})}


def peaks(record: dict) -> dict[str, dict[int, float]]:
    """Peak memory in MiB by number of tokens, from 16 on, for explicit and for fused attention."""
    return {kind: dict(sorted({run["tokens"]: run["peak_bytes"] / 2**20 for run in record["runs"]
                               if run["attention"] == kind and run["tokens"] >= 16}.items()))
            for kind in ("explicit", "fused")}


def _memory(record: dict) -> Figure:
    """Peak memory against the image's side, a curve for each patch size, with explicit attention."""
    names = {1: "one token per pixel", 4: "4×4 patches", 8: "8×8 patches", 16: "16×16 patches"}
    series = {}
    for size, name in names.items():
        runs = [run for run in record["runs"] if (run["patch_size"], run["attention"]) == (size, "explicit")]
        series[name] = [run["image_size"] for run in runs], [run["peak_bytes"] / 2**20 for run in runs]
    side = record["summary"]["image_size"]
    title = f"At {side}×{side}, pixels take {factors(record)[4]['peak_bytes']:,.0f}× the memory of 4×4 patches"
    figure = plots.lines(series, "side of the image (pixels)", "peak memory (MiB)", title, logx=True, logy=True)
    figure.axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=3)  # above the curves
    return figure


def _attention(record: dict) -> Figure:
    return plots.lines({kind: (list(by_tokens), list(by_tokens.values())) for kind, by_tokens in peaks(record).items()},
                       "tokens", "peak memory (MiB)", logx=True, logy=True,
                       title="Only explicit attention pays for the T × T matrix")


show = records.views(memory=_memory, attention=_attention)  # chapters 1 and 2
