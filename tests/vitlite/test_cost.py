"""FLOPs as one counts them by hand: two for each multiply-add of a matrix product or a convolution."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from vitlite import ViT, ViTConfig
from vitlite.cost import flops, parameters, saved_bytes, train_flops
from vitlite.resnet import ResNet, ResNetConfig

SMALL = ResNetConfig(num_classes=5, width=8, blocks=1)
VIT = ViTConfig(image_size=32, patch_size=8, num_classes=10, embed_dim=96, depth=4, num_heads=4, mlp_dim=192)


def test_parameters_are_what_is_learnt():
    assert parameters(torch.nn.Linear(3, 4)) == 16


def test_flops_of_a_resnet_are_two_for_each_multiply_add():
    model = ResNet(SMALL)
    size = 32 * 32
    stem_and_first = size * 9 * (3 * 8 + 2 * 8 * 8)
    second = size // 4 * (9 * (8 * 16 + 16 * 16) + 8 * 16)
    third = size // 16 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    assert flops(model, 32) == 2 * (stem_and_first + second + third + 32 * 5)


def test_flops_of_a_vit_count_both_attention_products():
    rows, width, mlp = 17, 96, 192
    block = rows * width * (4 * width + 2 * mlp) + 2 * rows * rows * width
    assert flops(ViT(VIT), 32) == 2 * (16 * 3 * 64 * width + 4 * block + width * 10)


def test_our_vit_b16_costs_what_torchvisions_does():
    with torch.device("meta"):
        ours, theirs = ViT.from_name("B/16"), torchvision.models.vit_b_16()
    assert flops(ours, 224) == flops(theirs, 224) == pytest.approx(2 * 17.56e9, rel=1e-3)


def test_training_flops_are_those_of_a_real_pass():
    model = ViT(VIT)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32), return_attention=True)[0].sum().backward()
    assert train_flops(model, 32) == counter.get_total_flops()
    share = train_flops(ResNet(SMALL), 16) / flops(ResNet(SMALL), 16)
    assert 2.9 < share < 3, "forward, and twice that backward, without the gradient of the images"


def test_what_training_keeps_grows_faster_than_the_number_of_patches():
    model = ViT(VIT)
    small, large = saved_bytes(model, 32), saved_bytes(model.at_resolution(64), 64)
    assert large > 4 * small, "four times the patches, sixteen times the attention maps"


def test_what_training_keeps_is_what_a_real_step_keeps():
    model, kept = ViT(VIT), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(2, 3, 32, 32), return_attention=True)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert saved_bytes(model, 32) == sum(s.nbytes() for at, s in kept.items() if at not in own) // 2


def test_counting_leaves_the_model_as_it_is():
    model = ResNet(SMALL).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flops(model.bfloat16().float(), 16)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(tensor.bfloat16(), before[name].bfloat16()) for name, tensor in model.state_dict().items())
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


@pytest.mark.parametrize("count", [flops, saved_bytes, train_flops])
def test_what_is_no_model_or_no_size_is_refused(count):
    with pytest.raises(TypeError, match="model is 3; expected a Module"):
        count(3, 16)
    with pytest.raises(TypeError, match="size is '16'; expected an int, or two"):
        count(ResNet(SMALL), "16")
