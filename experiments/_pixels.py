"""Image GPT in small (Chen et al., 2020): a palette, a ViT that reads pixels and sees none to come, and its task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import ViT

__all__ = ["Causal", "NextPixel", "Palette", "clusters", "complete"]


def clusters(pixels: Tensor, count: int, rounds: int, seed: int) -> Tensor:
    """Colours that stand for all: k-means (Lloyd), begun at colours that occur, drawn at random.

    Args:
        pixels: ``[n, C]``.
        count: How many colours.
        rounds: How often every pixel goes to its nearest colour, and every colour to the mean of its pixels.
        seed: Of the draw.

    Returns:
        ``[count, C]``. A colour that no pixel is nearest to stays where it is.

    Raises:
        ValueError: If fewer different colours occur.

    Example:
        >>> clusters(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), count=2, rounds=5, seed=0).sort(dim=0).values
        tensor([[0.5000],
                [8.5000]])
    """
    there = pixels.unique(dim=0)
    if not 1 <= count <= len(there):
        raise ValueError(f"a palette of {count} colours was asked for, and {len(there):,} different ones occur; "
                         "expected at least 1 and at most these: ask for fewer, or show more pixels")
    colours = there[torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(pixels, colours).argmin(dim=1)
        size = nearest.bincount(minlength=count)[:, None]
        total = torch.zeros_like(colours).index_add_(0, nearest, pixels)
        colours = torch.where(size > 0, total / size.clamp_min(1), colours)
    return colours


class Palette(nn.Module):
    """Instead of a patch projection: every pixel becomes the nearest colour of a palette, and each has an embedding.

    Args:
        colours: ``[K, C]``, on the scale of normalised images.
        embed_dim: Width D of the tokens.

    Example:
        >>> Palette(torch.tensor([[0.0], [1.0]]), embed_dim=4).indices(torch.tensor([[[[0.9, 0.2]]]]))
        tensor([[1, 0]])
    """

    def __init__(self, colours: Tensor, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("colours", colours)
        self.embedding = nn.Embedding(len(colours), embed_dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # as in GPT-2, and as the positions beside it

    def indices(self, images: Tensor) -> Tensor:
        """Which colour every pixel is: ``[B, C, H, W]``, normalised -> int64 ``[B, N]``, row by row."""
        pixels = images.float().flatten(2).transpose(1, 2)  # [B, N, C]
        return torch.cdist(pixels, self.colours).argmin(dim=2)  # in float32, under autocast too

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, N, D]``."""
        return self.embedding(self.indices(images))


class Causal(nn.Module):
    """What to add to attention's logits so that no token sees a later one; it stands where relative positions would."""

    def forward(self, query: Tensor) -> Tensor:
        """Queries ``[B, h, T, D/h]`` -> ``[T, T]``: zero up to the token itself, minus infinity after it."""
        return query.new_full((query.shape[-2],) * 2, float("-inf")).triu(1)


class NextPixel(nn.Module):
    """Image GPT's task: from the pixels before it, in reading order, say which colour of the palette a pixel has.

    Args:
        vit: A ViT with a class token and a ``Palette`` for its patch embedding; it becomes causal, in place. The class
            token, in front of all pixels and seeing none, is the start from which the first pixel is predicted.

    Attributes:
        vit: The model.
        head: From a token ``[D]`` to a logit for each colour.

    Example:
        >>> shape = ViTConfig(4, 1, 3, 10, embed_dim=8, depth=1, num_heads=2, mlp_dim=16)
        >>> model = NextPixel(ViT(shape, Palette(torch.rand(5, 3), embed_dim=8)))
        >>> model.predict(torch.zeros(2, 16, dtype=torch.int64)).shape
        torch.Size([2, 16, 5])
    """

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit, self.head = vit, nn.Linear(vit.config.embed_dim, len(vit.patch_embed.colours))
        for block in vit.blocks:
            block.attention.relative = Causal()

    def predict(self, indices: Tensor) -> Tensor:
        """Logits ``[B, N, K]`` of every pixel's colour, each from the pixels before it; colours int64 ``[B, N]``."""
        tokens = self.vit.encode(self.vit.patch_embed.embedding(indices))  # [B, 1 + N, D]
        return self.head(tokens[:, :-1]).float()  # the last pixel has no next

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over all pixels of ``[B, C, H, W]``, and the share whose colour was predicted right."""
        indices = self.vit.patch_embed.indices(images)
        logits = self.predict(indices)
        loss = F.cross_entropy(logits.flatten(0, 1), indices.flatten())
        return loss, (logits.argmax(dim=2) == indices).float().mean()


@torch.inference_mode()
def complete(model: NextPixel, indices: Tensor, known: int, seed: int = 0) -> Tensor:
    """Keep the first pixels, and draw the others one by one, each from what the model expects after those before it.

    Args:
        model: Predicts the next pixel.
        indices: Colours int64 ``[B, N]``.
        known: How many stay.
        seed: Of the draw.

    Returns:
        Colours int64 ``[B, N]``.
    """
    indices, generator = indices.clone(), torch.Generator(indices.device).manual_seed(seed)
    for place in range(known, indices.shape[1]):
        chances = model.eval().predict(indices)[:, place].softmax(dim=1)
        indices[:, place] = torch.multinomial(chances, 1, generator=generator)[:, 0]
    return indices
