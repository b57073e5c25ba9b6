"""What experiments share that compare networks: families of equal size, a tuned rate, a trained run, an interval."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from vitlite import ViT, ViTConfig, checks, cost, data, resnet
from vitlite.files import written_whole
from vitlite.hybrid import ResNetStem
from vitlite.resnet import ResNet
from vitlite.train import Trainer, evaluate
from vitlite.train import checkpoint as checkpoints
from vitlite.train.callbacks import Callback
from vitlite.train.objectives import Objective
from vitlite.train.recipes import Recipe
from vitlite.weights import fill

__all__ = ["FAMILIES", "build", "fresh_head", "hybrid", "images_seen", "interval", "loaded", "mlp", "once", "paired",
           "trained", "tuned", "unmasked", "usual_recipe", "vit"]  # fmt: skip

# Student's t at 97.5 %, by the number of values: a mean lies within so many standard errors, 95 times of 100.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262,
           11: 2.228, 12: 2.201, 13: 2.179, 14: 2.160, 15: 2.145, 16: 2.131, 17: 2.120, 18: 2.110, 19: 2.101,
           20: 2.093}  # fmt: skip


# ---- data that many runs of a process read

loaded = cache(data.load)  # the same splits for every run that names the same set


@cache
def unmasked(*given: str, **options: int) -> data.Splits:
    """``data.load`` without the training images' masks, which fill the memory where images are many."""
    sets = data.load(*given, **options)
    return sets._replace(train=replace(sets.train, masks=None))


# ---- families of networks, each as large as the ViT


def vit(config: dict) -> ViT:
    """The ViT that the others are matched to, by the fields of ``ViTConfig`` under ``config["vit"]``."""
    return ViT(ViTConfig(**config["vit"]))


def hybrid(config: dict) -> ViT:
    """A small ResNet's feature map as the sequence, and fewer blocks: ``depth``, ``stem_width``, ``stem_blocks``."""
    shape = config["hybrid"]
    whole = ViTConfig(**config["vit"] | {"depth": shape["depth"]})
    return ViT(whole, ResNetStem(whole.embed_dim, width=shape["stem_width"], blocks=shape["stem_blocks"]))


def mlp(parameters: int, image_size: int, num_classes: int) -> nn.Sequential:
    """A fully connected network of RGB images: two hidden layers of equal width, GELU between.

    Args:
        parameters: How many at most; the width is the largest that keeps to it.
        image_size: Side of the images, in pixels.
        num_classes: Number of logits.

    Example:
        >>> sum(p.numel() for p in mlp(460_906, image_size=32, num_classes=10).parameters())
        458102
    """

    def sized(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, width), nn.GELU(), nn.Linear(width, width),
                             nn.GELU(), nn.Linear(width, num_classes))  # fmt: skip

    width = 1
    with torch.device("meta"):  # shapes alone
        while cost.parameters(sized(width + 1)) <= parameters:
            width += 1
    return sized(width)


def _matching_mlp(config: dict) -> nn.Sequential:
    shape = config["vit"]
    return mlp(cost.parameters(vit(config)), shape["image_size"], shape["num_classes"])


FAMILIES: dict[str, Callable[[dict], nn.Module]] = {
    "vit": vit,
    "hybrid": hybrid,
    "resnet": lambda config: resnet.match(vit(config)),
    "mlp": _matching_mlp,
}


def build(family: str, config: dict, seed: int) -> nn.Module:
    """A new model of the family, with the seed's weights.

    Raises:
        ValueError: If there is no such family.
    """
    checks.choice(FAMILIES, family=family)
    torch.manual_seed(seed)
    return FAMILIES[family](config)


# ---- training and its measure


def usual_recipe(name: str, config: dict, steps: int, rate: float, *, validations: int = 1, **fields: int) -> Recipe:
    """What the runs of most experiments have in common: warmup over a tenth of the steps, few validations.

    Args:
        name: The experiment's.
        config: Its configuration; ``config["recipe"]`` holds the other fields of ``Recipe``.
        steps: How many.
        rate: The learning rate.
        validations: How often to validate, the last time at the end.
        fields: Further fields of ``Recipe``.
    """
    return Recipe(name, steps, learning_rate=rate, warmup_steps=steps // 10,
                  validate_every=max(1, steps // validations), **config["recipe"], **fields)  # fmt: skip


def tuned(rates: Sequence[float], trial: Callable[[float], float], path: Path) -> dict[str, float]:
    """What a short trial gives at each learning rate, by rate; noted in a file, so that it is tried once.

    Args:
        rates: The rates to try.
        trial: Validation accuracy after a short training at a rate.
        path: Where the answer is noted.
    """
    if path.exists():
        return json.loads(path.read_text())
    found = {str(rate): _tried(trial, rate) for rate in rates}
    with written_whole(path) as beside:
        beside.write_text(json.dumps(found))
    return found


def _tried(trial: Callable[[float], float], rate: float) -> float:
    try:
        return trial(rate)
    except FloatingPointError:  # the loss is no number any more: this rate is too high
        return 0.0


def best(found: dict[str, float]) -> float:
    """The rate that did best in the trials."""
    return float(max(found, key=found.get))


def trained(
    model: nn.Module,
    sets: data.Splits,
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    checkpoint: Path,
    autocast: bool = True,
    callbacks: Iterable[Callback] = (),
    objective: Objective | None = None,
) -> dict:
    """Train a model and measure it, the test images once, at the end: the keys that every run of a record has.

    Args:
        model: What to train; it keeps the trained weights.
        sets: Data to train, validate and test on.
        recipe: How to train.
        seed: Of the order of the images and of their augmentation.
        device: Where to compute.
        checkpoint: Where the run waits when it is interrupted; removed at its end.
        autocast: Compute in reduced precision where the device gains from it.
        callbacks: What else to hang on the trainer, to measure it as it goes.
        objective: What to ask of the model while it is trained; classification by default.
    """
    trainer = Trainer(model, recipe, seed=seed, device=device, checkpoint=checkpoint, autocast=autocast,
                      callbacks=callbacks, objective=objective)  # fmt: skip
    history = trainer.fit(sets)
    image_size, seen = tuple(sets.train.images.shape[2:]), images_seen(recipe, sets.train)
    told = {
        "parameters": cost.parameters(model),
        "train_images": len(sets.train),
        "steps": recipe.steps,
        "images_seen": seen,
        "seconds": history["seconds"],
        "train_flops": seen * cost.train_flops(model, image_size),
        "train_accuracy": history["train_accuracy"][-1],
        "val_accuracy": history["val_accuracy"][-1],
        "test_accuracy": evaluate(model, sets.test, dtype=trainer.dtype).accuracy,
        "curve": {name: history[name] for name in ("val_step", "val_accuracy")},
    }
    checkpoint.unlink(missing_ok=True)
    return told


def images_seen(recipe: Recipe, train: data.Split) -> int:
    """How many images a training looks at, repeats included; no batch is larger than the set."""
    return recipe.steps * min(recipe.batch_size, len(train))


def interval(values: Iterable[float]) -> dict:
    """The mean of some values, one a seed, and where it lies 95 times of 100, by Student's t.

    Returns:
        ``mean``; ``low`` and ``high``, None for a single value; ``seeds``, the number of values.

    Example:
        >>> round(interval([0.70, 0.71, 0.72])["low"], 4)
        0.6852
    """
    values = list(values)
    mean = statistics.mean(values)
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": 1}
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def paired(runs: Iterable[dict], others: Iterable[dict], key: str = "test_accuracy") -> dict | None:
    """How far some runs lie above others, taken seed by seed: the ``interval`` of these differences.

    Args:
        runs: Runs, one a seed.
        others: Those they are compared with, one a seed.
        key: What is compared.

    Returns:
        As ``interval``; None if they have no seed in common.

    Example:
        >>> paired([{"seed": 0, "test_accuracy": 0.75}], [{"seed": 0, "test_accuracy": 0.5}])["mean"]
        0.25
    """
    theirs = {run["seed"]: run[key] for run in others}
    gains = [run[key] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    return interval(gains) if gains else None


# ---- a trained model and what comes after


def once(model: nn.Module, path: Path, train: Callable[[], dict]) -> dict:
    """Train a model unless that is done: what comes after it may be interrupted without losing it.

    Args:
        model: It gets the trained weights, now or from the file.
        path: Where they wait, with what was measured.
        train: Trains the model and tells what it measured, as JSON can hold it.

    Returns:
        What was measured.

    Raises:
        ValueError: If the file holds a model of another shape, such as another patch size; the message lists where.
    """
    found = checkpoints.load(path, {})
    if found is None:
        measured = train()
        checkpoints.save(path, {"measured": measured}, model=model.state_dict())
        return measured
    parts, told = found
    fill(model, parts["model"], f"{path}, from an earlier run,")
    return told["measured"]


def fresh_head(model: ViT | ResNet, num_classes: int) -> ViT | ResNet:
    """Give a model a linear head for these classes that starts at zero, in place (Dosovitskiy et al., Sec. 3.2)."""
    if isinstance(model, ViT):
        return model.reset_head(num_classes)
    model.config = replace(model.config, num_classes=num_classes)
    model.head = nn.Linear(model.head.in_features, num_classes).to(model.head.weight)
    for values in model.head.parameters():
        nn.init.zeros_(values)
    return model
