"""Each benchmark runs through at its smallest, and what it compares is the same model."""

import dataclasses
import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from experiments import records
from vitlite import ViT, ViTConfig, analysis

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "shared"))


@pytest.fixture
def benchmark(monkeypatch):
    """A benchmark by its name; without vit-pytorch where that is not installed."""
    if not importlib.util.find_spec("vit_pytorch"):
        monkeypatch.delitem(importlib.import_module("benchmarks.shared").PEERS, "vit-pytorch")
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_through_and_writes_a_complete_record(name, benchmark, tmp_path, capsys, request):
    if name == "browser":
        request.getfixturevalue("browser")  # skips where there is none
    module = benchmark(name)
    benchmark("shared").main(module, ["--scale", "quick"], tmp_path)
    record = records.read(f"benchmark_{name}_cpu", tmp_path)
    assert record["command"] == f"python -m benchmarks.{name} --scale quick"
    assert set(records.KEYS) <= set(record)
    assert all(0 < run["seconds_low"] <= run["seconds"] <= run["seconds_high"] for run in record["runs"])
    if name == "training":
        assert {run["library"] for run in record["runs"]} == {"vitlite", *benchmark("shared").PEERS}
    assert all(ratio > 0 for ratio in record["summary"].values())
    assert str(tmp_path) in capsys.readouterr().out
    json.dumps(module.SCALES)  # a configuration goes into the record


def number(name: str, record: dict) -> str:
    """One of those that a page shows, as it writes it."""
    run = record["runs"][0]
    return {"attention": lambda: f"| {run['dtype']} | {run['what']} | {1000 * run['seconds']:.2f} ms |",
            "input": lambda: f"| {run['level']} | {run['images_per_second']:,.0f} |",
            "training": lambda: f"| {run['images_per_second']:,.0f} | {run['ours_over_it']:.2f} |"}[name]()


@pytest.mark.parametrize("name", ["attention", "input", "training"])
def test_a_page_shows_what_was_measured(name, benchmark):
    record = records.read(f"benchmark_{name}_cpu")
    assert number(name, record) in benchmark(name).show(record)


def test_another_model_is_noticed(benchmark, monkeypatch):
    shared = benchmark("shared")
    build, convert = shared.PEERS["timm"]
    more_heads = lambda config: build(dataclasses.replace(config, num_heads=2 * config.num_heads))  # noqa: E731
    monkeypatch.setitem(shared.PEERS, "timm", (more_heads, convert))
    with pytest.raises(AssertionError, match="timm"):
        shared.libraries(shared.TINY, "cpu")


def test_calls_take_turns_and_each_goes_first(benchmark):
    shared, order = benchmark("shared"), []
    times = shared.interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 4, "cpu")
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(order[3 * shared.WARM_UP :]) == "abc" + "bca" + "cab" + "abc"


def test_a_ratio_is_taken_round_by_round(benchmark):
    shared = benchmark("shared")
    assert shared.times_as_fast(mine=[1.0, 2.0, 10.0], its=[2.0, 6.0, 20.0]) == 2.0
    assert shared.spread([1.0, 2.0, 3.0]) == {"rounds": 3, "seconds": 2.0, "seconds_low": 1.5, "seconds_high": 2.5}


def test_one_pass_gives_what_two_give_and_holds_one_layers_maps(benchmark):
    module = benchmark("analysis")
    torch.manual_seed(0)
    small = {"image_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 6, "num_heads": 4, "mlp_dim": 192}
    model, images = ViT(ViTConfig(**small)).eval(), torch.randn(16, 3, 64, 64)
    distance, rollout = module.distance_and_rollout(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(distance, analysis.mean_attention_distance(model.iter_attention(images), (8, 8), 8))
        torch.testing.assert_close(rollout, analysis.attention_rollout(model.iter_attention(images)))
    memory = module.summarise(module.measure({"device": "cpu", "model": small, "images": 16, "rounds": 2}))["memory"]
    assert 1 <= memory <= module.MEMORY


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_looking_inside_costs_no_more_than_it_may(device, benchmark):
    name = f"benchmark_analysis_{device}"
    if name not in records.names():
        pytest.skip(f"there is no record {name}; make benchmark writes it")
    module, summary = benchmark("analysis"), records.read(name)["summary"]
    assert summary["memory"] <= module.MEMORY
    assert summary["time"] <= module.TIME


def test_both_pipelines_give_the_same_kind_of_batch(benchmark):
    module = benchmark("input")
    config = module.SCALES["quick"]
    images = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    for fields in config["levels"].values():
        recipe = module.Recipe("try", steps=1, batch_size=16, **fields)
        ours = next(iter(module.Resident(images, torch.arange(32) % 10, recipe, "cpu")))
        theirs = next(iter(module.loader(images, torch.arange(32) % 10, recipe, config)))
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
