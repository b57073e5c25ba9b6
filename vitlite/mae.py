"""A masked autoencoder: a ViT learns from the patches it sees to paint those it does not (He et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitlite import checks, position
from vitlite.config import ViTConfig
from vitlite.model import PatchEmbed, ViT

__all__ = ["MaskedAutoencoder"]


class MaskedAutoencoder(nn.Module):
    """A masked autoencoder (He et al., 2022, Sec. 3): the encoder reads few patches, a light decoder paints the others.

    The decoder, a small ViT, gets the encoder's states in their positions and one [mask] vector in all others. Its
    targets are the hidden patches' pixels, each patch normalised by its own mean and deviation. Called with images it
    gives the loss and the share of variance explained, so the objective ``masked.masked_patches`` trains it as it
    stands. What is kept is ``vit``; its heads are frozen.

    Args:
        vit: The encoder, in place; with the linear patch embedding, and positions that are added, or none.
        mask_ratio: Share of the patches that is hidden, the same number in each image.
        decoder_dim: Width of the decoder; it has as many heads as the encoder.
        decoder_depth: Its blocks.

    Example:
        >>> vit = ViT(ViTConfig(image_size=32, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_dim=32))
        >>> painted, hidden = MaskedAutoencoder(vit, decoder_dim=8).paint(torch.randn(2, 3, 32, 32))
        >>> painted.shape, hidden.sum(dim=1)  # 64 patches of 48 numbers; three quarters are hidden
        (torch.Size([2, 64, 48]), tensor([48, 48]))
    """

    def __init__(self, vit: ViT, *, mask_ratio: float = 0.75, decoder_dim: int = 48, decoder_depth: int = 1) -> None:
        super().__init__()
        config = vit.config
        self.seen = config.num_patches - checks.hidden(mask_ratio, config.num_patches)
        if not isinstance(vit.patch_embed, PatchEmbed):
            raise ValueError(f"patch_embed is a {type(vit.patch_embed).__name__}, through which hidden pixels may leak "
                             "into patches that are seen; expected a ViT with the linear patch embedding")
        if config.position in ("relative", *position.ROTARY):
            raise ValueError(f"position is {config.position!r}, which needs every patch in its place; expected a kind "
                             "that is added to the tokens, such as 'learned-1d'")
        self.vit, self.patch_size = vit, checks.pair(config.patch_size)
        pixels = config.in_channels * self.patch_size[0] * self.patch_size[1]
        self.enter = nn.Linear(config.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim).normal_(std=0.02))
        sizes = config.image_size, config.patch_size, config.in_channels, pixels, decoder_dim, decoder_depth
        small = ViTConfig(*sizes, config.num_heads, 2 * decoder_dim, "mean", position=config.position, zero_head=False)
        self.decoder = ViT(small, patch_embed=nn.Identity())
        vit.freeze_heads()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images ``[B, C, H, W]``: mean squared error over hidden patches, and the share of variance explained."""
        painted, hidden = self.paint(images)
        targets = self.targets(images)[hidden]
        loss = (painted[hidden] - targets).square().mean()
        return loss, 1 - loss.detach() / targets.var(correction=0)

    def paint(self, images: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Every patch as painted, ``[B, N, C·P·P]``, and which were hidden, ``[B, N]``: the last of an ``order``."""
        if order is None:
            order = torch.rand(len(images), self.vit.config.num_patches, device=images.device).argsort(dim=1)
        seen = order[:, : self.seen]
        states = self.enter(self.encode(images, seen)[:, self.vit.config.prefix_tokens :])  # [B, K, d]
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, seen, False)
        canvas = self.mask_token.to(states.dtype).expand(*order.shape, -1)  # [B, N, d]
        canvas = canvas.scatter(1, seen[:, :, None].expand_as(states), states)
        return self.decoder.head(self.decoder.encode(canvas)), hidden

    def encode(self, images: Tensor, seen: Tensor) -> Tensor:
        """The encoder's states of images' prefix tokens and of the patches ``[B, K]`` alone: ``[B, prefix + K, D]``."""
        z, prefix = self.vit.tokens(self.vit.embed(images)), self.vit.config.prefix_tokens
        patches = z[:, prefix:].gather(1, seen[:, :, None].expand(-1, -1, z.shape[2]))
        z = torch.cat([z[:, :prefix], patches], dim=1)
        for block in self.vit.blocks:
            z, _ = block(z)
        return self.vit.norm(z)

    def targets(self, images: Tensor) -> Tensor:
        """What is to be painted, ``[B, N, C·P·P]``: the pixels of each patch, with mean 0 and variance 1."""
        pixels = nn.functional.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)
        return (pixels - mean) / (variance + 1e-6).sqrt()
