"""Same or different: a question that attention answers with fewer images than a convolution needs.

Question:    Two textured tiles lie somewhere in an image; is one a copy of the other? How many labelled images do a
             ViT and a ResNet of equally many parameters need to learn that?
Expectation: The ViT needs about a tenth of the images: one product of attention compares any two patches, while
             convolutions have to carry both tiles to one point first. It should not matter how far apart the tiles lie,
             nor should a faint ground. Without positions the ViT should do as well, for the question does not
             depend on where the tiles are. The hybrid should lie between the two. A copy that is turned or
             recoloured asks for more than an equality and should cost the ViT more images. With a texture in every
             patch (is any there twice?) neither should learn in these steps.
Command:     python -m experiments same_or_different
Cost:        cpu: 80 runs of 2,000 steps, of one to three minutes on one core with bfloat16 instructions, and about 50
             trials of a learning rate of 500 steps; about 3 hours in all, 1 GB of memory. full: 132 runs of 8,000
             steps on one GPU. It resumes when interrupted.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import families, records
from experiments.measure import best, bracketed, trained, tried, usual_recipe
from experiments.statistics import curve, grouped, interval
from vitlite import ViT, plots
from vitlite.data import Split, Splits

__all__ = ["DATASET", "SCALES", "VARIANTS", "draw", "points", "run", "show", "summarise"]

DATASET = (
    "generated: 16×16 px, a grey ground and two tiles of 4×4 px of random texture on a grid of 4×4 cells; in half of "
    "the images the second tile is a copy of the first. 300 to 100,000 training, 2,000 validation and 5,000 test images"
)
IMAGE_SIZE, TILE = 16, 4
GRID = IMAGE_SIZE // TILE  # cells per side
# What is asked, beside the question as it stands ("plain").
VARIANTS = {
    "plain": "two tiles anywhere",
    "near": "the tiles touch",
    "far": "two cells or more between the tiles' centres, and no touch",
    "turned": "the copy is turned by 90 degrees",
    "recoloured": "the copy has its colours exchanged",
    "noise": "a ground of faint noise",
    "crowd": "a texture in every cell: is any there twice?",
    "odd": "three tiles: are all three the same?",
}
VIT = {"image_size": IMAGE_SIZE, "patch_size": TILE, "num_classes": 2, "embed_dim": 96, "depth": 4, "num_heads": 3,
       "mlp_dim": 192, "pool": "mean"}
NETWORKS = ["vit", "resnet", "hybrid", "vit without positions"]
BASE = {
    "vit": VIT,
    "hybrid": {"depth": 3, "stem_width": 16, "stem_blocks": 1, "stem_norm": "batch"},
    "recipe": {"batch_size": 128, "weight_decay": 0.05, "flip": False},
    "learning_rates": {"adamw": [1.5e-3, 4.5e-3], "muon": [1.5e-3, 4.5e-3]},  # where the search begins
}
SCALES = {
    "quick": BASE | {"train_images": [300, 1_000], "adamw_images": [300], "others_images": [300],
                     "variants": ["near"], "variant_images": 300, "variant_seeds": [0], "tuned_at": [300],
                     "held_out": 50, "steps": 10, "search_steps": 2, "seeds": [0], "device": "cpu"},
    "cpu": BASE | {"train_images": [1_000, 10_000, 300, 3_000, 100_000], "adamw_images": [1_000, 10_000],
                   "others_images": [1_000, 10_000, 300, 3_000], "variants": list(VARIANTS)[1:],
                   "variant_images": 10_000, "variant_seeds": [0], "tuned_at": [1_000, 10_000], "held_out": 5_000,
                   "steps": 2_000, "search_steps": 500, "seeds": [0, 1, 2], "device": "cpu"},
    "full": BASE | {"train_images": [1_000, 10_000, 300, 3_000, 30_000, 100_000, 1_000_000],
                    "adamw_images": [1_000, 10_000, 100_000], "others_images": [1_000, 10_000, 300, 3_000, 100_000],
                    "variants": list(VARIANTS)[1:], "variant_images": 10_000, "variant_seeds": [0, 1, 2],
                    "tuned_at": [1_000, 10_000, 100_000], "held_out": 5_000, "steps": 8_000, "search_steps": 2_000,
                    "seeds": [0, 1, 2], "device": "cuda"},
}


def points(config: dict) -> list[dict]:
    """ViT and ResNet with Muon, seed after seed; then both with AdamW, the two other networks, and the variants."""

    def grid(sizes: list[int], networks: list[str], optimizer: str, seed: int, variant: str = "plain") -> list[dict]:
        return [{"variant": variant, "train_images": size, "network": network, "optimizer": optimizer, "seed": seed}
                for size in sizes for network in networks]

    points = []
    for seed in config["seeds"]:
        points += grid(config["train_images"], NETWORKS[:2], "muon", seed)
    for seed in config["seeds"]:
        points += grid(config["adamw_images"], NETWORKS[:2], "adamw", seed)
        points += grid(config["others_images"], NETWORKS[2:], "muon", seed)
        if seed in config["variant_seeds"]:
            for variant in config["variants"]:
                points += grid([config["variant_images"]], NETWORKS[:2], "muon", seed, variant)
    return points


def run(point: dict, config: dict, work: Path) -> dict:
    """Train a network on so many images of one variant, at the rate that trials on the plain question chose.

    Returns:
        Beside the usual keys ``learning_rate``, ``tuned_at`` (the number of images of the trials), ``search``
        (validation accuracy by rate), and of a ViT ``partner_attention``: for each layer and head, how much of the
        attention of a tile's token goes to the other tile (of a test image with two tiles that are the same).
    """
    seed, size, network, optimizer = point["seed"], point["train_images"], point["network"], point["optimizer"]
    at = min(config["tuned_at"], key=lambda other: abs(other - size))
    rates = search(network, optimizer, at, config, work)
    sets = drawn(point["variant"], size, config["held_out"], seed)
    model = build(network, config, seed)
    recipe = usual_recipe("same_or_different", config, config["steps"], best(rates), optimizer=optimizer)
    name = "-".join(str(value) for value in point.values()).replace(" ", "_")
    measured = trained(model, sets, recipe, seed=seed, device=config["device"], checkpoint=work / f"{name}.safetensors")
    if isinstance(model, ViT) and point["variant"] == "plain":
        measured["partner_attention"] = partner_attention(model)
    return measured | {"learning_rate": recipe.learning_rate, "tuned_at": at, "search": rates}


def build(network: str, config: dict, seed: int) -> torch.nn.Module:
    """A new network; ``"vit without positions"`` is the ViT without its table of positions."""
    if network == "vit without positions":
        config, network = families.unplaced(config), "vit"
    return families.build(network, config, seed)


def search(network: str, optimizer: str, train_images: int, config: dict, work: Path) -> dict[str, float]:
    """Validation accuracy of short trainings, by rate, with the best rate inside the range."""

    def trial(rate: float) -> float:
        recipe = usual_recipe("same_or_different", config, config["search_steps"], rate, optimizer=optimizer)
        sets = drawn("plain", train_images, config["held_out"], seed=0)
        return tried(build(network, config, seed=0), sets, recipe, config["device"])

    name = f"{network}-{optimizer}-{train_images}".replace(" ", "_")
    return bracketed(config["learning_rates"][optimizer], trial, work / f"{name}-search.json")


@cache
def drawn(variant: str, train_images: int, held_out: int, seed: int) -> Splits:
    """The images of a variant: the smaller training sets lie within the larger; validation and test are always the
    same."""
    return Splits(draw(variant, train_images, 10 + seed)[0], draw(variant, held_out, 1)[0],
                  draw(variant, held_out, 2)[0])


def draw(variant: str, count: int, seed: int) -> tuple[Split, Tensor]:
    """Draw images by turns of two tiles that differ and of two that are the same.

    Args:
        variant: One of ``VARIANTS``.
        count: How many images; the first of them are the same for any number.
        seed: Of the draw.

    Returns:
        The images, and where the tiles lie: int64 ``[N, 2]`` (``[N, 3]`` for ``"odd"``), cells in reading order.
    """
    blocks = [_block(variant, min(1_000, count - start), seed * 10_000 + start // 1_000)
              for start in range(0, count, 1_000)]
    images, cells = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    half = (0.5,) * 3
    return Split(images, torch.arange(count) % 2, None, ("different", "same"), half, half), cells


def _block(variant: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tiles = 3 if variant == "odd" else 2
    textures = _texture(tiles, generator)
    cells = _cells(variant, tiles, generator)
    same = torch.arange(1_000) % 2 == 1
    copy = {"turned": lambda tile: tile.rot90(1, (2, 3)), "recoloured": lambda tile: tile.roll(1, 1)}
    copied = copy.get(variant, lambda tile: tile)(textures[:, 0])
    if variant == "odd":  # two are always the same, and in half of the images the third is as well
        textures[:, 1] = copied
    textures[same, -1] = copied[same]
    ground = torch.full((1_000, GRID**2, 3, TILE, TILE), 128, dtype=torch.uint8)
    if variant == "noise":
        ground = torch.randint(96, 160, ground.shape, generator=generator, dtype=torch.uint8)
    if variant == "crowd":
        ground = _texture(GRID**2, generator)
    ground.scatter_(1, cells[:, :, None, None, None].expand(-1, -1, 3, TILE, TILE), textures)
    images = ground.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return images[:count].contiguous(), cells[:count]


def _texture(tiles: int, generator: torch.Generator) -> Tensor:
    """Every colour of every pixel off or on, at random."""
    return 255 * torch.randint(0, 2, (1_000, tiles, 3, TILE, TILE), generator=generator, dtype=torch.uint8)


def _cells(variant: str, tiles: int, generator: torch.Generator) -> Tensor:
    """In which cells the tiles of 1,000 images lie."""
    if variant not in ("near", "far"):
        return torch.rand(1_000, GRID**2, generator=generator).argsort(dim=1)[:, :tiles]
    rows, columns = torch.arange(GRID**2) // GRID, torch.arange(GRID**2) % GRID
    steps = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    pairs = (steps == 1 if variant == "near" else steps >= 2).nonzero()
    return pairs[torch.randint(len(pairs), (1_000,), generator=generator)]


@torch.inference_mode()
def partner_attention(model: ViT, count: int = 500) -> list[list[float]]:
    """How much attention a tile's token gives to its copy: the mean over both tiles of so many test images that hold
    one, by layer and head. Attention that looks nowhere in particular gives 1/16."""
    split, cells = draw("plain", 2 * count, 2)
    same = split.labels == 1
    device = next(model.parameters()).device
    images, cells, rows = split.normalised()[same].to(device), cells[same].to(device), torch.arange(count)
    skip = model.config.prefix_tokens
    one, other = (skip + cells).unbind(1)
    return [((layer[rows, :, one, other] + layer[rows, :, other, one]).mean(dim=0) / 2).tolist()
            for layer in model.eval().iter_attention(images)]


def summarise(runs: list[dict]) -> dict:
    """Test accuracy by variant, network, optimiser and number of training images, with intervals."""
    summary: dict = {}
    for keys, same in grouped(runs, "variant", "network", "optimizer", "train_images").items():
        variant, network, optimizer, images = keys
        by_optimizer = summary.setdefault(variant, {}).setdefault(network, {})
        by_optimizer.setdefault(optimizer, {})[str(images)] = interval(run["test_accuracy"] for run in same)
    return summary


# ---- what chapter 7 shows


def _plain(record: dict) -> dict[str, dict[int, dict]]:
    """Test accuracy with Muon on the plain question, by network and number of images. The ViT without positions is
    left out: its rate, best in short trials, is too high for the full length."""
    plain = record["summary"]["plain"]
    return {network: {int(size): row for size, row in plain[network]["muon"].items()}
            for network in families.NAMES if network in plain}  # a network without a name is not shown


def _accuracy(record: dict) -> Figure:
    curves = {families.NAMES[network]: curve(rows) for network, rows in _plain(record).items()}
    return plots.lines(curves, "training images", "test accuracy (%)",
                       "Same or different: the ViT needs a tenth as many images", logx=True)


def _by_rate(record: dict) -> Figure:
    size = min(record["config"]["tuned_at"])
    runs = grouped((run for run in record["runs"] if run["tuned_at"] == size), "network", "optimizer")
    curves = {}
    for (network, optimizer), same in runs.items():
        if network in NETWORKS[:2]:
            tries = sorted((float(rate), 100 * share) for rate, share in same[0]["search"].items())
            curves[f"{families.NAMES[network]}, {families.OPTIMIZERS[optimizer]}"] = tuple(zip(*tries, strict=True))
    return plots.lines(curves, "learning rate", "validation accuracy (%)",
                       "Each network needs a learning rate of its own", logx=True, legend_columns=2)


def _sizes(record: dict) -> str:
    plain = _plain(record)
    sizes = sorted({size for rows in plain.values() for size in rows})
    return records.table(["test accuracy (%), by training images", *(f"{size:,}" for size in sizes)],
                         [[families.NAMES[network],
                           *(records.percent(rows[size]) if size in rows else "–" for size in sizes)]
                          for network, rows in plain.items()])


def _variants(record: dict) -> str:
    size, rows = str(record["config"]["variant_images"]), []
    for variant, asked in VARIANTS.items():
        by = record["summary"].get(variant, {})
        if by:
            rows.append([asked, *(records.percent(by[network]["muon"][size]) for network in NETWORKS[:2])])
    return records.table(["what is asked", *(f"{families.NAMES[network]} (%)" for network in NETWORKS[:2])], rows)


show = records.views(accuracy=_accuracy, rates=_by_rate, sizes=_sizes, variants=_variants)  # chapter 7
