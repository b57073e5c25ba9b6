"""What a run tells of itself, as plain lists of numbers."""

from __future__ import annotations

import itertools
import math
import time

import torch
from torch import Tensor

from vitlite.train.distributed import sum_over_all, world

# What the history keeps, a list each: at every log step, and at every validation.
LINES = ("step", "loss", "train_accuracy", "learning_rate", "images_per_second")
VAL_LINES = ("val_step", "val_loss", "val_accuracy")


def empty() -> dict:
    """A history in which nothing has happened yet."""
    return {name: [] for name in LINES + VAL_LINES} | {"kept_step": 0, "seconds": 0.0}


def diverged(what: str) -> FloatingPointError:
    """The error for a run that cannot go on, with what to do."""
    return FloatingPointError(f"{what}; training stopped there and the last good checkpoint is kept. Lower "
                              "learning_rate, lengthen warmup_steps, set clip_norm, and check that the images are "
                              "normalised")


def possible(history: dict, step: int) -> bool:
    """Whether a history from a file can be that of a run at this step."""
    groups = [[history[name] for name in names] for names in (LINES, VAL_LINES)]
    numbers = [history["kept_step"], history["seconds"], *itertools.chain(*groups[0], *groups[1])]
    if type(step) is not int or not all(type(number) in (int, float) for number in numbers):
        return False
    return (
        all(len({len(each) for each in group}) == 1 for group in groups)
        and all(steps == sorted({*steps} - {0}) for steps in (history["step"], history["val_step"]))
        and step == history["step"][-1] >= max(history["val_step"], default=1)
        and history["kept_step"] in (0, *history["val_step"])
        and all(map(math.isfinite, history["loss"] + history["learning_rate"] + history["images_per_second"]))
        and 0 <= history["seconds"] < math.inf
    )


class Log:
    """Sums over the steps since the last line of the history, kept on the device so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin a new line."""
        self.loss, self.right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        self.steps = self.images = 0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, right: Tensor, images: int) -> None:
        """Count a step: this process's mean loss and right answers, and the images of all processes."""
        self.loss += loss
        self.right += right
        self.steps, self.images = self.steps + 1, self.images + images

    def check(self, step: int) -> None:
        """See that every loss since the last line was finite."""
        if self.loss.isfinite():
            return
        steps = f"step {step}" if self.device.type == "cpu" else f"one of the steps {step - self.steps + 1} to {step}"
        raise diverged(f"the loss is not finite at {steps}")

    def line(self, history: dict, step: int, rate: float) -> None:
        """Add a line to the history, over all processes, and begin the next."""
        loss, right = sum_over_all(self.loss, self.right).tolist()
        seconds = time.perf_counter() - self.began
        values = (step, loss / world().size / self.steps, right / self.images, rate, self.images / seconds)
        for name, value in zip(LINES, values, strict=True):
            history[name].append(value)
        history["seconds"] += seconds
        self.restart()

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent on training."""
        self.began += seconds
