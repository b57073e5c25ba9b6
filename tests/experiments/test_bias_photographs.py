"""Photographs are shifted within themselves, and what a run comes to is compared seed by seed."""

import json

import pytest
import torch

from experiments import bias, bias_photographs, families
from experiments.bias_photographs import measures, summarise, windows
from vitlite import cost

CPU = bias_photographs.SCALES["cpu"]
TINY = bias_photographs.SCALES["quick"] | {
    "data": {"name_or_path": "scenes", "train_images": 40, "held_out": 20}, "test_images": 20,
    "steps": 2, "search_steps": 2, "learning_rates": [1e-3],
    "shifts": [0, 2, 4], "tiles": [8, 4], "covered": [0.0, 0.5]}
STANDARD = {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
            "test_accuracy"}


def test_the_families_have_equally_many_parameters():
    sizes = {family: cost.parameters(bias.build(family, CPU, seed=0)) for family in families.FAMILIES}
    assert max(sizes.values()) <= 1.025 * min(sizes.values()), sizes


def test_a_window_that_does_not_move_is_the_middle():
    images = torch.arange(5 * 3 * 32 * 32).view(5, 3, 32, 32)
    assert torch.equal(windows(images, 0, 24), images[:, :, 4:28, 4:28])


def test_a_moved_window_shows_what_stands_there_by_turns_on_each_side():
    images = torch.arange(8 * 32 * 32).view(8, 1, 32, 32)
    left, right, up, down = (windows(images, 3, 24)[way::4] for way in range(4))
    assert torch.equal(left, images[0::4, :, 4:28, 1:25])
    assert torch.equal(right, images[1::4, :, 4:28, 7:31])
    assert torch.equal(up, images[2::4, :, 1:25, 4:28])
    assert torch.equal(down, images[3::4, :, 7:31, 4:28])


@pytest.mark.parametrize("shift", [5, -1])
def test_a_window_does_not_leave_the_image(shift):
    windows(torch.zeros(1, 3, 32, 32), 4, 24)
    with pytest.raises(ValueError, match=f"shift is {shift} pixels; .* has room for 0 to 4: take a smaller"):
        windows(torch.zeros(1, 3, 32, 32), shift, 24)


def test_every_family_runs_on_the_middle_of_the_images_and_is_measured(tmp_path):
    runs = []
    for point in bias_photographs.points(TINY):
        one = bias_photographs.run(point, TINY, tmp_path)
        runs.append(point | one)
        assert set(one) >= STANDARD
        assert [step["pixels"] for step in one["shift"]] == [0, 2, 4]
        assert one["shift"][0]["consistency"] == 1
        assert one["cover"][0]["accuracy"] == one["shift"][0]["accuracy"], "nothing covered yet"
        assert len(one["shuffle"]) == 4
    assert one["train_images"] == 40
    assert one["flops"] == cost.flops(bias.build("mlp", TINY, 0), 24)
    json.dumps(summarise(runs))
    assert not list(tmp_path.glob("*.safetensors")), "no checkpoint is left"


def test_all_are_disturbed_alike_and_the_test_images_as_they_are_stand_first(tmp_path):
    one = bias_photographs.run({"seed": 0, "family": "mlp"}, TINY, tmp_path)
    assert one["shift"][0]["accuracy"] == pytest.approx(one["test_accuracy"]), "here all test images are disturbed"
    again = bias_photographs.run({"seed": 0, "family": "mlp"}, TINY, tmp_path)
    assert {**one, "seconds": 0} == {**again, "seconds": 0}, "one seed, one result"


def made(family, seed, plain, shuffled):
    def step(accuracy, consistency=1.0, **point):
        return point | {"accuracy": accuracy, "consistency": consistency}

    return {
        "family": family,
        "seed": seed,
        "test_accuracy": plain,
        "shift": [step(plain, pixels=0), step(0.4, 0.7, pixels=2), step(0.3, 0.9, pixels=4)],
        "shuffle": [step(0.01, tile=4, each=False), step(shuffled, tile=4, each=True), step(0.02, tile=8, each=True)],
        "cover": [step(plain, share=0.0), step(0.2, share=0.75)],
    }


def test_a_run_comes_to_accuracies_losses_and_answers_kept():
    figures = measures(made("vit", 0, plain=0.5, shuffled=0.35))
    assert (figures["plain"], figures["shift"], figures["shuffle"], figures["cover"]) == (0.5, 0.3, 0.35, 0.2)
    assert figures["lost_by_shuffle"] == pytest.approx(0.15)
    assert figures["consistency"] == 0.9
    assert figures["whole_patch"] == pytest.approx(0.2)


def test_families_are_compared_seed_by_seed_as_far_as_the_grid_is_filled():
    runs = [made("vit", 0, 0.5, 0.4), made("resnet", 0, 0.6, 0.3), made("vit", 1, 0.4, 0.4),
            made("resnet", 1, 0.5, 0.3), made("resnet", 2, 0.9, 0.1), made("mlp", 2, 0.3, 0.2)]
    summary = summarise(runs)
    assert summary["families"]["resnet"]["test_accuracy"]["seeds"] == 3
    above = summary["above_vit"]["resnet"]
    assert above["test_accuracy"]["mean"] == pytest.approx(0.1)
    assert above["test_accuracy"]["seeds"] == 2, "seed 2 has no ViT beside it"
    assert above["test_accuracy"]["low"] == pytest.approx(above["test_accuracy"]["high"]), "both seeds differ by 0.1"
    assert above["lost_by_shuffle"]["mean"] == pytest.approx(0.2)
    assert set(summary["above_vit"]) == {"resnet"}
    assert summarise(runs[-1:])["above_vit"] == {}
