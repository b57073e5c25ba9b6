"""What the benchmarks share: the same ViT in five libraries, timed side by side, and the record of it.

A benchmark is a module with a card as its docstring, as an experiment has (``experiments``), and

- ``SCALES``: a configuration for each of ``"quick"`` (a test), ``"cpu"`` and ``"full"`` (a CUDA device);
- ``measure(config)``: the runs of its record;
- ``summarise(runs)``: the answer, in a few figures;
- ``show(record)``: what a page shows of it, where one does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor, nn

from experiments import records, runner
from vitlite import ViT, ViTConfig, weights

CIFAR = {"image_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 192, "depth": 9, "num_heads": 12,
         "mlp_dim": 384}
B16 = {"image_size": 224, "patch_size": 16, "num_classes": 1000, "embed_dim": 768, "depth": 12, "num_heads": 12,
       "mlp_dim": 3072}
TINY = {"image_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": 16, "depth": 2, "num_heads": 2,
        "mlp_dim": 32}
WARM_UP = 3  # rounds that are not counted: the allocator settles, CUDA chooses its kernels
Key = TypeVar("Key")


# ---- the same model in five libraries


def torchvision_vit(c: ViTConfig) -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(c.image_size, c.patch_size, c.depth, c.num_heads, c.embed_dim, c.mlp_dim,
                              num_classes=c.num_classes)
    nn.init.normal_(model.heads.head.weight, std=0.02)  # it starts at zero, where there is nothing to compare
    return model


def timm_vit(c: ViTConfig) -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(c.image_size, c.patch_size, c.in_channels, c.num_classes, embed_dim=c.embed_dim,
                             depth=c.depth, num_heads=c.num_heads, mlp_ratio=c.mlp_dim / c.embed_dim)


def transformers_vit(c: ViTConfig) -> nn.Module:
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    class Logits(ViTForImageClassification):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).logits

    return Logits(TheirConfig(
        image_size=c.image_size, patch_size=c.patch_size, num_channels=c.in_channels, num_labels=c.num_classes,
        hidden_size=c.embed_dim, num_hidden_layers=c.depth, num_attention_heads=c.num_heads,
        intermediate_size=c.mlp_dim, layer_norm_eps=c.layer_norm_eps,
    ))


def vit_pytorch_vit(c: ViTConfig) -> nn.Module:
    from vit_pytorch import ViT as TheirViT

    return TheirViT(image_size=c.image_size, patch_size=c.patch_size, num_classes=c.num_classes, dim=c.embed_dim,
                    depth=c.depth, heads=c.num_heads, dim_head=c.embed_dim // c.num_heads,
                    mlp_dim=c.mlp_dim)


PEERS: dict[str, tuple[Callable[[ViTConfig], nn.Module], Callable[[nn.Module], ViT] | None]] = {
    "timm": (timm_vit, weights.from_timm),
    "torchvision": (torchvision_vit, weights.from_torchvision),
    "transformers": (transformers_vit, weights.from_transformers),
    "vit-pytorch": (vit_pytorch_vit, None),  # its normalised patches and bare qkv are not the paper's
}


def libraries(shape: Mapping[str, int], device: str) -> dict[str, nn.Module]:
    """vitlite's ViT and its four peers on a device, once it is seen that they are the same model.

    Args:
        shape: Fields of ``ViTConfig``.
        device: Where they are put.

    Raises:
        AssertionError: If a peer has other parameters, or other logits than ours with its weights.
    """
    torch.manual_seed(0)
    config = ViTConfig(**shape)
    ours = ViT(config).eval()
    models = {"vitlite": ours}
    images = torch.randn(2, config.in_channels, config.image_size, config.image_size)
    for name, (build, convert) in PEERS.items():
        models[name] = model = build(config).eval()
        assert parameters(model) == parameters(ours) + known_difference(name, config), f"{name} has other parameters"
        with torch.inference_mode():
            logits = model(images)
        assert logits.shape == (2, config.num_classes), f"{name} gives {list(logits.shape)}"
        if convert:
            ours.load_state_dict(convert(model).state_dict())
            with torch.inference_mode():
                assert torch.allclose(ours(images), logits, rtol=1e-4, atol=1e-4), f"{name} gives other logits"
    return {name: model.to(device) for name, model in models.items()}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def known_difference(name: str, c: ViTConfig) -> int:
    """vit-pytorch normalises patches before and after their projection, and its qkv has no bias."""
    patch = c.in_channels * c.patch_size**2
    return 2 * patch + 2 * c.embed_dim - c.depth * 3 * c.embed_dim if name == "vit-pytorch" else 0


# ---- timing


def interleaved(
    calls: Mapping[Key, Callable[[], object]], rounds: int, device: str, warm_up: int = WARM_UP
) -> dict[Key, list[float]]:
    """Time every call once a round, each round beginning with another, so that a slow moment of the machine hits all.

    Args:
        calls: What to time.
        rounds: How often.
        device: ``"cpu"`` or ``"cuda"``.
        warm_up: How often each is called before; once is enough for calls of many seconds.

    Returns:
        Seconds, ``rounds`` of them for each call.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for call in calls.values():
        for _ in range(warm_up):
            call()
    keys, durations = list(calls), {key: [] for key in calls}
    for turn in range(rounds):
        first = turn % len(keys)
        for key in keys[first:] + keys[:first]:
            wait()
            start = time.perf_counter()
            calls[key]()
            wait()
            durations[key].append(time.perf_counter() - start)
    return durations


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"rounds": len(seconds), "seconds": median, "seconds_low": low, "seconds_high": high}


def times_as_fast(mine: list[float], its: list[float]) -> float:
    """How many times as fast mine was: the median over the rounds of the ratio of both times."""
    return statistics.median(it / me for me, it in zip(mine, its, strict=True))


# ---- the record


def main(benchmark: ModuleType, words: list[str] | None = None, folder: Path = records.FOLDER) -> None:
    """Measure and write a record ``benchmark_NAME_DEVICE`` for the CPU, and another for CUDA where there is one."""
    card, name = runner.card(benchmark), Path(benchmark.__file__).stem
    parser = argparse.ArgumentParser(description=card["question"])
    parser.add_argument("--scale", choices=records.SCALES, help="by default cpu, and full where there is CUDA")
    parser.add_argument("--force", action="store_true", help="replace a record of a larger scale")
    options = parser.parse_args(words)
    scales = [options.scale] if options.scale else ["cpu", "full"] if torch.cuda.is_available() else ["cpu"]
    for scale in scales:
        config = benchmark.SCALES[scale]
        runs = benchmark.measure(config)
        where = records.provenance(config["device"])
        where["versions"] |= {peer: metadata.version(peer) for peer in PEERS}
        record = {"name": f"benchmark_{name}_{config['device']}", "question": card["question"],
                  "expectation": card["expectation"], "command": f"python -m benchmarks.{name} --scale {scale}",
                  "scale": scale, "config": config, "dataset": benchmark.DATASET, "runs": runs,
                  "summary": benchmark.summarise(runs), **where}
        print(records.write(record, force=options.force, folder=folder))
