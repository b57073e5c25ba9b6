"""The command line: ``python -m vitlite train | predict | evaluate | info | export``.

On several devices: ``torchrun --nproc-per-node 2 -m vitlite train …``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import unicodedata
from pathlib import Path

import torch

from vitlite import ViT, ViTConfig, analysis, data, weights
from vitlite.checks import pair
from vitlite.data import pictures
from vitlite.files import try_writing
from vitlite.train import Trainer, distributed, evaluate, outputs, recipes
from vitlite.train.device import default_device

# What a new model is made from, and the numbers of one that nobody chose.
SHAPE = {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3, "mlp_dim": 192, "dropout": 0.0, "drop_path": 0.0}
GENTLE = 1e-4  # peak learning rate for weights that know something already


def main(words: list[str] | None = None) -> int:
    """Run one command; errors that a user can mend come as one line on standard error, with exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a class name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(words)
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupted:
        print(f"vitlite: {interrupted or 'stopped'}", file=sys.stderr)
        return 130
    except Exception as error:
        text = "" if isinstance(error, KeyError) else str(error)  # of a KeyError that is the key alone
        print(f"vitlite: {text or repr(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m vitlite", description="Train, fine-tune, use, evaluate and inspect Vision Transformers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a ViT from scratch, or fine-tune a saved model")
    train.add_argument("out", type=Path, help="file for the trained model (.safetensors)")
    train.add_argument("--from", dest="start", type=Path, metavar="MODEL",
                       help="fine-tune this saved model: a new head is fitted to its features, then all is trained")
    train.add_argument("--data", default="scenes", help="scenes, cifar10, cifar100, an .npz file or a folder")
    train.add_argument("--image-size", type=int, help="resize to this many pixels")
    train.add_argument("--train-images", type=int, help="train on this many images")
    train.add_argument("--recipe", help=f"one of {', '.join(recipes.RECIPES)} (default quick; with --from at a peak "
                       f"learning rate of {GENTLE:g})")
    train.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's; its warmup keeps its share")
    train.add_argument("--batch-size", type=int, help="images a step, instead of the recipe's")
    train.add_argument("--micro-batch", type=int, help="images at a time, if a step's batch does not fit at once")
    train.add_argument("--learning-rate", type=float, help="peak learning rate, instead of the recipe's")
    for name, default in SHAPE.items():
        train.add_argument(_word(name), type=type(default), help=f"of a new model (default {default:g})")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cpu, cuda or mps; by default the fastest that is there")
    train.set_defaults(command=_train)

    predict = commands.add_parser("predict", help="what a saved model sees in images: classes with probabilities")
    predict.add_argument("model", type=Path, help="a file that `train` or weights.save wrote")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image file")
    predict.add_argument("--top", type=int, default=3, help="classes to name (default 3)")
    predict.add_argument("--json", action="store_true", help="one line of JSON for each image, with every class")
    predict.add_argument("--device", default="cpu")
    predict.set_defaults(command=_predict)

    test = commands.add_parser("evaluate", help="accuracy of a saved model on a data set")
    test.add_argument("model", type=Path, help="a file that `train` or weights.save wrote")
    test.add_argument("--data", default="cifar10", help="scenes, cifar10, cifar100, an .npz file or a folder")
    test.add_argument("--split", choices=("train", "validation", "test", "all"), default="test",
                      help="`all` holds nothing out: for a folder that was made to evaluate on")
    test.add_argument("--device", default="cpu")
    test.set_defaults(command=_evaluate)

    info = commands.add_parser("info", help="what a saved model is")
    info.add_argument("model", type=Path)
    info.set_defaults(command=_info)

    export = commands.add_parser("export", help="write a saved model as ONNX")
    export.add_argument("model", type=Path)
    export.add_argument("out", type=Path, help="file to write (.onnx)")
    export.set_defaults(command=_export)
    return parser


def _word(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _train(options: argparse.Namespace) -> None:
    if not -(2**63) <= options.seed < 2**63:
        raise ValueError(f"--seed is {options.seed}; it must fit into 64 bits")
    recipe = recipes.get(options.recipe or "quick")
    if options.steps is not None:
        recipe = recipe.lasting(options.steps)
    names = ("batch_size", "micro_batch", "learning_rate")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    recipe = recipe.replace(**({"learning_rate": GENTLE} if options.start and not options.recipe else {}) | given)
    try_writing(options.out)
    device = torch.device(options.device) if options.device else default_device()
    sets, model = (_started if options.start else _new)(options, device)
    run = options.out.with_name(f"{options.out.name}.run")  # the run's own checkpoint, gone once the model is written
    with distributed.joined(device) as world:
        trainer = Trainer(model, recipe, seed=options.seed, device=device, checkpoint=run)
        history = trainer.fit(sets)
    if world.rank == 0:  # the first of the processes that torchrun started, or the only one
        weights.save(model, options.out, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std)
        run.unlink(missing_ok=True)
        print(f"{options.out}: validation accuracy {history['val_accuracy'][-1]:.2%} after {trainer.step} steps; "
              f"it holds the {trainer.kept}")


def _new(options: argparse.Namespace, device: torch.device) -> tuple[data.Splits, ViT]:
    """The data, and a model for them without any training."""
    sets = data.load(options.data, image_size=options.image_size, train_images=options.train_images)
    _, channels, height, width = sets.train.images.shape
    torch.manual_seed(options.seed)
    shape = {name: default if (value := getattr(options, name)) is None else value for name, default in SHAPE.items()}
    return sets, ViT(ViTConfig((height, width), in_channels=channels, num_classes=len(sets.train.classes), **shape))


def _started(options: argparse.Namespace, device: torch.device) -> tuple[data.Splits, ViT]:
    """The data as a saved model was trained to see them, and the model, its head a linear map on its features."""
    if given := [_word(name) for name in SHAPE if getattr(options, name) is not None]:
        raise ValueError(f"{', '.join(given)} shape a new model, and {options.start} has its shape: leave them out, or "
                         "leave out --from")
    told = weights.info(options.start)
    if told["model"] != "ViT":
        raise ValueError(f"{options.start} is a {told['model']}; --from takes a ViT")
    size, model = options.image_size or told["config"].image_size, weights.load(options.start, device)
    sets = data.load(options.data, image_size=size, train_images=options.train_images)
    if sets.train.images.shape[1] != model.config.in_channels:
        raise ValueError(f"{options.data} has images of {sets.train.images.shape[1]} channel(s), {options.start} takes "
                         f"{model.config.in_channels}; train a new model, or convert the images")
    if told["mean"]:
        mean, std = tuple(told["mean"]), tuple(told["std"])
        sets = data.Splits(*(dataclasses.replace(split, mean=mean, std=std) for split in sets))
    model = model.at_resolution(size).reset_head(len(sets.train.classes))
    features = outputs(model, sets.train, model.features)
    probe = analysis.linear_probe(features, sets.train.labels, len(sets.train.classes), standardise=True)
    for head in filter(None, (model.head, model.distillation_head)):
        head[-1].load_state_dict({"weight": probe.weight.T.float(), "bias": probe.bias.float()})
    accuracy = evaluate(model, sets.validation).accuracy
    print(f"{options.start}: with a linear map on its features, validation accuracy {accuracy:.2%}", flush=True)
    return sets, model


def _predict(options: argparse.Namespace) -> None:
    told, model = weights.info(options.model), weights.load(options.model, options.device)
    config = told["config"]
    if config.in_channels != 3:
        raise ValueError(f"{options.model} takes {config.in_channels} channel(s); predict reads colour images")
    if not told["mean"]:
        raise ValueError(f"{options.model} does not say how its images are normalised; save it once more with "
                         "weights.save(..., mean=..., std=...)")
    if options.top < 1:
        raise ValueError(f"--top is {options.top}; name at least one class")
    classes = tuple(told["classes"] or [f"class {number}" for number in range(config.num_classes)])
    mean, std = tuple(told["mean"]), tuple(told["std"])
    for path in options.images:
        image = torch.from_numpy(pictures.read(path)).permute(2, 0, 1)[None]  # [1, 3, H, W]
        image = data.fitted(image, getattr(config, "image_size", None))  # any size will do for a ResNet
        split = data.Split(image, torch.zeros(1).long(), None, classes, mean, std)
        answer = outputs(model, split)[0].softmax(dim=0).tolist()
        found = sorted(zip(answer, classes, strict=True), reverse=True)
        if options.json:
            line = {"image": str(path), "probabilities": {name: round(share, 4) for share, name in found}}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(f"{path}: {', '.join(f'{name} {share:.1%}' for share, name in found[:options.top])}", flush=True)


def _export(options: argparse.Namespace) -> None:
    told, path = weights.info(options.model), weights.to_onnx(weights.load(options.model), options.out)
    size = getattr(told["config"], "image_size", None)
    print(f"{path}: gives logits for images [batch, {told['config'].in_channels}, "
          f"{'height, width' if size is None else ', '.join(map(str, pair(size)))}], normalised by mean {told['mean']} "
          f"and standard deviation {told['std']} on the scale where white is 1")


def _evaluate(options: argparse.Namespace) -> None:
    summary = weights.info(options.model)
    model, config = weights.load(options.model, options.device), summary["config"]
    image_size = getattr(config, "image_size", None)  # any size will do for a ResNet
    if options.split == "all":
        split = data.load_all(options.data, image_size=image_size)
    else:
        sets = data.load(options.data, image_size=image_size)
        split = getattr(sets, options.split)
        if Path(options.data).is_dir() and options.data not in data.datasets.NAMES:
            print(f"vitlite: {options.split} is {len(split)} of the {sum(map(len, sets))} images in {options.data}; "
                  "--split all takes every one", file=sys.stderr)
    classes = [unicodedata.normalize("NFC", name) for name in summary["classes"] or ()]
    if classes and classes != list(split.classes):
        raise ValueError(f"{options.model} was trained on the classes {', '.join(classes)}; {options.data} has "
                         f"{', '.join(split.classes)}; evaluate on a set with the same classes in the same order")
    if summary["mean"]:
        split = dataclasses.replace(split, mean=tuple(summary["mean"]), std=tuple(summary["std"]))
    loss, accuracy = evaluate(model, split)
    if not math.isfinite(loss):
        raise ArithmeticError(f"{options.model} has a loss of {loss} on {options.data}: its weights are no finite "
                              "numbers; train it again, or fetch the file again")
    print(json.dumps({"model": str(options.model), "data": options.data, "split": options.split, "images": len(split),
                      "accuracy": round(accuracy, 4), "loss": round(loss, 4)}))


def _info(options: argparse.Namespace) -> None:
    summary = weights.info(options.model)
    print(json.dumps(summary | {"config": dataclasses.asdict(summary["config"])}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
