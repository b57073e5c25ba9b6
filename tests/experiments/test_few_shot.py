"""Few labels: what is drawn, what is chosen, and how the ways to use it are compared."""

import json

import pytest
import torch
from usual import USUAL, check_the_card_tells_the_grid

from experiments import few_shot, records, runner
from experiments.families import build
from experiments.measure import once
from vitlite import cost, data

QUICK, CPU = few_shot.SCALES["quick"], few_shot.SCALES["cpu"]
TINY = QUICK | {"images": [1, 3], "rates": [1e-3], "rate_images": 1, "pretraining_steps": 2, "steps": 2,
                "source": QUICK["source"] | {"train_images": 40, "held_out": 20}}


@pytest.fixture(scope="module")
def sets():
    return data.load(**QUICK["targets"]["scenes"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every point of one seed."""
    work = tmp_path_factory.mktemp("work")
    return [point | few_shot.run(point, TINY, work) for point in few_shot.points(TINY)]


@pytest.mark.parametrize("scale", few_shot.SCALES)
def test_every_network_of_the_first_seed_comes_first(scale):
    points = few_shot.points(few_shot.SCALES[scale] | {"seeds": [3, 4]})
    assert [(point["source"], point["family"]) for point in points[:4]] == [
        ("scenes", "vit"), ("scenes", "resnet"), ("random", "vit"), ("random", "resnet")]
    assert [point["seed"] for point in points] == [3] * 4 + [4] * 4


def test_the_card_tells_the_grid():
    check_the_card_tells_the_grid(few_shot)
    assert CPU["images"] == [1, 5, 10, 25, 100]


def test_the_networks_have_equally_many_parameters(made):
    assert made[1]["parameters"] == pytest.approx(made[0]["parameters"], rel=0.05)
    vit, resnet = (cost.parameters(build(family, CPU, 0)) for family in CPU["families"])
    assert resnet == pytest.approx(vit, rel=0.05)


def test_draws_are_balanced_and_nested_and_differ(sets):
    few, more = few_shot.draw(sets.train, 2, 0, 1), few_shot.draw(sets.train, 5, 0, 1)
    assert few.labels.bincount().tolist() == [2] * 10
    assert torch.equal(few.images, more.images[:20])
    for seed, number in ((0, 0), (1, 1)):
        assert not torch.equal(few_shot.draw(sets.train, 2, seed, number).images, few.images)


@pytest.mark.parametrize("images", [0, -1, 21])
def test_less_than_one_image_a_class_and_more_than_there_are_are_refused(sets, images):
    with pytest.raises(ValueError, match=f"{images} images a class .* at least 1 and at most the 20"):
        few_shot.draw(sets.train, images, 0, 0)


def test_the_target_images_are_none_that_were_trained_on():
    """Scenes of another seed are other images, of the same classes."""
    seen = data.load("scenes", **TINY["source"]).train
    new = data.load(**TINY["targets"]["scenes"]).train
    assert seen.classes == new.classes
    assert not {*map(bytes, seen.images.numpy())} & {*map(bytes, new.images.numpy())}


def test_the_nearest_vote_and_length_does_not_count():
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [10.0, 9.0]])
    labels = torch.tensor([0, 2, 2, 1])
    asked = torch.tensor([[0.01, 0.001], [5.0, 4.6], [-0.1, 1.0]])
    assert few_shot.nearest(known, labels, asked, k=1).tolist() == [0, 1, 2]
    assert few_shot.nearest(known, labels, asked, k=4).tolist() == [2, 2, 2], "two of four have class 2"


def test_a_fresh_head_says_nothing_and_leaves_the_features():
    for family in ("vit", "resnet"):
        model, images = build(family, QUICK, 0).eval(), torch.randn(2, 3, 16, 16)
        before = model.features(images)
        assert model.reset_head(7)(images).tolist() == [[0.0] * 7] * 2
        assert torch.equal(model.features(images), before)
        assert model.config.num_classes == 7


def test_what_is_trained_once_is_read_the_next_time(tmp_path):
    def train():
        torch.nn.init.ones_(model.weight)
        return {"accuracy": 0.1 + 0.2}

    model = torch.nn.Linear(2, 2)
    first = once(model, tmp_path / "m.safetensors", train)
    torch.nn.init.zeros_(model.weight)
    assert once(model, tmp_path / "m.safetensors", lambda: pytest.fail("trained twice")) == first
    assert model.weight.tolist() == [[1.0, 1.0]] * 2


def test_what_was_trained_with_another_patch_size_is_refused(tmp_path):
    path, other = tmp_path / "m.safetensors", QUICK | {"vit": QUICK["vit"] | {"patch_size": 8}}
    once(build("vit", other, 0), path, dict)
    with pytest.raises(ValueError, match=r"(?s)m\.safetensors.* does not fit the model.*with the patch_size it was"):
        once(build("vit", QUICK, 0), path, lambda: pytest.fail("trained over it"))


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family is 'rnn'; expected one of 'vit', 'hybrid', 'resnet', 'mlp'"):
        build("rnn", QUICK, 0)


def test_features_that_tell_the_classes_apart_need_one_image_of_each(sets):
    class Told(torch.nn.Module):
        """Sees each image's label in its first pixel."""

        def __init__(self):
            super().__init__()
            self.here = torch.nn.Parameter(torch.zeros(1))

        def features(self, images):
            return torch.nn.functional.one_hot((images[:, 0, 0, 0] * sets.train.std[0] * 255).round().long(), 10) * 1.0

    def told(split):
        images = split.labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1).contiguous()
        return data.datasets.replace(split, images=images, mean=(0.0,) * 3)

    for entry in few_shot.frozen(Told(), data.datasets.Splits(*map(told, sets)), TINY, 0):
        assert entry["accuracy"] == [1.0, 1.0]


def test_every_run_is_measured_by_every_method(made):
    for run in made:
        assert run.keys() >= USUAL
        places = [(entry["method"], entry["images"], len(entry["accuracy"])) for entry in run["few"]]
        assert places == [("linear", 1, 2), ("linear", 3, 2), ("knn", 1, 2), ("knn", 3, 2), ("fine-tuning", 1, 1),
                          ("fine-tuning", 3, 1)]
        assert run["steps"] == run["train_flops"] == 0 if run["source"] == "random" else run["steps"] == 2
    json.dumps(made)


def test_a_run_is_repeated_bit_for_bit_and_resumes_after_its_pretraining(made, tmp_path):
    point = few_shot.points(TINY)[0]
    again = few_shot.run(point, TINY, tmp_path)
    assert [again[key] for key in ("few", "search", "test_accuracy")] == [
        made[0][key] for key in ("few", "search", "test_accuracy")]
    (tmp_path / "scenes-vit-0-scenes-rates.json").unlink()
    assert few_shot.run(point, TINY, tmp_path) == again, "to the second, since the pre-training is read"


def test_differences_are_taken_within_a_seed_and_on_the_same_draws():
    def run(seed, family, linear, tuned=None):
        few = [{"target": "t", "method": "linear", "images": 5, "accuracy": linear}]
        few += [{"target": "t", "method": "fine-tuning", "images": 5, "accuracy": tuned}] if tuned else []
        return {"source": "scenes", "family": family, "seed": seed, "few": few}

    runs = [run(0, "vit", [0.3, 0.5], [0.2]), run(0, "resnet", [0.5, 0.5]), run(1, "vit", [0.6, 0.8])]
    told = few_shot.summarise(runs)
    vit = next(row for row in told["accuracy"] if row["family"] == "vit" and row["method"] == "linear")
    assert (vit["mean"], vit["seeds"]) == (pytest.approx(0.55), 2)
    assert vit["spread"] == pytest.approx(0.02**0.5)
    families, methods = told["differences"]
    assert (families["ours"], families["theirs"], families["seeds"]) == ("vit", "resnet", 1)
    assert families["mean"] == pytest.approx(-0.1), "seed 1 has no ResNet yet"
    assert methods["theirs"] == "fine-tuning"
    assert methods["mean"] == pytest.approx(0.1), "on the first draw alone"
    assert families["target"] == "t"
    assert "family" not in families


def test_it_makes_a_record(made, tmp_path, monkeypatch):
    monkeypatch.setattr(few_shot, "run", lambda point, *_: next(run for run in made if point.items() <= run.items()))
    runner.run("few_shot", "quick", folder=tmp_path, work=tmp_path / "work")
    assert len(records.read("few_shot", tmp_path)["summary"]["differences"]) == 12 + 12 + 8 + 8
