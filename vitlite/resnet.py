"""The convolutional baseline: the ResNet for small images, out of torchvision's blocks, as large as a given ViT.

He et al. (2016), Sec. 4.2: a 3×3 convolution, then three stages of equally many two-layer blocks. Each stage after the
first halves the map and doubles the channels; average pooling and one linear layer end it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vitlite import checks
from vitlite.cost import parameters
from vitlite.model import ViT

__all__ = ["ResNet", "ResNetConfig", "match"]

GROUPS = 4  # of every group norm here; at width 64 they have 16 channels, as Wu and He (2018) advise
WIDTHS = range(4, 1025, 4)  # what `match` tries: the groups divide each
BLOCKS = range(2, 10)  # 14 to 56 layers


@dataclass(frozen=True)
class ResNetConfig:
    """Everything that fixes the shape of a ResNet. It has no image size: any size will do.

    Attributes:
        in_channels: Channels of the images.
        num_classes: Number of classes, hence of logits.
        width: Channels of the first stage; the second has twice, the third four times as many.
        blocks: Blocks in each of the three stages; 6 · blocks + 2 layers in all.
        norm: ``"batch"`` or ``"group"`` (4 groups), after every convolution.

    Example:
        >>> ResNetConfig(width=16, blocks=9)  # ResNet-56
        ResNetConfig(in_channels=3, num_classes=10, width=16, blocks=9, norm='batch')
    """

    in_channels: int = 3
    num_classes: int = 10
    width: int = 16
    blocks: int = 3
    norm: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        checks.at_least(1, **{name: getattr(self, name) for name in ("in_channels", "num_classes", "width", "blocks")})
        norm_layer(self.norm, self.width)


class ResNet(nn.Module):
    """The ResNet of He et al. (2016), Sec. 4.2, with 1×1 convolutions where a shortcut changes its shape.

    Example:
        >>> model = ResNet(ResNetConfig(width=16, blocks=3, num_classes=10))  # ResNet-20
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        checks.kind(ResNetConfig, config=config)
        self.config = config
        self.trunk = trunk(config.in_channels, config.width, 3, config.blocks, config.norm)
        self.head = nn.Linear(4 * config.width, config.num_classes)

    def feature_map(self, images: Tensor) -> Tensor:
        """The last stage's map: ``[B, C, H, W]`` -> ``[B, 4 · width, H/4, W/4]``, rounded up."""
        checks.images(images, self.config.in_channels)
        checks.precision(images, self.head.weight)
        return self.trunk(images.contiguous(memory_format=torch.channels_last))  # a quarter less time on a CPU

    def features(self, images: Tensor) -> Tensor:
        """The image representation, what the head reads: ``[B, C, H, W]`` -> ``[B, 4 · width]``."""
        return self.feature_map(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float images ``[B, C, H, W]`` of any size -> logits ``[B, classes]``."""
        return self.head(self.features(images))


def match(vit: ViT, *, blocks: int | None = None, tolerance: float = 0.05) -> ResNet:
    """A new ResNet with as many parameters as a ViT: the shallowest that comes within the tolerance.

    It tries widths in multiples of 4, and 2 to 9 blocks a stage unless they are given. If none comes close enough, a
    ``ValueError`` names the nearest.

    Args:
        blocks: Blocks in each stage, to hold the depth fixed.
        tolerance: Largest deviation, as a fraction of the ViT's parameters.

    Example:
        >>> vit = ViT.from_name("Ti/16", image_size=224)
        >>> match(vit).config
        ResNetConfig(in_channels=3, num_classes=1000, width=88, blocks=2, norm='batch')
    """
    checks.kind(ViT, vit=vit)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected a fraction of the ViT's parameters, at least 0")
    depths = BLOCKS if blocks is None else (blocks,)
    config = ResNetConfig(vit.config.in_channels, vit.config.num_classes, WIDTHS[0], depths[0])

    @cache
    def size_of(candidate: ResNetConfig) -> int:
        with torch.device("meta"):  # no memory, no numbers
            return parameters(ResNet(candidate))

    target, near = parameters(vit), []
    for number in depths:
        shapes = [replace(config, blocks=number, width=width) for width in WIDTHS]
        above = bisect_left(shapes, target, key=size_of)  # the size grows with the width
        near += shapes[max(above - 1, 0) : above + 1]
        best = min(near, key=lambda shape: abs(size_of(shape) - target))
        if abs(size_of(best) - target) <= tolerance * target:
            return ResNet(best)
        if above == 0:  # even the narrowest is too large, and deeper ones are larger still
            break
    raise ValueError(f"no ResNet comes within {tolerance:.1%} of the ViT's {target:,} parameters; the nearest has "
                     f"{size_of(best):,} ({size_of(best) / target - 1:+.1%}) at width {best.width} with {best.blocks} "
                     "blocks a stage; pass a larger tolerance, or other blocks (None tries 2 to 9)")


# ---- the parts, which the hybrid's stems share


def trunk(in_channels: int, width: int, stages: int, blocks: int, norm: str) -> nn.Sequential:
    """Images to a feature map: ``[B, C, H, W]`` -> ``[B, width · s, H/s, W/s]`` with ``s = 2 ** (stages - 1)``."""
    layer = norm_layer(norm, width)
    layers = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), layer(width), nn.ReLU(inplace=True)]
    for i in range(stages):
        before, after = width * 2 ** max(i - 1, 0), width * 2**i
        layers.append(stage(BasicBlock, before, after, blocks, 1 if i == 0 else 2, layer))
    return initialise(nn.Sequential(*layers))


def stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, channels: int, blocks: int, stride: int,
    norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    """Residual blocks of torchvision, the first with the stride: ``in_channels`` -> ``channels · expansion``."""
    out = channels * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out:
        shortcut = nn.Sequential(Shortcut(in_channels, out, 1, stride, bias=False), norm(out))
    first = block(in_channels, channels, stride, shortcut, norm_layer=norm)
    return nn.Sequential(first, *(block(out, channels, norm_layer=norm) for _ in range(blocks - 1)))


class Shortcut(nn.Conv2d):
    """A 1×1 convolution that takes the pixels of its stride out first, and so has no stride itself.

    PyTorch's own, strided, in float32, channels last and with fewer of them than a vector of the processor holds, may
    write past its memory on the way back (oneDNN issue 6035, open in 2026): wrong gradients or a crash.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H / stride, W / stride]``, rounded up."""
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight, self.bias)


def norm_layer(norm: str, width: int) -> Callable[[int], nn.Module]:
    """What makes the norm of so many channels, by its name; ``width`` is the smallest number of channels."""
    checks.choice(("batch", "group"), norm=norm)
    if norm == "group" and width % GROUPS:
        raise ValueError(f"width is {width}; group norm needs a multiple of its {GROUPS} groups")
    return nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, GROUPS)


def initialise(module: nn.Sequential) -> nn.Sequential:
    """He's normal values for every convolution; each residual branch starts at zero, so a block starts as identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, (BasicBlock, Bottleneck)):
            nn.init.zeros_((part.bn2 if isinstance(part, BasicBlock) else part.bn3).weight)
    return module
