"""Image GPT in small: every pixel is a token. What that costs, and what it learns beside patches for the same FLOPs.

Question:    If each pixel is a token, as in Image GPT (Chen et al., 2020), what does a larger image cost? And what does
             a linear probe find in the features, beside a ViT on patches that trained for equally many FLOPs?
Expectation: Twice the side makes four times the tokens. From 16 to 32 pixels the FLOPs of an image grow eight to nine
             times where pixels are tokens, since attention comes to outweigh the rest, and four to five times with
             patches of 4 pixels. For the same FLOPs the patch model sees some 26 times as many images, and its probe is
             ahead by five points or more. The pixel model's best layer lies in the middle, as in the paper (Sec. 4.1,
             Fig. 2), for its last layers serve the next colour. Both are ahead of networks that learned nothing, but in
             so short a run the pixel model is not ahead of a probe of the pixels themselves. It names the next colour
             right more often than a copy of the pixel before does.
Command:     python -m experiments pixel_tokens
Cost:        cpu: 6 runs (pixels and patches, three seeds), about 30 minutes on one core with bfloat16 instructions.
             full: 6 runs, longer and at 32 pixels, on one GPU. It resumes when interrupted.

Image GPT tried two tasks, the next pixel and masked pixels (Sec. 2.1). This is the next pixel: every pixel of an image
asks a question, where masking asks one of seven, and the model can then finish a picture. All it takes of a ViT is one
line that hides later tokens. FLOPs are counted with the half of each map that it hides, for that half is computed too.
"""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments import masked_patches as patches
from experiments._pixels import NextPixel, Palette, clusters, complete
from experiments.measure import best, loaded, once, tuned, usual_recipe
from experiments.statistics import interval, paired
from experiments.timing import seconds
from vitlite import ViT, ViTConfig, cost, data
from vitlite.analysis import linear_probe
from vitlite.data.augment import normalise
from vitlite.masked import MaskedPatches, masked_patches
from vitlite.train import Trainer
from vitlite.train.device import autocast_dtype

__all__ = ["DATASET", "SCALES", "TOKENS", "build", "by_size", "guesses", "picture", "points", "probes", "run", "states",
           "summarise", "train_flops"]

DATASET = (
    "cifar10, shrunk to 16 pixels (cpu) or at 32 (full): 45,000 training images without labels; for the probe a "
    "class-balanced part of them with labels, and parts of the validation and test images; quick: scenes"
)
TOKENS = ("pixels", "patches")

# Both models have these blocks; what a token is decides the rest.
VIT = {"num_classes": 10, "embed_dim": 64, "depth": 6, "num_heads": 2, "mlp_dim": 256, "pool": "mean"}
GRID = {
    "vit": VIT,
    "patch_size": 4,
    "mask_ratio": 0.5,  # of patches, as in the ViT paper
    "colours": 512,
    "palette": {"pixels": 50_000, "rounds": 20},  # that k-means sees, and how often
    "recipe": {"weight_decay": 0.05, "flip": True},
    "batch_size": {"pixels": 16, "patches": 128},  # an image asks 256 questions of the one, 8 of the other
    "rates": {"pixels": [1e-3, 3e-3], "patches": [1e-3, 3e-3]},
    "probe": {"train": 8_000, "validation": 1_000, "test": 4_000},
    "l2": [1e-4, 1e-3, 1e-2],
    "image_sizes": [16, 32, 48, 64],  # Image GPT's are the last three
    "timed": {"tokens": 1_024, "images": 8, "repeats": 3},
    "completed": 6,
    "device": "cpu",
}
SCALES = {
    "quick": GRID | {
        "data": {"name_or_path": "scenes", "train_images": 200, "held_out": 40, "image_size": 8},
        "vit": VIT | {"embed_dim": 16, "depth": 2, "mlp_dim": 32},
        "patch_size": 2, "colours": 64, "palette": {"pixels": 2_000, "rounds": 3},
        "batch_size": {"pixels": 16, "patches": 32},
        "steps": 10, "search_steps": 2, "probe": {"train": 100, "validation": 40, "test": 40},
        "image_sizes": [8, 16], "timed": {"tokens": 64, "images": 2, "repeats": 3}, "completed": 2, "seeds": [0],
    },
    "cpu": GRID | {
        "data": {"name_or_path": "cifar10", "image_size": 16}, "steps": 1_100, "search_steps": 110, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "data": {"name_or_path": "cifar10"},
        "vit": VIT | {"embed_dim": 128, "depth": 8, "num_heads": 4, "mlp_dim": 512},
        "batch_size": {"pixels": 128, "patches": 512}, "steps": 8_000, "search_steps": 400,
        "probe": {"train": 45_000, "validation": 5_000, "test": 10_000},
        "timed": {"tokens": 4_096, "images": 8, "repeats": 11}, "seeds": [0, 1, 2], "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Pixels and patches with the first seed, then with the next."""
    return [{"tokens": tokens, "seed": seed} for seed in config["seeds"] for tokens in TOKENS]


def run(point: dict, config: dict, work: Path) -> dict:
    """Train one model without labels, probe each of its layers, and measure what larger images would cost.

    Returns:
        The usual keys, the accuracies being those of the probe of the layer that did best on validation images;
        ``loss`` and ``right`` of the task itself on validation images, and ``guesses`` that need no model; ``probes``
        by layer, and ``untrained``, the same before training; ``raw``, a probe of the pixels themselves; ``by_size``;
        ``search``, ``right`` by learning rate; and of the first seed's pixel model ``completed`` pictures.
    """
    tokens, seed, sets = point["tokens"], point["seed"], loaded(**config["data"])
    held = data.Splits(*(split.subset(config["probe"][name]) for name, split in sets._asdict().items()))
    where, few = work / f"{tokens}-{seed}", sets._replace(validation=held.validation)
    model = build(tokens, config, sets.train, seed).to(config["device"])
    worth = _worth(model, config, sets.train, seed)
    steps, trial_steps = (max(2, round(config[name] * worth)) for name in ("steps", "search_steps"))

    def trial(rate: float) -> float:
        return _learn(copy.deepcopy(model), few, point, config, trial_steps, rate, where)["right"]

    untrained = probes(model.vit, held, config["l2"])
    search = tuned(config["rates"][tokens], trial, where.with_suffix(".json"))
    measured = once(model, where.with_suffix(".safetensors"),
                    lambda: _learn(model, few, point, config, steps, best(search), where))
    found = probes(model.vit, held, config["l2"])
    chosen = max(found, key=lambda layer: layer["val_accuracy"])
    if tokens == "pixels" and seed == config["seeds"][0]:
        measured["completed"] = _completed(model, held.test, config["completed"])
    return measured | {
        "val_accuracy": chosen["val_accuracy"], "test_accuracy": chosen["test_accuracy"], "probes": found,
        "untrained": untrained, "raw": _raw(held, config["l2"]), "guesses": guesses(model, held.validation),
        "learning_rate": best(search), "search": search, "by_size": by_size(tokens, config, sets.train, seed),
    }


def _worth(model: NextPixel | MaskedPatches, config: dict, train: data.Split, seed: int) -> float:
    """How many of its steps cost as much as one of the pixel model's, whose steps the configuration tells."""
    if isinstance(model, NextPixel):
        return 1.0
    batch, pixels = config["batch_size"], build("pixels", config, train, seed)
    return batch["pixels"] * train_flops(pixels) / (batch["patches"] * train_flops(model))


def _learn(
    model: nn.Module, sets: data.Splits, point: dict, config: dict, steps: int, rate: float, where: Path
) -> dict:
    batch, resume = config["batch_size"][point["tokens"]], where.with_suffix(f".{rate}-{steps}.safetensors")
    recipe = usual_recipe("pixel_tokens", config, steps, rate, batch_size=batch)
    trainer = Trainer(model, recipe, seed=point["seed"], device=config["device"], checkpoint=resume,
                      objective=masked_patches, val_objective=masked_patches)
    history = trainer.fit(sets)
    resume.unlink(missing_ok=True)
    return {
        "parameters": cost.parameters(model),
        "train_images": len(sets.train),
        "steps": steps,
        "images_seen": steps * batch,
        "seconds": history["seconds"],
        "train_flops": steps * batch * train_flops(model),
        "loss": history["val_loss"][-1],
        "right": history["val_accuracy"][-1],
        "curve": {name: history[name][9::10] for name in ("step", "loss")},  # twenty lines of it
    }


def summarise(runs: list[dict]) -> dict:
    """The probes of pixels and of patches, what they trained on for the same FLOPs, and what larger images cost.

    Returns:
        By kind of token, intervals over the seeds: ``accuracy`` of the probe, and of ``trained`` and ``untrained``
        models layer by layer; ``best_layer``, by mean validation accuracy; ``loss``, ``right`` and ``guesses`` of the
        task; ``images_seen``, ``train_flops``, ``seconds``; and ``by_size``. Beside the two ``patches_over_pixels``,
        the difference of the probes between runs of one seed, and ``raw``, test accuracy of a probe of the pixels.
    """
    told: dict = {"raw": runs[0]["raw"]["test_accuracy"] if runs else None}
    of = {tokens: [run for run in runs if run["tokens"] == tokens] for tokens in TOKENS}
    for tokens, ours in of.items():
        if not ours:
            continue
        val = [statistics.mean(layer["val_accuracy"] for layer in same) for same in _by_layer(ours, "probes")]
        told[tokens] = {
            "accuracy": interval(run["test_accuracy"] for run in ours),
            "trained": [interval(layer["test_accuracy"] for layer in same) for same in _by_layer(ours, "probes")],
            "untrained": [interval(layer["test_accuracy"] for layer in same) for same in _by_layer(ours, "untrained")],
            "best_layer": val.index(max(val)),
            "guesses": {name: interval(run["guesses"][name] for run in ours) for name in ours[0]["guesses"]},
            "by_size": [{key: interval(size[key] for size in same) if key == "seconds" else same[0][key]
                         for key in same[0]} for same in _by_layer(ours, "by_size")],
        }
        for key in ("loss", "right", "images_seen", "train_flops", "seconds", "parameters"):
            told[tokens][key] = interval(run[key] for run in ours)
    return told | {"patches_over_pixels": paired(of["patches"], of["pixels"])}


def _by_layer(runs: list[dict], key: str) -> list[tuple[dict, ...]]:
    """The lists under a key, place by place."""
    return list(zip(*(run[key] for run in runs), strict=True))


# ---- the two models


def build(tokens: str, config: dict, train: data.Split, seed: int) -> NextPixel | MaskedPatches:
    """A new model with its task, for images of the training set's size: same blocks, another kind of token."""
    shape = ViTConfig(**config["vit"], image_size=tuple(train.images.shape[2:]), patch_size=config["patch_size"])
    torch.manual_seed(seed)
    if tokens == "patches":
        return MaskedPatches(ViT(shape), train.mean, train.std, mask_ratio=config["mask_ratio"])
    colours = _palette(seed, config["colours"], **config["palette"], **config["data"])
    return NextPixel(ViT(replace(shape, patch_size=1, class_token=True), Palette(colours, shape.embed_dim)))


@cache
def _palette(seed: int, count: int, pixels: int, rounds: int, **told) -> Tensor:
    train, generator = loaded(**told).train, torch.Generator().manual_seed(seed)
    chosen = torch.randint(train.images[:, 0].numel(), (pixels,), generator=generator)
    there = train.images.permute(0, 2, 3, 1).reshape(-1, train.images.shape[1])[chosen]  # [pixels, C]
    return clusters(normalise(there[:, :, None, None], train.mean, train.std).flatten(1), count, rounds, seed)


# ---- what is measured


def train_flops(model: NextPixel | MaskedPatches) -> int:
    """FLOPs of a training step for one image: the ViT's, and six for each weight of the head and each prediction."""
    config = model.vit.config
    predictions = model.corrupted if isinstance(model, MaskedPatches) else config.num_patches
    return cost.train_flops(model.vit, config.image_size) + 6 * predictions * model.head.weight.numel()


@torch.inference_mode()
def states(vit: ViT, split: data.Split) -> list[Tensor]:
    """Features by layer, as Image GPT takes them: what each block's attention reads, and what the head does, averaged
    over the pixels or patches (Sec. 2.2 and 2.4).

    Returns:
        For each block, and for the end, float32 ``[n, D]``.
    """
    where = next(vit.parameters()).device
    dtype, told = autocast_dtype(where), []
    for images in split.images.split(50):  # few, so that the maps of a layer stay in the cache
        with torch.autocast(where.type, dtype, enabled=dtype is not None):
            z, layers = vit.eval().tokens(vit.embed(normalise(images.to(where), split.mean, split.std))), []
            for block in vit.blocks:
                layers.append(block.norm1(z))
                z, _ = block(z)
            layers.append(vit.norm(z))
        told.append([layer[:, vit.config.prefix_tokens :].float().mean(dim=1).cpu() for layer in layers])
    return [torch.cat(layer) for layer in zip(*told, strict=True)]


def probes(vit: ViT, sets: data.Splits, l2: list[float]) -> list[dict]:
    """Accuracy of a linear probe of every layer: ``layer``, counted in blocks, and ``_probe``'s keys."""
    found = zip(*(states(vit, split) for split in sets), strict=True)
    return [{"layer": layer} | _probe(features, sets, l2) for layer, features in enumerate(found)]


def _raw(sets: data.Splits, l2: list[float]) -> dict:
    """The same of the pixels themselves, all of an image in a row."""
    return _probe([normalise(split.images, split.mean, split.std).flatten(1) for split in sets], sets, l2)


def _probe(features: tuple[Tensor, ...] | list[Tensor], sets: data.Splits, l2: list[float]) -> dict:
    """Validation and test accuracy with the penalty that did best on validation images, and that penalty."""
    train, validation, test = features
    found = [linear_probe(train, sets.train.labels, len(sets.train.classes), l2=strength) for strength in l2]
    val = [probe.accuracy(validation, sets.validation.labels) for probe in found]
    chosen = val.index(max(val))
    return {"val_accuracy": val[chosen], "test_accuracy": found[chosen].accuracy(test, sets.test.labels),
            "l2": l2[chosen]}


@torch.no_grad()
def guesses(model: NextPixel | MaskedPatches, split: data.Split) -> dict[str, float]:
    """How often a rule that needs no training is right.

    Returns:
        ``commonest``, the share of the commonest colour; of pixels also ``copy``, the share of those that have the
        colour of the pixel before; of patches ``neighbours``, as in ``masked_patches``.
    """
    if isinstance(model, MaskedPatches):
        return patches.baselines(model, split)
    palette = model.vit.patch_embed
    images = normalise(split.images, split.mean, split.std).to(palette.colours.device)
    colours = torch.cat([palette.indices(part) for part in images.split(250)])  # [n, N]
    same = colours[:, 1:] == colours[:, :-1]
    return {"copy": same.sum().item() / colours.numel(),
            "commonest": colours.flatten().bincount().max().item() / colours.numel()}


def by_size(tokens: str, config: dict, train: data.Split, seed: int) -> list[dict]:
    """What one image costs a training step, by its size.

    Returns:
        For each size: ``image_size``, ``tokens``, ``train_flops``, ``saved_bytes`` (explicit attention); and, unless
        the sequence is too long to be timed, ``seconds``, the median of the repeats.
    """
    told, timed, device = [], config["timed"], torch.device(config["device"])
    dtype = autocast_dtype(device)
    for side in config["image_sizes"]:
        images = torch.randn(timed["images"], train.images.shape[1], side, side, device=device)
        model = build(tokens, config, replace(train, images=images), seed).to(device)

        def step(model: nn.Module = model, images: Tensor = images) -> None:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss, _ = model(images)
            loss.backward()

        size = {"image_size": side, "tokens": model.vit.config.num_patches, "train_flops": train_flops(model),
                "saved_bytes": cost.saved_bytes(model.vit, side)}
        if size["tokens"] <= timed["tokens"]:
            size["seconds"] = statistics.median(seconds(step, timed["repeats"])) / len(images)
        told.append(size)
    return told


# ---- what the book shows


def _completed(model: NextPixel, split: data.Split, count: int) -> list[dict]:
    """Images, the same in the palette, and twice what the model makes of their upper half; each for ``picture``."""
    palette, images = model.vit.patch_embed, split.images[:count]
    indices = palette.indices(normalise(images.to(palette.colours.device), split.mean, split.std))
    drawn = [complete(model, indices, indices.shape[1] // 2, seed) for seed in (0, 1)]
    mean, std = (torch.tensor(figures)[:, None, None] for figures in (split.mean, split.std))

    def painted(colours: Tensor) -> Tensor:
        pixels = palette.colours[colours].cpu().T.reshape(images[0].shape)  # [C, H, W]
        return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    return [{"original": _text(images[i]), "palette": _text(painted(indices[i])),
             "completed": [_text(painted(one[i])) for one in drawn]} for i in range(count)]


def _text(image: Tensor) -> str:
    return bytes(image.flatten().tolist()).hex()


def picture(text: str, channels: int = 3) -> Tensor:
    """A square image out of a record: its bytes in hexadecimal -> uint8 ``[C, H, W]``.

    Example:
        >>> picture("00ff00ff", channels=1)
        tensor([[[  0, 255],
                 [  0, 255]]], dtype=torch.uint8)
    """
    values = torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
    side = round((len(values) / channels) ** 0.5)
    return values.view(channels, side, side)
