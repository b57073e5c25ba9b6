"""What a scene shows, in a sentence; and sentences as numbers, for a network that reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitlite.data import scenes

__all__ = ["COLOURS", "WORDS", "caption", "captions", "numbers"]

#: Names of hues, each with the turn of the colour circle where it ends; what is left is red again.
COLOURS = {"red": 0.035, "orange": 0.105, "yellow": 0.19, "green": 0.42, "turquoise": 0.52, "blue": 0.70,
           "purple": 0.83, "pink": 0.95}
GREY = 0.2  # a ground of less saturation has no hue to speak of
WORDS = ("a", "an", "on", "ground", "grey", *COLOURS, *scenes.CLASSES)


def caption(thing: str, colour: str, ground: str) -> str:
    """One sentence.

    Example:
        >>> caption("fish", "yellow", "pink")
        'a yellow fish on a pink ground'
    """
    first, second = ("an" if colour == "orange" else "a" for colour in (colour, ground))
    return f"{first} {colour} {thing} on {second} {ground} ground"


def captions(indices: Sequence[int], seed: int = 0) -> list[str]:
    """What is on each scene: its object by shape, the object's main hue, and that of the ground below.

    Example:
        >>> captions([0, 17])
        ['a yellow fish on a pink ground', 'a pink house on a grey ground']
    """
    told = scenes.describe(list(indices), seed)
    hues = np.array([kind.hue for kind in scenes.KINDS.values()])[told["hue"]] + told["hue_jitter"]
    grounds = ["grey" if pale < GREY else _name(hue)
               for hue, pale in zip(told["ground_hue"], told["ground_saturation"], strict=True)]
    things = [scenes.CLASSES[shape] for shape in told["shape"]]
    return [caption(thing, _name(hue), ground) for thing, hue, ground in zip(things, hues, grounds, strict=True)]


def numbers(sentences: Sequence[str]) -> Tensor:
    """Sentences of equally many words as the numbers of these, int64 ``[B, L]``.

    Raises:
        ValueError: If a word is not among ``WORDS``, lengths differ, or several sentences are all the same.

    Example:
        >>> numbers(["a red fish on a pink ground"])
        tensor([[ 0,  5, 13,  2,  0, 12,  3]])
    """
    split = [sentence.split() for sentence in sentences]
    if unknown := {word for words in split for word in words} - set(WORDS):
        raise ValueError(f"{sorted(unknown)[0]!r} is no word that this model knows; expected words among "
                         f"{', '.join(WORDS)}")
    if len({len(words) for words in split}) != 1:
        raise ValueError("the sentences have different numbers of words; expected equally many in each")
    if len(split) > 1 and len(set(sentences)) == 1:
        raise ValueError(f"all {len(split)} images have the caption {sentences[0]!r}: nothing tells them apart, so "
                         "there is nothing to learn; pass each image its own")
    return torch.tensor([[WORDS.index(word) for word in words] for words in split])


def _name(hue: float) -> str:
    turn = hue % 1
    return next((name for name, end in COLOURS.items() if turn < end), "red")
