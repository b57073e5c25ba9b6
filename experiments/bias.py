"""What four architectures of equal size know of images before they see one, and what becomes of it in training.

Question:    How well do a ViT, a hybrid, a ResNet and a fully connected network of equally many parameters classify
             small images, and how much of it is left when the images are shifted, cut up and shuffled, or covered?
Expectation: Convolutions first: ResNet and hybrid above the ViT, all three far above the fully connected network, whose
             answers also change most under a shift. The ResNet's change least. Shuffled tiles cost every network
             most of its accuracy, because the outline goes, and the ViT loses least when the tiles are its patches;
             it is also the one that bears covered patches best. Trained on images whose patches are permuted once and
             for all, the ViT and the fully connected network do as well as before and the ResNet worse; with
             all pixels permuted, the fully connected network alone does as well as before. A ViT without positions lies
             a few points below the ViT and answers as before when its patches are shuffled.
Command:     python -m experiments bias
Cost:        About 30 minutes on one CPU core with bfloat16 instructions, 2 GB of memory. It resumes when interrupted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import families, records
from experiments.disturb import disturbed, panned, shuffle
from experiments.families import FAMILIES, NAMES
from experiments.measure import best, bracketed, loaded, trained, tried, usual_recipe
from experiments.statistics import grouped
from vitlite import ViT, cost, data, plots, resnet, weights
from vitlite.data import scenes
from vitlite.train import evaluate

__all__ = ["DATASET", "SCALES", "build", "curves", "first", "points", "run", "search", "show", "summarise"]

DATASET = "scenes at 32 px, seed 0: generated training images, 2,000 validation and 2,000 test images"
CHECKPOINTS = records.ROOT / "data" / "checkpoints"
IMAGE_SIZE, PATCH = 32, 4  # pixels
UNPLACED = "unplaced"  # a fifth family: the ViT without positions, which the playground sets beside the others

VIT = {"image_size": IMAGE_SIZE, "patch_size": PATCH, "num_classes": len(scenes.CLASSES), "embed_dim": 96, "depth": 6,
       "num_heads": 4, "mlp_dim": 192}
RECIPE = {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2, "label_smoothing": 0.1}
GRID = {
    "vit": VIT,
    "hybrid": {"depth": 5, "stem_width": 16, "stem_blocks": 1},  # the stem's parameters are those of one block
    "recipe": RECIPE,
    "learning_rates": [5e-4, 1.5e-3, 4.5e-3],
    "shifts": list(range(9)),  # pixels
    "tiles": [16, 8, 4, 2],  # pixels
    "covered": [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75],  # share of the 4×4 px patches
}

# An order other than "image" permutes the input once and for all, by patches or by pixels, in training and test alike.
SCALES = {
    "quick": GRID | {"train_images": 2_000, "steps": 60, "search_steps": 20, "orders": ["image", "patches"],
                     "seeds": [0], "device": "cpu", "publish": False},
    "cpu": GRID | {"train_images": 50_000, "steps": 1_500, "search_steps": 150, "orders": ["image"], "seeds": [0],
                   "device": "cpu", "publish": True},
    "full": GRID | {"train_images": 200_000, "steps": 15_000, "search_steps": 1_000,
                    "orders": ["image", "patches", "pixels"], "seeds": [0, 1, 2], "device": "cuda",
                    "publish": True},
}


def points(config: dict) -> list[dict]:
    """Every family on images as they are, seed after seed; then on permuted ones; last the ViT without positions."""
    return [{"order": order, "seed": seed, "family": family} for order in config["orders"] for seed in config["seeds"]
            for family in FAMILIES] + [
        {"order": "image", "seed": seed, "family": UNPLACED} for seed in config["seeds"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Choose a learning rate, train, and measure what was trained on the test images, as they are and disturbed.

    Returns:
        Beside the usual keys ``learning_rate`` and ``search`` (validation accuracy by rate); and of the test images,
        a list each, ``shift`` (accuracy and ``consistency``, the share of images that keep the answer they get
        unshifted, by pixels), ``shuffle`` (by tile, each image in an order of its own or all in one) and ``cover``
        (by share of patches).
    """
    family, seed, order = point["family"], point["seed"], point["order"]
    sets = loaded("scenes", train_images=config["train_images"], image_size=IMAGE_SIZE)
    by_rate = search(family, sets, config, work)
    model = build(family, config, seed, order)
    long = usual_recipe("bias", config, config["steps"], best(by_rate), validations=10)
    resume = work / f"{family}-{order}-seed{seed}.safetensors"
    measured = trained(model, sets, long, seed=seed, device=config["device"], checkpoint=resume)
    saved = keep(model, point, config, sets, work)
    return measured | {
        "flops": cost.flops(model, IMAGE_SIZE),
        "val_accuracy": evaluate(saved, sets.validation).accuracy,
        "test_accuracy": evaluate(saved, sets.test).accuracy,
        "learning_rate": long.learning_rate,
        "search": by_rate,
        **disturbed(saved, sets.test, panned(sets.test, config["shifts"]), config),
    }


def summarise(runs: list[dict]) -> dict:
    """By order and family, means over the seeds: test accuracy; at the largest shift, with the answers kept; with each
    image's patches shuffled; with the most patches covered."""
    summary: dict = {}
    for (order, family), those in grouped(runs, "order", "family").items():
        rows = [_figures(run) for run in those]
        means = {what: statistics.mean(row[what] for row in rows) for what in rows[0]}
        summary.setdefault(order, {})[family] = {"seeds": len(those)} | means
    return summary


def _figures(run: dict) -> dict[str, float]:
    return {
        "test_accuracy": run["test_accuracy"],
        "shift": run["shift"][-1]["accuracy"],
        "consistency": run["shift"][-1]["consistency"],
        "shuffle": next(step["accuracy"] for step in run["shuffle"] if step["each"] and step["tile"] == PATCH),
        "cover": run["cover"][-1]["accuracy"],
    }


# ---- a network that sees permuted images


class Reordered(nn.Module):
    """A model that sees every image with its pixels in another order, always the same.

    Args:
        model: Any model of images.
        order: int64 ``[H · W]``: for each place, which pixel stands there.
    """

    def __init__(self, model: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("order", order)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> logits ``[B, classes]``."""
        return self.model(images.flatten(2)[:, :, self.order].unflatten(2, images.shape[2:]))


def build(family: str, config: dict, seed: int, order: str = "image") -> nn.Module:
    """A new model of the family; with an order other than ``"image"``, one that sees permuted images."""
    if family == UNPLACED:
        family, config = "vit", families.unplaced(config)
    model = families.build(family, config, seed)
    if order == "image":
        return model
    tile = {"patches": config["vit"]["patch_size"], "pixels": 1}[order]
    places = torch.arange(IMAGE_SIZE**2).view(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    return Reordered(model, shuffle(places, tile, torch.Generator().manual_seed(0)).flatten())


# ---- training


def search(family: str, sets: data.Splits, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy after a short training at each learning rate, for one seed; kept for the next seeds."""

    def trial(rate: float) -> float:
        short = usual_recipe("bias", config, config["search_steps"], rate)
        return tried(build(family, config, seed=0), sets, short, config["device"])

    return bracketed(config["learning_rates"], trial, work / f"{family}-search.json")


def keep(model: nn.Module, point: dict, config: dict, sets: data.Splits, work: Path) -> nn.Module:
    """Save the first seed's weights in bfloat16, and give back the model as saved; others come back as they are."""
    if not isinstance(model, (ViT, resnet.ResNet)) or point["seed"] != config["seeds"][0]:
        return model.eval()
    path = (CHECKPOINTS if config["publish"] else work) / f"bias_{point['family']}.safetensors"
    weights.save(model, path, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std, record="bias",
                 dtype=torch.bfloat16)
    return weights.load(path, device=config["device"])


# ---- what a chapter shows


def first(record: dict) -> dict[str, dict]:
    """The first seed's run of each family, on images as they are."""
    return {family: runs[0] for family, runs in grouped(_plain(record), "family").items()}


def curves(runs: list[dict], disturbance: str, measure: str) -> dict[str, tuple[list[float], Tensor]]:
    """How a measure goes with a disturbance.

    Args:
        runs: All on one order of the pixels.
        disturbance: ``"shift"``, ``"shuffle"`` (each image in an order of its own) or ``"cover"``.
        measure: ``"accuracy"`` or ``"consistency"``.

    Returns:
        By the family's name, how strong the disturbance was at each point, and the measure, in per cent,
        ``[seeds, points]``.
    """
    axis = {"shift": "pixels", "shuffle": "tile", "cover": "share"}[disturbance]
    runs_of, by_name = grouped(runs, "family"), {}
    for family, name in NAMES.items():
        rows = [[step for step in run[disturbance] if step.get("each", True)] for run in runs_of[family]]
        values = torch.tensor([[100 * step[measure] for step in row] for row in rows])
        by_name[name] = [step[axis] for step in rows[0]], values
    return by_name


def _means(record: dict, disturbance: str, measure: str) -> dict[str, tuple[list[float], Tensor]]:
    by_name = curves(_plain(record), disturbance, measure)
    return {name: (x, values.mean(dim=0)) for name, (x, values) in by_name.items()}


def _plain(record: dict) -> list[dict]:
    """The runs on images as they are."""
    return grouped(record["runs"], "order")["image"]


def _table(record: dict) -> str:
    runs, by_family = first(record), record["summary"]["image"]
    columns = {"test_accuracy": "test images (%)", "shift": "moved 8 pixels (%)", "shuffle": "patches shuffled (%)",
               "cover": "75 % covered (%)"}
    rows = [[name, f"{runs[family]['parameters']:,}", f"{runs[family]['learning_rate']:g}",
             *(f"{100 * by_family[family][column]:.1f}" for column in columns)]
            for family, name in (NAMES | {UNPLACED: "ViT without positions"}).items()]
    return records.table(["network", "parameters", "learning rate", *columns.values()], rows)


def _consistency(record: dict) -> Figure:
    return plots.lines(_means(record, "shift", "consistency"), "shift of the image (pixels)",
                       "images that keep their answer (%)",
                       "Move a scene: the ResNet hardly notices, the ViT does")


def _shuffle(record: dict) -> Figure:
    plain = {name: 100 * first(record)[family]["test_accuracy"] for family, name in NAMES.items()}
    shuffled = {name: ([IMAGE_SIZE, *tiles], [plain[name], *values])
                for name, (tiles, values) in _means(record, "shuffle", "accuracy").items()}
    figure = plots.lines(shuffled, "side of the shuffled tiles (pixels; 32 is the whole image)", "test accuracy (%)",
                         "Shuffled along its own patches, the ViT does well", logx=True)
    figure.axes[0].set_ylim(top=125)  # room for the legend
    figure.axes[0].legend(loc="upper left", ncols=2, handlelength=3)
    figure.axes[0].set_yticks(range(20, 101, 20))
    return figure


show = records.views(table=_table, consistency=_consistency, shuffle=_shuffle)  # chapter 6
