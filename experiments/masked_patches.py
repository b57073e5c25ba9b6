"""What a ViT learns from images without labels, and what that is worth when only some have labels.

Question:    Does masked patch prediction on all 45,000 images of CIFAR-10 help a ViT that is fine-tuned on the labels
             of 1, 10 or 100 % of them, against no pre-training and against pre-training on other, labelled images?
Expectation: It helps at every fraction, by two points or more where all images have labels, as in the paper (Sec. 4.6:
             2 points above training from scratch, 4 below supervised pre-training), and by less where 1 % have,
             because so few images are soon learned by heart. Supervised pre-training on scenes is no ceiling as in
             the paper, whose labelled images were of the same kind as its last task: it helps less than
             CIFAR-10's own images without labels, except at 1 %. Mean colours and pixels as the target do equally
             well. The model fills in hidden patches better than the mean of their visible neighbours does.
Command:     python -m experiments masked_patches
Cost:        cpu: 12 runs (four ways to begin, three seeds; each is fine-tuned at three fractions), about 48 minutes on
             one core with bfloat16 instructions. full: 25 runs, much longer and at 32 pixels, on one GPU. It resumes
             when interrupted.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments import records
from experiments.families import SMALL, build
from experiments.measure import best, images_seen, loaded, once, trained, tried, tuned, usual_recipe
from experiments.statistics import grouped, interval, paired
from vitlite import ViT, cost, data, weights
from vitlite.masked import MaskedPatches, masked_patches
from vitlite.train import Trainer
from vitlite.train.recipes import Recipe

__all__ = ["DATASET", "SCALES", "baselines", "labelled", "points", "read", "run", "show", "summarise"]

DATASET = (
    "cifar10, shrunk to 24 pixels (cpu): 45,000 training images, of which a class-balanced fraction keeps its labels; "
    "5,000 validation and 10,000 test images; scenes for supervised pre-training; quick: scenes"
)
CHECKPOINT = records.ROOT / "data" / "checkpoints" / "masked_patches.safetensors"
TARGETS = ("colour", "pixels")  # the others are "none", "scenes" (labelled), and "labels": the same images with theirs

VIT = SMALL | {"image_size": 24, "pool": "mean"}
GRID = {
    "pretraining": ["none", "colour", "scenes", "pixels"],
    "mask_ratio": 0.5,
    "fractions": [0.01, 0.1, 1.0],
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": True, "crop_padding": 2},
    "pretraining_rate": 1.5e-3,
    "rates": [5e-4, 1.5e-3],
    "rate_fraction": 0.1,  # where the rate of fine-tuning is chosen
    "device": "cpu",
    "publish": True,
}
SCALES = {
    "quick": GRID | {
        "vit": VIT | {"image_size": 16, "embed_dim": 48, "depth": 2, "mlp_dim": 96},
        "data": {"name_or_path": "scenes", "train_images": 400, "held_out": 100, "image_size": 16},
        "scenes": {"name_or_path": "scenes", "seed": 1, "train_images": 400, "held_out": 100, "image_size": 16},
        "fractions": [0.1, 1.0], "pretraining_steps": 20, "search_steps": 3, "steps": 10, "seeds": [0],
        "publish": False,
    },
    "cpu": GRID | {
        "vit": VIT,
        "data": {"name_or_path": "cifar10", "image_size": 24},
        "scenes": {"name_or_path": "scenes", "train_images": 45_000, "image_size": 24},
        "pretraining_steps": 1_200, "search_steps": 100, "steps": 300, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "vit": VIT | {"image_size": 32, "embed_dim": 128, "num_heads": 4, "mlp_dim": 256},
        "data": {"name_or_path": "cifar10"},
        "scenes": {"name_or_path": "scenes", "train_images": 200_000, "held_out": 10_000},
        "pretraining": ["none", "colour", "scenes", "pixels", "labels"],
        "recipe": {"batch_size": 512, "weight_decay": 0.05, "flip": True, "crop_padding": 4},
        "pretraining_steps": 40_000, "search_steps": 500, "steps": 4_000, "rates": [3e-4, 1e-3, 3e-3],
        "seeds": [0, 1, 2, 3, 4], "device": "cuda",
    },
}

_recipe = partial(usual_recipe, "masked_patches")


def points(config: dict) -> list[dict]:
    """Every way to begin with the first seed, then with the next."""
    return [{"pretraining": name, "seed": seed} for seed in config["seeds"] for name in config["pretraining"]]


def run(point: dict, config: dict, work: Path) -> dict:
    """Pre-train a ViT in one way, and fine-tune it on each fraction of the labels with equally many steps.

    Returns:
        The usual keys, of the fine-tuning on most labels; ``fine_tuned``, these keys for each ``fraction``;
        ``pretrained``, those of the pre-training, without the accuracies that it has not (None if there is none);
        and ``search``, validation accuracy by the rate of fine-tuning.
    """
    name, seed, sets = "-".join(map(str, point.values())), point["seed"], loaded(**config["data"])
    few = {share: sets._replace(train=labelled(sets.train, share, seed))
           for share in {*config["fractions"], config["rate_fraction"]}}
    model = build("vit", config, seed).to(config["device"])
    before = _pretrained(model, point, config, work / f"{name}.safetensors")

    def fresh() -> ViT:
        return copy.deepcopy(model).reset_head(len(sets.train.classes))

    def trial(rate: float) -> float:
        recipe = _recipe(config, config["search_steps"], rate)
        return tried(fresh(), few[config["rate_fraction"]], recipe, config["device"], seed)

    search = tuned(config["rates"], trial, work / f"{name}-rates.json")
    recipe, fine_tuned = _recipe(config, config["steps"], best(search)), []
    for share in sorted(config["fractions"]):
        resume = work / f"{name}-{share}-{recipe.learning_rate}-{recipe.steps}.safetensors"
        fine_tuned.append({"fraction": share} | trained(fresh(), few[share], recipe, seed=seed, device=config["device"],
                                                        checkpoint=resume))
    return fine_tuned[-1] | {"learning_rate": recipe.learning_rate, "search": search, "pretrained": before,
                             "fine_tuned": fine_tuned}


def summarise(runs: list[dict]) -> dict:
    """Test accuracy by way to begin and fraction, and what pre-training adds, with intervals over the seeds.

    Returns:
        ``accuracy``: ``{pretraining: {fraction: interval}}``; ``above``: of each pre-training, by the other way it is
        compared with, the same of the differences between runs of one seed; ``masked``: of each target, the share of
        corrupted patches whose mean colour is predicted right, beside the two guesses that need no model.
    """
    tuned = [one | {"pretraining": run["pretraining"], "seed": run["seed"]}
             for run in runs for one in run["fine_tuned"]]
    starts = {name: {str(share): those for share, those in grouped(ours, "fraction").items()}
              for name, ours in grouped(tuned, "pretraining").items()}
    masked = grouped((run for run in runs if run["pretraining"] in TARGETS), "pretraining")
    return {
        "accuracy": {name: {share: interval(one["test_accuracy"] for one in those) for share, those in shares.items()}
                     for name, shares in starts.items()},
        "above": {name: {other: _above(starts[name], starts[other]) for other in starts if other != name}
                  for name in starts if name != "none"},
        "masked": {name: {key: interval(run["pretrained"][key] for run in those)
                          for key in ("masked_accuracy", "neighbours", "commonest")} for name, those in masked.items()},
    }


def _above(ours: dict[str, list[dict]], theirs: dict[str, list[dict]]) -> dict[str, dict]:
    gains = {share: paired(those, theirs.get(share, [])) for share, those in ours.items()}
    return {share: gain for share, gain in gains.items() if gain}


# ---- pre-training


def _pretrained(model: ViT, point: dict, config: dict, path: Path) -> dict | None:
    """Pre-train the model in place; with colours as the target, keep the first seed's for the book."""
    name, seed = point["pretraining"], point["seed"]
    if name == "none":
        return None
    recipe = _recipe(config, config["pretraining_steps"], config["pretraining_rate"])
    resume = path.with_suffix(".part.safetensors")
    sets = loaded(**config["scenes" if name == "scenes" else "data"])
    if name not in TARGETS:
        return once(model, path, lambda: trained(model, sets, recipe, seed=seed, device=config["device"],
                                                 checkpoint=resume))
    torch.manual_seed(seed)  # for the [mask] embedding and the head
    masked = MaskedPatches(model, sets.train.mean, sets.train.std, mask_ratio=config["mask_ratio"], target=name)
    before = once(masked, path, lambda: _learn(masked, sets, recipe, seed, config["device"], resume))
    if name == "colour" and seed == config["seeds"][0]:
        _keep(masked, sets, CHECKPOINT if config["publish"] else path.with_name("masked_patches.safetensors"))
    return before


def _learn(model: MaskedPatches, sets: data.Splits, recipe: Recipe, seed: int, device: str, resume: Path) -> dict:
    trainer = Trainer(model, recipe, seed=seed, device=device, checkpoint=resume, objective=masked_patches,
                      val_objective=masked_patches)
    history = trainer.fit(sets)
    resume.unlink(missing_ok=True)
    image_size, seen = tuple(sets.train.images.shape[2:]), images_seen(recipe, sets.train)
    return {
        "parameters": cost.parameters(model),
        "train_images": len(sets.train),
        "steps": recipe.steps,
        "images_seen": seen,
        "seconds": history["seconds"],
        "train_flops": seen * cost.train_flops(model.vit, image_size),  # without the head that predicts
        "masked_accuracy": history["val_accuracy"][-1],
        **baselines(model, sets.validation),
    }


def labelled(train: data.Split, fraction: float, seed: int) -> data.Split:
    """The images that keep their labels: a class-balanced fraction, nested, another one for each seed."""
    return train.subset(round(fraction * len(train)), seed)


@torch.no_grad()
def baselines(model: MaskedPatches, split: data.Split) -> dict[str, float]:
    """How often a guess hits the colour class of a hidden patch, by two rules that need no training.

    Args:
        model: Says which share is hidden, and which class a colour belongs to.
        split: The images.

    Returns:
        ``neighbours``: the share hit by the mean colour of the visible patches among the eight around, or of all images
        where none is visible; ``commonest``: by the class that most patches have.
    """
    device, random = model.mean.device, torch.Generator().manual_seed(0)
    images = split.to(device).normalised()
    colours = F.avg_pool2d(images, model.patch_size)  # [N, C, rows, columns]
    order = torch.rand(len(images), colours[0, 0].numel(), generator=random).argsort(dim=1).argsort(dim=1)
    hidden = (order < model.corrupted).view(-1, 1, *colours.shape[2:]).to(device)
    seen = F.avg_pool2d((~hidden).float(), 3, stride=1, padding=1)
    near = F.avg_pool2d(colours * ~hidden, 3, stride=1, padding=1) / seen.clamp_min(1e-6)
    right, guess = (model.colours(what.permute(0, 2, 3, 1))[hidden[:, 0]] for what in (colours, near))
    return {"neighbours": (guess == right).double().mean().item(),
            "commonest": right.bincount().max().item() / len(right)}


# ---- what the book shows


def _keep(model: MaskedPatches, sets: data.Splits, path: Path) -> None:
    """Save the ViT in bfloat16, and beside it what fills in patches."""
    own = {name: tensor for name, tensor in model.named_parameters() if not name.startswith("vit.")}
    weights.save(model.vit, path, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std,
                 record="masked_patches", dtype=torch.bfloat16, extra=own)


def read(path: Path = CHECKPOINT) -> MaskedPatches:
    """The model that predicts hidden patches' mean colours, as an experiment kept it, in evaluation mode.

    Raises:
        ValueError: If the file holds no such model.
    """
    metadata, own = weights.info(path), weights.extra(path)
    if not own.keys() >= {"mask_token", "head.weight", "head.bias"}:
        raise ValueError(f"{path} holds a model without what fills in hidden patches; expected a file that the "
                         "experiment masked_patches kept")
    model = MaskedPatches(weights.load(path), metadata["mean"], metadata["std"])
    model.load_state_dict(own, strict=False)  # the ViT has its weights already
    return model.eval()


STARTS = {"none": "random weights", "colour": "masked patches, colours", "pixels": "masked patches, pixels",
          "scenes": "labelled scenes", "labels": "the same images with all their labels"}


def _accuracy(record: dict) -> str:
    summary, shares = record["summary"], [str(share) for share in record["config"]["fractions"]]
    rows = [[STARTS[name], *(records.percent(summary["accuracy"][name][share]) for share in shares)]
            for name in record["config"]["pretraining"]]
    for name in ("colour", "pixels", "scenes"):
        rows.append([f"{STARTS[name]} − {STARTS['none']}",
                     *(records.percent(summary["above"][name]["none"][share], "+") for share in shares)])
    return records.table(["start", *(f"{float(share):.0%} of the labels" for share in shares)], rows)


show = records.views(accuracy=_accuracy)  # chapter 10
