"""What most runs share: their data, a rate tuned by trials, a training and its measure, a model trained once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from torch import nn

from vitlite import cost, data
from vitlite.files import decoding, held, written_whole
from vitlite.train import Trainer, evaluate
from vitlite.train import checkpoint as checkpoints
from vitlite.train.callbacks import Callback
from vitlite.train.objectives import Objective
from vitlite.train.recipes import Recipe
from vitlite.weights import fill

__all__ = ["UNTRAINED", "best", "bracketed", "images_seen", "loaded", "once", "trained", "tried", "tuned", "unmasked",
           "usual_recipe"]

UNTRAINED = dict.fromkeys(("steps", "images_seen", "seconds", "train_flops"), 0)  # where no step is taken
loaded = cache(data.load)  # the same splits for every run that names the same set


@cache
def unmasked(*given: str, **options: int) -> data.Splits:
    """``data.load`` without the training images' masks, which fill the memory where images are many."""
    sets = data.load(*given, **options)
    return sets._replace(train=replace(sets.train, masks=None))


def usual_recipe(name: str, config: dict, steps: int, rate: float, *, validations: int = 1, **fields) -> Recipe:
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
                  validate_every=max(1, steps // validations), **config["recipe"], **fields)


def tuned(rates: Sequence[float], trial: Callable[[float], float], path: Path) -> dict[str, float]:
    """What a short trial gives at each learning rate, by rate; noted in a file as it goes, so that none is made twice.

    Args:
        rates: The rates to try.
        trial: Validation accuracy after a short training at a rate; see ``tried``.
        path: Where the answers are noted.
    """
    with held(path, wait=True):  # runs beside each other may need the same trials
        noted = _noted(path)
        for rate in rates:
            if str(rate) not in noted:
                try:
                    noted[str(rate)] = trial(rate)
                except FloatingPointError:  # the loss is no number any more: this rate is too high
                    noted[str(rate)] = 0.0
                with written_whole(path) as beside:
                    beside.write_text(json.dumps(noted), encoding="utf-8")
    return {str(rate): noted[str(rate)] for rate in rates}


def _noted(path: Path) -> dict[str, float]:
    """The answers that a file has, none if there is no file."""
    if not path.exists():
        return {}
    with decoding(path, "damaged as a note of what trials gave", "remove it, and they are made again"):
        noted = json.loads(path.read_text(encoding="utf-8"))
        if not all(0 < float(rate) < math.inf and math.isfinite(accuracy) for rate, accuracy in noted.items()):
            raise ValueError("expected an accuracy for each learning rate")
    return noted


def bracketed(rates: Sequence[float], trial: Callable[[float], float], path: Path) -> dict[str, float]:
    """What a short trial gives at each learning rate, the best of them not at an edge of those tried.

    The search begins with some rates and goes on in steps of 3 towards the better side until the best has a lower one
    on either side, or 9 rates were tried. It is noted in a file after every trial, so that none is made twice.

    Args:
        rates: Where to begin.
        trial: Validation accuracy after a short training at a rate.
        path: Where the answers are noted.
    """
    rates = sorted({*rates, *map(float, _noted(path))})
    while True:
        answers = tuned(rates, trial, path)
        chosen = best(answers)
        if len(rates) >= 9 or rates[0] < chosen < rates[-1]:
            return answers
        further = chosen / 3 if chosen == rates[0] else chosen * 3
        rates = sorted([*rates, float(f"{further:.2g}")])


def best(answers: dict[str, float]) -> float:
    """The rate that did best in the trials; of several that did equally well, the one in the middle."""
    rates = sorted(float(rate) for rate, accuracy in answers.items() if accuracy == max(answers.values()))
    return rates[len(rates) // 2]


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

    The validations are in the precision of the training; the test images are measured in float32, which is the rule of
    ``vitlite.train.outputs``.

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
                      callbacks=callbacks, objective=objective)
    history = trainer.fit(sets)
    image_size, seen = tuple(sets.train.images.shape[2:]), images_seen(recipe, sets.train)
    measured = {
        "parameters": cost.parameters(model),
        "train_images": len(sets.train),
        "steps": recipe.steps,
        "images_seen": seen,
        "seconds": history["seconds"],
        "train_flops": seen * cost.train_flops(model, image_size),
        "train_accuracy": history["train_accuracy"][-1],
        "val_accuracy": history["val_accuracy"][-1],
        "test_accuracy": evaluate(model, sets.test).accuracy,
        "curve": {name: history[name] for name in ("val_step", "val_accuracy")},
    }
    checkpoint.unlink(missing_ok=True)
    return measured


def tried(model: nn.Module, sets: data.Splits, recipe: Recipe, device: str, seed: int = 0) -> float:
    """Validation accuracy at the end of a short training, which does not look at the test images."""
    return Trainer(model, recipe, seed=seed, device=device).fit(sets)["val_accuracy"][-1]


def images_seen(recipe: Recipe, train: data.Split) -> int:
    """How many images a training looks at, repeats included; no batch is larger than the set."""
    return recipe.steps * min(recipe.batch_size, len(train))


def once(model: nn.Module, path: Path, train: Callable[[], dict]) -> dict:
    """Train a model unless that is done: what comes after it may be interrupted without losing it.

    Args:
        model: It gets the trained weights, now or from the file.
        path: Where they wait, with what was measured.
        train: Trains the model and gives what it measured, as JSON can hold it.

    Returns:
        What was measured.

    Raises:
        ValueError: If the file holds a model of another shape, such as another patch size; the message lists where.
    """
    with held(path, wait=True):  # several runs at a time may need the same model
        saved = checkpoints.load(path, {})
        if saved is None:
            measured = train()
            checkpoints.save(path, {"measured": measured}, model=model.state_dict())
            return measured
    parts, metadata = saved
    with decoding(path, "no model that was kept with its measures", "remove it, and it is trained again"):
        state, measured = parts["model"], metadata["measured"]
    fill(model, state, f"{path}, from an earlier run,")
    return measured
