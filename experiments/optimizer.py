"""AdamW or Muon: which optimiser gets a small network further in as many steps?

Question:    How far do a ViT and a ResNet of equally many parameters come on CIFAR-10 in 600, 2,000 and 6,000 steps
             with AdamW and with Muon, and what does a step cost?
Expectation: Muon leads at every length with both networks, by most in the shortest runs, and the lead shrinks as the
             runs get longer. The ResNet gains as well, so the distance between the two networks stays. A step with
             Muon takes a tenth longer.
Command:     python -m experiments optimizer
Cost:        cpu: 36 runs of 600 to 6,000 steps, of one to 25 minutes on one core with bfloat16 instructions, and about
             16 trials of a learning rate; about 6 hours in all, 2 GB of memory. full: 48 runs of up to 20,000 steps
             on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from experiments import families
from experiments.measure import best, bracketed, loaded, trained, tried, usual_recipe
from experiments.statistics import curve, grouped, interval
from vitlite import plots

__all__ = ["DATASET", "SCALES", "points", "run", "show", "summarise"]

DATASET = "cifar10: 45,000 training, 5,000 validation and 10,000 test images, at 24 pixels (cpu) or 32 (full)"
BASE = {
    "vit": families.SMALL | {"pool": "mean"},
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2},
    "networks": ["vit", "resnet"],
    "optimizers": ["adamw", "muon"],
    "learning_rates": [1.5e-3, 4.5e-3],  # where the search begins
}
SCALES = {
    "quick": BASE | {"data": {"name_or_path": "scenes", "train_images": 500, "held_out": 50}, "image_size": 16,
                     "steps": [5, 10], "search_steps": 2, "seeds": [0], "device": "cpu"},
    "cpu": BASE | {"data": {"name_or_path": "cifar10"}, "image_size": 24, "steps": [600, 2_000, 6_000],
                   "search_steps": 600, "seeds": [0, 1, 2], "device": "cpu"},
    "full": BASE | {"data": {"name_or_path": "cifar10"}, "image_size": 32, "steps": [600, 2_000, 6_000, 20_000],
                    "search_steps": 2_000, "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """Every network with either optimiser, the shorter runs first, and the whole grid with the first seed first."""
    return [{"steps": steps, "network": network, "optimizer": optimizer, "seed": seed}
            for seed in config["seeds"] for steps in config["steps"]
            for network in config["networks"] for optimizer in config["optimizers"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a network with an optimiser for so many steps, at the rate that its trials chose.

    Returns:
        Beside the usual keys ``learning_rate`` and ``search`` (validation accuracy by rate).
    """
    network, optimizer, seed = point["network"], point["optimizer"], point["seed"]
    sets = loaded(**config["data"], image_size=config["image_size"])
    whole = config | {"vit": config["vit"] | {"image_size": config["image_size"]}}

    def recipe(steps: int, rate: float):
        return usual_recipe("optimizer", config, steps, rate, optimizer=optimizer)

    def trial(rate: float) -> float:
        model = families.build(network, whole, 0)
        return tried(model, sets, recipe(config["search_steps"], rate), config["device"])

    rates = bracketed(config["learning_rates"], trial, work / f"{network}-{optimizer}-search.json")
    name = "-".join(str(value) for value in point.values())
    measured = trained(families.build(network, whole, seed), sets, recipe(point["steps"], best(rates)), seed=seed,
                       device=config["device"], checkpoint=work / f"{name}.safetensors")
    return measured | {"learning_rate": best(rates), "search": rates}


def summarise(runs: list[dict]) -> dict:
    """By network, optimiser and steps: test and validation accuracy with intervals, and seconds a step."""
    summary: dict = {}
    for (network, optimizer, steps), same in grouped(runs, "network", "optimizer", "steps").items():
        summary.setdefault(network, {}).setdefault(optimizer, {})[str(steps)] = {
            "test_accuracy": interval(run["test_accuracy"] for run in same),
            "val_accuracy": interval(run["val_accuracy"] for run in same),
            "seconds_per_step": sum(run["seconds"] for run in same) / sum(run["steps"] for run in same),
        }
    return summary


def show(record: dict) -> Figure:
    """A figure of validation accuracy against steps, with a curve for each network and optimiser."""
    curves = {f"{families.NAMES[network]}, {families.OPTIMIZERS[optimizer]}":
              curve({int(steps): reached["val_accuracy"] for steps, reached in by_steps.items()})
              for network, by_optimizer in record["summary"].items() for optimizer, by_steps in by_optimizer.items()}
    return plots.lines(curves, "steps", "validation accuracy (%)", logx=True, legend_columns=2)
