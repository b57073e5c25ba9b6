"""Batches ready on the device: vitlite's augmentation of resident images beside a DataLoader with PIL transforms.

Question:    How fast do augmented batches come if the whole set lives on the device and is augmented there by batch?
Expectation: On a CPU at least twice as fast as torchvision's transforms of PIL images in two worker processes, with
             light augmentation as with full.
Command:     python -m benchmarks.input
Cost:        About a minute on two CPU cores. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.shared import interleaved, main, spread, times_as_fast
from experiments import records
from vitlite.data.datasets import Split
from vitlite.train import recipes
from vitlite.train.batches import Batches
from vitlite.train.recipes import Recipe

DATASET = "none: uint8 images of CIFAR's size drawn at random"
CLASSES, MEAN, STD = 10, (0.491, 0.482, 0.447), (0.247, 0.244, 0.262)

# What a recipe does to its images.
AUGMENTATION = ("flip", "crop_padding", "trivial_augment", "erase", "mixup", "cutmix")
FULL = {name: getattr(recipes.get("cifar10"), name) for name in AUGMENTATION}
LEVELS = {"light": {"flip": True, "crop_padding": 4}, "full": FULL}
SCALES = {
    "quick": {"device": "cpu", "levels": LEVELS, "images": 32, "batch_size": 16, "workers": 0, "rounds": 2},
    "cpu": {"device": "cpu", "levels": LEVELS, "images": 6400, "batch_size": 128, "workers": 2, "rounds": 7},
    "full": {"device": "cuda", "levels": LEVELS, "images": 51200, "batch_size": 512, "workers": 8, "rounds": 7},
}


def measure(config: dict) -> list[dict]:
    """An epoch of batches, ours and the DataLoader's, for each level of augmentation."""
    torch.manual_seed(0)
    images = torch.randint(256, (config["images"], 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (config["images"],))
    runs = []
    for level, augmentation in config["levels"].items():
        recipe = Recipe(level, steps=1, batch_size=config["batch_size"], **augmentation)
        calls = {
            "vitlite": epoch(Resident(images, labels, recipe, config["device"]), config["device"]),
            "torchvision": epoch(loader(images, labels, recipe, config), config["device"]),
        }
        times = interleaved(calls, config["rounds"], config["device"])
        runs += [
            {"seed": 0, "level": level, "pipeline": pipeline,
             "images_per_second": config["images"] / spread(seconds)["seconds"],
             "ours_over_it": times_as_fast(times["vitlite"], seconds)} | spread(seconds)
            for pipeline, seconds in times.items()
        ]
    return runs


def epoch(batches: Iterable[tuple[Tensor, Tensor]], device: str) -> Callable[[], object]:
    """Have every batch once, on the device."""

    def call() -> None:
        for images, targets in batches:
            images.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    return call


class Resident:
    """Ours: the whole set on the device, each batch augmented there, as in the Trainer."""

    def __init__(self, images: Tensor, labels: Tensor, recipe: Recipe, device: str) -> None:
        split = Split(images, labels, None, tuple(map(str, range(CLASSES))), MEAN, STD)
        self.batches, self.step = Batches(split.to(torch.device(device)), recipe, seed=0), 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self.batches.train) // self.batches.size):
            yield self.batches[self.step]
            self.step += 1


class Pictures(Dataset):
    """Theirs: images as PIL has them, transformed one by one."""

    def __init__(self, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(images.shape[2:], padding=recipe.crop_padding),
            transforms.RandomHorizontalFlip(0.5 * recipe.flip),
            *([transforms.TrivialAugmentWide()] if recipe.trivial_augment else []),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            *([transforms.RandomErasing(recipe.erase, value="random")] if recipe.erase else []),
        ])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(images: Tensor, labels: Tensor, recipe: Recipe, config: dict) -> DataLoader:
    """Theirs by batches, made by worker processes that live through all epochs."""
    mix = []
    if recipe.mixup:
        mix.append(v2.MixUp(alpha=recipe.mixup, num_classes=CLASSES))
    if recipe.cutmix:
        mix.append(v2.CutMix(num_classes=CLASSES))

    def collate(examples: list) -> tuple[Tensor, Tensor]:
        batch = default_collate(examples)
        return v2.RandomChoice(mix)(*batch) if mix else batch

    return DataLoader(Pictures(images, labels, recipe), recipe.batch_size, shuffle=True, drop_last=True,
                      num_workers=config["workers"], persistent_workers=config["workers"] > 0,
                      pin_memory=config["device"] == "cuda", collate_fn=collate)


def summarise(runs: list[dict]) -> dict:
    """How many times as fast as the DataLoader ours is, at each level of augmentation."""
    return {run["level"]: run["ours_over_it"] for run in runs if run["pipeline"] == "torchvision"}


def show(record: dict) -> str:
    """The record as *How fast is it?* shows it, as Markdown: expectation, and a row for each augmentation."""
    rows = []
    for level, ratio in record["summary"].items():
        rates = {run["pipeline"]: run["images_per_second"] for run in record["runs"] if run["level"] == level}
        rows.append([level, f"{rates['vitlite']:,.0f}", f"{rates['torchvision']:,.0f}", f"{ratio:.1f}"])
    table = records.table(
        ["augmentation", "`vitlite`, images a second", "`DataLoader`, images a second", "times as fast"], rows)
    config, hardware = record["config"], record["hardware"]
    return (f"**Expectation, written before.** {record['expectation']}\n\n{table}\n\n"
            f"Batches of {config['batch_size']}, {config['workers']} worker processes, {hardware['processor']}, "
            f"{hardware['cores']} cores, torchvision {record['versions']['torchvision']}, {record['date']}.")


if __name__ == "__main__":
    main(sys.modules[__name__])
