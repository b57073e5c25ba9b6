"""What an experiment makes of the runs in its record: the summary that stands there, and what a chapter shows."""

import re
from inspect import signature

import pytest
from matplotlib.figure import Figure

from experiments import attention_distance, bias, cost, records, runner, train_cifar10

RECORDED = [name for name in runner.names() if name in records.names()]
SHOWN = [name for name in RECORDED if "what" in signature(runner.find(name).show).parameters]  # in several views


def flat(tree: object, path: str = "") -> dict[str, object]:
    """Every leaf of nested dicts and lists, by its path."""
    if not isinstance(tree, (dict, list)):
        return {path: tree}
    leaves: dict[str, object] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        leaves |= flat(value, f"{path}/{key}")
    return leaves


@pytest.mark.parametrize("name", RECORDED)
def test_the_summary_in_the_record_is_that_of_its_runs(name):
    record = records.read(name)
    summary, recorded = flat(runner.find(name).summarise(record["runs"])), flat(record["summary"])
    assert list(summary) == list(recorded)
    for path, value in recorded.items():  # some were made with Student's t to three decimals
        close = pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value
        assert summary[path] == close, path


@pytest.mark.parametrize("name", SHOWN)
def test_an_unknown_view_names_those_there_are_and_each_shows_something(name):
    experiment, record = runner.find(name), records.read(name)
    with pytest.raises(ValueError, match=r"what is 'nothing'; expected one of") as error:
        experiment.show(record, "nothing")
    views = re.findall(r"'(\w+)'", str(error.value).partition("expected")[2])
    assert views
    for what in views:
        shown = experiment.show(record, what)
        if isinstance(shown, Figure):
            assert any(axes.lines or axes.images or axes.collections or axes.patches for axes in shown.axes), what
        else:
            assert len(shown) > 40, what


def test_pixels_cost_over_patches_what_their_runs_say():
    def run(patch_size, attention, seconds, peak_bytes):
        return {"what": "pixels" if patch_size == 1 else "patches", "patch_size": patch_size, "image_size": 16,
                "tokens": (16 // patch_size) ** 2, "attention": attention, "seconds": seconds, "peak_bytes": peak_bytes}

    runs = [run(1, "explicit", 8.0, 2**24), run(1, "fused", 4.0, 2**22), run(4, "explicit", 2.0, 2**20),
            run(4, "fused", 1.0, 2**20), run(8, "explicit", 1.0, 2**19) | {"image_size": 32}]
    assert cost.factors({"runs": runs}) == {
        4: {"tokens": 16, "seconds": 4, "peak_bytes": 16, "peak_bytes_fused": 4}}
    assert cost.peaks({"runs": runs}) == {"explicit": {16: 1, 256: 16}, "fused": {16: 1, 256: 4}}


def test_curves_take_the_seeds_apart_and_the_shuffles_of_each_image():
    def run(seed, accuracy):
        return {"seed": seed, "shuffle": [{"tile": 8, "each": False, "accuracy": 0.0},
                                          {"tile": 8, "each": True, "accuracy": accuracy}]}

    families = ("vit", "mlp", "hybrid", "resnet")
    runs = [{"family": family} | run(seed, seed / 4) for seed in (1, 2) for family in families]
    by_name = bias.curves(runs, "shuffle", "accuracy")
    assert list(by_name) == ["ViT", "ResNet", "hybrid", "fully connected"]
    tiles, values = by_name["ViT"]
    assert (tiles, values.tolist()) == ([8], [[25.0], [50.0]])


def test_a_stage_goes_on_where_the_one_before_ended():
    record = records.read("train_cifar10")
    stages = train_cifar10.first(record)["plain"]["stages"]
    loss = train_cifar10.show(record, "curves").axes[0].lines[0]
    assert loss.get_xdata()[-1] == sum(stage["steps"] for stage in stages)


def test_heads_are_those_of_the_model_and_state():
    record = {"runs": [{"model": "a", "trained": trained, "distance": [[value]]}
                       for trained, value in ((True, 1.0), (False, 2.0))]}
    assert attention_distance.heads(record, "a", trained=False).tolist() == [[2.0]]
