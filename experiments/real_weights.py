"""What a published ViT knows about CIFAR-10, layer by layer, and how to make it classify without losing that.

Question:    How well does a published ViT-S/14 classify CIFAR-10 with 1 to 250 images per class: read by a linear map,
             fine-tuned with one rate, or fine-tuned from the linear map?
Expectation: The linear map has about 70 % with 500 images, and its accuracy rises from layer to layer. One rate of 1e-4
             for a new head and the body loses most of that: it ends below 40 %. Fine-tuning that starts from the
             linear map with small rates ends a few points above it, more with 2,500 images. The same network from
             scratch stays below 30 %. With query, key and value taken in the wrong order the linear map loses half.
Command:     python -m experiments real_weights
Cost:        cpu: 18 runs (six uses of the weights, three seeds), about 25 minutes of one core with bfloat16
             instructions per seed. full: 18 runs at 224 pixels on one GPU, untried so far. It resumes when interrupted.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments import real, records
from experiments.measure import UNTRAINED, loaded
from experiments.statistics import grouped, interval
from vitlite import ViT, checks, cost, data, plots, weights
from vitlite.analysis import LinearProbe, linear_probe
from vitlite.data.augment import normalise
from vitlite.files import decoding, written_whole
from vitlite.train import outputs
from vitlite.train.device import autocast_dtype

__all__ = ["DATASET", "SCALES", "accuracy", "drawn", "enlarged_outputs", "epochs_of", "fine_tuned", "in_the_head",
           "layer_features", "mixed_up", "points", "probed", "published", "resized", "run", "show", "summarise",
           "two_rates", "with_a_linear_map"]

DATASET = (
    "cifar10: images drawn from its 45,000 training images, 500 validation and 2,000 test images, enlarged to 112 "
    "pixels (cpu) or 224 (full), bicubic; quick: scenes"
)
# How the weights are used, and with which number of images per class: see `run`.
USES = {
    "frozen": "most", "probe_first": "some", "one_rate": "some", "mixed_up": "most", "probe_first_most": "most",
    "scratch": "some",
}
GRID = {
    "l2": 0.1,  # of the linear map; not chosen on anything
    "draws": 5,  # of so many images per class, where there are enough for several
    "probe_first": {"body": 1e-5, "head": 5e-5}, "one_rate": {"body": 1e-4, "head": 1e-4},
    "scratch": {"body": 3e-4, "head": 3e-4},
    "weight_decay": 0.05, "label_smoothing": 0.1, "batch_size": 25, "device": "cpu",
}
SCALES = {
    "quick": GRID | {
        "data": {"name_or_path": "scenes", "train_images": 100, "held_out": 40},
        "image_size": 28, "images": [1, 2], "some": 1, "most": 2, "validation": 10, "test": 20,
        "epochs": dict.fromkeys(("probe_first", "one_rate", "probe_first_most", "scratch"), 1), "seeds": [0],
    },
    "cpu": GRID | {
        "data": {"name_or_path": "cifar10"},
        "image_size": 112, "images": [1, 5, 10, 50, 250], "some": 50, "most": 250, "validation": 500, "test": 2_000,
        "epochs": {"probe_first": 5, "one_rate": 5, "probe_first_most": 3, "scratch": 10}, "seeds": [0, 1, 2],
    },
    "full": GRID | {
        "data": {"name_or_path": "cifar10"},
        "image_size": 224, "images": [1, 5, 10, 50, 250], "some": 50, "most": 250, "validation": 500, "test": 10_000,
        "epochs": {"probe_first": 10, "one_rate": 10, "probe_first_most": 10, "scratch": 100}, "seeds": [0, 1, 2],
        "device": "cuda",
    },
}


def points(config: dict) -> list[dict]:
    """Every use of the weights with the first seed, then with the next."""
    return [{"use": use, "seed": seed} for seed in config["seeds"] for use in USES]


def run(point: dict, config: dict, work: Path) -> dict:
    """Use the published weights in one way, and measure what comes of it.

    Returns:
        The usual keys. The uses ``frozen`` and ``mixed_up`` train nothing: their accuracies are those of the linear map
        on the class token, of ``most`` images per class. ``frozen`` also has ``few``, test accuracies by images per
        class, one for each draw; and ``layers``, by what is read (class token, mean of the patches, both) the test
        accuracy of a linear map on each layer's states, the embedded patches first. The other uses have ``curve``,
        validation accuracy after each epoch, before the first one first.
    """
    use, seed = point["use"], point["seed"]
    model = published(config)
    sets = drawn(config, seed)
    sets = sets._replace(train=sets.train.subset(config[USES[use]] * len(sets.train.classes), seed))
    if use in ("frozen", "mixed_up"):
        model = mixed_up(model) if use == "mixed_up" else model
        states = _states(model, sets, config, work / f"{use}-{seed}.safetensors")
        return _frozen(states, sets, model, config, few=use == "frozen")
    if use == "scratch":
        torch.manual_seed(seed)
        model = ViT(replace(model.config, num_classes=len(sets.train.classes))).to(config["device"])
    model = model.reset_head(len(sets.train.classes))
    if use.startswith("probe_first"):
        with_a_linear_map(model, sets.train, config["l2"])
    kind = use.removesuffix("_most")
    return fine_tuned(model, sets, config, two_rates(model, **config[kind]), config["epochs"][use], seed)


def summarise(runs: list[dict]) -> dict:
    """Test accuracies, each with its interval over the seeds.

    Returns:
        ``uses``, by use; ``few``, by images per class, of a linear map on the class token; of a seed's draws, the mean
        counts; ``layers``, by what is read, one for each layer.
    """
    by_use = grouped(runs, "use")
    uses = {use: interval(run["test_accuracy"] for run in those) for use, those in by_use.items()}
    few, layers, frozen = {}, {}, by_use.get("frozen", [])
    for images in frozen[0]["few"] if frozen else ():
        few[images] = interval(sum(run["few"][images]) / len(run["few"][images]) for run in frozen)
    for what in frozen[0]["layers"] if frozen else ():
        layers[what] = [interval(values) for values in zip(*(run["layers"][what] for run in frozen), strict=True)]
    return {"uses": uses, "few": few, "layers": layers}


# ---- the pieces


def probed(features: Tensor, labels: Tensor, l2: float) -> LinearProbe:
    """A linear map on features that count alike, whatever their deviations."""
    return linear_probe(features, labels, int(labels.max()) + 1, l2=l2, standardise=True)


def in_the_head(model: ViT, probe: LinearProbe) -> None:
    """Make a linear map the model's head: its logits are then the map's scores."""
    with torch.no_grad():
        model.head[-1].weight.copy_(probe.weight.T)
        model.head[-1].bias.copy_(probe.bias)


def with_a_linear_map(model: ViT, train: data.Split, l2: float) -> ViT:
    """Fit a linear map to a model's features of the training images, and make it the model's head, in place."""
    features = enlarged_outputs(model, train, model.features)
    in_the_head(model, probed(features, train.labels, l2))
    return model


def mixed_up(model: ViT) -> ViT:
    """A copy whose matrices for query, key and value are those that a reader gets who takes the file's anonymous
    matrices in their order: key, value, query. Biases have names and stay."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        query, key, value = block.attention.qkv.weight.data.chunk(3)
        block.attention.qkv.weight.data = torch.cat([key, value, query])
    return model


def layer_features(model: ViT, images: Tensor) -> Tensor:
    """Class token and mean of the patches before the first block and after each, ``[B, layers + 1, 2, D]``."""
    z, rows = model.tokens(model.embed(images)), []
    for block in [None, *model.blocks]:
        z = block(z)[0] if block else z
        rows.append(torch.stack([z[:, 0], z[:, model.config.prefix_tokens:].mean(dim=1)], dim=1))
    return torch.stack(rows, dim=1)


def fine_tuned(model: ViT, sets: data.Splits, config: dict, groups: list[dict], epochs: int, seed: int) -> dict:
    """Train parts of a model, each by its own rate; gives the usual keys, ``cpu_seconds`` and ``curve``.

    Args:
        model: What to train.
        sets: Training, validation and test images.
        config: ``batch_size``, ``weight_decay``, ``label_smoothing`` and ``device``.
        groups: As AdamW takes them, each with its highest rate as ``"peak"``; see ``two_rates``.
        epochs: How often to look at every training image.
        seed: Of the order of the images and of their flips.
    """
    curve, began, spent = [accuracy(model, sets.validation)], time.perf_counter(), time.process_time()
    seconds = cpu_seconds = 0.0
    for _ in epochs_of(model, sets.train, config, groups, epochs, seed):
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - spent
        curve.append(accuracy(model, sets.validation))
        began, spent = time.perf_counter(), time.process_time()
    count = len(sets.train)
    return {
        "parameters": cost.parameters(model), "train_images": count,
        "steps": epochs * -(-count // config["batch_size"]), "images_seen": epochs * count,
        "seconds": seconds, "cpu_seconds": cpu_seconds,
        "train_flops": epochs * count * cost.train_flops(model, _image_shape(model)), "val_accuracy": curve[-1],
        "test_accuracy": accuracy(model, sets.test), "curve": curve,
    }


def epochs_of(
    model: ViT, train: data.Split, config: dict, groups: list[dict], epochs: int, seed: int
) -> Iterator[int]:
    """The training itself, which pauses after every epoch, from the first, 1.

    AdamW, a rise over a tenth of the steps, then a cosine to 0; half of the images flipped. See ``fine_tuned``.
    """
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config["weight_decay"], fused=True)
    generator, device = torch.Generator().manual_seed(seed), torch.device(config["device"])
    dtype = autocast_dtype(device)
    batches = [batch for _ in range(epochs)
               for batch in torch.randperm(len(train), generator=generator).split(config["batch_size"])]
    for step, chosen in enumerate(batches, start=1):
        images = normalise(train.images[chosen].to(device), train.mean, train.std)
        flip = torch.rand(len(chosen), 1, 1, 1, generator=generator).to(device) < 0.5
        images = resized(torch.where(flip, images.flip(-1), images), _image_shape(model))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _share(step - 1, len(batches))
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model.train()(images), train.labels[chosen].to(device),
                                   label_smoothing=config["label_smoothing"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % (len(batches) // epochs) == 0:
            if device.type == "cuda":
                torch.cuda.synchronize()  # so that whoever takes the time counts the work
            yield step // (len(batches) // epochs)


def two_rates(model: ViT, body: float, head: float) -> list[dict]:
    """All parameters, those of the head in a group of their own."""
    inside = {id(p) for p in model.head.parameters()}
    return [{"params": [p for p in model.parameters() if (id(p) in inside) == chosen], "peak": rate}
            for rate, chosen in ((body, False), (head, True))]


def _share(step: int, steps: int) -> float:
    """Of the highest rate, in a step: a rise over a tenth of the steps, then a cosine to 0."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - warmup) / (steps - warmup))).item())


def published(config: dict) -> ViT:
    model = real.model(config["image_size"])
    if model is None:
        raise FileNotFoundError("the published weights are not there, and this experiment is about them")
    return model.to(config["device"])


def drawn(config: dict, seed: int) -> data.Splits:
    """The splits, to be normalised as the published ViT wants it; the test images are the same for every seed."""
    sets = loaded(**config["data"])
    held = (split.subset(min(config[name], len(split)))
            for name, split in (("validation", sets.validation), ("test", sets.test)))
    entry = weights.published()[real.NAME]
    few = sets.train.subset(config["most"] * len(sets.train.classes), 1_000 * seed)  # balanced
    return data.Splits(*(replace(split, mean=entry.mean, std=entry.std) for split in (few, *held)))


def _image_shape(model: ViT) -> tuple[int, int]:
    return tuple(checks.pair(model.config.image_size))


def resized(images: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(images, shape, mode="bicubic", antialias=True)


def enlarged_outputs(model: ViT, split: data.Split, call: Callable, prepare: Callable | None = None) -> Tensor:
    """What a call makes of a split's images, enlarged, in the precision of the training.

    Args:
        model: Whose size and device count.
        split: The images.
        call: What to make of a batch.
        prepare: Brings a batch into the model's form, if enlarging it is not enough.
    """
    prepare = prepare or partial(resized, shape=_image_shape(model))
    dtype = autocast_dtype(next(model.parameters()).device)
    return outputs(model, split, lambda images: call(prepare(images)), batch_size=100, dtype=dtype)


def accuracy(model: ViT, split: data.Split, prepare: Callable | None = None) -> float:
    return (enlarged_outputs(model, split, model, prepare).argmax(dim=1) == split.labels).double().mean().item()


def _states(model: ViT, sets: data.Splits, config: dict, path: Path) -> list[Tensor]:
    """``layer_features`` of each split, computed once and kept."""
    if not path.is_file():
        states = {name: enlarged_outputs(model, split, partial(layer_features, model)).half()
                  for name, split in zip(sets._fields, sets, strict=True)}
        with written_whole(path) as beside:
            save_file(states, beside)
    with decoding(path, "damaged", "remove it, and it is computed again"):
        states = load_file(path)
        return [states[name].float() for name in sets._fields]


def _frozen(states: list[Tensor], sets: data.Splits, model: ViT, config: dict, few: bool) -> dict:
    labels, classes = sets.train.labels, len(sets.train.classes)

    def accuracies(of: list[Tensor], chosen: slice = slice(None)) -> tuple[float, float]:
        """Of a linear map that some of the training images fit, on validation and test images."""
        probe = probed(of[0][chosen], labels[chosen], config["l2"])
        return tuple(probe.accuracy(x, split.labels) for x, split in zip(of[1:], sets[1:], strict=True))

    # The head reads the class token after the last norm.
    token = [model.norm.cpu()(x[:, -1, 0]).detach() for x in states]
    val, test = accuracies(token)
    measured = {"parameters": cost.parameters(model), "train_images": len(labels), "val_accuracy": val,
                "test_accuracy": test}
    measured |= UNTRAINED
    if not few:
        return measured
    by_images = {}
    for images in config["images"]:  # the draw is in rounds of one image per class
        count = images * classes
        starts = range(0, len(labels) - count + 1, count)[: config["draws"]]
        by_images[str(images)] = [accuracies(token, slice(start, start + count))[1] for start in starts]
    read = {"class token": lambda x: x[:, 0], "mean of the patches": lambda x: x[:, 1],
            "both": lambda x: x.flatten(1)}
    layers = {what: [accuracies([part(x[:, layer]) for x in states])[1] for layer in range(states[0].shape[1])]
              for what, part in read.items()}
    return measured | {"few": by_images, "layers": layers}


# ---- what chapter 15 shows

WAYS = {
    "linear map, the network frozen": {},
    "linear map first, then everything": {"some": "probe_first", "most": "probe_first_most"},
    "new head, one rate for everything": {"some": "one_rate"},
    "from scratch": {"some": "scratch"},
}


def _layers(record: dict) -> Figure:
    curves = {what: (range(len(rows)), [100 * row["mean"] for row in rows])
              for what, rows in record["summary"]["layers"].items()}
    return plots.lines(curves, "layers passed", "test accuracy (%)",
                       "Class token and patches together gain in every layer")


def _few(record: dict) -> str:
    rows = record["summary"]["few"]
    return records.table(["images per class", *rows], [["accuracy (%)", *map(records.percent, rows.values())]])


def _uses(record: dict) -> str:
    config, summary, rows = record["config"], record["summary"], []
    for way, uses in WAYS.items():
        cells = {config[number]: summary["uses"][use] for number, use in uses.items() if use in summary["uses"]}
        if not uses:
            cells = {int(images): row for images, row in summary["few"].items()}
        rows.append([way, *(records.percent(cells[images]) if images in cells else "–" for images in config["images"])])
    return records.table(["images", *(f"{10 * images:,}" for images in config["images"])], rows)


show = records.views(layers=_layers, uses=_uses, few=_few)  # chapter 15; few: chapter 10
