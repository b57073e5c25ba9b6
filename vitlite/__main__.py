"""The command line: ``python -m vitlite train | evaluate | info``.

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

from vitlite import ViT, ViTConfig, data, weights
from vitlite.files import try_writing
from vitlite.train import Trainer, distributed, evaluate, recipes
from vitlite.train.device import default_device

SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_dim")
RATES = ("dropout", "drop_path")


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
        "python -m vitlite", description="Train, evaluate and inspect Vision Transformers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a ViT from scratch")
    train.add_argument("out", type=Path, help="file for the trained model (.safetensors)")
    train.add_argument("--data", default="scenes", help="scenes, cifar10, cifar100, an .npz file or a folder")
    train.add_argument("--image-size", type=int, help="resize to this many pixels")
    train.add_argument("--train-images", type=int, help="train on this many images")
    train.add_argument("--recipe", default="quick", help=f"one of {', '.join(recipes.RECIPES)}")
    train.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's; its warmup keeps its share")
    train.add_argument("--batch-size", type=int, help="images a step, instead of the recipe's")
    train.add_argument("--micro-batch", type=int, help="images at a time, if a step's batch does not fit at once")
    train.add_argument("--learning-rate", type=float, help="peak learning rate, instead of the recipe's")
    for name, default in zip(SIZES, (4, 96, 6, 3, 192), strict=True):
        train.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help=f"of the model (default {default})"
        )
    for name in RATES:
        train.add_argument(f"--{name.replace('_', '-')}", type=float, default=0.0, help="of the model (default 0)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    train.set_defaults(command=_train)

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
    return parser


def _train(options: argparse.Namespace) -> None:
    recipe = recipes.get(options.recipe)
    if options.steps is not None:
        recipe = recipe.lasting(options.steps)
    names = ("batch_size", "micro_batch", "learning_rate")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    recipe = recipe.replace(**given)
    try_writing(options.out)
    sets = data.load(options.data, image_size=options.image_size, train_images=options.train_images)
    _, channels, height, width = sets.train.images.shape
    sizes = {name: getattr(options, name) for name in SIZES + RATES}
    torch.manual_seed(options.seed)
    model = ViT(
        ViTConfig(image_size=(height, width), in_channels=channels, num_classes=len(sets.train.classes), **sizes)
    )
    device = torch.device(options.device) if options.device else default_device()
    run = options.out.with_name(f"{options.out.name}.run")  # the run's own checkpoint, gone once the model is written
    with distributed.joined(device) as world:
        trainer = Trainer(model, recipe, seed=options.seed, device=device, checkpoint=run)
        history = trainer.fit(sets)
    if world.rank == 0:  # the first of the processes that torchrun started, or the only one
        weights.save(model, options.out, classes=sets.train.classes, mean=sets.train.mean, std=sets.train.std)
        run.unlink(missing_ok=True)
        print(f"{options.out}: validation accuracy {history['val_accuracy'][-1]:.2%} after {trainer.step} steps; "
              f"it holds the {trainer.kept}")


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
