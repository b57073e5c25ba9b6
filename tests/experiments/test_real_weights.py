"""What a published ViT knows: linear maps by layer and number of images, a map as the head, and two rates."""

import json

import pytest
import torch
from usual import USUAL

from experiments import real, real_weights, records, runner
from vitlite import ViT, ViTConfig
from vitlite.analysis import linear_probe

QUICK = real_weights.SCALES["quick"]


def small(num_classes: int = 3) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig(28, 14, 3, num_classes, embed_dim=24, depth=2, num_heads=3, mlp_dim=48)).eval()


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Every use of the weights, with a model of random ones in their place."""
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "model", lambda image_size: small())
        runner.run("real_weights", "quick", folder=folder, work=folder)
    return records.read("real_weights", folder)


def test_every_run_has_the_usual_keys(record):
    for run in record["runs"]:
        assert run.keys() >= USUAL
    json.dumps(record)


def test_disjoint_draws_as_many_as_there_are(record):
    frozen = record["runs"][0]
    assert {images: len(draws) for images, draws in frozen["few"].items()} == {"1": 2, "2": 1}
    assert frozen["few"]["2"] == [frozen["test_accuracy"]], "all images that were drawn"
    assert {what: len(layers) for what, layers in frozen["layers"].items()} == {
        "class token": 3, "mean of the patches": 3, "both": 3}
    assert frozen["layers"]["class token"][0] == 0.1, "before the first block it is the same for every image"


def test_fine_tuning_begins_where_the_linear_map_ends(record):
    by_use = {run["use"]: run for run in record["runs"]}
    assert by_use["probe_first_most"]["curve"][0] == pytest.approx(by_use["frozen"]["val_accuracy"], abs=0.11), (
        "to one of ten images: the features were kept in half precision")
    assert by_use["one_rate"]["curve"][0] == 0.1, "a head of zeros calls everything the same"
    assert by_use["probe_first"]["steps"] == 1
    assert by_use["probe_first"]["images_seen"] == 10


def test_a_linear_map_in_the_head_gives_its_scores():
    model, images = small(), torch.randn(30, 3, 28, 28)
    features, labels = model.features(images).detach(), torch.arange(30) % 3
    real_weights.in_the_head(model, real_weights.probed(features, labels, 0.1))
    mean, spread = features.mean(dim=0), features.std(dim=0)
    evened = (features - mean) / spread
    wanted = linear_probe(evened, labels, 3, 0.1)(evened)
    torch.testing.assert_close(model(images).double(), wanted, rtol=0, atol=1e-4)


def test_only_matrices_are_mixed_up_and_the_model_stays():
    model = small()
    for p in model.parameters():
        torch.nn.init.normal_(p)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = real_weights.mixed_up(model)
    query, key, value = before["blocks.1.attention.qkv.weight"].chunk(3)
    assert torch.equal(other.blocks[1].attention.qkv.weight, torch.cat([key, value, query]))
    assert torch.equal(other.blocks[1].attention.qkv.bias, before["blocks.1.attention.qkv.bias"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_last_layer_is_what_the_head_reads():
    model, images = small(), torch.randn(2, 3, 28, 28)
    states = real_weights.layer_features(model, images)
    assert states.shape == (2, 3, 2, 24)
    torch.testing.assert_close(model.norm(states[:, -1, 0]), model.features(images))
    torch.testing.assert_close(states[:, 0, 1], model.tokens(model.embed(images))[:, 1:].mean(dim=1))


def test_each_part_moves_by_its_own_rate(record):
    model, sets = small(10), real_weights.drawn(QUICK, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    real_weights.fine_tuned(model, sets, QUICK, real_weights.two_rates(model, body=0.0, head=1e-3), 1, 0)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert moved == {"head.0.weight", "head.0.bias"}


def test_intervals_are_over_seeds_and_draws_count_once():
    def run(seed, test, draws):
        return {"use": "frozen", "seed": seed, "test_accuracy": test, "few": {"5": draws},
                "layers": {"both": [0.1, test]}}

    summary = real_weights.summarise([run(0, 0.7, [0.2, 0.4]), run(1, 0.8, [0.5, 0.5])])
    assert summary["uses"]["frozen"]["mean"] == pytest.approx(0.75)
    assert (summary["few"]["5"]["mean"], summary["few"]["5"]["seeds"]) == (pytest.approx(0.4), 2)
    assert [row["mean"] for row in summary["layers"]["both"]] == pytest.approx([0.1, 0.75])


def test_without_the_weights_there_is_nothing_to_measure(monkeypatch, tmp_path):
    monkeypatch.setattr(real, "model", lambda image_size: None)
    with pytest.raises(FileNotFoundError, match="published weights are not there"):
        real_weights.run({"use": "frozen", "seed": 0}, QUICK, tmp_path)


def test_it_is_shown_as_a_figure_and_a_table(record):
    figure = real_weights.show(record, "layers")
    assert len(figure.axes[0].lines) == 3
    rows = [line.split("|")[1:-1] for line in real_weights.show(record, "uses").splitlines()]
    assert [cell.strip() for cell in rows[0]] == ["images", "10", "20"]
    by_use = {run["use"]: f"{100 * run['test_accuracy']:.1f}" for run in record["runs"]}
    assert [cell.strip() for cell in rows[3][1:]] == [by_use["probe_first"], by_use["probe_first_most"]]
    assert [cell.strip() for cell in rows[5][1:]] == [by_use["scratch"], "–"]
    with pytest.raises(ValueError, match="'layers', 'uses'"):
        real_weights.show(record, "filters")
