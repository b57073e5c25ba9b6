"""Masked patch prediction: a ViT learns without labels (Dosovitskiy et al., 2021, Sec. 4.6 and App. B.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks
from vitlite.model import ViT

__all__ = ["MaskedPatches", "masked_patches"]

LEVELS = 8  # of each channel of a mean colour: 3 bits


class MaskedPatches(nn.Module):
    """Masked patch prediction (Dosovitskiy et al., 2021, Sec. 4.6 and App. B.1.2): a ViT learns without labels.

    In each image a share of the patch embeddings is corrupted: of these, 80 % are replaced by a learnable [mask]
    embedding, 10 % by the embedding of another random patch, and 10 % stay as they are. From the final token of every
    corrupted patch, and of no other, a linear head predicts what was there. Which ones is drawn from torch's own random
    state.

    Train it with the objective ``masked_patches``. What is kept is ``vit``; its own heads take no part and are frozen,
    and ``vit.reset_head(classes)`` gives it a new one for fine-tuning.

    Args:
        vit: The model to pre-train, in place.
        mean, std: Mean and deviation of each channel by which the images are normalised, white being 1.
        mask_ratio: Share of the patches that is corrupted, the same number in each image.
        target: ``"colour"``: the patch's mean colour in 3 bits a channel, that is one of 512 classes for three
            channels. ``"pixels"``: its normalised pixels, by mean squared error.

    Attributes:
        mask_token: The [mask] embedding, ``[D]``.
        head: From a token ``[D]`` to logits ``[8^C]`` or pixels ``[C·P·P]``.

    Example:
        >>> vit = ViT(ViTConfig(image_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=32))
        >>> model = MaskedPatches(vit, mean=[0.5] * 3, std=[0.25] * 3)
        >>> predictions, chosen = model.predict(torch.randn(2, 3, 32, 32))
        >>> predictions.shape, chosen.shape  # half of 64 patches, one of 512 colours each
        (torch.Size([2, 32, 512]), torch.Size([2, 32]))
    """

    def __init__(
        self, vit: ViT, mean: Sequence[float], std: Sequence[float], *, mask_ratio: float = 0.5,
        target: Literal["colour", "pixels"] = "colour"
    ) -> None:
        super().__init__()
        config = vit.config
        if not len(mean) == len(std) == config.in_channels:
            raise ValueError(f"the model reads {config.in_channels} channels, mean has {len(mean)} and std {len(std)} "
                             "figures")
        checks.choice(("colour", "pixels"), target=target)
        self.vit, self.target, self.patch_size = vit, target, checks.pair(config.patch_size)
        self.corrupted = checks.hidden(mask_ratio, config.num_patches)
        pixels = config.in_channels * self.patch_size[0] * self.patch_size[1]
        self.mask_token = nn.Parameter(torch.empty(config.embed_dim).normal_(std=0.02))
        self.head = nn.Linear(config.embed_dim, LEVELS**config.in_channels if target == "colour" else pixels)
        self.register_buffer("mean", torch.tensor([*mean], dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([*std], dtype=torch.float32).view(-1, 1, 1))
        vit.freeze_heads()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images ``[B, C, H, W]``: the loss over the corrupted patches, and how often their mean colour was right.

        The loss is cross-entropy or mean squared error. Predicted pixels count by their mean colour, so the share of
        right answers measures both targets alike.
        """
        predictions, chosen = self.predict(images)
        pixels = _take(self._cut(images), chosen)  # [B, K, C·P·P]
        colours = self.colours(pixels)  # [B, K]
        if self.target == "colour":
            loss, answers = F.cross_entropy(predictions.flatten(0, 1), colours.flatten()), predictions.argmax(dim=2)
        else:
            loss, answers = F.mse_loss(predictions, pixels), self.colours(predictions)
        return loss, (answers == colours).float().mean()

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupt patches of images ``[B, C, H, W]``, and predict what was there.

        Returns:
            Logits ``[B, K, 8^C]`` or pixels ``[B, K, C·P·P]``, and the indices ``[B, K]`` of their patches.
        """
        patches, chosen = self.corrupt(self.vit.embed(images))
        return self._read(patches, chosen), chosen

    def corrupt(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupt some patch embeddings ``[B, N, D]``, K in each image; also gives the indices ``[B, K]`` of these."""
        chosen = self._choose(patches)
        others = (chosen + torch.randint_like(chosen, 1, patches.shape[1])) % patches.shape[1]  # never itself
        fate = torch.rand(chosen.shape, device=patches.device)[:, :, None]
        new = torch.where(fate < 0.9, _take(patches, others), _take(patches, chosen))
        return _put(patches, chosen, torch.where(fate < 0.8, self.mask_token.to(patches.dtype), new)), chosen

    def colours(self, pixels: Tensor) -> Tensor:
        """The mean colour of patches as a class: 3 bits a channel, the first channel's in front.

        Args:
            pixels: Normalised pixels ``[..., C·P·P]``, channel after channel.

        Returns:
            int64 ``[...]``, from 0 (black) to 8^C - 1 (white).

        Example:
            >>> vit = ViT(ViTConfig(image_size=4, patch_size=2, embed_dim=4, depth=1, num_heads=1, mlp_dim=4))
            >>> model = MaskedPatches(vit, mean=[0.5] * 3, std=[0.5] * 3)
            >>> model.colours(torch.tensor([1.0, -1.0, -1.0]).repeat_interleave(4))  # pure red: 7 · 64
            tensor(448)
        """
        mean = pixels.unflatten(-1, (len(self.mean), -1)).mean(dim=-1) * self.std.flatten() + self.mean.flatten()
        levels = (mean * LEVELS).floor().clamp(0, LEVELS - 1).long()  # [..., C]
        return (levels * self._powers()).sum(dim=-1)

    @torch.no_grad()
    def fill_in(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Hide patches of images ``[B, C, H, W]``, each behind [mask], and let the model fill them in.

        Returns:
            What the model sees, the hidden patches in the mean colour of all images; and the same with its answers in
            their place, the likeliest mean colours or the pixels. Both ``[B, C, H, W]``, white being 1.
        """
        patches, canvas = self.vit.embed(images), self._cut(images)
        chosen = self._choose(patches)
        mask = self.mask_token.to(patches.dtype).expand(*chosen.shape, -1)
        answers = self._read(_put(patches, chosen, mask), chosen)
        if self.target == "colour":
            levels = answers.argmax(dim=2)[:, :, None] // self._powers() % LEVELS  # [B, K, C]
            colour = ((levels + 0.5) / LEVELS - self.mean.flatten()) / self.std.flatten()
            answers = colour.repeat_interleave(canvas.shape[2] // len(self.mean), dim=2)  # every pixel of the patch
        seen, filled = (_put(canvas, chosen, what) for what in (torch.zeros_like(answers), answers))
        return self._picture(seen, images), self._picture(filled, images)

    def _choose(self, patches: Tensor) -> Tensor:
        return torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)[:, : self.corrupted]  # [B, K]

    def _read(self, patches: Tensor, chosen: Tensor) -> Tensor:
        tokens = self.vit.encode(patches)[:, self.vit.config.prefix_tokens :]  # [B, N, D]
        tokens = _take(tokens, chosen)
        return self.head(tokens if self.vit.config.pool_norm == "before" else self.vit.norm(tokens)).float()

    def _cut(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> the pixels of every patch, ``[B, N, C·P·P]``."""
        return F.unfold(images.float(), self.patch_size, stride=self.patch_size).transpose(1, 2)

    def _picture(self, pixels: Tensor, images: Tensor) -> Tensor:
        """The way back, and to the scale where white is 1."""
        images = F.fold(pixels.transpose(1, 2), images.shape[2:], self.patch_size, stride=self.patch_size)
        return (images * self.std + self.mean).clamp(0, 1)

    def _powers(self) -> Tensor:
        return LEVELS ** torch.arange(len(self.mean) - 1, -1, -1, device=self.mean.device)


def masked_patches(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a ``MaskedPatches`` is trained and validated with, an objective as it stands.

    That is ``Trainer(model, recipe, objective=masked_patches, val_objective=masked_patches)``. Targets do not matter.
    It serves any model that gives a loss and a share of right answers, as those of ``mae`` and ``dino`` do.

    Returns:
        The loss; and as the number of right answers, the share of corrupted patches whose mean colour was predicted
        right, times B, so that an accuracy taken over images is the accuracy over corrupted patches.

    Example:
        >>> vit = ViT(ViTConfig(image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=32))
        >>> model = MaskedPatches(vit, mean=[0.5] * 3, std=[0.25] * 3)
        >>> loss, right = masked_patches(model, torch.randn(4, 3, 8, 8), torch.zeros(4))
        >>> loss.shape, 0 <= right <= 4
        (torch.Size([]), tensor(True))
    """
    answer = model(images)
    if isinstance(answer, Tensor):
        raise TypeError(f"the model is a {type(model).__name__}; expected MaskedPatches(vit, mean, std) around a ViT")
    loss, share = answer
    return loss, share * len(images)


def _take(rows: Tensor, chosen: Tensor) -> Tensor:
    """``[B, N, D]`` at ``[B, K]`` -> ``[B, K, D]``."""
    return rows.gather(1, chosen[:, :, None].expand(-1, -1, rows.shape[2]))


def _put(rows: Tensor, chosen: Tensor, new: Tensor) -> Tensor:
    """``[B, N, D]`` with ``[B, K, D]`` put in at ``[B, K]``."""
    return rows.scatter(1, chosen[:, :, None].expand(-1, -1, rows.shape[2]), new)
