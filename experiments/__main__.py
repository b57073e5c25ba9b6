"""Make the book's records: ``python -m experiments NAME… | list | all``."""

from __future__ import annotations

import argparse
import math
import sys
import time

import torch

from experiments import runner

# All of them, the most telling first: what a short loan of a GPU should go to.
WORTH = ("train_cifar10", "same_or_different", "data_size", "scaling", "optimizer", "distillation", "cost")


def main(words: list[str] | None = None) -> int:
    """Run what was named."""
    options = _parser().parse_args(words)
    try:
        if options.names == ["list"]:
            for name in runner.names():
                print(f"{name}: {runner.card(runner.find(name))['question']}")
            return 0
        return _make(options)
    except KeyboardInterrupt:
        print("experiments: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m experiments", description="Make the records of the book's experiments.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="which; `list` names them, `all` makes every one")
    parser.add_argument("--scale", choices=("quick", "cpu", "full"),
                        default="full" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, nargs="+", help="make the runs of these seeds alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time: small ones may share a GPU")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so long")
    parser.add_argument("--force", action="store_true", help="run again, and replace a better record")
    return parser


def _make(options: argparse.Namespace) -> int:
    """Make the records one after the other. An error comes as one line on standard error, with exit status 1, and does
    not keep the others."""
    names, until = options.names, time.monotonic() + 60 * options.minutes
    if names == ["all"]:
        names = [name for name in _by_worth() if options.scale in runner.find(name).SCALES]
    failed = 0
    for name in names:
        left = (until - time.monotonic()) / 60
        if left <= 0 and name != names[0]:
            break
        try:
            print(runner.run(name, options.scale, seeds=options.seeds, jobs=options.jobs, minutes=left,
                             force=options.force), flush=True)
        except Exception as error:  # whatever it is: the others are worth their time
            print(f"experiments: {name}: {error}", file=sys.stderr, flush=True)
            failed += 1
    return 1 if failed else 0


def _by_worth() -> list[str]:
    return sorted(runner.names(), key=lambda name: (WORTH.index(name) if name in WORTH else len(WORTH), name))


if __name__ == "__main__":
    sys.exit(main())
