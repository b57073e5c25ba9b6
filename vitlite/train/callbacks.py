"""What can be hung on a trainer: a progress bar, a live plot, a file with the history.

A callback is a function of the trainer and the moment: ``"log"`` (a line was added to the history), ``"validate"``,
``"step"`` (after these two) or ``"end"``. With several processes, those of the first one alone are called.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vitlite.files import written_whole

if TYPE_CHECKING:
    from vitlite.train.trainer import Trainer

__all__ = ["Callback", "Progress", "history_file", "live_plot"]

Callback = Callable[["Trainer", str], None]


class Progress:
    """A progress bar with loss, accuracy, speed and the time left.

    Args:
        shown: Whether to show it; by default only in a terminal.

    Example:
        >>> bar = Progress(shown=False)
    """

    def __init__(self, shown: bool | None = None) -> None:
        self.hidden = None if shown is None else not shown
        self.bar: tqdm | None = None

    def __call__(self, trainer: Trainer, moment: str) -> None:
        if self.bar is None:
            self.bar = tqdm(total=trainer.recipe.steps, initial=trainer.step - 1, unit="step", disable=self.hidden)
        last = {name: values[-1] for name, values in trainer.history.items() if isinstance(values, list) and values}
        if moment == "log":
            told = f"loss {last['loss']:.3f}, accuracy {last['train_accuracy']:.1%}"
            self.bar.set_postfix_str(f"{told}, {last['images_per_second']:.0f} images/s")
        elif moment == "validate":
            self.bar.set_description(f"validation {last['val_accuracy']:.1%}")
        elif moment == "step":
            self.bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


def live_plot(trainer: Trainer, moment: str) -> None:
    """In a notebook, draw the run so far after each validation, in place of the picture before.

    Example:
        >>> from vitlite.train import Trainer, recipes
        >>> from vitlite import ViT
        >>> trainer = Trainer(ViT.from_name("Ti/4", image_size=32), recipes.get("quick"), callbacks=[live_plot])
    """
    if moment != "validate":
        return
    from IPython.display import clear_output, display  # where there is a notebook, there is IPython
    from matplotlib import pyplot as plt  # here, so that training without a plot need not load it

    from vitlite import plots

    figure = plots.history(trainer.history, title=f"Step {trainer.step:,} of {trainer.recipe.steps:,}")
    clear_output(wait=True)
    display(figure)
    plt.close(figure)


def history_file(path: str | Path) -> Callback:
    """A callback that writes the history as JSON at each validation and at the end, to watch a run from outside.

    Example:
        >>> callback = history_file("run.json")
    """

    def write(trainer: Trainer, moment: str) -> None:
        if moment in ("validate", "end"):
            with written_whole(path) as beside:
                beside.write_text(json.dumps(trainer.history))

    return write
