"""From the naive loop to a good recipe, one change at a time, each kept only if it helps on validation images.

Question:    Which parts of a recipe help a ViT on CIFAR-10 in 6,000 steps, which need a longer run, and what do those
             that help give together?
Expectation: Flips and crops help most, for 17 passes are enough to learn 45,000 images by heart; then Muon, and the
             falling rate with its warmup. Strong augmentation and mixing do not help yet: they need length, and are
             kept when they are tried again in three times as many steps. Clipping, decay, smoothing and averaged
             weights change little. All together: 25 points above the naive loop.
Command:     python -m experiments recipe_ladder
Cost:        cpu: 48 runs, sixteen per seed: twelve of about 12 minutes on one core with bfloat16 instructions, four of
             half an hour to an hour; and about 14 trials of a learning rate. 5 hours for the first seed, 2 GB of
             memory. full: 48 runs at 32 pixels on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from experiments import families
from experiments.measure import best, bracketed, loaded, trained, tried
from experiments.statistics import grouped, interval
from vitlite import ViT, checks
from vitlite.files import decoding, written_whole
from vitlite.plots import parts
from vitlite.train import Recipe

__all__ = ["DATASET", "IN_ORDER", "SCALES", "climb", "points", "run", "show", "summarise"]

IN_ORDER = True  # a rung needs the one below it
DATASET = "cifar10: 45,000 training, 5,000 validation and 10,000 test images, at 24 pixels (cpu) or 32 (full)"


def changes(padding: int, longer: int, larger: dict) -> list[list]:
    """What is tried, in this order: a name, and fields of ``Recipe``; ``model`` has fields of ``ViTConfig``."""
    strong, mixed = {"trivial_augment": True}, {"cutmix": 0.5, "mixup": 0.8}
    return [
        ["naive: SGD, constant rate", {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0.0, "flip": False,
                                       "clip_norm": None}],
        ["AdamW", {"optimizer": "adamw"}],
        ["warmup and cosine", {"schedule": "cosine", "warmup_share": 0.1}],
        ["flips and crops", {"flip": True, "crop_padding": padding}],
        ["AdamW, with flips and crops", {"optimizer": "adamw"}],
        ["Muon", {"optimizer": "muon"}],
        ["weight decay", {"weight_decay": 0.05}],
        ["clipping", {"clip_norm": 1.0}],
        ["label smoothing", {"label_smoothing": 0.1}],
        ["averaged weights", {"average": 0.999}],
        ["TrivialAugment", strong],
        ["Mixup and CutMix", mixed],
        ["longer", {"steps": longer}],
        ["TrivialAugment, in the longer run", strong],
        ["Mixup and CutMix, in the longer run", mixed],
        ["larger", {"model": larger}],
    ]


BASE = {
    "model": families.SMALL | {"pool": "mean"},
    "batch_size": 128,
    "learning_rates": {"sgd": [0.01, 0.03], "adamw": [5e-4, 1.5e-3], "muon": [1.5e-3, 4.5e-3]},  # where a search begins
}
SCALES = {
    "quick": BASE | {
        "data": {"name_or_path": "scenes", "train_images": 200, "held_out": 50}, "image_size": 16, "batch_size": 16,
        "model": BASE["model"] | {"embed_dim": 24, "depth": 1, "num_heads": 2, "mlp_dim": 24}, "steps": 10,
        "search_steps": 2, "changes": changes(1, 20, {"depth": 2}), "seeds": [0, 1], "device": "cpu",
    },
    "cpu": BASE | {
        "data": {"name_or_path": "cifar10"}, "image_size": 24, "steps": 6_000, "search_steps": 600,
        "changes": changes(3, 18_000, {"embed_dim": 128, "num_heads": 4, "mlp_dim": 256, "depth": 8}),
        "seeds": [0, 1, 2], "device": "cpu",
    },
    "full": BASE | {
        "data": {"name_or_path": "cifar10"}, "image_size": 32, "steps": 9_000, "search_steps": 1_000,
        "changes": changes(4, 36_000, {"embed_dim": 192, "num_heads": 6, "mlp_dim": 384, "depth": 9}),
        "seeds": [0, 1, 2], "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Every change with the first seed, which decides what is kept, then the same recipes with the others."""
    return [{"change": name, "seed": seed} for seed in config["seeds"] for name, _ in config["changes"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train by what was kept so far and one change more; the first seed notes whether that is kept.

    Returns:
        Beside the usual keys ``fields``, of ``Recipe`` and of ``ViTConfig``, and ``kept``.
    """
    name, seed, path = point["change"], point["seed"], work / "climbed.json"
    climbed = _climbed(path)
    change, decides = dict(config["changes"])[name], seed == config["seeds"][0]
    if decides:
        climbed = [step for step in climbed if step["change"] != name]
        fields = climb(climbed, change)
        if "optimizer" in change:
            fields["learning_rate"] = best(_search(fields, config, work / f"{_file(name)}-search.json"))
    else:
        fields = next(step["fields"] for step in climbed if step["change"] == name)
    sets = loaded(**config["data"], image_size=config["image_size"])
    checkpoint = work / f"{_file(name)}-{seed}.safetensors"
    measured = trained(_model(fields, config, seed), sets, _recipe(fields, config), seed=seed, device=config["device"],
                       checkpoint=checkpoint)
    if decides:
        below = [step["val_accuracy"] for step in climbed if step["kept"]]
        kept = not below or measured["val_accuracy"] > below[-1]
        climbed.append({"change": name, "fields": fields, "val_accuracy": measured["val_accuracy"], "kept": kept})
        with written_whole(path) as whole:
            whole.write_text(json.dumps(climbed), encoding="utf-8")
    kept = next(step["kept"] for step in climbed if step["change"] == name)
    return measured | {"fields": fields, "kept": kept}


def _climbed(path: Path) -> list[dict]:
    """The rungs that a file notes."""
    with decoding(path, "damaged as a note of the rungs", "remove it and the checkpoints beside it, and start again"):
        climbed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        checks.kind(list, rungs=climbed)
        for step in climbed:
            checks.kind(str, change=step["change"])
            checks.kind(dict, fields=step["fields"])
            checks.kind(bool, kept=step["kept"])
            if not 0 <= step["val_accuracy"] <= 1:
                raise ValueError("an accuracy is no fraction")
    return climbed


def climb(climbed: list[dict], change: dict) -> dict:
    """The fields of the last rung that was kept, changed."""
    rungs = [step["fields"] for step in climbed if step["kept"]]
    return (rungs[-1] if rungs else {}) | change


def _recipe(fields: dict, config: dict, steps: int | None = None) -> Recipe:
    fields = {"steps": config["steps"], "batch_size": config["batch_size"]} | fields
    steps, share = steps or fields["steps"], fields.get("warmup_share", 0)
    fields = {key: value for key, value in fields.items() if key not in ("steps", "model", "warmup_share")}
    return Recipe("recipe_ladder", steps, warmup_steps=int(share * steps), validate_every=steps, **fields)


def _model(fields: dict, config: dict, seed: int) -> ViT:
    shape = config["model"] | {"image_size": config["image_size"]} | fields.get("model", {})
    return families.build("vit", {"vit": shape}, seed)


def _search(fields: dict, config: dict, path: Path) -> dict[str, float]:
    """Validation accuracy of short trainings with an optimiser, by rate; ``path`` notes them."""
    sets = loaded(**config["data"], image_size=config["image_size"])

    def trial(rate: float) -> float:
        recipe = _recipe(fields | {"learning_rate": rate}, config, config["search_steps"])
        return tried(_model(fields, config, 0), sets, recipe, config["device"])

    return bracketed(config["learning_rates"][fields["optimizer"]], trial, path)


def _file(name: str) -> str:
    return name.replace(" ", "_").replace(":", "")


def summarise(runs: list[dict]) -> dict:
    """By change: validation and test accuracy with intervals, whether it was kept, and its gain on validation images
    over the last rung kept before it (None for the first), with the first seed."""
    summary, below = {}, None
    for change, same in grouped(runs, "change").items():
        first = same[0]
        summary[change] = {
            "val_accuracy": interval(run["val_accuracy"] for run in same),
            "test_accuracy": interval(run["test_accuracy"] for run in same),
            "gain": None if below is None else first["val_accuracy"] - below,
            "kept": first["kept"],
        }
        below = first["val_accuracy"] if first["kept"] else below
    return summary


def show(record: dict) -> Figure:
    """The rungs as chapter 5 draws them, the lowest above all: what each change gave over the last that was kept."""
    summary = record["summary"]
    figure, (ax,) = parts.new_figure(parts.WIDTH, 0.3 * len(summary) + 1.1, _title(record))
    reached = [100 * rung["val_accuracy"]["mean"] for rung in summary.values()]
    for label, kept, look in (("kept", True, "full"), ("not kept", False, "none")):
        rows = [row for row, rung in enumerate(summary.values()) if rung["kept"] == kept]
        percent = [reached[row] for row in rows]
        ax.plot(percent, rows, "o", fillstyle=look, color=parts.COLOURS[not kept], markersize=8, label=label)
        if kept:
            ax.plot(percent, rows, drawstyle="steps-pre", color=parts.COLOURS[0], linewidth=1, marker="", zorder=1)
    for row, (percent, rung) in enumerate(zip(reached, summary.values(), strict=True)):
        text = f"{percent:.1f} %" if rung["gain"] is None else f"{100 * rung['gain']:+z.1f}"
        ax.annotate(text.replace("-", "−"), (percent, row), (9, 0), textcoords="offset points", va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.set_yticks(range(len(summary)), summary)
    ax.set_xlabel("validation accuracy (%)")
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.legend(loc="lower left")
    return figure


def _title(record: dict) -> str:
    """Where the ladder starts and how high it leads, and whether by the recipe alone."""
    reached = [100 * rung["val_accuracy"]["mean"] for rung in record["summary"].values() if rung["kept"]]
    sizes = {(run["parameters"], run["steps"]) for run in record["runs"] if run["kept"]}
    alike = "Same ViT, same steps: " if len(sizes) == 1 else ""
    return f"{alike}{reached[0]:.0f} % naive, {max(reached):.0f} % with a recipe"
