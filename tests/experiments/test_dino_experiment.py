"""Self-distillation on scenes: neighbours, entropies and overlaps with known answers, and what a record has."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from usual import USUAL, quick_record

from experiments import dino
from vitlite import ViT, ViTConfig
from vitlite.dino import SelfDistillation


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return quick_record("dino", tmp_path_factory.mktemp("dino"))


def test_a_record_has_every_way(record):
    assert [run["way"] for run in record["runs"]] == list(dino.WAYS)
    for run in record["runs"]:
        assert run.keys() >= USUAL | {"attention", "curve"}
        assert len(run["attention"]["jaccard"]["heads"]) == 4
        assert (run["curve"] is None) == (run["way"] in ("supervised", "untrained"))
    assert record["runs"][0]["curve"]["step"] == [0, 1, 2, 3, 4]
    assert dino.show(record, "table").count("\n") == 7, "two lines of head, five ways, the middle"


def test_the_flops_of_self_distillation_are_those_of_all_its_crops():
    vit = ViT(ViTConfig(16, 4, 3, 10, embed_dim=16, depth=3, num_heads=2, mlp_dim=32))
    crops = {"small": 8, "small_crops": 3}
    told = dino.flops_of_one("dino", vit, crops)
    model = SelfDistillation(vit, outputs=1, **crops)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.randn(2, 3, 16, 16))[0].backward()
    head = 6 * (16 * 32 + 32 * 64 + 64)  # of one crop, forward and back
    assert counter.get_total_flops() / 2 == pytest.approx(told + (2 + 3 + 2 / 3) * head, rel=0.01)


def test_neighbours_vote_by_cosine():
    known = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0]])
    labels, asked = torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0.1], [0.1, 3.0]])
    assert dino.nearest(known, labels, asked, torch.tensor([0, 1]), k=1) == 1.0
    assert dino.nearest(known, labels, asked, torch.tensor([0, 0]), k=1) == 0.5
    assert dino.nearest(known, labels, asked, torch.tensor([0, 1]), k=3) == 1.0, "the near one outweighs two far ones"


def test_a_map_that_is_the_mask_overlaps_whole_and_an_even_one_by_its_share():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    assert dino.jaccard(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), mask).item() == 1
    assert dino.jaccard(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), mask).item() == 0
    assert dino.jaccard(torch.tensor([[[0.7, 0.1], [0.1, 0.1]]]), mask).item() == 0.5, "one patch holds 60 %"
    assert dino.jaccard(torch.ones(1, 2, 2), mask).item() == pytest.approx(2 / 3), "three of four patches hold 60 %"


def test_entropies_of_a_uniform_and_of_a_single_answer():
    torch.manual_seed(0)
    vit = ViT(ViTConfig(16, 4, 3, 10, embed_dim=16, depth=1, num_heads=2, mlp_dim=32))
    model, images = SelfDistillation(vit, outputs=4, small=8, temperature=1e6), torch.randn(5, 3, 16, 16)
    told = dino.untold(model, images)
    assert told["each"] == pytest.approx(1)
    assert told["all"] == pytest.approx(1)
    model.temperature = 1e-3
    model.centre += torch.tensor([-9.0, 0, 0, 0])  # the first class wins every image
    told = dino.untold(model, images)
    assert told["each"] == pytest.approx(0, abs=1e-6)
    assert told["all"] == pytest.approx(0, abs=1e-6)
    assert math.isfinite(told["all"])
