"""Five ways to fine-tune a published ViT: where each begins, what it moves, and at which rate."""

import pytest
import torch
from torch import nn
from usual import USUAL, quick_record

from experiments import finetune, real, real_weights
from vitlite import ViT, ViTConfig

QUICK = finetune.SCALES["quick"]
DEPTH = 3


def small(image_size: int = 28) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig(image_size, 14, 3, 5, embed_dim=24, depth=DEPTH, num_heads=3, mlp_dim=48)).eval()


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    """A small model in place of the published one."""
    monkeypatch.setattr(real, "model", small)


@pytest.fixture
def sets():
    return real_weights.drawn(QUICK, 0)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Every way at quick scale, as the command runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "model", small)
        return quick_record("finetune", tmp_path_factory.mktemp("record"))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(way: str, sets) -> set[str]:
    """The tensors that one epoch changes."""
    model = finetune.begun(way, sets.train, QUICK)
    before = state(model)
    parts = finetune.groups(way, model, QUICK["rates"][way][0], QUICK)
    real_weights.fine_tuned(model, sets, QUICK | {"batch_size": 5}, parts, epochs=1, seed=0)
    return {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


def test_an_update_whose_last_factor_is_zero_changes_no_bit(sets):
    model, images = finetune.begun("all", sets.train, QUICK), torch.randn(2, 3, 28, 28)
    wanted = model(images)
    assert torch.equal(finetune.with_low_rank(model, rank=4)(images), wanted)


def test_an_update_is_a_matrix_of_its_rank():
    layer = finetune.LowRank(nn.Linear(12, 9), rank=2)
    nn.init.normal_(layer.up)
    update = layer(torch.eye(12)) - layer.linear(torch.eye(12))
    assert torch.linalg.matrix_rank(update, atol=1e-4) == 2
    torch.testing.assert_close(update, (layer.up @ layer.down).T)


def test_the_map_begins_with_the_scores_of_the_probe(sets):
    model = finetune.begun("map", sets.train, QUICK)
    features = real_weights.enlarged_outputs(model, sets.train, model.features)
    wanted = real_weights.probed(features, sets.train.labels, QUICK["l2"])(features)
    with torch.inference_mode():
        torch.testing.assert_close(model.head(features).double(), wanted.double(), rtol=0, atol=1e-4)


def test_a_head_of_zeros_says_nothing(sets):
    assert not finetune.begun("one_rate", sets.train, QUICK)(torch.randn(2, 3, 28, 28)).any()


def test_low_rank_moves_its_updates_and_the_head_alone(sets):
    updates = {f"blocks.{block}.attention.qkv.{part}" for block in range(DEPTH) for part in ("down", "up")}
    assert moved("lora", sets) == updates | {"head.0.weight", "head.0.bias"}


@pytest.mark.parametrize("way", ["one_rate", "all", "decay"])
def test_the_others_move_everything(way, sets):
    everything = set(finetune.begun(way, sets.train, QUICK).state_dict())
    assert everything - moved(way, sets) <= {f"blocks.{block}.attention.qkv.bias" for block in range(DEPTH)}


@pytest.mark.parametrize("way", ["one_rate", "all", "decay", "lora"])
def test_a_parameter_is_in_one_group(way, sets):
    model = finetune.begun(way, sets.train, QUICK)
    inside = [id(p) for part in finetune.groups(way, model, 1e-4, QUICK) for p in part["params"]]
    assert sorted(inside) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_rates_fall_from_layer_to_layer_by_the_factor(sets):
    model = finetune.begun("decay", sets.train, QUICK)
    peaks = {id(p): part["peak"] for part in finetune.groups("decay", model, 1e-3, QUICK) for p in part["params"]}
    layers = [model.norm, *reversed(model.blocks), model.patch_embed]
    found = [[peaks[id(p)] for p in layer.parameters()] for layer in layers]
    assert all(len(set(rates)) == 1 for rates in found)
    assert [rates[0] for rates in found] == pytest.approx([1e-3 * QUICK["layer_decay"] ** n for n in range(DEPTH + 2)])
    assert peaks[id(model.class_token)] == peaks[id(model.position)] == found[-1][0]
    assert {peaks[id(p)] for p in model.head.parameters()} == {QUICK["head"]}


def test_every_way_is_run_and_counts_what_it_trains(record):
    runs = {run["way"]: run for run in record["runs"]}
    assert set(runs) == set(finetune.WAYS)
    whole = small().reset_head(10)
    count = sum(p.numel() for p in whole.parameters())
    assert {way: run["trained"] for way, run in runs.items()} == {
        "all": count, "one_rate": count, "decay": count, "map": 24 * 10 + 10,
        "lora": 24 * 10 + 10 + DEPTH * QUICK["rank"] * (24 + 3 * 24)}
    for run in runs.values():
        assert run.keys() >= USUAL
        assert run["cpu_seconds"] > 0
    for way in ("all", "decay", "lora"):
        assert runs[way]["curve"][0] == runs["map"]["val_accuracy"], "it begins at the linear map"


def test_of_several_rates_it_takes_the_best_once_either_side_is_worse(monkeypatch, tmp_path):
    answers, taken = iter([0.2, 0.5, 0.3]), []
    monkeypatch.setattr(finetune, "accuracy", lambda *_: next(answers))
    monkeypatch.setattr(finetune, "fine_tuned", lambda model, sets, config, parts, *_: (
        taken.append(parts[0]["peak"]) or {"cpu_seconds": 0.0}))
    told = finetune.run({"way": "one_rate", "seed": 0}, QUICK, tmp_path)
    assert told["search"] == {"0.0001": 0.2, "0.001": 0.5, "0.003": 0.3}
    assert taken == [1e-3]


def test_it_is_shown_as_a_table_and_a_figure(record):
    rows = [line.split("|")[1:-1] for line in finetune.show(record, "ways").splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(finetune.WAYS.values())
    assert rows[1][2].strip() == "250"
    lines = finetune.show(record, "rates").axes[0].lines
    searches = {run["way"]: run["search"] for run in record["runs"]}
    tried = {*searches["one_rate"], *(str(QUICK["rates"][way][0]) for way in ("all", "decay", "lora"))}
    assert len(searches["one_rate"]) > 2
    assert {line.get_label(): len(line.get_xdata()) for line in lines} == {
        finetune.WAYS[way]: count for way, count in zip(
            ("one_rate", "all", "decay", "lora", "map"), (len(searches["one_rate"]), 1, 1, 1, len(tried)),
            strict=True)}
