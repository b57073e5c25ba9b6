"""What can be hung on a trainer; the progress bar is one of these.

A callback is a function of the trainer and the moment: ``"log"`` (a line was added to the history), ``"validate"``,
``"step"`` (after these two) or ``"end"``. With several processes, those of the first one alone are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["Callback", "Progress"]

Callback = Callable[[Any, str], None]  # the trainer is Any here, since its file imports this one


class Progress:
    """A progress bar with loss, accuracy, speed and the time left.

    Example:
        >>> bar = Progress(shown=False)
    """

    def __init__(self, shown: bool | None = None) -> None:
        self.hidden = None if shown is None else not shown
        self.bar: tqdm | None = None

    def __call__(self, trainer: Any, moment: str) -> None:
        if self.bar is None:
            self.bar = tqdm(total=trainer.recipe.steps, initial=trainer.step - 1, unit="step", disable=self.hidden)
        last = {name: values[-1] for name, values in trainer.history.items() if isinstance(values, list) and values}
        if moment == "log":
            summary = f"loss {last['loss']:.3f}, accuracy {last['train_accuracy']:.1%}"
            self.bar.set_postfix_str(f"{summary}, {last['images_per_second']:.0f} images/s")
        elif moment == "validate":
            self.bar.set_description(f"validation {last['val_accuracy']:.1%}")
        elif moment == "step":
            self.bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
