"""A training step: vitlite's Trainer beside the loop that the documentation of the four libraries shows.

Question:    What does it gain on this machine to choose precision and attention kernel by measurement?
Expectation: On a CPU with bfloat16 instructions a step at least 2.5 times as fast as the fastest of timm, torchvision,
             transformers and vit-pytorch in float32. The same autocast makes those slower that call fused attention,
             since its backward pass in bfloat16 is slow on a CPU, and brings the one with explicit attention close to
             ours.
Command:     python -m benchmarks.training
Cost:        About 2 minutes on two CPU cores, half of it torch.compile. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shared import CIFAR, TINY, interleaved, libraries, main, spread, times_as_fast
from experiments import records
from vitlite import ViT, ViTConfig
from vitlite.train import Trainer, recipes
from vitlite.train.device import compiled

DATASET = "none: images and labels drawn at random"

SCALES = {
    "quick": {"device": "cpu", "shape": TINY, "batch_size": 2, "rounds": 2, "compile": False},
    "cpu": {"device": "cpu", "shape": CIFAR, "batch_size": 64, "rounds": 9, "compile": True},
    "full": {"device": "cuda", "shape": CIFAR, "batch_size": 1024, "rounds": 31, "compile": True},
}


def measure(config: dict) -> list[dict]:
    """A step in each library, in float32 and under the autocast that the Trainer chooses; ours also compiled."""
    device, shape, batch = config["device"], config["shape"], config["batch_size"]
    models = libraries(shape, device)
    images = torch.randn(batch, 3, shape["image_size"], shape["image_size"], device=device)
    labels = torch.randint(shape["num_classes"], (batch,), device=device)
    ours = trainers(models.pop("vitlite"), shape, config)
    calls = {("vitlite", how): step(trainer, images, labels) for how, trainer in ours.items()}
    for how in ("float32", "autocast"):
        dtype = ours[how].dtype
        calls |= {(name, how): documented_step(model, images, labels, dtype) for name, model in models.items()}
    times = interleaved(calls, config["rounds"], device)
    best = times["vitlite", "autocast"]
    return [
        {"seed": 0, "library": library, "how": how, "images_per_second": batch / spread(seconds)["seconds"],
         "ours_over_it": times_as_fast(best, seconds)} | spread(seconds)
        for (library, how), seconds in times.items()
    ]


def trainers(model: nn.Module, shape: dict, config: dict) -> dict[str, Trainer]:
    """The Trainer as it is, without its autocast, and with torch.compile."""
    recipe, device = recipes.get("quick"), config["device"]
    made = {
        "autocast": Trainer(model, recipe, device=device),
        "float32": Trainer(ViT(ViTConfig(**shape)), recipe, device=device, autocast=False),
    }
    if config["compile"]:
        made["autocast, compiled"] = Trainer(ViT(ViTConfig(**shape)), recipe, device=device, compile=True)
    return made


def step(trainer: Trainer, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """What ``Trainer.fit`` does at every step, without fetching the batch."""
    learner = trainer.learner.train()
    if trainer.compile:
        learner = compiled(learner, images, labels, trainer.dtype)
    return lambda: trainer._train_step(learner, images, labels)


def documented_step(
    model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None
) -> Callable[[], object]:
    """The usual loop; unlike ours it does not clip the gradient."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0.05)

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return call


def summarise(runs: list[dict]) -> dict:
    """How many times as fast as the fastest of the four ours is, as they are used and under the same autocast."""
    return {
        f"over the fastest in {how}": min(
            run["ours_over_it"] for run in runs if run["library"] != "vitlite" and run["how"] == how
        )
        for how in ("float32", "autocast")
    }


def show(record: dict) -> str:
    """The record as *How fast is it?* shows it, as Markdown: expectation, a row for each library and precision."""
    rows = [[run["library"], run["how"], f"{run['images_per_second']:,.0f}", f"{run['ours_over_it']:.2f}"]
            for run in sorted(record["runs"], key=lambda run: -run["images_per_second"])]
    table = records.table(["library", "numbers", "images a second", "the `Trainer` is so many times as fast"], rows,
                          left=2)
    fastest = "; ".join(f"{what}: {ratio:.2f}" for what, ratio in record["summary"].items())
    hardware = record["hardware"]
    return (f"**Expectation, written before.** {record['expectation']}\n\n{table}\n\n"
            f"The `Trainer` with autocast, how many times as fast, {fastest}. Batches of "
            f"{record['config']['batch_size']}, {hardware['processor']}, {hardware['cores']} cores, {record['date']}.")


if __name__ == "__main__":
    main(sys.modules[__name__])
