"""Captions say what a scene shows, and are refused where they tell nothing."""

import pytest
import torch

from experiments.captions import COLOURS, WORDS, caption, captions, numbers
from vitlite.data import scenes


def test_the_noun_is_the_label_and_the_words_are_known():
    told = captions(range(200), seed=3)
    assert [words.split()[2] for words in told] == [scenes.CLASSES[i % 10] for i in range(200)]
    assert {word for words in told for word in words.split()} == set(WORDS)


def test_the_colour_is_the_objects():
    """Red, green and blue things have most red, green and blue in the middle of their mask."""
    told = [words.split()[1] for words in captions(range(400), seed=3)]
    images, _, masks = scenes.render(range(400), seed=3, image_size=24)
    means = torch.stack([torch.from_numpy(image)[:, torch.from_numpy(mask)].float().mean(dim=1)
                         for image, mask in zip(images, masks, strict=True)])
    for channel, name in enumerate(("red", "green", "blue")):
        those = means[[word == name for word in told]]
        assert (those.argmax(dim=1) == channel).float().mean() > 0.8


def test_one_caption_for_all_is_refused():
    with pytest.raises(ValueError, match="all 3 images have the caption 'a red fish on a pink ground': nothing tells"):
        numbers([caption("fish", "red", "pink")] * 3)
    assert numbers([caption("fish", "red", "pink")]).shape == (1, 7)


def test_words_it_does_not_know_and_ragged_sentences_are_refused():
    with pytest.raises(ValueError, match="'zebra' is no word that this model knows; expected words among a, an, on,"):
        numbers(["a red zebra on a pink ground"])
    with pytest.raises(ValueError, match="different numbers of words"):
        numbers(["a fish", "a red fish"])
    assert len(COLOURS) == 8
    assert caption("cat", "orange", "orange") == "an orange cat on an orange ground"
