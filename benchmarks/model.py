"""vitlite's ViT beside those of timm, torchvision, transformers and vit-pytorch, in float32.

Question:    Is the model that is written to be read as fast as those that are written to be used?
Expectation: Yes: within noise (0.97 times) of the fastest of the four or faster, forward and forward plus backward,
             since nearly all time goes into the same matrix products and the same fused attention.
Command:     python -m benchmarks.model
Cost:        About 3 minutes and 6 GB of memory on two CPU cores. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shared import B16, CIFAR, TINY, interleaved, libraries, main, parameters, spread, times_as_fast

DATASET = "none: images and labels drawn at random"

# Name, shape and images a batch.
SCALES = {
    "quick": {"device": "cpu", "models": [["tiny", TINY, 2]], "rounds": 2},
    "cpu": {"device": "cpu", "models": [["CIFAR", CIFAR, 64], ["B/16", B16, 2]], "rounds": 9},
    "full": {"device": "cuda", "models": [["CIFAR", CIFAR, 1024], ["B/16", B16, 64]], "rounds": 31},
}


def measure(config: dict) -> list[dict]:
    """Forward, and forward plus backward, of each model in each library."""
    runs, device = [], config["device"]
    for name, shape, batch in config["models"]:
        models = libraries(shape, device)
        images = torch.randn(batch, 3, shape["image_size"], shape["image_size"], device=device)
        labels = torch.randint(shape["num_classes"], (batch,), device=device)
        for what, make in (("forward", forward), ("forward and backward", forward_and_backward)):
            calls = {library: make(model, images, labels) for library, model in models.items()}
            times = interleaved(calls, config["rounds"], device)
            runs += [
                {"seed": 0, "model": name, "what": what, "library": library, "parameters": parameters(models[library]),
                 "batch_size": batch, "ours_over_it": times_as_fast(times["vitlite"], times[library])}
                | spread(times[library])
                for library in models
            ]
    return runs


def forward(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    def call() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return call


def forward_and_backward(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    def call() -> None:
        model.train()
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    return call


def summarise(runs: list[dict]) -> dict:
    """How many times as fast as the fastest of the four ours is."""
    others = [run for run in runs if run["library"] != "vitlite"]
    kinds = {(run["model"], run["what"]) for run in others}
    return {
        f"{model}, {what}": min(run["ours_over_it"] for run in others if (run["model"], run["what"]) == (model, what))
        for model, what in sorted(kinds)
    }


if __name__ == "__main__":
    main(sys.modules[__name__])
