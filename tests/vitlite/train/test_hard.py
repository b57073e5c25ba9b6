"""What people do to a run: they stop it, damage its file, give it other data, freeze parts, forget the head."""

import copy
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch
from tiny import EVERYTHING, RECIPE, dropping, model, same, splits, trained
from torch import nn

from vitlite.data import Splits
from vitlite.resnet import ResNet, ResNetConfig
from vitlite.train import Trainer, checkpoint, evaluate, objectives, trainer


def untouched(*_):
    raise AssertionError("a step was taken")


# ---- stopping


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_every_usual_way_to_stop_saves_the_run(tmp_path, name):
    path, number = tmp_path / "run", getattr(signal, name)

    def stop(trainer, moment):
        if (trainer.step, moment) == (12, "step"):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup it would be ignored
    try:
        with pytest.raises(KeyboardInterrupt, match="after step 12 of 30, saved in .*run; the same call resumes it"):
            trained(checkpoint=path, callbacks=[stop])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert same(trained(checkpoint=path)[0], trained()[0])


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    def stop(trainer, moment):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert trained(callbacks=[stop])[1]["step"][-1] == 30
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_is_saved_by_time_too(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(trainer.checkpoints, "save", lambda path, metadata, **parts: saved.append(metadata["step"]))
    clock = iter(range(0, 10**6, 250))  # seconds between two looks
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(clock))
    trained(checkpoint=tmp_path / "run")
    assert saved[0] == 3, "after 600 seconds"
    assert len(saved) > 5


def test_two_processes_are_stopped_by_the_first(tmp_path):
    program = f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent("""
        import os, signal, torch
        from tiny import RECIPE, dropping, splits
        from vitlite.train import Trainer, distributed

        def stop(trainer, moment):
            if (trainer.step, moment) == (5, "step"):
                os.kill(os.getpid(), signal.SIGTERM)

        with distributed.joined(torch.device("cpu")) as world:
            Trainer(dropping(), RECIPE, device="cpu", checkpoint="run", callbacks=[stop]).fit(splits())
    """)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "program.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    assert "stopped after step 5 of 30, saved in run" in done.stderr
    assert checkpoint.json.loads(_trainer(tmp_path / "run"))["step"] == 5


# ---- before the first step


@pytest.mark.parametrize("place", ["", "file/run", "/proc/nowhere/run"])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="could not write"):
        trained(checkpoint=tmp_path / place, callbacks=[untouched])


def test_two_runs_at_once_do_not_write_one_checkpoint_and_the_advice_works(tmp_path):
    def another(trainer, moment):
        if (trainer.step, moment) == (2, "step"):
            with pytest.raises(RuntimeError, match="run is in use by another run: wait for its end, or give this one"):
                trained(checkpoint=tmp_path / "run", callbacks=[untouched])
            trained(checkpoint=tmp_path / "other")

    trained(checkpoint=tmp_path / "run", callbacks=[another])
    trained(checkpoint=tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


@pytest.mark.parametrize("classes", [1, 4, 1000])
@pytest.mark.parametrize("objective", [None, objectives.distil(model())])
def test_a_head_for_another_number_of_classes_is_refused_and_the_advice_works(classes, objective):
    net = model(num_classes=classes)
    run = Trainer(net, RECIPE, device="cpu", objective=objective, callbacks=[untouched])
    with pytest.raises(ValueError, match=rf"gives \[1, {classes}\], but the data have 2 .*model.reset_head\(2\)"):
        run.fit(splits())
    with pytest.raises(ValueError, match=r"but the data have 2 classes"):
        evaluate(net, splits().test)
    net.reset_head(2)
    evaluate(net, splits().test)
    Trainer(net, RECIPE, device="cpu", objective=objective).fit(splits())


def test_an_objective_of_ones_own_may_want_any_output():
    def small(net, images, targets):
        return net(images).square().mean(), torch.zeros(())

    Trainer(model(num_classes=7), RECIPE, device="cpu", objective=small, val_objective=small).fit(splits())
    with pytest.raises(ValueError, match="but the data have 2 classes"):
        Trainer(model(num_classes=7), RECIPE, device="cpu", objective=small, callbacks=[untouched]).fit(splits())


def test_nothing_to_evaluate_on_is_said():
    test = splits().test
    with pytest.raises(ValueError, match="no images"):
        evaluate(model(), replace(test, images=test.images[:0], labels=test.labels[:0]))


# ---- which run it is


def other_data(sets: Splits) -> Splits:
    images = sets.train.images.clone()
    images[3, 0, 0, 0] += 1
    return sets._replace(train=replace(sets.train, images=images))


def other_held(sets: Splits) -> Splits:
    return sets._replace(validation=replace(sets.validation, labels=1 - sets.validation.labels))


def other_names(sets: Splits) -> Splits:
    return Splits(*(replace(split, classes=("night", "day")) for split in sets))


@pytest.mark.parametrize(("net", "sets", "objective", "told"), [
    ({"dropout": 0.2}, None, None, "model.dropout: 0.1 there, 0.2 here"),
    ({"drop_path": 0.0}, None, None, "model.drop_path: 0.1 there, 0.0 here"),
    ({"gelu": "tanh"}, None, None, "model.gelu: 'exact' there, 'tanh' here"),
    ({"zero_head": False}, None, None, "model.zero_head: True there, False here"),
    ({}, other_data, None, "data: "), ({}, other_held, None, "data: "),
    ({}, other_names, None, "classes: .'dark', 'bright'. there, .'night', 'day'. here"),
    ({}, None, objectives.classify(0.3), "asked.label_smoothing: 0.0 there, 0.3 here"),
])
def test_a_run_of_something_else_is_refused_and_the_advice_works(tmp_path, net, sets, objective, told):
    path, rates = tmp_path / "run", {"dropout": 0.1, "drop_path": 0.1}
    trained(checkpoint=path)
    sets = sets(splits()) if sets else splits()

    def other(path):
        return Trainer(model(**(rates | net)), RECIPE, device="cpu", objective=objective, checkpoint=path)

    with pytest.raises(ValueError, match=rf"belongs to another run \(.*{told}.*give this run another checkpoint path"):
        other(path).fit(sets)
    other(tmp_path / "another").fit(sets)
    path.unlink()
    other(path).fit(sets)


@pytest.mark.parametrize("change", [lambda net: net[1].__setattr__("p", 0.7), lambda net: net[2].requires_grad_(False)])
def test_a_model_that_is_not_ours_has_an_identity_too(tmp_path, change):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2))

    Trainer(net(), RECIPE, device="cpu", checkpoint=tmp_path / "run").fit(splits())
    Trainer(net(), RECIPE, device="cpu", checkpoint=tmp_path / "run").fit(splits())
    other = net()
    change(other)
    with pytest.raises(ValueError, match=r"another run \(.*modules: "):
        Trainer(other, RECIPE, device="cpu", checkpoint=tmp_path / "run").fit(splits())


def test_another_teacher_makes_another_run(tmp_path):
    teacher = model()
    run = {"device": "cpu", "checkpoint": tmp_path / "run"}
    Trainer(model(), RECIPE, objective=objectives.distil(teacher), **run).fit(splits())
    Trainer(model(), RECIPE, objective=objectives.distil(teacher), **run).fit(splits())
    with pytest.raises(ValueError, match=r"another run \(asked.teacher: "):
        Trainer(model(), RECIPE, objective=objectives.distil(model(seed=1)), **run).fit(splits())
    with pytest.raises(ValueError, match=r"another run \(asked.temperature: 3.0 there, 2.0 here"):
        Trainer(model(), RECIPE, objective=objectives.distil(teacher, temperature=2.0), **run).fit(splits())


# ---- damage


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "run"
    trained(checkpoint=path)
    data, identity = path.read_bytes(), checkpoint.json.loads(_trainer(path))["run"]
    assert checkpoint.load(path, identity)
    chance = torch.Generator().manual_seed(0)
    for number in range(150):
        broken = bytearray(data)
        place = torch.randint(len(data), (), generator=chance).item() if number > 40 else number
        broken[place] ^= 1 << torch.randint(8, (), generator=chance).item()
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"run (is no checkpoint|is damaged|is not a whole|belongs to another)"):
            checkpoint.load(path, identity)
    for length in torch.randint(len(data), (50,), generator=chance).tolist():
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="run is not a whole safetensors file"):
            checkpoint.load(path, identity)


@pytest.mark.parametrize("name", ["learner.model.head.0.weight", "optimizer.0.exp_avg", "optimizer.3.step",
                                  "optimizer.99.exp_avg", "optimizer.x"])
def test_a_tensor_of_a_wrong_shape_is_refused_before_torch_sees_it(tmp_path, name):
    path = tmp_path / "run"
    trained(checkpoint=path)
    parts, metadata = checkpoint.load(path, {} | checkpoint.json.loads(_trainer(path))["run"])
    part, _, rest = name.partition(".")
    parts[part][rest] = torch.zeros(3, 1)
    checkpoint.save(path, metadata, **parts)
    with pytest.raises(ValueError, match=r"run is a damaged checkpoint \(.*\); .*remove that file to start afresh"):
        trained(checkpoint=path)
    path.unlink()
    trained(checkpoint=path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of everything that a checkpoint can hold, as it was saved: its parts and its description."""
    path = tmp_path_factory.mktemp("whole") / "run"
    trained(EVERYTHING, checkpoint=path)
    return checkpoint.load(path, checkpoint.json.loads(_trainer(path))["run"])


def spoiled(path, whole, spoil):
    """The same run with a valid digest over other contents."""
    parts, metadata = copy.deepcopy(whole)
    spoil(parts, metadata)
    checkpoint.save(path, metadata, **parts)
    return path


BROKEN = {
    "NaN": (lambda tensor: tensor * math.nan, "is not finite, as after a divergence"),
    "infinite": (lambda tensor: tensor.clone().fill_(math.inf), "is not finite, as after a divergence"),
    "integers": (lambda tensor: tensor.long(), "is missing, or of another form"),
    "half": (lambda tensor: tensor.half(), "is missing, or of another form"),
}


@pytest.mark.parametrize("name", ["learner.model.head.0.weight", "average.head.0.weight", "best.head.0.weight",
                                  "optimizer.0.exp_avg", "optimizer.3.exp_avg_sq", "optimizer.3.step"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_tensor_that_no_run_can_hold_is_refused_by_its_name(tmp_path, whole, name, broken):
    part, _, rest = name.partition(".")
    change, told = BROKEN[broken]
    path = spoiled(tmp_path / "run", whole, lambda parts, _: parts[part].update({rest: change(parts[part][rest])}))
    with pytest.raises(ValueError, match=rf"run is a damaged checkpoint \({name} {told}\); .*remove that file"):
        trained(EVERYTHING, checkpoint=path)


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda parts: parts["optimizer"]["0.step"].fill_(31), "optimizer.0.step is out of bounds"),
    (lambda parts: parts["optimizer"]["0.step"].fill_(0), "optimizer.0.step is out of bounds"),
    (lambda parts: parts["optimizer"]["2.exp_avg_sq"].neg_(), "optimizer.2.exp_avg_sq is out of bounds"),
    (lambda parts: parts["optimizer"].pop("2.exp_avg_sq"), "optimizer.2.exp_avg_sq is missing"),
    (lambda parts: parts["optimizer"].update({"-1.step": torch.ones(())}), "-1"),
    (lambda parts: parts.pop("optimizer"), "the optimiser's state is missing"),
    (lambda parts: parts.pop("average"), "average.* is missing"),
    (lambda parts: parts.pop("best"), "best.* is missing"),
])
def test_a_run_with_a_part_missing_or_out_of_bounds_does_not_go_on(tmp_path, whole, spoil, told):
    path = spoiled(tmp_path / "run", whole, lambda parts, _: spoil(parts))
    with pytest.raises(ValueError, match=rf"run is a damaged checkpoint \({told}.*\); .*remove that file"):
        trained(EVERYTHING, checkpoint=path)


@pytest.mark.parametrize("spoil", [
    {"step": 31}, {"step": "7"}, {"step": True}, {"step": 29}, {"history": {}}, {"history": None},
    {"scaler": None}, {"scaler": {"scale": math.nan}}, {"scaler": {"scale": "much"}},
    *({"history": {name: value}} for name, value in {
        "loss": [math.nan] * 30, "train_accuracy": ["high"] * 30, "learning_rate": None, "step": [*range(29, -1, -1)],
        "images_per_second": [None] * 30, "val_accuracy": [], "val_loss": "low", "val_step": [10, 20, 40],
        "kept_step": 11, "seconds": -1}.items()),
    *({"history": {name: value}} for name, value in {
        "seconds": "long", "learning_rate": [math.nan] * 30, "images_per_second": [math.inf] * 30}.items()),
])
def test_a_description_that_cannot_be_is_refused(tmp_path, whole, spoil):
    def change(_, metadata):
        inside = spoil.get("history")
        metadata |= {"history": metadata["history"] | inside} if inside else spoil

    path = spoiled(tmp_path / "run", whole, change)
    with pytest.raises(ValueError, match=r"run is a damaged checkpoint \(.*\); .*remove that file to start afresh"):
        trained(EVERYTHING, checkpoint=path)


def masked():
    """A model with whole and infinite numbers in its state: counts of a batch norm, a mask, an empty minimum."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    net[1].weight.requires_grad_(False)
    net.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
    net.register_buffer("lowest", torch.tensor(math.inf))
    net.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return net


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_no_good_checkpoint_is_refused(tmp_path, optimizer):
    recipe, path = EVERYTHING.replace(optimizer=optimizer), tmp_path / "run"

    def stop(trainer, moment):
        trainer.model.lowest.fill_(trainer.step)
        if (trainer.step, moment) == (17, "step"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Trainer(masked(), recipe, device="cpu", checkpoint=path, callbacks=[stop]).fit(splits())
    resumed, straight = masked(), masked()
    Trainer(resumed, recipe, device="cpu", checkpoint=path, callbacks=[stop]).fit(splits())
    Trainer(masked(), recipe, device="cpu", checkpoint=path).fit(splits())
    whole = Trainer(straight, recipe, device="cpu", callbacks=[lambda run, _: run.model.lowest.fill_(run.step)])
    whole.fit(splits())
    assert same(resumed, straight)


@pytest.mark.parametrize("saved", [True, False])
def test_weights_that_diverge_in_the_last_step_are_not_kept_without_a_word(tmp_path, saved):
    def diverge(trainer, moment):
        if (trainer.step, moment) == (29, "step"):
            trainer.model.head[0].bias.register_hook(lambda gradient: gradient * math.inf)

    path = tmp_path / "run"
    recipe = EVERYTHING.replace(clip_norm=None)
    with pytest.raises(FloatingPointError, match=r"the weights are not finite after step 30; .*Lower learning_rate"):
        Trainer(dropping(), recipe, device="cpu", checkpoint=path if saved else None, checkpoint_every=10,
                callbacks=[diverge]).fit(splits())
    if saved:
        assert checkpoint.json.loads(_trainer(path))["step"] == 20


def _trainer(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()["trainer"]


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "run")
    with pytest.raises(ValueError, match="run is no regular file"):
        checkpoint.load(tmp_path / "run", {})


def test_one_without_a_digest_is_refused(tmp_path):
    path = tmp_path / "run"
    tensors = {"model.weight": torch.ones(2)}
    path.write_bytes(safetensors.torch.save(tensors, {"trainer": '{"measured": 3}'}))
    with pytest.raises(ValueError, match="run is damaged, or of an older vitlite .*remove that file to start afresh"):
        checkpoint.load(path, {})


def test_foreign_files_beside_a_checkpoint_do_no_harm(tmp_path):
    (tmp_path / ".run.backup.part").touch()
    trained(checkpoint=tmp_path / "run")
    assert (tmp_path / ".run.backup.part").exists()


# ---- frozen parts


def frozen(resting: bool) -> tuple[nn.Module, nn.Module]:
    """A model with batch norm, of which a part is frozen, and that part."""
    torch.manual_seed(0)
    net = ResNet(ResNetConfig(num_classes=2, width=4, blocks=1))
    part = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    part.requires_grad_(False)
    if resting:
        part.eval()
    else:
        net.eval()  # as a loaded model is
    return net, part


@pytest.mark.parametrize("resting", [True, False])
def test_a_frozen_norm_keeps_its_statistics(resting):
    net, part = frozen(resting)
    modes = [module.training for module in net.modules()]
    before = {name: buffer.clone() for name, buffer in part.named_buffers()}
    others = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module is not part]
    moved = others[0].running_mean.clone()
    Trainer(net, RECIPE, device="cpu").fit(splits())
    assert all(torch.equal(buffer, before[name]) for name, buffer in part.named_buffers())
    assert not torch.equal(others[0].running_mean, moved), "the others follow the data"
    assert [module.training for module in net.modules()] == modes


def test_evaluation_leaves_each_module_in_its_mode_also_after_an_error():
    net, _ = frozen(resting=True)
    modes = [module.training for module in net.modules()]
    evaluate(net, splits().test)
    assert [module.training for module in net.modules()] == modes

    def broken(*_):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        evaluate(net, splits().test, objective=broken)
    assert [module.training for module in net.modules()] == modes


def test_a_loaded_model_is_trained_with_its_dropout(tmp_path):
    net = dropping().eval()
    Trainer(net, RECIPE, device="cpu").fit(splits())
    assert same(net, trained()[0])
    assert not any(module.training for module in net.modules())
