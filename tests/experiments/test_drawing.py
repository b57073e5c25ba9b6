"""The drawing of the whole model."""

import pytest
import torch

from experiments import drawing


def test_one_part_of_the_whole_model_is_marked_and_every_part_has_a_chapter():
    image = torch.rand(3, 12, 12)
    plain = [text.get_text() for text in drawing.whole_model(image).axes[0].texts]
    assert [text for text in plain if text.startswith("chapter")] == [f"chapter {n}" for n in (1, 3, 2, 4)]
    marks = {}
    for part in ("patches", "attention", "positions", "block"):
        ax = drawing.whole_model(image, part).axes[0]
        marks[part] = [text.xy[0] for text in ax.texts if text.get_text() == "you are here"]
    assert [len(x) for x in marks.values()] == [1, 1, 1, 1]
    assert sorted(marks, key=marks.get) == ["patches", "positions", "attention", "block"]  # from left to right
    with pytest.raises(ValueError, match="here is 'head'; expected one of 'patches'"):
        drawing.whole_model(image, "head")
