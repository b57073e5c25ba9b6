"""A teacher: who learns from whom, what the two tokens are paid for, and what is compared with what."""

import json

import pytest
import torch
from torch import nn
from usual import USUAL, check_the_card_tells_the_grid

from experiments import distillation
from vitlite import ViT, ViTConfig, cost, data
from vitlite.train import evaluate
from vitlite.train.objectives import distil

QUICK, CPU = distillation.SCALES["quick"], distillation.SCALES["cpu"]
TINY = QUICK | {
    "data": QUICK["data"] | {"train_images": 100, "held_out": 40},
    "teachers": {name: told | {"steps": 2} for name, told in QUICK["teachers"].items()},
    "recipe": QUICK["recipe"] | {"batch_size": 32},
    "steps": 3, "cosine_images": 20,
}


@pytest.fixture(scope="module")
def sets():
    return data.load(**TINY["data"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every student of one seed, by name."""
    work = tmp_path_factory.mktemp("work")
    return {point["student"]: point | distillation.run(point, TINY, work) for point in distillation.points(TINY)}


def student(seed=0, **changes):
    torch.manual_seed(seed)
    return ViT(ViTConfig(**QUICK["vit"] | {"distillation": True, "zero_head": False} | changes)).eval()


def test_the_first_seed_comes_whole_and_the_card_tells_the_grid():
    points = distillation.points(CPU)
    assert [point["student"] for point in points[:7]] == list(distillation.STUDENTS)
    assert [point["seed"] for point in points] == [0] * 7 + [1] * 7 + [2] * 7
    check_the_card_tells_the_grid(distillation)


@pytest.mark.parametrize("scale", distillation.SCALES)
def test_what_is_compared_differs_in_one_thing(scale):
    config = distillation.SCALES[scale]
    who = config["students"]

    def differ(one, other):
        return {key for key in who[one] if who[one][key] != who[other][key]}

    assert differ("plain", "two labels") == differ("hard", "hard on one head") == {"token"}
    assert differ("hard", "soft") == {"kind"}
    assert differ("hard", "hard from ViT") == differ("hard", "hard from weak ResNet") == {"teacher"}
    assert differ("hard", "two labels") == {"kind", "teacher"}
    assert {told["teacher"] for told in who.values() if told["teacher"]} == set(config["teachers"])
    with torch.device("meta"):
        resnet, vit, weak = (cost.parameters(distillation.teacher(name, config, 0)) for name in config["teachers"])
    assert resnet == weak == pytest.approx(vit, rel=0.15)


def test_every_student_has_the_usual_keys_and_only_a_second_token_is_measured(made):
    for name, run in made.items():
        token = TINY["students"][name]["token"]
        assert run.keys() >= USUAL | {"teachers", "heads", "agreement"}
        assert set(run["heads"]) == ({"mean", "class", "distillation"} if token else {"mean"})
        assert ("cosine" in run, "heads_agree" in run) == (token, token)
        assert run["agreement"].keys() == run["teachers"].keys() == {"resnet", "vit", "weak resnet"}
    assert len(made["hard"]["cosine"]) == TINY["vit"]["depth"] + 2
    assert made["hard"]["parameters"] - made["plain"]["parameters"] == 2 * 48 + 48 * 10 + 10, "token, position, head"
    json.dumps(made)


def test_all_students_of_a_seed_have_the_same_teachers(made):
    told = [run["teachers"] for run in made.values()]
    assert all(each == told[0] for each in told)
    assert all(each.keys() >= USUAL for each in told[0].values())
    assert "answers" not in told[0]["resnet"]


def test_a_teachers_answers_are_paid_for(made):
    images = 3 * 32
    answer = (made["hard"]["train_flops"] - made["two labels"]["train_flops"]) / images
    assert answer == cost.flops(distillation.teacher("resnet", TINY, 0), 16)
    answer = (made["hard from ViT"]["train_flops"] - made["two labels"]["train_flops"]) / images
    assert answer == cost.flops(distillation.teacher("vit", TINY, 0), 16)


def test_a_run_is_repeated_bit_for_bit(made, tmp_path):
    again = distillation.run({"student": "hard", "seed": 0}, TINY, tmp_path)
    for key in ("train_accuracy", "test_accuracy", "cosine", "heads", "agreement", "curve"):
        assert again[key] == made["hard"][key], key
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "resnet-0.teacher.safetensors", "vit-0.teacher.safetensors", "weak-resnet-0.teacher.safetensors"]


def test_without_a_teacher_each_head_has_half_of_the_labels_loss():
    model, images, labels = student(), torch.randn(6, 3, 16, 16), torch.arange(6)
    loss, right = distillation.two_labels(model, images, labels)
    heads = model.forward_heads(images)
    expected = sum(nn.functional.cross_entropy(logits, labels) for logits in heads) / 2
    torch.testing.assert_close(loss, expected)
    assert right == (model(images).argmax(dim=1) == labels).sum()


def test_a_teacher_that_is_always_right_is_no_teacher():
    model, images, labels = student(), torch.randn(6, 3, 16, 16), torch.arange(6)

    class Right(nn.Module):
        def forward(self, images):
            return 9.0 * nn.functional.one_hot(labels, 10)

    for ours, theirs in zip(distil(Right())(model, images, labels), distillation.two_labels(model, images, labels),
                            strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_teacher_of_other_classes_is_refused(tmp_path, monkeypatch):
    few = distillation.teacher("resnet", TINY | {"vit": TINY["vit"] | {"num_classes": 7}}, 0)
    monkeypatch.setattr(distillation, "_teacher", lambda *_: (few, {"answers": []}))
    with pytest.raises(ValueError, match="the same classes in the same order"):
        distillation.run({"student": "hard", "seed": 0}, TINY, tmp_path)


def test_both_heads_together_are_what_the_model_answers(sets):
    model = student()
    classes = distillation.by_head(model, sets.test)
    share = {head: (given == sets.test.labels).double().mean().item() for head, given in classes.items()}
    assert share["mean"] == pytest.approx(evaluate(model, sets.test).accuracy, abs=2 / len(sets.test))
    assert not torch.equal(classes["class"], classes["distillation"])
    model.distillation_head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        for z in (model.class_token, model.distillation_token):
            z.zero_()
        model.position[:, 1] = model.position[:, 0]
    classes = distillation.by_head(model, sets.test)
    assert torch.equal(classes["class"], classes["distillation"]), "two tokens that are one"
    assert distillation.cosines(model, sets.test, 20) == pytest.approx([1.0] * 4, abs=1e-5)


def test_the_first_cosine_is_that_of_the_learned_vectors(sets):
    model = student()
    ours = distillation.cosines(model, sets.test, 20)
    table = model.position[0]
    vectors = model.class_token[0, 0] + table[0], model.distillation_token[0, 0] + table[1]
    assert ours[0] == pytest.approx(torch.cosine_similarity(*vectors, dim=0).item(), abs=1e-5)


def test_what_is_compared_is_of_one_seed():
    def run(name, seed, accuracy, *heads):
        both = {"heads_agree": 0.9, "cosine": [0.1, 0.9]} if heads else {}
        shares = {"mean": accuracy} | dict(zip(distillation.HEADS, heads, strict=False))
        teachers = {"resnet": {"test_accuracy": 0.8 + seed / 10}}
        return {"student": name, "seed": seed, "test_accuracy": accuracy, "heads": shares, "seconds": 2.0,
                "agreement": {"resnet": shares}, "teachers": teachers} | both

    runs = [run("plain", 0, 0.5), run("plain", 1, 0.6), run("hard", 0, 0.7, 0.6, 0.65), run("soft", 2, 0.6, 0.6, 0.5)]
    told = distillation.summarise(runs)
    assert told["teachers"]["resnet"]["mean"] == pytest.approx(0.9), "once a seed"
    assert told["students"]["hard"]["above"] == {"plain": pytest.approx({"mean": 0.2, "low": None, "high": None,
                                                                         "seeds": 1})}
    assert told["students"]["soft"]["above"] == {}, "no other run of its seed yet"
    assert told["students"]["hard"]["over_class"]["distillation"]["mean"] == pytest.approx(0.05)
    assert told["students"]["hard"]["over_class"]["mean"]["mean"] == pytest.approx(0.1)
    assert [each["mean"] for each in told["students"]["hard"]["cosine"]] == [0.1, 0.9]
    assert "cosine" not in told["students"]["plain"]
    assert told["students"]["plain"]["over_class"] == {}
