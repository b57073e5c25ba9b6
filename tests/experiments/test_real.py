"""The published ViT as the chapters use it: photographs of any shape, and the map that its own decoder draws."""

import pytest
import torch

from experiments import real
from vitlite import weights


def test_a_photograph_keeps_its_proportions() -> None:
    for name in real.PHOTOGRAPHS:
        photo = real.photograph(name)
        assert photo.shape == (1, 3, 336, 504)
        assert 0 <= photo.min() < 0.2
        assert 0.8 < photo.max() <= 1
    with pytest.raises(ValueError, match="'cat', 'astronaut'"):
        real.photograph("dog")


def test_a_part_of_another_shape_comes_from_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage import data

    ramp = torch.arange(100).to(torch.uint8).view(1, 100, 1).expand(40, 100, 3)  # grey from left to right
    monkeypatch.setattr(data, "cat", ramp.numpy)
    square = real.photograph("cat", (40, 40))
    torch.testing.assert_close(square[0, 0, 0] * 255, torch.arange(30.0, 70.0), rtol=0, atol=1e-3)


def test_colours_are_normalised_as_the_model_wants_them() -> None:
    entry = weights.published()[real.NAME]
    images = torch.tensor(entry.mean).view(1, 3, 1, 1) + torch.tensor(entry.std).view(1, 3, 1, 1)
    torch.testing.assert_close(real.normalised(images), torch.ones(1, 3, 1, 1))


def test_where_the_file_cannot_be_had_a_line_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("pip install it")

    monkeypatch.setattr(weights, "from_pretrained", missing)
    assert real.model() is None
    assert capsys.readouterr().out == "pip install it\n"


def test_the_map_is_that_of_the_file() -> None:
    import onnxruntime

    photo = real.normalised(real.photograph("cat", (224, 224)))
    session = onnxruntime.InferenceSession(weights.published_file(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["output_importance"], {"input_image": photo.numpy()})
    model = real.model()
    with torch.no_grad():
        drawn = real.standing_out(model.encode(model.embed(photo))[:, 1:], (224, 224))
    # the weights are kept in bfloat16: three digits
    torch.testing.assert_close(drawn, torch.from_numpy(wanted)[:, 0], rtol=0, atol=0.05)
