"""What the tests of experiments share: the keys of every run, a record at quick scale."""

import json
from pathlib import Path

from experiments import runner

USUAL = {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
         "test_accuracy"}


def quick_record(name: str, folder: Path) -> dict:
    """Run an experiment at quick scale, as the command does, and read what it wrote."""
    return json.loads(runner.run(name, "quick", folder=folder, work=folder / "work").read_text(encoding="utf-8"))
