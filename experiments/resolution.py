"""Trained at one resolution, used at a higher one: what becomes of the position embeddings, and what it buys.

Question:    A ViT trained on images of 32 px meets the same kind of images at 48 and 64 px. How much accuracy is left
             at once, and after fine-tuning, when its position table is interpolated by each convention, by nearest
             neighbours, or drawn anew?
Expectation: At once, smooth interpolation keeps most of the accuracy, the conventions differing by less than their
             names; nearest neighbours keep less, a new table least. Fine-tuning closes much of the gap between them.
             On scenes, which have more detail at a higher resolution, the larger images end above 32 px with as much
             fine-tuning; on CIFAR-10 upsampled, where there is nothing more to see, by less. Each costs at least twice
             the FLOPs of 32 px at 48, and four times at 64.
Command:     python -m experiments resolution
Cost:        cpu: 62 runs, together about 100 minutes on one core with bfloat16 instructions, and five to six hours
             on one without. full: 102 runs on one GPU, untried so far. It resumes when interrupted; but the runs of
             a seed and a data set begin from one model, so make them all on one machine.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from experiments import records
from experiments.families import SMALL
from experiments.measure import images_seen, loaded, trained
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, ViTConfig, checks, cost, plots, weights
from vitlite.files import held
from vitlite.position import CONVENTIONS
from vitlite.train import Recipe, evaluate

__all__ = ["DATASET", "SCALES", "enlarged", "points", "run", "show", "summarise"]

DATASET = "scenes (rendered at each size) and cifar10 (upsampled); 2,000 or 10,000 test images"
# What becomes of the position table: resampled by a convention, by nearest neighbours, or drawn anew.
TABLES = [*CONVENTIONS, "nearest", "new"]
VIT = SMALL | {"pool": "mean"}
PRETRAIN = {"batch_size": 128, "learning_rate": 2e-3, "flip": True, "crop_padding": 4, "label_smoothing": 0.1}
# As in the paper's appendix B: SGD with momentum 0.9, cosine, no weight decay, clipping at 1, a zero-initialised head.
FINETUNE = {"batch_size": 64, "optimizer": "sgd", "learning_rate": 3e-2, "weight_decay": 0.0, "flip": True}
GRID = {
    "vit": VIT,
    "pretrain": PRETRAIN,
    "finetune": FINETUNE,
    "tables": TABLES,
    "finetuned": ["jax", "nearest", "new"],  # these alone are trained further, and with every seed
}
SCALES = {
    "quick": GRID | {"data": ["scenes"], "train_images": 200, "sizes": [16, 24], "pretrain_steps": 4,
                     "finetune_steps": 2, "seeds": [0], "at_once_seeds": [0], "device": "cpu"},
    "cpu": GRID | {"data": ["scenes", "cifar10"], "train_images": 20_000, "sizes": [32, 48, 64],
                   "pretrain_steps": 1_000, "finetune_steps": 200, "seeds": [0, 1, 2], "at_once_seeds": [0],
                   "device": "cpu"},
    "full": GRID | {"vit": VIT | {"embed_dim": 192, "depth": 9, "num_heads": 6, "mlp_dim": 384},
                    "data": ["scenes", "cifar10"], "train_images": 45_000, "sizes": [32, 48, 64],
                    "pretrain_steps": 15_000, "finetune_steps": 2_000, "seeds": [0, 1, 2],
                    "at_once_seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """For each seed and data set the size of training, as it is; then the larger sizes with each kind of table, those
    that are not fine-tuned with some of the seeds."""
    first, *larger = config["sizes"]
    places = [(first, "same"), *((size, table) for size in larger for table in config["tables"])]
    return [{"data": name, "image_size": size, "table": table, "seed": seed}
            for seed in config["seeds"] for name in config["data"] for size, table in places
            if table in ["same", *config["finetuned"]] or seed in config["at_once_seeds"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Enlarge the trained model, evaluate it at once, and once more after fine-tuning if that is asked for.

    Returns:
        The usual keys, of fine-tuning where there is any, and else of training; ``at_once_accuracy``, of the test
        images before fine-tuning, and ``finetuned_accuracy`` after it, where there is any; and what an image costs:
        ``tokens``, ``flops`` (forward) and ``saved_bytes`` (what the backward pass needs kept). ``pretrained_accuracy``
        is that of the trained model on the validation images: alike in all runs of a seed and a data set.
    """
    name, size, table, seed = (point[key] for key in ("data", "image_size", "table", "seed"))
    model, measured = _pretrained(name, seed, config, work)
    sets = loaded(name, train_images=config["train_images"], image_size=size)
    model = enlarged(model, size, table, seed)
    began = time.perf_counter()
    costs = {"tokens": model.config.num_patches, "flops": cost.flops(model, size),
             "saved_bytes": cost.saved_bytes(model, size)}
    at_once = evaluate(model, sets.test).accuracy
    measured["pretrained_accuracy"] = measured["val_accuracy"]
    measured |= {"test_accuracy": at_once, "seconds": time.perf_counter() - began,
                 "at_once_accuracy": at_once} | costs
    if table == "same" or table in config["finetuned"]:
        path = work / f"finetune-{name}-{size}-{table}-seed{seed}.safetensors"
        recipe = _recipe("finetune", config["finetune_steps"], config)
        measured |= trained(model.reset_head(model.config.num_classes), sets, recipe, seed=seed,
                            device=config["device"], checkpoint=path)
        measured["finetuned_accuracy"] = measured["test_accuracy"]
    return measured


def enlarged(model: ViT, image_size: int, table: str, seed: int) -> ViT:
    """The model for another image size, its learned position table resampled, or drawn anew.

    Args:
        model: A ViT with learned positions; those of its prefix tokens stay.
        image_size: The new size, in pixels.
        table: A convention of ``vitlite.position``, ``"nearest"``, ``"new"``, or ``"same"`` where the size stays.
        seed: Of a new table.

    Raises:
        ValueError: If there is no such kind of table, or the patch size does not divide the new size.
    """
    checks.choice([*TABLES, "same"], table=table)
    larger = model.at_resolution(image_size, table if table in CONVENTIONS else "jax")
    prefix = model.config.table_prefix
    if table == "nearest":
        picture = model.position.detach()[:, prefix:].unflatten(1, model.config.grid).permute(0, 3, 1, 2)
        picture = F.interpolate(picture, size=larger.config.grid, mode="nearest")  # [1, D, rows, columns]
        larger.position.data[:, prefix:] = picture.flatten(2).transpose(1, 2)
    elif table == "new":
        torch.manual_seed(seed)
        nn.init.normal_(larger.position[:, prefix:].data, std=0.02)  # as before training
    return larger


def summarise(runs: list[dict]) -> dict:
    """Accuracy at once and after fine-tuning, and how far the paper's way lies above the others.

    Returns:
        ``accuracy``: by data set, size and table, with intervals over the seeds: ``at_once``, ``finetuned`` where there
        is any, ``flops``, ``tokens`` and ``saved_bytes``. ``jax_over``: rows of differences between runs of one seed,
        of the table ``"jax"`` and each other at the same size, and the model at its first size (``"same"``).

    Raises:
        ValueError: If runs of one seed and data set began from two models.
    """
    _check_that_each_seed_began_from_one_model(runs)
    places, accuracy, over = grouped(runs, "data", "image_size", "table"), {}, []
    for (name, size, table), ours in places.items():
        accuracy.setdefault(name, {}).setdefault(str(size), {})[table] = {
            **{key: ours[0][key] for key in ("flops", "tokens", "saved_bytes")},
            **{when: interval(run[f"{when}_accuracy"] for run in ours) for when in _measured(ours)}}
        for (of, other_size, other), theirs in places.items():
            if table == "jax" != other and of == name and (other_size == size or other == "same"):
                row = {"data": name, "image_size": size, "theirs": other}
                gains = {when: paired(ours, theirs, f"{when}_accuracy") for when in _measured(ours + theirs)}
                over += [row | {"when": when} | gain for when, gain in gains.items() if gain]
    return {"accuracy": accuracy, "jax_over": over}


def show(record: dict, what: str) -> Figure | str:
    """The record as chapter 9 shows it.

    Args:
        record: The record ``resolution``.
        what: ``"accuracy"``, ``"jax_over_others"`` and ``"costs"``: tables, as Markdown. ``"at_once"``: a figure of the
            accuracy with each table before fine-tuning.

    Raises:
        ValueError: If it is none of these.
    """
    views = {"accuracy": _accuracy, "at_once": _at_once, "jax_over_others": _jax_over, "costs": _costs}
    checks.choice(views, what=what)
    return views[what](record)


def _check_that_each_seed_began_from_one_model(runs: list[dict]) -> None:
    for (name, seed), those in grouped(runs, "data", "seed").items():
        began = dict.fromkeys(run.get("pretrained_accuracy") for run in those)  # older runs do not have it
        if len(began) > 1:
            raise ValueError(
                f"the runs of {name}, seed {seed}, began from two models ({' and '.join(map(str, began))} of the "
                "validation images right): they cannot be compared; make them all on one machine"
            )


def _measured(runs: list[dict]) -> list[str]:
    """When all of these were measured."""
    return [when for when in ("at_once", "finetuned") if all(f"{when}_accuracy" in run for run in runs)]


def _pretrained(name: str, seed: int, config: dict, work: Path) -> tuple[ViT, dict]:
    """The model trained at the first size, and what was measured of it; made once for all runs of a seed."""
    size, path = config["sizes"][0], work / f"pretrained-{name}-seed{seed}.safetensors"
    sets = loaded(name, train_images=config["train_images"], image_size=size)
    recipe = _recipe("pretrain", config["pretrain_steps"], config)
    with held(path, wait=True):  # several runs at a time need it
        if not path.exists():
            torch.manual_seed(seed)
            model = ViT(ViTConfig(image_size=size, **config["vit"]))
            trained(model, sets, recipe, seed=seed, device=config["device"], checkpoint=path.with_suffix(".run"))
            weights.save(model, path, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std)
    model = weights.load(path, device=config["device"])
    seen = images_seen(recipe, sets.train)
    return model, {
        "parameters": cost.parameters(model),
        "train_images": len(sets.train),
        "steps": recipe.steps,
        "images_seen": seen,
        "train_flops": seen * cost.train_flops(model, size),
        "val_accuracy": evaluate(model, sets.validation).accuracy,
    }


def _recipe(name: str, steps: int, config: dict) -> Recipe:
    tenth = max(1, steps // 10)
    return Recipe(name, steps, warmup_steps=tenth if steps > 10 else 0, validate_every=steps, **config[name])


# ---- what chapter 9 shows

WHEN = {"at_once": "at once", "finetuned": "fine-tuned"}


def _accuracy(record: dict) -> str:
    names, accuracy = record["config"]["data"], record["summary"]["accuracy"]
    places = [(size, table) for size, tables in accuracy[names[0]].items() for table in tables
              if "finetuned" in tables[table]]
    rows = [[f"{size} px", table, *(records.percent(accuracy[name][size][table][when])
                                    for name in names for when in WHEN)] for size, table in places]
    return records.table(["images", "table", *(f"{name}, {text}" for name in names for text in WHEN.values())], rows,
                         left=2)


def _at_once(record: dict) -> Figure:
    setting = record["config"]
    tables, seed = setting["tables"], setting["at_once_seeds"][0]
    accuracy = {(run["data"], run["image_size"], run["table"]): run["at_once_accuracy"]
                for run in record["runs"] if run["seed"] == seed}
    series = {f"{name}, {size} px": (range(len(tables)), [100 * accuracy[name, size, table] for table in tables])
              for name in setting["data"] for size in setting["sizes"][1:]}
    figure = plots.dots(series, "table", "test accuracy (%)", "Asked what it is: the size costs, the table hardly does")
    figure.axes[0].set_xticks(range(len(tables)), tables, rotation=45, ha="right")
    figure.axes[0].legend(loc="center")
    return figure


def _jax_over(record: dict) -> str:
    first, *larger = record["config"]["sizes"]
    over = {(row["data"], row["image_size"], row["when"], row["theirs"]): row for row in record["summary"]["jax_over"]}
    rows = [[name, f"{size} px", text, *(records.percent(over[name, size, when, theirs], "+")
                                         for theirs in ("nearest", "new", "same"))]
            for name in record["config"]["data"] for size in larger for when, text in WHEN.items()]
    return records.table(["images", "size", "when", "over nearest", "over new", f"over {first} px"], rows, left=3)


def _costs(record: dict) -> str:
    by_size = next(iter(record["summary"]["accuracy"].values()))
    costs = {size: next(iter(tables.values())) for size, tables in by_size.items()}
    least, rows = costs[str(record["config"]["sizes"][0])], []
    for size, own in costs.items():
        rows.append([f"{size} px", str(own["tokens"]), *(f"{own[key] / unit:.2f} ({own[key] / least[key]:.1f}×)"
                                                         for key, unit in (("flops", 1e9), ("saved_bytes", 1e6)))])
    return records.table(["images", "patches", "GFLOP, forward", "MB kept for the backward pass"], rows)
