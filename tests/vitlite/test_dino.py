"""Self-distillation against its definition: the running average, the loss, the crops."""

import copy

import pytest
import torch
from torch import nn

from vitlite import ViT, ViTConfig, data
from vitlite.dino import SelfDistillation, answers, crops, follow
from vitlite.masked import masked_patches
from vitlite.train import Recipe, Trainer

SHAPE = {"image_size": 16, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "depth": 1, "num_heads": 2,
         "mlp_dim": 48}


def model(vit=None, **options):
    torch.manual_seed(0)
    net = SelfDistillation(ViT(ViTConfig(**SHAPE | (vit or {}))), **{"outputs": 8, "small": 8} | options)
    with torch.no_grad():
        for parameter in net.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def images(batch=3):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_the_teacher_is_exactly_the_running_average():
    student = nn.Linear(1, 1, bias=False).double()
    teacher = copy.deepcopy(student).requires_grad_(False)
    nn.init.constant_(teacher.weight, 1.0)
    for step, value in enumerate([3.0, 5.0, -1.0]):
        nn.init.constant_(student.weight, value)
        follow(teacher, student, 0.75)
        assert teacher.weight.item() == [1.5, 2.375, 1.53125][step]


def test_a_teacher_that_is_the_student_is_refused():
    net = model()
    with pytest.raises(ValueError, match="the teacher is the student, .* expected a copy"):
        follow(net.student, net.student, 0.9)
    tied = copy.deepcopy(net.student)
    tied["head"] = net.student["head"]
    with pytest.raises(ValueError, match="or shares a weight with it"):
        follow(tied, net.student, 0.9)


@pytest.mark.parametrize("centring", [True, False])
def test_the_loss_is_the_definitions_in_float64(centring):
    net = model(small_crops=2, temperature=0.05, centring=centring).double().train()
    net.centre.normal_()
    pixels, centre = images().double(), net.centre.clone()
    torch.manual_seed(3)
    large = [crops(pixels, 16, (0.4, 1.0)) for _ in range(2)]
    small = [crops(pixels, 8, (0.1, 0.4)) for _ in range(2)]
    taught = [answers(net.teacher, crop) for crop in large]
    said = [answers(net.student, crop) for crop in large + small]
    total = []
    for i in range(2):
        for j in range(4):
            if i != j:
                for teacher, student in zip(taught[i], said[j], strict=True):
                    goal = torch.exp((teacher - centre) / 0.05)
                    goal = goal / goal.sum()
                    guess = torch.exp(student / 0.1)
                    total.append(-(goal * (guess / guess.sum()).log()).sum())
    torch.manual_seed(3)
    loss, same = net(pixels)
    torch.testing.assert_close(loss, torch.stack(total).mean(), rtol=1e-9, atol=0)
    assert 0 <= same <= 1
    moved = 0.9 * centre + 0.1 * torch.cat(taught).mean(dim=0) if centring else centre
    torch.testing.assert_close(net.centre, moved, rtol=1e-9, atol=1e-12)


def test_no_gradient_reaches_the_teacher_and_the_average_follows_in_training():
    sets = data.load("scenes", train_images=16, held_out=10, image_size=16)
    net, before = model(momentum=0.5), {}

    def watch(trainer, moment):
        if moment == "step" and not before:
            before.update({name: p.clone() for name, p in net.teacher.named_parameters()})
            net.after(trainer, moment)
            for (name, teacher), student in zip(net.teacher.named_parameters(), net.student.parameters(), strict=True):
                torch.testing.assert_close(teacher, 0.75 * before[name] + 0.25 * student)  # half-way of the cosine

    recipe = Recipe("try", steps=2, batch_size=8)
    asked = {"objective": masked_patches, "val_objective": masked_patches}
    Trainer(net, recipe, device="cpu", callbacks=[watch], **asked).fit(sets)
    assert before
    assert all(p.grad is None for p in net.teacher.parameters())


@pytest.mark.parametrize("vit", [{}, {"pool": "mean"}, {"pool": "mean", "pool_norm": "after"},
                                 {"registers": 1, "prefix_positions": False}, {"position": "none"},
                                 {"position": "sincos-2d"}])
def test_answers_read_the_vits_own_features(vit):
    net = model(vit).eval()
    y = net.student["head"](net.student["vit"].features(images()))
    cosine = torch.cosine_similarity(y[:, None], net.student["heads"].weight[None], dim=2)
    torch.testing.assert_close(answers(net.student, images()), cosine)
    assert answers(net.student, images()[:, :, :8, :8]).shape == (3, 8), "and those of small crops"


def test_a_crop_of_everything_is_the_image_or_its_mirror():
    torch.manual_seed(0)
    pixels = images(200).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    found = crops(pixels, 16, (1.0, 1.0))
    plain, mirrored = (torch.corrcoef(torch.stack([a, b]))[0, 1].abs() > 0.999
                       for a, b in ((found[0, 0].flatten(), pixels[0, 0].flatten()),
                                    (found[0, 0].flatten(), pixels[0, 0].flip(1).flatten())))
    assert plain != mirrored
    grey = (found[:, 0] - found[:, 0].mean((1, 2), keepdim=True)).flatten(1)
    assert found.shape == (200, 3, 16, 16)
    assert grey.isfinite().all()


def test_a_small_crop_stays_inside():
    """No padding is seen: a picture of one half 0 and one half 1 keeps these two numbers, up to its scale."""
    ramp = torch.linspace(0, 1, 16).expand(64, 3, 16, 16)
    torch.manual_seed(0)
    spans = crops(ramp, 8, (0.25, 0.25))[:, 0].amax((1, 2)) - crops(ramp, 8, (0.25, 0.25))[:, 0].amin((1, 2))
    assert spans.isfinite().all()
    window = crops(ramp, 8, (0.25, 0.25))[:, 0]
    widths = (window.amax((1, 2)) - window.amin((1, 2)))
    assert (widths < 0.5 * 1.4).all(), "half of the ramp, scaled by at most 1.4"
    assert (widths > 0.4 * 0.6).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"small": 10}, "image is 10×10, patch size is 4: 10 is not a multiple of 4"),
    ({"momentum": 1.0}, "momentum is 1.0 .* the teacher never moves"),
    ({"temperature": 0.0}, "temperature 0.0; .* the second above 0"),
    ({"outputs": 0}, "outputs is 0"),
    ({"vit": {"position": "rotary"}}, "position is 'rotary', made for one size"),
    ({"vit": {"position": "rotary-image"}}, "position is 'rotary-image', made for one size"),
])
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)
