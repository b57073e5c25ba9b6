"""The masked autoencoder against its definition: what the encoder sees, what it costs, what the loss is."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitlite import ViT, ViTConfig, data
from vitlite.hybrid import ResNetStem
from vitlite.mae import MaskedAutoencoder
from vitlite.masked import masked_patches
from vitlite.train import Recipe, Trainer

SHAPE = {"image_size": 16, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "depth": 2, "num_heads": 3,
         "mlp_dim": 48}


def model(vit=None, **options):
    torch.manual_seed(0)
    net = MaskedAutoencoder(ViT(ViTConfig(**SHAPE | (vit or {}))), **{"decoder_dim": 12} | options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.double().eval()


def order(batch=2, patches=16):
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(1)).argsort(dim=1)


def images(batch=2):
    return torch.randn(batch, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("vit", [{}, {"pool": "mean"}, {"registers": 2}, {"position": "sincos-2d"}])
def test_no_hidden_pixel_reaches_the_encoder(vit):
    net, chosen = model(vit), order()
    pixels, other = images(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, chosen[:, : net.seen], False)
    where = hidden.view(2, 1, 4, 4).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    changed = torch.where(where, other, pixels)
    assert torch.equal(net.encode(pixels, chosen[:, : net.seen]), net.encode(changed, chosen[:, : net.seen]))
    assert torch.equal(net.paint(pixels, chosen)[0], net.paint(changed, chosen)[0])
    assert torch.equal(net.paint(pixels, chosen)[1], hidden)
    seen = torch.where(where, pixels, other)
    assert not torch.isclose(net.paint(pixels, chosen)[0], net.paint(seen, chosen)[0]).any()


def test_an_encoder_that_sees_all_is_the_vit():
    net, everything = model(), torch.arange(16).expand(2, -1)
    torch.testing.assert_close(net.encode(images(), everything), net.vit.encode(net.vit.embed(images())))


def test_the_loss_is_the_definitions_in_float64():
    net, pixels, targets, errors = model(), images(), [], []
    torch.manual_seed(5)
    loss, share = net(pixels)
    torch.manual_seed(5)
    chosen = torch.rand(2, 16).argsort(dim=1)
    painted = net.paint(pixels, chosen)[0]
    for image in range(2):
        for patch in chosen[image, 4:].tolist():
            row, column = divmod(patch, 4)
            window = pixels[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            targets.append((window - window.mean()) / (window.var() + 1e-6).sqrt())
            errors.append(((painted[image, patch] - targets[-1]) ** 2).mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-12, atol=0)
    assert share.item() == pytest.approx(1 - loss.item() / torch.stack(targets).var(correction=0).item(), rel=1e-9)


def test_the_encoder_is_four_times_cheaper():
    vit = ViT(ViTConfig(**SHAPE | {"image_size": 64, "pool": "mean"}))
    net = MaskedAutoencoder(vit, mask_ratio=0.75)
    z = torch.zeros(1, 256, 24)

    def flops(states):
        with FlopCounterMode(display=False) as counter:
            for block in vit.blocks:
                states = block(states, return_attention=True)[0]
        return counter.get_total_flops()

    whole, quarter = flops(z), flops(z[:, : net.seen])
    scores = 2 * 2 * (2 * 256**2 * 24)  # depth · multiply-adds · (query-key and attention-value)
    linear = whole - scores
    assert quarter == linear // 4 + scores // 16


def test_it_learns_in_the_usual_loop_and_heads_stay():
    sets = data.load("scenes", train_images=64, held_out=16, image_size=16)
    net = MaskedAutoencoder(ViT(ViTConfig(**SHAPE)), decoder_dim=24)
    before = net.vit.head[0].weight.clone()
    recipe = Recipe("try", steps=60, batch_size=64, learning_rate=3e-3, flip=False)
    history = Trainer(net, recipe, device="cpu", objective=masked_patches, val_objective=masked_patches).fit(sets)
    assert history["loss"][-1] < 0.85 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.05, "of the variance of pixels it never sees"
    assert torch.equal(net.vit.head[0].weight, before)


@pytest.mark.parametrize("ratio", [0, 1, 0.01, 0.99, -1])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}: of 16 patches .* at least one seen and one hidden"):
        MaskedAutoencoder(ViT(ViTConfig(**SHAPE)), mask_ratio=ratio)


def test_what_would_leak_is_refused():
    with pytest.raises(ValueError, match="patch_embed is a ResNetStem, through which hidden pixels may leak"):
        MaskedAutoencoder(ViT(ViTConfig(**SHAPE), patch_embed=ResNetStem(24, stride=4, width=8)))
    with pytest.raises(ValueError, match="patch_embed is a Identity"):
        MaskedAutoencoder(ViT(ViTConfig(**SHAPE), patch_embed=nn.Identity()))


@pytest.mark.parametrize("position", ["rotary", "rotary-image", "relative"])
def test_positions_that_live_in_attention_are_refused(position):
    with pytest.raises(ValueError, match=f"position is '{position}', which needs every patch"):
        MaskedAutoencoder(ViT(ViTConfig(**SHAPE | {"position": position, "num_heads": 2})))
