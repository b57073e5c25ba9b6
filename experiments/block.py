"""The block since 2021: what each of five changes buys a small ViT, one at a time and all together.

Question:    What do layer scale, normalised queries and keys, a SwiGLU of equal size, registers and rotary positions
             each buy a small ViT on CIFAR-10, and what do all five buy together?
Expectation: Rotary positions gain one or two points: an offset is there before the first step, where a table of
             positions must be learned. The gate gains half a point. The other three mend what goes wrong in deep, large
             or long trainings, and six blocks for 800 steps have none of that: no clear difference. All
             together: about what rotary positions and the gate give.
Command:     python -m experiments block
Cost:        cpu: 21 runs (seven blocks, three seeds) of 2 to 3 minutes on one core with bfloat16 instructions, about an
             hour in all. full: 21 runs, longer and with a larger network, on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from experiments import records
from experiments.families import SMALL
from experiments.measure import loaded, trained, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig

__all__ = ["CHANGES", "DATASET", "SCALES", "Scaled", "new_model", "points", "run", "show", "summarise"]

DATASET = ("cifar10: 45,000 training, 5,000 validation and 10,000 test images, shrunk to 24 pixels (cpu) or at 32 "
           "(full); quick: scenes")
# Each block by the fields of ``ViTConfig`` that it changes; ``layer_scale`` is where that scale begins: 0.1, as in
# CaiT (Touvron et al., 2021) for networks of up to 18 blocks. ``mlp_share`` keeps the parameters of the MLP.
CHANGES = {
    "plain": {},
    "layer scale": {"layer_scale": 0.1},
    "QK-norm": {"qk_norm": True},
    "SwiGLU": {"mlp": "swiglu", "mlp_share": 2 / 3},
    "registers": {"registers": 4},
    "rotary": {"position": "rotary"},
}
CHANGES["all five"] = {key: value for change in CHANGES.values() for key, value in change.items()}

GRID = {"changes": CHANGES, "device": "cpu", "seeds": [0, 1, 2], "rate": 1.5e-3,
        "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "optimizer": "muon"}}
SCALES = {
    "quick": GRID | {
        "vit": SMALL | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "data": {"name_or_path": "scenes", "train_images": 400, "held_out": 100, "image_size": 16},
        "steps": 10, "seeds": [0],
    },
    "cpu": GRID | {"vit": SMALL | {"image_size": 24}, "data": {"name_or_path": "cifar10", "image_size": 24},
                   "steps": 800},  # 2.3 passes: nothing to overfit yet
    "full": GRID | {"vit": SMALL | {"image_size": 32, "embed_dim": 192, "depth": 12, "num_heads": 6, "mlp_dim": 768},
                    "data": {"name_or_path": "cifar10"}, "steps": 17_500, "device": "cuda",
                    "recipe": GRID["recipe"] | {"crop_padding": 4, "trivial_augment": True, "label_smoothing": 0.1}},
}


class Scaled(nn.Module):
    """The last layer of a residual branch, and a learned factor for each channel of what it adds: layer scale."""

    def __init__(self, layer: nn.Linear, start: float) -> None:
        super().__init__()
        self.layer, self.factor = layer, nn.Parameter(torch.full((layer.out_features,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., D]``."""
        return self.factor * self.layer(x)


def new_model(change: str, config: dict, seed: int) -> ViT:
    """A new model with one change; its other weights are those that the plain model of this seed starts from.

    Args:
        change: One of ``config["changes"]``.
        config: One of ``SCALES``.
        seed: Of the weights.
    """
    fields = dict(config["changes"][change])
    start, share = fields.pop("layer_scale", None), fields.pop("mlp_share", 1)
    shape = config["vit"] | {"mlp_dim": round(share * config["vit"]["mlp_dim"])} | fields
    torch.manual_seed(seed)
    model = ViT(ViTConfig(**shape))
    torch.manual_seed(seed)
    plain, own = ViT(ViTConfig(**config["vit"])).state_dict(), model.state_dict()
    same = {name: value for name, value in plain.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(same, strict=False)
    for block in model.blocks if start is not None else ():
        block.attention.projection = Scaled(block.attention.projection, start)
        block.mlp.contract = Scaled(block.mlp.contract, start)
    return model


def points(config: dict) -> list[dict]:
    """Every block with the first seed, then with the next."""
    return [{"change": change, "seed": seed} for seed in config["seeds"] for change in config["changes"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a model with one kind of block, and measure it: the usual keys."""
    change, seed = point["change"], point["seed"]
    recipe = usual_recipe("block", config, config["steps"], config["rate"])
    checkpoint = work / f"{change.replace(' ', '-')}-seed{seed}.safetensors"
    return trained(new_model(change, config, seed), loaded(**config["data"]), recipe, seed=seed,
                   device=config["device"], checkpoint=checkpoint)


def summarise(runs: list[dict]) -> dict:
    """By block: test accuracy, how far it lies above the plain block's (difference by seed, None for the plain one
    itself), parameters, and training FLOPs as a multiple of the plain block's (None where that is missing)."""
    blocks = grouped(runs, "change")
    plain = blocks.get("plain", [])
    return {change: {
        "test_accuracy": interval(run["test_accuracy"] for run in those),
        "over_plain": None if change == "plain" else paired(those, plain),
        "parameters": those[0]["parameters"],
        "flops": those[0]["train_flops"] / plain[0]["train_flops"] if plain else None,
    } for change, those in blocks.items()}


# ---- what a chapter shows


def _gains(record: dict) -> str:
    rows = []
    for change, found in record["summary"].items():
        gap = found["over_plain"]
        rows.append([change, f"{found['parameters'] / 1e6:.2f}M", f"{found['flops']:.2f}" if found["flops"] else "",
                     records.percent(found["test_accuracy"]), records.percent(gap, "+") if gap else ""])
    return records.table(["block", "parameters", "compute", "test accuracy (%)", "over plain"], rows)


show = records.views(gains=_gains)  # chapter 17
