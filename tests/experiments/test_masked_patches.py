"""No labels: what is pre-trained, what keeps its labels, and what is compared with what."""

import json

import pytest
import torch
from usual import USUAL

from experiments import masked_patches
from experiments.families import build
from vitlite import data, weights
from vitlite.masked import MaskedPatches

QUICK = masked_patches.SCALES["quick"]
SCENES = {"name_or_path": "scenes", "train_images": 100, "held_out": 20, "image_size": 16}
TINY = QUICK | {"data": SCENES, "scenes": SCENES | {"seed": 1}, "pretraining_steps": 2, "search_steps": 1, "steps": 2,
                "rates": [1e-3], "pretraining": ["none", "colour", "scenes", "pixels", "labels"]}


@pytest.fixture(scope="module")
def sets():
    return data.load(**SCENES)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def made(work):
    """Every way to begin, with one seed."""
    return [point | masked_patches.run(point, TINY, work) for point in masked_patches.points(TINY)]


def masked(sets, **options):
    return MaskedPatches(build("vit", TINY, 0), sets.train.mean, sets.train.std, **options)


@pytest.mark.parametrize("scale", masked_patches.SCALES)
def test_it_is_the_papers_task(scale):
    config = masked_patches.SCALES[scale]
    assert config["mask_ratio"] == 0.5
    assert MaskedPatches(build("vit", config, 0), [0.5] * 3, [0.2] * 3).head.out_features == 512


@pytest.mark.parametrize("change", [{"fractions": [0.01, 1.0]}, {"rate_fraction": 0.01}])
def test_less_than_one_image_a_class_is_refused_before_anything_is_trained(tmp_path, change):
    with pytest.raises(ValueError, match="a subset of 1 images was asked for"):
        masked_patches.run({"pretraining": "colour", "seed": 0}, TINY | change, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ratio", [0, 1])
def test_a_mask_ratio_of_nothing_or_everything_is_refused(tmp_path, ratio):
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}: .* between 0 and 1"):
        masked_patches.run({"pretraining": "colour", "seed": 0}, TINY | {"mask_ratio": ratio}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_are_kept_in_balance_and_every_seed_draws_its_own(sets):
    few, more = (masked_patches.labelled(sets.train, share, 0) for share in (0.2, 0.5))
    assert few.labels.bincount().tolist() == [2] * 10
    assert torch.equal(few.images, more.images[:20])
    assert not torch.equal(masked_patches.labelled(sets.train, 0.2, 1).images, few.images)


def test_every_way_to_begin_is_fine_tuned_alike(made):
    for run in made:
        assert run.keys() >= USUAL
        assert [(told["fraction"], told["steps"], told["train_images"]) for told in run["fine_tuned"]] == [
            (0.1, 2, 10), (1.0, 2, 100)]
        assert all(told.keys() >= USUAL for told in run["fine_tuned"])
    before = {run["pretraining"]: run["pretrained"] for run in made}
    assert before["none"] is None
    assert {told["images_seen"] for told in before.values() if told} == {2 * 100}, "no batch is larger than the set"
    assert before["colour"].keys() == before["pixels"].keys() >= {"masked_accuracy", "neighbours", "commonest"}
    assert before["scenes"]["test_accuracy"] >= 0
    json.dumps(made)


def test_the_way_to_begin_makes_a_difference(made, work):
    """The first layer after pre-training differs from the new one, and from way to way."""
    new = build("vit", TINY, 0).patch_embed.state_dict()["projection.weight"]
    found = [new]
    for name in ("colour", "scenes", "pixels", "labels"):
        model = build("vit", TINY, 0)
        wrapped = name in masked_patches.TARGETS
        holder = MaskedPatches(model, [0.5] * 3, [0.2] * 3, target=name) if wrapped else model
        masked_patches.once(holder, work / f"{name}-0.safetensors", lambda: pytest.fail("not kept"))
        found.append(model.patch_embed.state_dict()["projection.weight"])
    assert all(not torch.equal(one, other) for i, one in enumerate(found) for other in found[:i])


def test_a_run_is_repeated_bit_for_bit(made, tmp_path):
    again = masked_patches.run({"pretraining": "colour", "seed": 0}, TINY, tmp_path)
    first = next(run for run in made if run["pretraining"] == "colour")
    for key in ("search", "train_accuracy", "test_accuracy"):
        assert again[key] == first[key]
    assert [told["curve"] for told in again["fine_tuned"]] == [told["curve"] for told in first["fine_tuned"]]


def test_a_model_that_fills_nothing_in_is_not_read(tmp_path, sets):
    path = weights.save(build("vit", TINY, 0), tmp_path / "vit.safetensors", mean=sets.train.mean, std=sets.train.std)
    with pytest.raises(ValueError, match="vit.safetensors holds a model without what fills in hidden patches"):
        masked_patches.read(path)


def test_the_first_seeds_model_is_kept_whole(made, work, sets):
    path = work / "masked_patches.safetensors"
    kept, trained = masked_patches.read(path), masked(sets)
    masked_patches.once(trained, work / "colour-0.safetensors", lambda: pytest.fail("not kept"))
    theirs = trained.state_dict()
    for name, tensor in kept.state_dict().items():
        close = {"rtol": 0, "atol": 0} if name in ("mean", "std") else {"rtol": 2**-7, "atol": 1e-7}
        torch.testing.assert_close(tensor, theirs[name], **close)
    assert not torch.equal(kept.mask_token, torch.zeros_like(kept.mask_token))
    assert weights.info(path)["record"] == "masked_patches"
    assert weights.load(path).config == kept.vit.config, "it is a ViT like any other"
    seen, filled = kept.fill_in(torch.randn(2, 3, 16, 16))
    assert seen.shape == filled.shape == (2, 3, 16, 16)


def test_a_checkpoint_is_small_even_at_full_scale(tmp_path):
    model = MaskedPatches(build("vit", masked_patches.SCALES["full"], 0), [0.5] * 3, [0.2] * 3)
    masked_patches._keep(model, data.load(**SCENES), tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < 2e6


def test_the_guesses_hit_what_they_should(sets):
    model = masked(sets)
    plain = torch.full((20, 3, 16, 16), 200, dtype=torch.uint8)
    told = masked_patches.baselines(model, data.datasets.replace(sets.validation, images=plain))
    assert told["commonest"] == 1.0
    assert told["neighbours"] > 0.9, "but where all around are hidden"
    halves = plain.clone()
    halves[:, :, :, 8:] = 20
    told = masked_patches.baselines(model, data.datasets.replace(sets.validation, images=halves))
    assert told["commonest"] == pytest.approx(0.5, abs=0.1)
    assert 0.4 < told["neighbours"] < 0.8, "patches at the edge between the halves see both"


def test_what_is_compared_is_of_one_seed():
    def run(pretraining, seed, *accuracies, **keys):
        told = [{"fraction": share, "test_accuracy": accuracy} for share, accuracy in zip((0.1, 1.0), accuracies)]  # noqa: B905
        return {"pretraining": pretraining, "seed": seed, "fine_tuned": told, "pretrained": keys or None}

    guesses = {"neighbours": 0.2, "commonest": 0.1}
    runs = [run("none", 0, 0.3, 0.5), run("colour", 0, 0.4, 0.5, masked_accuracy=0.3, **guesses), run("none", 1, 0.5),
            run("scenes", 1, 0.6, 0.4)]
    told = masked_patches.summarise(runs)
    assert told["accuracy"]["none"]["0.1"]["mean"] == pytest.approx(0.4)
    assert told["accuracy"]["none"]["1.0"]["seeds"] == 1
    assert told["above"]["colour"]["none"]["0.1"]["mean"] == pytest.approx(0.1), "seed 0 alone has both"
    assert told["above"]["colour"]["scenes"] == {}
    assert list(told["above"]["scenes"]["none"]) == ["0.1"], "seed 1 has no run from scratch on all labels yet"
    assert told["masked"]["colour"]["masked_accuracy"]["mean"] == 0.3
    assert "none" not in told["above"]
    assert masked_patches.summarise(runs[:1])["above"] == {}
