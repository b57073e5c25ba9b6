"""What a model makes of a split does not depend on the batches it is asked in, and leaves the model as it was."""

import pytest
import torch
from tiny import dropping, model, splits

from vitlite.train import evaluate, outputs, predictions


def test_outputs_are_those_of_one_batch():
    net, test = model(), splits().test
    for values in net.head.parameters():
        torch.nn.init.normal_(values)
    whole = net.eval()(test.normalised())
    torch.testing.assert_close(outputs(net, test, batch_size=3), whole)
    assert torch.equal(predictions(net, test, batch_size=3), whole.argmax(dim=1))


def test_a_call_may_give_several_tensors():
    net, test = model(), splits().test
    logits, features = outputs(net, test, lambda images: (net(images), net.features(images)), batch_size=5)
    assert (logits.shape, features.shape) == ((16, 2), (16, 16))
    torch.testing.assert_close(features, net.eval().features(test.normalised()))


def test_reduced_precision_is_asked_for():
    net, test = model(), splits().test
    exact = outputs(net, test, net.features)
    reduced = outputs(net, test, net.features, dtype=torch.bfloat16)
    assert reduced.dtype == torch.float32
    assert not torch.equal(exact, reduced)
    torch.testing.assert_close(exact, reduced, atol=0.1, rtol=0.1)


def test_a_model_in_training_stays_so():
    net = dropping().train()
    once, again = (outputs(net, splits().test, net.features) for _ in range(2))
    assert torch.equal(once, again)
    assert net.training


def test_a_model_that_answers_with_more_than_logits_is_refused():
    class Both(torch.nn.Module):  # and one without a parameter, too
        def forward(self, images):
            return images, images

    with pytest.raises(TypeError, match="logits is .*; expected a Tensor"):
        evaluate(Both(), splits().test)
