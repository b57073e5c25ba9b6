"""Muon is PyTorch's on the matrices and AdamW elsewhere, at one learning rate."""

import pytest
import torch
from tiny import RECIPE, model, same, splits

from vitlite import ViT, ViTConfig, resnet
from vitlite.hybrid import ResNetStem
from vitlite.train import Trainer, muon, recipes
from vitlite.train.muon import Muon, hidden_matrices, orthogonalised

MUON = RECIPE.replace(optimizer="muon")


@pytest.mark.parametrize("shape", [(24, 8), (8, 8), (8, 16)])
def test_matrices_move_as_with_pytorch(shape, monkeypatch):
    theirs = pytest.importorskip("torch.optim").__dict__.get("Muon")
    if theirs is None:
        pytest.skip("this PyTorch has no Muon")
    monkeypatch.setattr(muon, "autocast_dtype", lambda device: torch.bfloat16)  # PyTorch's is in bfloat16 anywhere
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(values.clone()) for values in [torch.randn(shape)] * 2)
    ours = Muon([{"params": [one], "orthogonal": True, "weight_decay": 0.05}], lr=0.01)
    theirs = theirs([other], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        one.grad = torch.randn(shape)
        other.grad = one.grad.clone()
        ours.step(), theirs.step()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_all_else_moves_as_with_adamw():
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(values.clone()) for values in [torch.randn(5)] * 2)
    ours, theirs = Muon([{"params": [one], "weight_decay": 0.1}], lr=0.01), torch.optim.AdamW([other], 0.01,
                                                                                             weight_decay=0.1)
    for _ in range(4):
        one.grad = torch.randn(5)
        other.grad = one.grad.clone()
        ours.step(), theirs.step()
    torch.testing.assert_close(one, other)


def test_orthogonalised_singular_values_lie_near_one():
    torch.manual_seed(0)
    for shape in [(3, 16, 16), (2, 8, 32), (1, 32, 8)]:
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.shape == (shape[0], min(shape[1:]))
        assert (values > 0.3).all()
        assert (values < 1.3).all()


@pytest.mark.parametrize(("device_gains_from", "computed_in"), [
    (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32), (None, torch.float32),
])
def test_reduced_precision_only_where_it_is_fast(device_gains_from, computed_in, monkeypatch):
    monkeypatch.setattr(muon, "autocast_dtype", lambda device: device_gains_from)
    torch.manual_seed(0)
    matrices = torch.randn(2, 8, 16)
    found = orthogonalised(matrices)
    assert found.dtype is computed_in
    monkeypatch.setattr(muon, "autocast_dtype", lambda device: None)
    torch.testing.assert_close(found.float(), orthogonalised(matrices), rtol=0, atol=0.05)


def test_it_keeps_the_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(1, 8, 8, dtype=torch.float32)
    left, _, right = torch.linalg.svd(matrix[0])
    turned = left.T @ orthogonalised(matrix)[0].float() @ right.T
    assert (turned - torch.diag(turned.diag())).abs().max() < 0.05


def names(net, parameters):
    wanted = {id(p) for p in parameters}
    return {name for name, p in net.named_parameters() if id(p) in wanted}


def test_patch_embedding_positions_and_heads_are_adamws():
    net = model()
    assert names(net, hidden_matrices(net)) == {
        f"blocks.{block}.{part}.weight" for block in (0, 1)
        for part in ("attention.qkv", "attention.projection", "mlp.expand", "mlp.contract")
    }
    net = ViT(ViTConfig(image_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, mlp_dim=16, distillation=True))
    assert not any("head" in name for name in names(net, hidden_matrices(net)))


def test_convolutions_count_but_for_the_first():
    vit = model()
    net = resnet.match(vit, tolerance=2)
    inside = names(net, hidden_matrices(net))
    first = next(name for name, p in net.named_parameters() if p.ndim == 4)
    assert first not in inside
    assert sum(p.ndim == 4 for p in net.parameters()) == len(inside) + 1
    hybrid = ViT(vit.config, ResNetStem(16, width=4, blocks=1))
    assert sum(p.ndim == 4 for p in hidden_matrices(hybrid)) > 2


@pytest.mark.parametrize("net", [model, lambda: resnet.match(model(), tolerance=2)])
def test_it_learns(net):
    history = Trainer(net(), MUON, device="cpu").fit(splits())
    assert history["val_accuracy"][-1] > 0.9


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole, cut = model(), model()
    Trainer(whole, MUON, device="cpu").fit(splits())

    def stop(trainer, moment):
        if moment == "step" and trainer.step == 12:
            raise RuntimeError("stopped")

    resume = {"device": "cpu", "checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 5}
    with pytest.raises(RuntimeError, match="stopped"):
        Trainer(cut, MUON, callbacks=[stop], **resume).fit(splits())
    fresh = model()
    Trainer(fresh, MUON, **resume).fit(splits())
    assert same(whole, fresh)


def test_every_parameter_is_in_one_group():
    net = model()
    groups = recipes.optimizer(net, MUON).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
