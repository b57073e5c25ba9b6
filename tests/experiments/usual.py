"""What the tests of experiments share: the keys of every run, a card that tells its grid, a record at quick scale."""

import json
from pathlib import Path
from types import ModuleType

from experiments import runner

USUAL = {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
         "test_accuracy"}


def check_the_card_tells_the_grid(experiment: ModuleType) -> None:
    for scale in ("cpu", "full"):
        count = len(experiment.points(experiment.SCALES[scale]))
        assert f"{scale}: {count} runs" in runner.card(experiment)["cost"]


def quick_record(name: str, folder: Path) -> dict:
    """Run an experiment at quick scale, as the command does, and read what it wrote."""
    return json.loads(runner.run(name, "quick", folder=folder, work=folder / "work").read_text(encoding="utf-8"))
