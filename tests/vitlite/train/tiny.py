"""What the tests of training share: a set that anything can learn, and a model that learns it at once."""

import torch

from vitlite import ViT, ViTConfig
from vitlite.data import Split, Splits
from vitlite.train import Recipe, Trainer

RECIPE = Recipe(
    "try", steps=30, batch_size=16, learning_rate=3e-3, warmup_steps=3, crop_padding=1, cutmix=0.2, validate_every=10
)
EVERYTHING = RECIPE.replace(micro_batch=4, average=0.9, keep_best=True)


def splits(count=64) -> Splits:
    """Two classes, bright and dark, 8 by 8 pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 3, 8, 8), generator=generator)
    images = (noise + 120 * labels[:, None, None, None]).to(torch.uint8)
    split = Split(images, labels, None, ("dark", "bright"), (0.43,) * 3, (0.26,) * 3)
    return Splits(split, split.subset(32), split.subset(16))


def model(seed=0, **changes) -> ViT:
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "patch_size": 4, "num_classes": 2, "embed_dim": 16, "depth": 2, "num_heads": 2,
             "mlp_dim": 32}
    return ViT(ViTConfig(**(sizes | changes)))


def dropping(seed=0) -> ViT:
    """A model that draws random numbers in its forward pass."""
    return model(seed, dropout=0.1, drop_path=0.1)


def trained(recipe=RECIPE, **options) -> tuple[ViT, dict]:
    net = dropping()
    return net, Trainer(net, recipe, device="cpu", **options).fit(splits())


def same(one: ViT, other: ViT) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
