"""Attention distance and rollout out of one pass, beside the same pass that looks at nothing.

Question:    What does it cost to look inside ViT-B/16, beyond computing its attention weights?
Expectation: One map of a layer is in memory at a time, and what is kept of it is small: at most 1.5 times the memory
             and 2 times the time of the pass that computes the same maps and drops them.
Command:     python -m benchmarks.analysis
Cost:        About 8 minutes and 2 GB of memory on two CPU cores. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.shared import B16, TINY, interleaved, main, spread
from experiments.timing import peak_bytes
from vitlite import ViT, ViTConfig, analysis

DATASET = "none: images drawn at random"
MEMORY, TIME = 1.5, 2.0  # how many times those of the plain pass they may be

SCALES = {
    "quick": {"device": "cpu", "model": TINY, "images": 2, "rounds": 2},
    "cpu": {"device": "cpu", "model": B16, "images": 128, "rounds": 3},
    "full": {"device": "cuda", "model": B16, "images": 128, "rounds": 15},
}


def measure(config: dict) -> list[dict]:
    """Both passes over the same images, in one batch."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(**config["model"])).eval().to(config["device"])
    size = config["model"]["image_size"]
    images = torch.randn(config["images"], 3, size, size, device=config["device"])
    calls = {"explicit attention": lambda: plain(model, images),
             "distance and rollout": lambda: distance_and_rollout(model, images)}
    times = interleaved(calls, config["rounds"], config["device"], warm_up=1)
    return [{"seed": 0, "what": what, "images": config["images"], "peak_bytes": peak_bytes(call, config["device"])}
            | spread(times[what]) for what, call in calls.items()]


@torch.inference_mode()
def plain(model: ViT, images: Tensor) -> None:
    """The attention weights of every layer, computed and dropped."""
    for layer in model.iter_attention(images):
        del layer


@torch.inference_mode()
def distance_and_rollout(model: ViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean attention distance ``[layers, heads]`` and rollout ``[B, T, T]``, each layer's map read by both."""
    distances = []

    def measured(layer: Tensor) -> Tensor:
        distances.append(analysis.mean_attention_distance([layer], model.config.grid, model.config.patch_size))
        return layer

    rollout = analysis.attention_rollout(map(measured, model.iter_attention(images)))
    return torch.cat(distances), rollout


def summarise(runs: list[dict]) -> dict:
    """How many times the memory and the time of the plain pass."""
    alone, looking = runs
    return {"memory": looking["peak_bytes"] / alone["peak_bytes"], "time": looking["seconds"] / alone["seconds"]}


if __name__ == "__main__":
    main(sys.modules[__name__])
