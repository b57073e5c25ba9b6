"""Hybrids: a convolutional network in place of the patch projection (Sec. 3.1, "Hybrid Architecture").

A stem turns images into a feature map and cuts the map, instead of the image, into patches. The patch may be 1×1:
then every position of the map is a token. ``ViT(config, patch_embed=stem)`` is the hybrid; the stem's ``patch_size``,
its stride in pixels, must be the configuration's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from vitlite import checks
from vitlite.model import PatchEmbed
from vitlite.resnet import initialise, stage, trunk

__all__ = ["STEMS", "R50", "ResNetStem", "StandardisedConv2d", "Stem", "build"]


class Stem(nn.Module):
    """Images of ``in_channels`` channels to tokens of width ``embed_dim`` through a feature map.

    The stems below say which. Where they have a choice of ``norm``, it is ``"group"`` (4 groups) or ``"batch"``;
    ``map_patch`` is the patch size on the feature map (P of Sec. 3.1), in positions of the map.

    Attributes:
        spec: The stem's name and the arguments that ``build`` makes the same stem from; plain JSON.
        patch_size: Pixels from one token to the next, as in ``ViTConfig``.

    Example:
        >>> stem = ResNetStem(192, stride=4, map_patch=2)
        >>> stem.patch_size, stem.spec["stem"], isinstance(stem, Stem)
        (8, 'resnet', True)
    """

    def __init__(self, spec: dict, layers: nn.Sequential, channels: int, map_patch: int = 1) -> None:
        super().__init__()
        checks.at_least(1, embed_dim=spec["embed_dim"], map_patch=map_patch)
        self.spec, self.checks_input = spec, True
        self.patch_size = spec["stride"] * map_patch
        self.trunk = initialise(layers)
        self.patches = PatchEmbed(map_patch, channels, spec["embed_dim"])
        self.patches.checks_input = False  # its map comes from the trunk
        nn.init.normal_(self.patches.projection.weight, std=self.patches.projection.in_features**-0.5)
        nn.init.zeros_(self.patches.projection.bias)

    def feature_map(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, channels, H / stride, W / stride]``."""
        if self.checks_input:
            checks.images(images, self.spec["in_channels"])
            checks.divides(images.shape[2:], (self.patch_size, self.patch_size))
        return self.trunk(images)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, N, D]``, row by row from the top left."""
        return self.patches(self.feature_map(images))


class ResNetStem(Stem):
    """A small ResNet without its head, for images of CIFAR's size: 32 px become a map of 8×8 at stride 4.

    The network of ``vitlite.resnet`` (He et al., 2016, Sec. 4.2), with as many stages as the stride asks for.

    Args:
        stride: Pixels from one position of the map to the next: a power of 2, each stage after the first doubles it.
        width: Channels of the first stage; each further one has twice as many.
        blocks: Blocks in each stage.

    Example:
        >>> ResNetStem(192, width=16).feature_map(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self, embed_dim: int, *, in_channels: int = 3, stride: int = 4, width: int = 64, blocks: int = 2,
        norm: str = "group", map_patch: int = 1,
    ) -> None:
        checks.at_least(1, in_channels=in_channels, width=width, blocks=blocks, stride=stride)
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride is {stride}; expected a power of 2, from 2 on")
        spec = {"stem": "resnet", "embed_dim": embed_dim, "in_channels": in_channels, "stride": stride, "width": width,
                "blocks": blocks, "norm": norm, "map_patch": map_patch}
        layers = trunk(in_channels, width, stride.bit_length(), blocks, norm)
        super().__init__(spec, layers, width * stride, map_patch)


class R50(Stem):
    """The paper's stem (App. B): BiT's ResNet-50, with group norm and standardised convolutions.

    At stride 32 the map is that of the regular stage 4. At stride 16 stage 4 is gone and its layers stand in
    stage 3, for a four times longer sequence: ``ViT(ViTConfig(image_size=224, patch_size=16), R50(768))`` is
    R50+ViT-B/16, with 14×14 tokens. Strides pad like the official code: more below and to the right than above.
    ``vitlite.weights.from_npz`` and ``from_timm`` load the published weights.

    Args:
        stride: 16 or 32, pixels from one position of the map to the next.
        width: How many times wider than ResNet-50 every layer is: 2 for R50x2.

    Example:
        >>> with torch.device("meta"):  # shapes alone
        ...     R50(768).feature_map(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1024, 14, 14])
    """

    def __init__(
        self, embed_dim: int = 768, *, in_channels: int = 3, stride: int = 16, width: int = 1, map_patch: int = 1
    ) -> None:
        checks.at_least(1, in_channels=in_channels, width=width)
        if stride not in (16, 32):
            raise ValueError(f"stride is {stride}; expected 16 (extended stage 3) or 32 (stage 4)")
        spec = {"stem": "r50", "embed_dim": embed_dim, "in_channels": in_channels, "stride": stride, "width": width,
                "map_patch": map_patch}
        norm, channels = partial(nn.GroupNorm, 32), 64 * width
        layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 7, stride=2, bias=False), norm(channels), nn.ReLU(inplace=True),
            nn.ZeroPad2d((0, 1, 0, 1)),  # after ReLU, zero is as good as nothing to the maximum
            nn.MaxPool2d(3, stride=2),
        )
        before = channels
        for i, blocks in enumerate((3, 4, 9) if stride == 16 else (3, 4, 6, 3)):
            layers.append(stage(Bottleneck, before, channels * 2**i, blocks, 1 if i == 0 else 2, norm))
            before = channels * 2**i * Bottleneck.expansion
        super().__init__(spec, standardise(layers), before, map_patch)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose every filter is brought to mean 0 and variance 1 before use (Qiao et al., 2019).

    The output has the input's size divided by the stride, which must divide it. Where that takes an odd number of zeros
    around the image, the odd one stands below and to the right ("SAME" in the official code).

    Example:
        >>> StandardisedConv2d(3, 8, kernel_size=7, stride=2)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        checks.at_least(1, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        spare = max(kernel_size - stride, 0)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=spare // 2, bias=False)
        self.odd = spare % 2

    def standardised(self) -> Tensor:
        """The filters in use, ``[out_channels, in_channels, k, k]``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) * (variance + 1e-8).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H / stride, W / stride]``."""
        checks.strides(x.shape[-2:], self.stride)
        x = F.pad(x, (0, self.odd, 0, self.odd)) if self.odd else x
        return F.conv2d(x, self.standardised(), None, self.stride, self.padding)


#: The stems by the names that a ``spec`` gives them.
STEMS: dict[str, type[Stem]] = {"resnet": ResNetStem, "r50": R50}


def build(spec: Mapping) -> Stem:
    """The stem that a ``spec`` describes: ``build(stem.spec)`` is a new stem of the same shape.

    Example:
        >>> build({"stem": "resnet", "embed_dim": 64}).patch_size
        4
    """
    if not isinstance(spec, Mapping):
        raise TypeError(f"spec is {spec!r}; expected a mapping such as {{'stem': 'resnet', 'embed_dim': 192}}")
    options = dict(spec)
    name = options.pop("stem", None)
    if name not in STEMS:
        raise ValueError(f"stem is {name!r}; expected one of {', '.join(STEMS)}")
    return STEMS[name](**options)


def standardise(layers: nn.Sequential) -> nn.Sequential:
    """Put a ``StandardisedConv2d`` of the same shape in the place of every convolution."""
    for name, conv in list(layers.named_modules()):
        if isinstance(conv, nn.Conv2d):
            ours = StandardisedConv2d(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0])
            layers.set_submodule(name, ours)
    return layers
