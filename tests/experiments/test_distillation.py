"""A teacher: who learns from whom, whose answers are kept, what two tokens learn, and what is compared with what."""

import json

import pytest
import torch
from torch import nn
from usual import USUAL

from experiments import distillation, real
from vitlite import ViT, ViTConfig, cost, data, weights
from vitlite.train import evaluate
from vitlite.train.objectives import distil

QUICK, CPU = distillation.SCALES["quick"], distillation.SCALES["cpu"]
TINY = ViTConfig(image_size=28, patch_size=14, num_classes=10, embed_dim=16, depth=1, num_heads=2, mlp_dim=16)


@pytest.fixture(scope="module")
def sets():
    return data.load(**QUICK["data"], image_size=16)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder where the answers of both teachers wait, a tiny ViT in the place of the published one."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(real, "model", lambda size: ViT(TINY).eval())
        distillation.taught(QUICK, folder)
    return folder


@pytest.fixture(scope="module")
def made(work):
    """Every student of one seed, by name."""
    return {point["student"]: point | distillation.run(point, QUICK, work) for point in distillation.points(QUICK)}


def student(seed=0, **changes):
    torch.manual_seed(seed)
    return ViT(ViTConfig(**QUICK["vit"] | {"distillation": True, "zero_head": False} | changes)).eval()


def test_what_is_compared_differs_in_one_thing():
    who = distillation.STUDENTS

    def differ(one, other):
        return {key for key in who[one] if who[one][key] != who[other][key]}

    assert differ("plain", "two labels") == differ("hard", "hard on one head") == {"token"}
    assert differ("hard", "soft") == {"kind"}
    assert differ("hard", "hard from ViT") == {"teacher"}
    assert differ("hard", "two labels") == {"kind", "teacher"}
    assert {each["teacher"] for each in who.values() if each["teacher"]} == set(CPU["teachers"])


def test_every_student_has_the_usual_keys_and_only_a_second_token_is_measured(made):
    for name, run in made.items():
        token = distillation.STUDENTS[name]["token"]
        assert run.keys() >= USUAL | {"teachers", "heads", "agreement"}
        assert set(run["heads"]) == ({"mean", "class", "distillation"} if token else {"mean"})
        assert ("cosine" in run, "heads_agree" in run) == (token, token)
        assert run["agreement"].keys() == run["teachers"].keys() == {"convolutions", "vit"}
        assert run["train_images"] == 60, "mirror images are no images more"
    assert len(made["hard"]["cosine"]) == QUICK["vit"]["depth"] + 2
    assert made["hard"]["parameters"] - made["plain"]["parameters"] == 2 * 48 + 48 * 10 + 10, "token, position, head"
    json.dumps(made)


def test_a_teacher_is_asked_once_about_every_image_and_its_mirror_image(made):
    for name, teacher in (("hard", "convolutions"), ("hard from ViT", "vit")):
        more = made[name]["train_flops"] - made["two labels"]["train_flops"]
        assert more == 2 * 60 * made[name]["teachers"][teacher]["flops"]
    assert made["hard"]["teachers"]["vit"]["flops"] == cost.flops(ViT(TINY), 28)


def test_kept_answers_are_those_that_the_teacher_gives(work):
    answers, known = distillation.taught(QUICK, work)["convolutions"]
    path = distillation.records.ROOT / "data" / "checkpoints" / "train_cifar10-conv.safetensors"
    model, about = weights.load(path), weights.info(path)
    train = data.load(**QUICK["data"], image_size=32).train
    images = data.augment.normalise(train.images[:5], about["mean"], about["std"])
    with torch.inference_mode():
        torch.testing.assert_close(answers["train"][:5], model(images), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(answers["train"][60:65], model(images.flip(-1)), rtol=1e-3, atol=1e-3)
    right = (answers["train"][:60].argmax(dim=1) == train.labels).double().mean().item()
    assert known["train_accuracy"] == pytest.approx(right)


def test_the_linear_map_comes_as_near_as_it_can_to_the_other_teacher(work):
    teachers = distillation.taught(QUICK, work)
    known, goal = teachers["vit"][1], teachers["convolutions"][1]["val_accuracy"]
    tried = known["val_accuracy_by_labels"]
    assert list(tried) == ["30", "60"]
    assert abs(tried[str(known["labels"])] - goal) == min(abs(each - goal) for each in tried.values())
    assert known["val_accuracy"] == pytest.approx(tried[str(known["labels"])])


def test_a_batch_from_memory_asks_as_the_teacher_would(sets):
    twice = distillation.both_ways(sets.train)
    assert torch.equal(twice.images[60:], sets.train.images.flip(-1))
    assert torch.equal(twice.labels, torch.arange(120))
    model, teacher, places = student(), student(seed=1, distillation=False), torch.tensor([3, 70, 119, 0])
    images, labels = twice.normalised(), torch.cat([sets.train.labels] * 2)
    with torch.inference_mode():
        answers = teacher(images)
    for name, kind in (("hard", "hard"), ("soft", "soft")):
        ours = distillation.from_memory(distillation.STUDENTS[name], sets.train.labels, answers.clone(), QUICK)
        theirs = distil(teacher, kind, weight=0.5)
        for mine, expected in zip(ours(model, images[places], places), theirs(model, images[places], labels[places]),
                                  strict=True):
            torch.testing.assert_close(mine, expected)
    ours = distillation.from_memory(distillation.STUDENTS["two labels"], sets.train.labels, None, QUICK)
    torch.testing.assert_close(ours(model, images[places], places),
                               distillation.two_labels(model, images[places], labels[places]))


def test_a_run_is_repeated_bit_for_bit(made, work):
    again = distillation.run({"student": "hard", "seed": 0}, QUICK, work)
    for key in ("train_accuracy", "test_accuracy", "cosine", "heads", "agreement", "curve"):
        assert again[key] == made["hard"][key], key


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
        return {"student": name, "seed": seed, "test_accuracy": accuracy, "heads": shares,
                "agreement": {"vit": shares}, "teachers": {"vit": {"test_accuracy": 0.8}}} | both

    runs = [run("plain", 0, 0.5), run("plain", 1, 0.6), run("hard", 0, 0.7, 0.6, 0.65), run("soft", 2, 0.6, 0.6, 0.5)]
    summary = distillation.summarise(runs)
    assert summary["teachers"] == {"vit": {"test_accuracy": 0.8}}
    students = summary["students"]
    assert students["hard"]["above"] == {"plain": pytest.approx({"mean": 0.2, "low": None, "high": None, "seeds": 1})}
    assert students["soft"]["above"] == {}, "no other run of its seed yet"
    assert [each["mean"] for each in students["hard"]["cosine"]] == [0.1, 0.9]
    assert "cosine" not in students["plain"]
