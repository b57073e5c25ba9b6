"""What is asked of the model: the labels, a teacher's answers, the patches it did not see."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitlite import ViT, ViTConfig
from vitlite.data import Split, Splits
from vitlite.masked import MaskedPatches, masked_patches
from vitlite.train import Recipe, Trainer
from vitlite.train.objectives import distil

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def vit(seed=0, **changes) -> ViT:
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "patch_size": 2, "num_classes": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
             "mlp_dim": 32, "zero_head": False}
    return ViT(ViTConfig(**sizes | changes))


def batch(count=6, channels=3, size=(8, 8), seed=1):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


class Says(nn.Module):
    """Always these logits, whatever the images."""

    def __init__(self, logits, distillation_logits=None):
        super().__init__()
        self.logits = nn.Parameter(logits)
        if distillation_logits is not None:
            self.distillation_head, self.other = nn.Identity(), nn.Parameter(distillation_logits)

    def forward(self, images):
        return self.logits if not hasattr(self, "other") else (self.logits + self.other) / 2

    def forward_heads(self, images):
        return self.logits, self.other


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 3.0]])
OTHERS = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 2.0, 0.0]])
TAUGHT = torch.tensor([[0.0, 4.0, 1.0], [6.0, 0.0, 2.0]])  # the classes 1 and 0
LABELS = torch.tensor([0, 2])


def surprise(logits, classes):
    """Cross-entropy, written out."""
    rows = zip(logits.tolist(), classes, strict=True)
    return sum(math.log(sum(math.exp(v) for v in row)) - row[c] for row, c in rows) / len(classes)


# ---- a teacher


def test_hard_distillation_is_half_the_labels_loss_and_half_the_teachers():
    loss, _ = distil(Says(TAUGHT))(Says(LOGITS, OTHERS), batch(2), LABELS)
    assert loss.item() == pytest.approx(0.5 * surprise(LOGITS, [0, 2]) + 0.5 * surprise(OTHERS, [1, 0]))


def test_soft_distillation_is_the_divergence_per_image():
    temperature, weight = 2.0, 0.3
    objective = distil(Says(TAUGHT), "soft", weight=weight, temperature=temperature)
    loss, _ = objective(Says(LOGITS, OTHERS), batch(2), LABELS)
    goal, answer = (logits.double().div(temperature).softmax(1) for logits in (TAUGHT, OTHERS))
    divergence = (goal * (goal / answer).log()).sum() / 2  # by the two images, not by their six logits
    expected = (1 - weight) * surprise(LOGITS, [0, 2]) + weight * temperature**2 * divergence.item()
    assert loss.item() == pytest.approx(expected)
    same, _ = distil(Says(OTHERS + 7), "soft", weight=1)(Says(LOGITS, OTHERS), batch(2), LABELS)
    assert same.item() == pytest.approx(0, abs=1e-6), "a teacher that agrees has nothing to say"


def test_the_defaults_are_the_papers():
    student, teacher = Says(LOGITS, OTHERS), Says(TAUGHT)
    soft, _ = distil(teacher, "soft")(student, batch(2), LABELS)
    same, _ = distil(teacher, "soft", weight=0.1, temperature=3)(student, batch(2), LABELS)
    assert soft == same


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_without_a_distillation_token_one_head_answers_both(kind):
    one, _ = distil(Says(TAUGHT), kind)(Says(LOGITS), batch(2), LABELS)
    two, _ = distil(Says(TAUGHT), kind)(Says(LOGITS, LOGITS), batch(2), LABELS)
    assert one == two


def test_right_answers_are_those_of_both_heads_together():
    student = vit(distillation=True)
    labels = torch.arange(64) % 4
    _, right = distil(vit(5))(student, batch(64), labels)
    assert right == (student(batch(64)).argmax(1) == labels).sum()


def test_each_head_learns_from_its_own_loss():
    for weight, idle, busy in ((0.0, "distillation_head", "head"), (1.0, "head", "distillation_head")):
        student = vit(distillation=True)
        distil(vit(5), weight=weight)(student, batch(), torch.arange(6) % 4)[0].backward()
        assert not getattr(student, idle)[-1].weight.grad.any()
        assert getattr(student, busy)[-1].weight.grad.any()


def test_mixed_targets_and_label_smoothing_reach_the_label_loss_alone():
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    loss, _ = distil(Says(TAUGHT), label_smoothing=0.1)(Says(LOGITS, OTHERS), batch(2), soft)
    smooth = 0.9 * soft + 0.1 / 3
    expected = -(smooth * LOGITS.log_softmax(1)).sum() / 2
    assert loss.item() == pytest.approx(0.5 * expected.item() + 0.5 * surprise(OTHERS, [1, 0]))


def test_the_teacher_is_asked_in_evaluation_mode_and_never_trained():
    teacher = vit(5, dropout=0.5).train()
    objective, student = distil(teacher, weight=1.0), vit()
    first, again = (objective(student, batch(), torch.arange(6) % 4)[0] for _ in range(2))
    assert first == again, "its dropout is off"
    assert not teacher.training
    assert student.training
    first.backward()
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_a_student_learns_what_only_the_teacher_knows():
    generator = torch.Generator().manual_seed(0)
    bright = torch.arange(256) % 2
    images = (torch.randint(0, 100, (256, 3, 8, 8), generator=generator) + 120 * bright[:, None, None, None]).byte()
    shuffled = torch.randint(0, 2, (256,), generator=generator)  # labels that say nothing
    split = Split(images, shuffled, None, ("a", "b"), (0.43,) * 3, (0.26,) * 3)

    class Brightness(nn.Module):
        def forward(self, images):
            light = images.mean(dim=(1, 2, 3))
            return torch.stack([-light, light], dim=1)

    student = vit(num_classes=2, distillation=True)
    recipe = Recipe("try", steps=40, batch_size=32, learning_rate=3e-3, warmup_steps=4, validate_every=40)
    trainer = Trainer(student, recipe, device="cpu", objective=distil(Brightness()), progress=False)
    trainer.fit(Splits(split, split, split))
    normal = (images / 255 - 0.43) / 0.26
    _, taught = student.eval().forward_heads(normal)
    assert (taught.argmax(1) == bright).float().mean() > 0.95


def test_distillation_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"teacher's logits have shape \[6, 5\], the student's \[6, 4\].*same classes"):
        distil(vit(num_classes=5))(vit(), batch(), torch.arange(6) % 4)
    for changes, message in (
        ({"kind": "warm"}, "kind is 'warm'"),
        ({"weight": 1.5}, "weight is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("inf")}, "temperature is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            distil(vit(), **changes)


# ---- masked patches


def normal(colours, mean=MEAN, std=STD):
    """Pixels on the scale where white is 1, ``[..., C]``, normalised."""
    return (torch.tensor(colours) - torch.tensor(mean)) / torch.tensor(std)


@pytest.mark.parametrize(("colour", "expected"), [
    ((0.0, 0.0, 0.0), 0), ((1.0, 1.0, 1.0), 511), ((1.0, 0.0, 0.0), 7 * 64), ((0.0, 1.0, 0.0), 7 * 8),
    ((0.0, 0.0, 1.0), 7), ((0.2, 0.45, 0.7), 1 * 64 + 3 * 8 + 5), ((0.124, 0.126, 0.99), 0 * 64 + 1 * 8 + 7),
])
def test_a_flat_patch_has_the_class_of_its_colour(colour, expected):
    model = MaskedPatches(vit(), MEAN, STD)
    assert model.colours(normal(colour).repeat_interleave(4)) == expected


def test_the_class_is_that_of_the_mean_colour():
    model = MaskedPatches(vit(in_channels=1), [0.5], [0.25])
    assert model.colours(normal([0.0, 0.0, 0.0, 0.9], [0.5], [0.25])) == 1, "0.225 of 1, in eighths"
    assert model.head.out_features == 8


def test_every_patch_is_asked_for_its_own_pixels():
    model = MaskedPatches(vit(patch_size=(2, 4)), MEAN, STD)
    levels = torch.arange(8).view(4, 2)  # one colour a patch, four rows and two columns of them
    red = ((levels + 0.5) / 8).repeat_interleave(2, 0).repeat_interleave(4, 1)  # [8, 8]
    images = normal(torch.stack([red, 0 * red, 0 * red], dim=-1).tolist()).permute(2, 0, 1)[None]
    assert model.colours(model._cut(images)).tolist() == [[64 * level for level in range(8)]]


@pytest.mark.parametrize(("count", "patch_size"), [(16, 2), (2, (8, 4))])
def test_half_are_corrupted_of_which_80_10_10(count, patch_size):
    torch.manual_seed(0)
    model = MaskedPatches(vit(patch_size=patch_size), MEAN, STD)
    patches = torch.randn(16_000 // count, count, 16)
    corrupted, places = model.corrupt(patches)
    chosen = torch.zeros(patches.shape[:2], dtype=torch.bool).scatter(1, places, True)
    assert (chosen.sum(1) == count // 2).all(), "half of each image, all different ones"
    assert torch.equal(corrupted[~chosen], patches[~chosen]), "no other is touched"
    assert ((chosen.float().mean(0) - 0.5).abs() < 0.08).all(), "any place may be chosen"
    masked = (corrupted == model.mask_token).all(2)
    kept = (corrupted == patches).all(2) & chosen
    source = (corrupted[:, :, None] == patches[:, None]).all(3)  # [B, N, N]: which patch of the image it is now
    replaced = source.any(2) & chosen & ~kept
    assert torch.equal(masked | kept | replaced, chosen)
    for part, share in ((masked, 0.8), (replaced, 0.1), (kept, 0.1)):
        assert abs(part.sum() / 8000 - share) < 0.015
    assert len(source[replaced].float().argmax(1).unique()) == count, "by any other patch"


def test_the_mask_ratio_is_exact():
    for ratio, count in ((0.25, 4), (0.5, 8), (0.9, 14)):
        model = MaskedPatches(vit(), MEAN, STD, mask_ratio=ratio)
        assert model.corrupt(torch.randn(2, 16, 16))[1].shape == (2, count)


def perfect(model, images):
    places = model.corrupt(model.vit.embed(images))[1]
    pixels = model._cut(images).gather(1, places[:, :, None].expand(-1, -1, 12))
    return (pixels if model.target == "pixels" else 50.0 * F.one_hot(model.colours(pixels), 512)), places


@pytest.mark.parametrize("target", ["colour", "pixels"])
def test_a_perfect_predictor_has_no_loss(target, monkeypatch):
    model = MaskedPatches(vit(), MEAN, STD, target=target)
    monkeypatch.setattr(model, "predict", lambda images: perfect(model, images))
    loss, right = masked_patches(model, batch(), torch.zeros(6))
    assert loss < 1e-6
    assert right == 6, "all, in units of images"


def test_a_predictor_that_knows_nothing_pays_the_whole_price():
    model = MaskedPatches(vit(), MEAN, STD)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert model(batch())[0].item() == pytest.approx(math.log(512))
    model = MaskedPatches(vit(), MEAN, STD, target="pixels", mask_ratio=0.9)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert model(batch(200))[0].item() == pytest.approx(1, abs=0.03), "the variance of the pixels"


FORMS = [{}, {"pool": "mean"}, {"pool": "mean", "class_token": True, "pool_norm": "after"}, {"head": "mlp"},
         {"distillation": True, "registers": 2}, {"position": "sincos-2d"}, {"position": "relative"},
         {"position": "rotary"}]


@pytest.mark.parametrize("target", ["colour", "pixels"])
@pytest.mark.parametrize("changes", FORMS)
def test_only_corrupted_patches_are_asked_and_everything_that_is_trained_learns(changes, target, monkeypatch):
    model = MaskedPatches(vit(**changes), MEAN, STD, target=target)
    torch.manual_seed(3)
    places = model.corrupt(model.vit.embed(batch()))[1]
    final, encode = [], model.vit.encode
    monkeypatch.setattr(model.vit, "encode", lambda patches: final.append(encode(patches)) or final[0])
    torch.manual_seed(3)
    loss, _ = model(batch())
    (gradient,) = torch.autograd.grad(loss, final[0], retain_graph=True)
    asked = torch.zeros(6, 16, dtype=torch.bool).scatter(1, places, True)
    prefix = model.vit.config.prefix_tokens
    assert torch.equal(gradient[:, prefix:].any(2), asked)
    assert not gradient[:, :prefix].any()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.mask_token.grad.any()


@pytest.mark.parametrize("target", ["colour", "pixels"])
def test_it_trains_in_reduced_precision(target):
    model = MaskedPatches(vit(), MEAN, STD, target=target)
    torch.manual_seed(3)
    exact = model(batch())[0]
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model(batch())
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)
    assert model.mask_token.grad.dtype == torch.float32


def test_the_trainer_trains_and_validates_it():
    dark, bright = (torch.full((64, 3, 8, 8), grey, dtype=torch.uint8) for grey in (40, 200))
    split = Split(torch.cat([dark, bright]), torch.zeros(128).long(), None, ("a", "b"), MEAN, STD)
    recipe = Recipe("try", steps=60, batch_size=32, learning_rate=1e-2, warmup_steps=6, validate_every=30)
    model = MaskedPatches(vit(), MEAN, STD)
    trainer = Trainer(model, recipe, device="cpu", objective=masked_patches, val_objective=masked_patches)
    history = trainer.fit(Splits(split, split, split))
    assert history["val_accuracy"][-1] > 0.9, "a share of patches, not a number of them"
    assert history["val_loss"][-1] < 0.5


def test_labels_do_not_matter_and_torchs_seed_does():
    model = MaskedPatches(vit(), MEAN, STD)
    losses = []
    for seed, labels in ((1, torch.zeros(6)), (1, torch.rand(6, 4)), (2, torch.zeros(6))):
        torch.manual_seed(seed)
        losses.append(masked_patches(model, batch(), labels)[0].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.fixture(scope="module")
def trained():
    """A model that has seen images of one colour each, and their number of steps is enough to learn that."""
    torch.manual_seed(0)
    model = MaskedPatches(vit(depth=1), MEAN, STD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    palette = torch.rand(8, 3, generator=torch.Generator().manual_seed(4))
    images = normal(palette.tolist())[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    for _ in range(150):
        loss, right = masked_patches(model, images, torch.zeros(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, images, palette, right


def test_it_learns_to_fill_in_what_it_did_not_see(trained):
    model, images, palette, right = trained
    assert right > 7.5, "of 8"
    torch.manual_seed(1)
    seen, filled = model.eval().fill_in(images)
    flat = palette[:, :, None, None].expand(-1, -1, 8, 8)
    hidden = (seen - flat).abs().amax(1) > 1e-5  # [B, H, W]
    assert hidden.float().mean() == 0.5
    torch.testing.assert_close(seen.movedim(1, -1)[hidden], torch.tensor(MEAN).expand(256, 3))
    torch.testing.assert_close(seen.movedim(1, -1)[~hidden], flat.movedim(1, -1)[~hidden])
    assert (filled - flat).abs().max() < 1 / 16 + 1e-5, "the middle of the right eighth"


def test_pixels_are_filled_in_where_they_were(monkeypatch):
    model = MaskedPatches(vit(patch_size=4), MEAN, STD, target="pixels")
    images = batch().clamp(-0.9, 0.9)
    pixels = model._cut(images)
    monkeypatch.setattr(model, "_read", lambda _, places: pixels.gather(1, places[:, :, None].expand(-1, -1, 48)))
    seen, filled = model.fill_in(images)
    torch.testing.assert_close(filled, images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None])
    assert (seen != filled).any(1).float().mean() == 0.5


def test_what_is_kept_is_an_ordinary_vit(trained):
    model, images, _, _ = trained
    kept = model.vit.reset_head(7)
    assert not kept(images).any(), "zero until it is fine-tuned"
    F.cross_entropy(kept(images), torch.arange(8) % 7).backward()
    assert kept.head[-1].weight.grad.any()


def test_masked_patches_say_what_is_wrong():
    for ratio, seen in ((0, 16), (1, 0), (-0.5, 16), (1.2, 0), (0.01, 16), (0.99, 0), (math.nan, 16), (math.inf, 0)):
        with pytest.raises(ValueError, match=f"mask_ratio is {ratio}: of 16 patches the encoder would see {seen};"):
            MaskedPatches(vit(), MEAN, STD, mask_ratio=ratio)
    with pytest.raises(ValueError, match="reads 3 channels, mean has 1"):
        MaskedPatches(vit(), [0.5], STD)
    with pytest.raises(ValueError, match="target is 'edges'"):
        MaskedPatches(vit(), MEAN, STD, target="edges")
    with pytest.raises(TypeError, match="the model is a ViT; expected MaskedPatches"):
        masked_patches(vit(), batch(), torch.zeros(6))
