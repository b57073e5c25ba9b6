"""Fused attention beside the explicit product, by precision, head width and number of tokens.

Question:    Which of the two should the model call (``vitlite.model.fused_pays``)?
Expectation: The fused one, but in bfloat16 on a CPU: there torch has fast matrix products and no fast fused attention,
             least of all backward, and the map of weights is small enough for the cache.
Command:     python -m benchmarks.attention
Cost:        About a minute on two CPU cores. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.shared import interleaved, main, spread, times_as_fast
from experiments.records import table
from vitlite.model import Attention, fused_pays

DATASET = "none: queries, keys and values drawn at random"

# Together the sequences of a batch have so many tokens.
GRID = {"width": 192, "head_widths": [16, 32, 64], "tokens": [65, 197, 577, 1601], "dtypes": ["float32", "bfloat16"]}
SCALES = {
    "quick": {"device": "cpu", "width": 32, "head_widths": [16], "tokens": [5], "dtypes": ["bfloat16"],
              "batch_tokens": 10, "rounds": 2},
    "cpu": GRID | {"device": "cpu", "batch_tokens": 1601, "rounds": 15},
    "full": GRID | {"device": "cuda", "batch_tokens": 65536, "rounds": 31},
}


def measure(config: dict) -> list[dict]:
    """Both kernels at every point of the grid, forward alone and with the backward pass."""
    runs = []
    for dtype in config["dtypes"]:
        for head_width in config["head_widths"]:
            for tokens in config["tokens"]:
                heads, batch = config["width"] // head_width, max(1, config["batch_tokens"] // tokens)
                qkv = torch.randn(batch, tokens, 3, heads, head_width, device=config["device"])
                qkv = qkv.to(getattr(torch, dtype))
                point = {"dtype": dtype, "head_width": head_width, "tokens": tokens, "batch_size": batch}
                runs += [{"seed": 0} | point | run for run in kernels(qkv, config)]
    return runs


def kernels(qkv: Tensor, config: dict) -> list[dict]:
    layer = Attention(config["width"], qkv.shape[3])

    def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return layer.weights(query, key).to(value.dtype) @ value

    runs = []
    for what, make in (("forward", forward), ("forward and backward", forward_and_backward)):
        calls = {"explicit": make(explicit, qkv), "fused": make(F.scaled_dot_product_attention, qkv)}
        times = interleaved(calls, config["rounds"], config["device"])
        chosen = "fused" if fused_pays(split(qkv)[0]) else "explicit"
        fused_over_explicit = times_as_fast(times["fused"], times["explicit"])
        runs += [{"what": what, "kernel": kernel, "chosen": kernel == chosen,
                  "fused_over_explicit": fused_over_explicit} | spread(seconds)
                 for kernel, seconds in times.items()]
    return runs


def split(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each ``[B, h, T, D/h]``, strided as in the model."""
    return qkv.permute(2, 0, 3, 1, 4).unbind()


def forward(attend: Callable[..., Tensor], qkv: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            attend(*split(qkv)).transpose(1, 2).flatten(2)

    return call


def forward_and_backward(attend: Callable[..., Tensor], qkv: Tensor) -> Callable[[], object]:
    leaf, gradient = qkv.clone().requires_grad_(), torch.randn_like(qkv[:, :, 0].flatten(2))

    def call() -> None:
        leaf.grad = None
        attend(*split(leaf)).transpose(1, 2).flatten(2).backward(gradient)

    return call


def summarise(runs: list[dict]) -> dict:
    """Over all points: how many times as long as the faster kernel the chosen one takes, at most and on average."""
    shares = [
        run["seconds"] / min(run["seconds"], other["seconds"])
        for run, other in [*zip(runs[::2], runs[1::2], strict=True), *zip(runs[1::2], runs[::2], strict=True)]
        if run["chosen"]
    ]
    return {"chosen_over_faster_most": max(shares), "chosen_over_faster_mean": sum(shares) / len(shares)}


def show(record: dict) -> str:
    """The record as the page on speed shows it, as Markdown: both kernels at 65 tokens and with heads of width 16."""
    runs = {(run["dtype"], run["what"], run["kernel"]): run["seconds"] for run in record["runs"]
            if (run["head_width"], run["tokens"]) == (16, 65)}
    rows = [[dtype, what, *(f"{1000 * runs[dtype, what, kernel]:.2f} ms" for kernel in ("explicit", "fused"))]
            for dtype, what in dict.fromkeys(key[:2] for key in runs)]
    return table(["numbers", "what", "explicit", "fused"], rows)



if __name__ == "__main__":
    main(sys.modules[__name__])
