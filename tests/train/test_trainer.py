"""The loop: what it changes, what it repeats exactly, and how it stops."""

import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import torch.nn.functional as F

from vitlite import ViT, ViTConfig, files
from vitlite.data import Split, Splits
from vitlite.train import Recipe, Trainer, evaluate, objectives, recipes
from vitlite.train import device as device_module

RECIPE = Recipe(
    "try", steps=30, batch_size=16, learning_rate=3e-3, warmup_steps=3, crop_padding=1, cutmix=0.2, validate_every=10
)


def splits(count=64) -> Splits:
    """Two classes, bright and dark, that anything can learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 3, 8, 8), generator=generator)
    images = (noise + 120 * labels[:, None, None, None]).to(torch.uint8)
    split = Split(images, labels, None, ("dark", "bright"), (0.43,) * 3, (0.26,) * 3)
    return Splits(split, split.subset(32), split.subset(16))


def model(seed=0, **changes) -> ViT:
    torch.manual_seed(seed)
    sizes = {
        "image_size": 8,
        "patch_size": 4,
        "num_classes": 2,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 32,
    }
    return ViT(ViTConfig(**(sizes | changes)))


def trained(**options) -> tuple[ViT, dict]:
    net = model(dropout=0.1, drop_path=0.1)
    return net, Trainer(net, RECIPE, device="cpu", **options).fit(splits())


def same(one: ViT, other: ViT) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ---- recipe


def test_the_schedule_rises_linearly_and_falls_as_half_a_cosine():
    recipe = Recipe("s", steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [recipes.learning_rate(recipe, step) for step in range(110)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert max(rates) == rates[9] == 1


def test_only_weight_matrices_decay():
    net = model()
    decayed, free = recipes.parameter_groups(net, 0.1)
    names = {id(p): name for name, p in net.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(p.ndim == 2 for p in decayed["params"])
    undecayed = {names[id(p)] for p in free["params"]}
    assert {"class_token", "position", "norm.weight", "norm.bias", "blocks.0.attention.qkv.bias"} <= undecayed
    assert len(names) == len(decayed["params"]) + len(free["params"])


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps is 0"), ({"batch_size": 2.5}, "batch_size is 2.5"), ({"warmup_steps": 30}, "30 of 30 steps"),
     ({"learning_rate": 0}, "learning_rate is 0"),
        ({"cutmix": 2}, "cutmix is 2"), ({"label_smoothing": 1.0}, "label_smoothing is 1.0")],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.replace(**changes)


def test_a_shorter_recipe_keeps_its_shape():
    short = RECIPE.lasting(10)
    assert (short.steps, short.warmup_steps, short.validate_every) == (10, 1, 3)
    assert RECIPE.lasting(2).warmup_steps == 0
    assert RECIPE.lasting(30) == RECIPE


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe is 'slow'; known are 'quick'"):
        recipes.get("slow")


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


def test_callbacks_hear_the_named_moments():
    heard = []
    trained(callbacks=[lambda t, moment: heard.append((t.step, moment))])
    assert heard.count((10, "validate")) == 1
    assert sum(moment == "step" for _, moment in heard) == 30
    assert heard[-1] == (30, "end")


def test_it_is_quiet_outside_a_terminal(capsys):
    trained()
    assert capsys.readouterr() == ("", "")
    trained(progress=True)
    assert "images/s" in capsys.readouterr().err


def test_reduced_precision_follows_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for abilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, None),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda a=abilities: a, raising=False)
        assert device_module.autocast_dtype(cpu) == expected
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert device_module.autocast_dtype(torch.device("cuda")) == expected
    assert device_module.autocast_dtype(torch.device("mps")) is None


# ---- stopping and going on


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    class Enough(Exception):
        pass

    def stop(trainer, moment):
        if trainer.step == 17:
            raise Enough

    whole, whole_history = trained()
    options = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 5}
    with pytest.raises(Enough):
        trained(callbacks=[stop], **options)
    net = model(seed=7, dropout=0.1, drop_path=0.1)
    again = Trainer(net, RECIPE, device="cpu", **options)
    history = again.fit(splits())
    assert same(net, whole)
    assert history["loss"] == whole_history["loss"]
    assert history["val_accuracy"] == whole_history["val_accuracy"]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path[:0] = {sys.path!r}
        from test_trainer import RECIPE, model, splits
        from vitlite.train import Trainer
        net = model(dropout=0.1, drop_path=0.1)
        Trainer(net, RECIPE.replace(steps=120), device="cpu", checkpoint="run.safetensors", checkpoint_every=3,
                callbacks=[lambda t, m: print(t.step, flush=True)]).fit(splits())
    """)
    )
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        next(line for line in run.stdout if int(line) > 20)
        run.kill()
    recipe = RECIPE.replace(steps=120)
    whole, net = model(dropout=0.1, drop_path=0.1), model(seed=3, dropout=0.1, drop_path=0.1)
    Trainer(whole, recipe, device="cpu").fit(splits())
    resumed = Trainer(net, recipe, device="cpu", checkpoint=tmp_path / "run.safetensors")
    begun_at = []
    resumed.callbacks.append(lambda t, m: begun_at.append(t.step))
    resumed.fit(splits())
    assert 0 < begun_at[0] - 1 < 120, "it went on from a checkpoint"
    assert same(net, whole)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    path = tmp_path / "run.safetensors"

    def press(trainer, moment):
        if (trainer.step, moment) == (12, "step"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt, match="stopped after step 1[23] of 30, saved in .*run.safetensors; the same call"
    ):
        trained(checkpoint=path, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is before
    net, _ = trained(checkpoint=path)
    assert same(net, trained()[0])


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_good_checkpoint(tmp_path):
    path, steps = tmp_path / "run.safetensors", []

    def broken(net, images, labels):
        steps.append(1)
        loss, right = objectives.classify()(net, images, labels)
        return (loss * float("nan") if len(steps) == 8 else loss), right

    with pytest.raises(FloatingPointError, match="not finite at step 8.*Lower learning_rate"):
        Trainer(model(), RECIPE, device="cpu", objective=broken, checkpoint=path, checkpoint_every=5).fit(splits())
    assert len(steps) == 8
    good = Trainer(model(), RECIPE, device="cpu", checkpoint=path)
    good.fit(splits())
    assert all(p.isfinite().all() for p in good.model.parameters())
    assert good.history["step"][5] == 6, "resumed from step 5"


def test_no_space_left_is_said_and_the_checkpoint_stays(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    whole = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    recipe = RECIPE.replace(steps=31)
    with pytest.raises(ValueError, match="belongs to another run .*recipe"):
        Trainer(model(), recipe, device="cpu", checkpoint=path).fit(splits())
    with pytest.raises(OSError, match="could not write .*No space left"):
        Trainer(model(), recipe, device="cpu", checkpoint=tmp_path / "other.safetensors").fit(splits())
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another run .*model.*another checkpoint path"):
        Trainer(model(embed_dim=32), RECIPE, device="cpu", checkpoint=path).fit(splits())
