"""The linear probe is the regularised least squares of the few-shot protocol, exactly."""

import numpy as np
import pytest
import torch

from vitlite import analysis


def features(n=60, width=8, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return 3 * centres[labels] + torch.randn(n, width, generator=generator) + 5, labels


@pytest.mark.parametrize("n", [5, 60])
@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_it_equals_least_squares_with_the_penalty_as_further_rows(n, l2):
    x, labels = features(n)
    targets = 2 * np.eye(3)[labels.numpy()] - 1
    design = np.hstack([x.double().numpy(), np.ones((n, 1))])
    strength = np.sqrt(l2 * n * x.double().var(dim=0, unbiased=False).mean().item())
    penalty = np.hstack([strength * np.eye(8), np.zeros((8, 1))])  # the bias goes free
    solution = np.linalg.lstsq(np.vstack([design, penalty]), np.vstack([targets, np.zeros((8, 3))]), rcond=None)[0]
    probe = analysis.linear_probe(x, labels, classes=3, l2=l2)
    np.testing.assert_allclose(probe.weight, solution[:-1], atol=1e-9)
    np.testing.assert_allclose(probe.bias, solution[-1], atol=1e-8)
    np.testing.assert_allclose(probe(x), design @ solution, atol=1e-8)


def test_targets_are_minus_one_and_one():
    """Without anything to go by, the scores are the mean targets: 2 · share - 1."""
    labels = torch.tensor([0, 0, 0, 1])
    probe = analysis.linear_probe(torch.zeros(4, 2), labels, classes=3)
    torch.testing.assert_close(probe(torch.randn(1, 2))[0], torch.tensor([0.5, -0.5, -1.0]).double())


def test_classes_that_a_line_divides_are_told_apart():
    x, labels = features(200)
    probe = analysis.linear_probe(x[:100], labels[:100], classes=3)
    assert probe.accuracy(x[100:], labels[100:]) > 0.95
    wrong = (labels[100:] + 1) % 3
    assert probe.accuracy(x[100:], wrong) < 0.05


def test_scale_and_offset_of_the_features_and_doubled_images_do_not_change_the_scores():
    x, labels = features()
    there = analysis.linear_probe(x, labels, classes=3)(x)
    torch.testing.assert_close(
        analysis.linear_probe(100 * x - 7, labels, classes=3)(100 * x - 7), there, rtol=1e-4, atol=1e-4
    )
    twice = analysis.linear_probe(x.repeat(2, 1), labels.repeat(2), classes=3)(x)
    torch.testing.assert_close(twice, there)


def test_standardised_features_count_alike_and_the_map_is_of_those_as_they_are():
    x, labels = torch.randn(60, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 5, torch.arange(60) % 3
    evened = (x - x.mean(dim=0)) / x.std(dim=0)
    wanted = analysis.linear_probe(evened, labels, classes=3, l2=0.1)(evened)
    given = analysis.linear_probe(x, labels, classes=3, l2=0.1, standardise=True)(x)
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(analysis.linear_probe(x, labels, classes=3, l2=0.1)(x), wanted, atol=1e-2)


def test_features_with_a_gradient_give_a_probe_without():
    x, labels = features()
    assert not analysis.linear_probe(x.requires_grad_(), labels, classes=3).weight.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.randn(4, 2, 2)}, r"features have shape \[4, 2, 2\], labels \[4\]"),
        ({"labels": torch.tensor([0, 1])}, r"labels \[2\]; expected \[n, D\] and \[n\]"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "ints between 0 and 2"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, "ints between 0 and 2"),
        ({"labels": torch.rand(4)}, "ints between 0 and 2"),
        ({"features": torch.randn(0, 2), "labels": torch.zeros(0, dtype=int)}, "there must be some"),
        ({"features": torch.full((4, 2), torch.inf)}, "not finite"),
        ({"l2": 0.0}, "l2 is 0.0"),
        ({"l2": float("nan")}, "l2 is nan"),
        ({"l2": float("inf")}, "l2 is inf; it must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"features": torch.randn(4, 2), "labels": torch.tensor([0, 1, 2, 0]), "classes": 3} | changes
    with pytest.raises(ValueError, match=message):
        analysis.linear_probe(**arguments)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.randn(4, 3), [0, 1, 2, 0], r"features have shape \[4, 3\]; expected \[n, 2\]"),
        (torch.randn(4, 2), [0, 1], r"features have shape \[4, 2\], labels \[2\]"),
        (torch.randn(0, 2), [], "at least one"),
        (torch.full((4, 2), torch.nan), [0, 1, 2, 0], "all finite"),
    ],
)
def test_what_has_no_accuracy_is_refused(features, labels, message):
    probe = analysis.LinearProbe(torch.zeros(2, 3).double(), torch.zeros(3).double())
    with pytest.raises(ValueError, match=message):
        probe.accuracy(features, torch.tensor(labels, dtype=int))
