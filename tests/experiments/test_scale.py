"""VITLITE_SCALE decides; the smoke run cuts steps and images."""

import pytest
import torch

from experiments import scale

NUMBERS = {
    "quick": {"data": "scenes", "steps": 600, "train_images": 2000},
    "full": {"data": "cifar10", "steps": 9000, "train_images": 45000},
}


def test_the_environment_decides(monkeypatch, capsys):
    monkeypatch.setenv("VITLITE_SCALE", "full")
    run = scale.pick(**NUMBERS)
    assert (run.name, run.data, run.steps) == ("full", "cifar10", 9000)
    assert "The text tells of the quick run" in capsys.readouterr().err
    monkeypatch.setenv("VITLITE_SCALE", "quick")
    assert (scale.pick(**NUMBERS).steps, scale.pick(**NUMBERS).device) == (600, "cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cuda", [True, False])
def test_without_it_a_gpu_means_full(monkeypatch, cuda):
    monkeypatch.delenv("VITLITE_SCALE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert scale.pick(**NUMBERS).name == ("full" if cuda else "quick")


def test_a_smoke_run_takes_two_steps_and_few_images(monkeypatch):
    monkeypatch.setenv("VITLITE_SCALE", "full")
    monkeypatch.setenv("VITLITE_SMOKE", "1")
    run = scale.pick(**NUMBERS)
    assert (run.data, run.steps, run.train_images) == ("cifar10", 2, 200)


def test_mistakes_are_said(monkeypatch):
    monkeypatch.setenv("VITLITE_SCALE", "fast")
    with pytest.raises(ValueError, match="'fast'; expected 'quick' or 'full'"):
        scale.pick(**NUMBERS)
    with pytest.raises(ValueError, match="differ in \\['epochs', 'steps'\\]"):
        scale.pick(quick={"steps": 1}, full={"epochs": 1})
