"""The loop: what it changes, what it repeats exactly, and which weights it keeps."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import RECIPE, dropping, model, same, splits, trained
from torch import nn

from vitlite.train import Recipe, Trainer, evaluate, objectives, recipes
from vitlite.train import trainer as trainer_module


def test_label_smoothing_is_torchs():
    net, images, labels = model(zero_head=False), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])
    loss, right = objectives.classify(0.2)(net, images, labels)
    logits = net(images)
    soft = F.one_hot(labels, 2) * 0.8 + 0.1
    torch.testing.assert_close(loss, -(soft * logits.log_softmax(1)).sum(1).mean())
    assert right == (logits.argmax(1) == labels).sum()


def test_probabilities_are_targets_too():
    net, images = model(zero_head=False), torch.randn(4, 3, 8, 8)
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [1.0, 0.0]])
    loss, right = objectives.classify()(net, images, soft)
    torch.testing.assert_close(loss, -(soft * net(images).log_softmax(1)).sum(1).mean())
    assert right == (net(images).argmax(1) == torch.tensor([0, 1, 1, 0])).sum()


# ---- the loop


def test_it_learns_and_tells_plain_data():
    net, history = trained()
    assert history["val_accuracy"][-1] > 0.9
    assert history["val_step"] == [10, 20, 30]
    assert history["step"] == list(range(1, 31))
    assert history["loss"][0] == pytest.approx(math.log(2), abs=0.01), "a zero head gives even odds"
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["learning_rate"][2] == pytest.approx(3e-3)
    assert all(
        isinstance(x, (int, float))
        for values in history.values()
        for x in (values if isinstance(values, list) else [values])
    )
    assert evaluate(net, splits().validation).accuracy == pytest.approx(history["val_accuracy"][-1], abs=0.05)


def test_one_seed_makes_one_result():
    (one, _), (again, _), (other, _) = trained(), trained(), trained(seed=1)
    assert same(one, again)
    assert not same(one, other)


def test_training_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    net = model()
    torch.manual_seed(5)
    Trainer(net, RECIPE, device="cpu").fit(splits())
    assert torch.equal(torch.rand(1), expected)


def test_the_test_split_is_never_read():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError("the test split was read")

    Trainer(model(), RECIPE, device="cpu").fit(splits()._replace(test=Untouchable()))


def test_each_epoch_shows_every_image_once():
    seen = []

    def spy(net, images, labels):
        seen.append(images.mean((1, 2, 3)))
        return objectives.classify()(net, images, labels)

    recipe = RECIPE.replace(steps=8, warmup_steps=0, crop_padding=0, flip=False, cutmix=0, validate_every=8)
    Trainer(model(), recipe, device="cpu", objective=spy).fit(splits())
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert first.unique().numel() == 64
    torch.testing.assert_close(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


def test_it_is_quiet_outside_a_terminal(capsys):
    trained()
    assert capsys.readouterr() == ("", "")
    trained(progress=True)
    assert "images/s" in capsys.readouterr().err


def test_one_step_is_torchs_adamw():
    net, twin = model(), model()
    recipe = Recipe("one", steps=2, batch_size=64, learning_rate=1e-2, flip=False, validate_every=2)
    moved = []
    note = lambda *_: moved.append([p.detach().clone() for p in net.parameters()])  # noqa: E731
    Trainer(net, recipe, device="cpu", autocast=False, callbacks=[note]).fit(splits())
    reference = torch.optim.AdamW(recipes.parameter_groups(twin, recipe.weight_decay), lr=1e-2)
    train = splits().train
    loss = F.cross_entropy(twin((train.images / 255 - 0.43) / 0.26), train.labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    reference.step()
    for ours, theirs in zip(moved[0], twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


# ---- parts of a batch, averaged weights, the best weights


def test_small_batches_add_up_to_the_gradient_of_a_large_one():
    recipe = RECIPE.replace(steps=8, validate_every=8)
    nets = []
    for micro_batch in (None, 4, 16):
        nets.append(model())
        Trainer(nets[-1], recipe.replace(micro_batch=micro_batch), device="cpu", autocast=False).fit(splits())
    whole, pieces, one_piece = nets
    assert same(whole, one_piece)
    assert not same(whole, pieces), "sums in another order"
    for expected, p in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-4)


def test_each_piece_of_a_batch_drops_other_things():
    seen = []

    def spy(net, images, labels):
        seen.append(nn.functional.dropout(torch.ones(64)))
        return objectives.classify()(net, images, labels)

    Trainer(model(), Recipe("s", 2, 16, micro_batch=8), device="cpu", objective=spy).fit(splits())
    assert len({tuple(mask.tolist()) for mask in seen}) == len(seen) == 4


def test_a_batch_that_cannot_be_cut_evenly_is_refused():
    with pytest.raises(ValueError, match="a batch of 64 images in pieces of 48 cannot be shared"):
        Trainer(model(), Recipe("s", 2, 96, micro_batch=48), device="cpu").fit(splits())


def test_the_average_follows_the_weights_and_is_what_is_kept():
    net, average = model(), None

    def follow(trainer, moment):
        nonlocal average
        if moment == "step":
            t, weights = trainer.step - 1, [p.detach().double() for p in trainer.model.parameters()]
            keep = min(0.9, (1 + t) / (10 + t))
            average = [keep * a + (1 - keep) * w for a, w in zip(average, weights, strict=True)]

    average = [p.detach().double() for p in net.parameters()]
    trainer = Trainer(net, RECIPE.replace(average=0.9), device="cpu", callbacks=[follow])
    history = trainer.fit(splits())
    for kept, expected in zip(net.parameters(), average, strict=True):
        torch.testing.assert_close(kept.double(), expected, rtol=1e-4, atol=1e-6)
    assert evaluate(net, splits().validation, dtype=trainer.dtype).accuracy == history["val_accuracy"][-1]
    assert trainer.kept == "averaged weights of step 30, the last"


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_the_best_weights_are_chosen_on_validation(average):
    calls = []

    def spoiled(net, images, labels):
        """Learn for twenty steps, then unlearn."""
        calls.append(1)
        loss, right = objectives.classify()(net, images, labels)
        return (loss if len(calls) <= 20 else -30 * loss.clamp(max=9)), right

    net = model()
    recipe = RECIPE.replace(schedule="constant", keep_best=True, average=average, validate_every=5)
    trainer = Trainer(net, recipe, device="cpu", objective=spoiled)
    history = trainer.fit(splits())
    best = max(history["val_accuracy"])
    assert history["val_accuracy"][-1] < 0.6 < 0.9 < best
    assert history["kept_step"] == history["val_step"][history["val_accuracy"].index(best)]
    assert evaluate(net, splits().validation, dtype=trainer.dtype).accuracy == best
    assert "the best on validation" in trainer.kept


def test_a_model_that_does_not_classify_is_validated_by_its_own_objective():
    class Centred(nn.Module):
        """It learns the mean of all pixels; an image is right if it is near."""

        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.tensor(5.0))

        def forward(self, images):
            return (images.mean((1, 2, 3)) - self.mean).square()

    def near(net, images, targets):
        distance = net(images)
        return distance.mean(), (distance < 4).sum()

    net, recipe = Centred(), Recipe("s", 60, 16, learning_rate=0.2, weight_decay=0.0, validate_every=20)
    history = Trainer(net, recipe, device="cpu", objective=near, val_objective=near).fit(splits())
    assert history["val_accuracy"] == sorted(history["val_accuracy"])
    assert (history["val_accuracy"][-1], history["train_accuracy"][-1]) == (1, 1)
    assert history["train_accuracy"][0] == 0


def test_an_objectives_own_parameters_are_trained():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, net, images, labels):
            logits = net(images) * self.scale
            return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    objective = Scaled()
    Trainer(model(), RECIPE.replace(cutmix=0), device="cpu", objective=objective).fit(splits())
    assert objective.scale != 1


# ---- faster


def test_a_compiled_run_gives_the_same_weights(monkeypatch):
    compiled = functools.partial(torch.compile, backend="eager")
    tried = []
    monkeypatch.setattr(torch, "compile", lambda module: tried.append(1) or compiled(module))
    net = model()
    Trainer(net, RECIPE.replace(steps=5), device="cpu", compile=True).fit(splits())
    plain = model()
    Trainer(plain, RECIPE.replace(steps=5), device="cpu").fit(splits())
    assert tried == [1]
    assert same(net, plain)


def test_the_time_of_compiling_is_not_counted(monkeypatch):
    order, log = [], trainer_module.Log
    monkeypatch.setattr(trainer_module, "compiled", lambda learner, *_: order.append("compiled") or learner)
    monkeypatch.setattr(trainer_module, "Log", lambda device: order.append("clock") or log(device))
    Trainer(model(), RECIPE.replace(steps=5), device="cpu", compile=True).fit(splits())
    assert order == ["compiled", "clock"]


def test_where_nothing_can_be_compiled_training_goes_on_in_silence(monkeypatch, capsys):
    def broken(module):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    net = dropping()
    Trainer(net, RECIPE, device="cpu", compile=True).fit(splits())
    assert same(net, trained()[0])
    assert capsys.readouterr() == ("", "")


def test_float16_is_scaled(monkeypatch):
    monkeypatch.setattr(trainer_module, "autocast_dtype", lambda device: torch.float16)
    trainer = Trainer(model(), RECIPE, device="cpu")
    assert trainer.fit(splits())["val_accuracy"][-1] > 0.9
    assert trainer.scaler.get_scale() > 1
