"""Axial attention, rows and then columns: what it saves on paper, and what it saves on the machine.

Question:    Attention along rows and then along columns compares each token with its row and its column, not with all:
             how many FLOPs does that save beside full attention of equal width, and how much time?
Expectation: On paper the maps cost g/2 times less on a grid of g×g tokens. But two attentions have two sets of
             projections, so in all axial attention costs more FLOPs until g² - 2g > 2D: up to 20×20 tokens at width
             D = 192. The time saved is smaller than the FLOPs saved beside fused attention, since short rows leave
             the processor half idle and the turn from rows to columns moves the whole map in memory; beside
             explicit attention, whose maps no longer fit the caches, it may be larger.
Command:     python -m experiments axial_attention
Cost:        cpu: 72 points, about 2 minutes on one core, 1 GB of memory. full: the same on one GPU, larger grids too.
             Leave the machine alone meanwhile.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.statistics import interval
from experiments.timing import seconds
from vitlite.model import Attention

__all__ = ["DATASET", "SCALES", "AxialAttention", "build", "flops", "points", "run", "summarise"]

DATASET = "none: tokens drawn at random"

# One attention layer of ViT-Ti; it sees one image at a time, in float32.
GRID = {
    "embed_dim": 192,
    "num_heads": 3,
    "sides": [7, 14, 20, 28, 40, 56],  # of the grid, in tokens: 7 and 14 are those of patches of 32 and 16 at 224 px
    "layers": ["full", "axial"],
    "attention": ["explicit", "fused"],
    "repeats": 11,
}
SCALES = {
    "quick": GRID | {"sides": [4, 16], "repeat_seconds": 0.0, "seeds": [0], "device": "cpu"},
    "cpu": GRID | {"repeat_seconds": 1.0, "seeds": [0, 1, 2], "device": "cpu"},
    "full": GRID | {"sides": [7, 14, 20, 28, 40, 56, 80, 112], "repeat_seconds": 0.5, "seeds": [0, 1, 2],
                    "device": "cuda"},
}


class AxialAttention(nn.Module):
    """Attention along one axis at a time: every token asks its row, then its column; so each hears of all.

    After Ho et al., "Axial Attention in Multidimensional Transformers" (2019); the paper tries it in App. D.6. It has
    no place for a class token, which stands in no row.

    Args:
        embed_dim: Width D of the tokens.
        num_heads: Heads of each of the two attentions.
        grid: Rows and columns of tokens.

    Example:
        >>> AxialAttention(embed_dim=64, num_heads=4, grid=(7, 7))(torch.randn(1, 49, 64))[0].shape
        torch.Size([1, 49, 64])
    """

    def __init__(self, embed_dim: int, num_heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.along_rows, self.along_columns = Attention(embed_dim, num_heads), Attention(embed_dim, num_heads)

    def forward(self, x: Tensor, return_attention: bool = False) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """``[B, T, D]`` -> ``[B, T, D]`` and, if asked for, the weights in rows and in columns.

        Returns:
            Weights ``[B · rows, h, columns, columns]`` and ``[B · columns, h, rows, rows]``.

        Raises:
            ValueError: If the tokens do not fill the grid.
        """
        rows, columns = self.grid
        if x.shape[1] != rows * columns:
            raise ValueError(f"there are {x.shape[1]} tokens; a grid of {rows}×{columns} has {rows * columns}: leave "
                             "out class tokens, which stand in no row, or build it for another grid")
        x, across = self.along_rows(x.unflatten(1, self.grid).flatten(0, 1), return_attention)  # [B · rows, columns, D]
        x = x.unflatten(0, (-1, rows)).transpose(1, 2).flatten(0, 1)  # [B · columns, rows, D]
        x, down = self.along_columns(x, return_attention)
        x = x.unflatten(0, (-1, columns)).transpose(1, 2).flatten(1, 2)  # [B, T, D]
        return x, (across, down) if return_attention else None


def build(layer: str, side: int, config: dict) -> nn.Module:
    """A layer of attention over a grid of so many tokens a side: ``"full"`` or ``"axial"``."""
    width, heads = config["embed_dim"], config["num_heads"]
    return Attention(width, heads) if layer == "full" else AxialAttention(width, heads, (side, side))


def flops(layer: str, side: int, config: dict) -> dict[str, int]:
    """FLOPs of the layer for one image, by torch's counter, two a multiply-add.

    Returns:
        ``flops`` in all, and ``map_flops`` of the products that make the attention maps and apply them; the rest is
        projections. Softmax is not counted, nor what it takes to move tokens from rows to columns.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(layer, side, config)(torch.empty(1, side * side, config["embed_dim"]), return_attention=True)
    maps = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)
    return {"flops": counter.get_total_flops(), "map_flops": maps}


def points(config: dict) -> list[dict]:
    """Full and axial attention one after the other on each grid, formed explicitly or fused, seed by seed."""
    return [
        {"seed": seed, "side": side, "attention": attention, "layer": layer}
        for seed in config["seeds"]
        for side in config["sides"]
        for attention in config["attention"]
        for layer in config["layers"]
    ]


def run(point: dict, config: dict, work: Path) -> dict:
    """FLOPs and time of one layer's forward pass over a grid of tokens.

    Args:
        point: One of ``points``.
        config: One of ``SCALES``.
        work: Not needed.

    Returns:
        ``tokens``, ``parameters``, ``flops`` and ``map_flops``, the median ``seconds`` with the quartiles
        ``seconds_low`` and ``seconds_high``, and the number of ``repeats``.
    """
    torch.manual_seed(point["seed"])
    tokens = point["side"] ** 2
    layer = build(point["layer"], point["side"], config).eval().to(config["device"])
    x = torch.randn(1, tokens, config["embed_dim"], device=config["device"])
    with torch.inference_mode():
        forward = partial(layer, x, return_attention=point["attention"] == "explicit")  # asked for, maps are formed
        durations = seconds(forward, config["repeats"], config["repeat_seconds"])
    low, median, high = statistics.quantiles(durations, n=4)
    return {
        "tokens": tokens,
        "parameters": sum(p.numel() for p in layer.parameters()),
        **flops(point["layer"], point["side"], config),
        "seconds": median,
        "seconds_low": low,
        "seconds_high": high,
        "repeats": len(durations),
    }


def summarise(runs: list[dict]) -> dict:
    """By grid, how many times less axial attention takes than full: FLOPs, those of the maps, and time (intervals over
    the seeds); below 1 it takes more."""
    at = {(one["side"], one["attention"], one["layer"], one["seed"]): one for one in runs}
    told: dict = {}
    for side, attention, layer, seed in at:
        axial = at.get((side, attention, "axial", seed))
        if layer == "axial" or axial is None:
            continue
        full, here = at[side, attention, "full", seed], told.setdefault(str(side), {"seconds": {}})
        here |= {what: full[what] / axial[what] for what in ("flops", "map_flops")}
        here["seconds"].setdefault(attention, []).append(full["seconds"] / axial["seconds"])
    for here in told.values():
        here["seconds"] = {attention: interval(ratios) for attention, ratios in here["seconds"].items()}
    return told
