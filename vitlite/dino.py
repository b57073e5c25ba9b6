"""Self-distillation without labels, DINO: a student learns what its own running average says (Caron et al., 2021)."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks, position
from vitlite.model import ViT

__all__ = ["SelfDistillation"]


class SelfDistillation(nn.Module):
    """DINO (Caron et al., 2021, Sec. 3): two large crops go to teacher and student, small ones to the student alone.

    The student has to give each crop the teacher's answer to every other, over made-up classes. The teacher is the
    student's running average; against collapse its logits are centred by their running mean, and sharpened by a low
    temperature. Called with images it gives the loss and how often both name the same class, so the objective
    ``masked.masked_patches`` trains it, with ``Trainer(…, callbacks=[model.after])`` for the teacher.

    Args:
        vit: The student, with positions that are added, or none; its heads are frozen. Keep ``teacher["vit"]``.
        outputs: Made-up classes.
        small: Side of the small crops in pixels, a multiple of the patch size.
        small_crops: How many for each image.
        momentum: What the teacher keeps of itself at a step; it rises from this to 1 with the cosine of the run.
        temperature: What the teacher's logits are divided by; the student's are by 0.1.
        centring: Whether the teacher's logits are centred.

    Example:
        >>> vit = ViT(ViTConfig(image_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=32))
        >>> loss, same = SelfDistillation(vit, outputs=8, small=8)(torch.randn(4, 3, 16, 16))
        >>> loss.shape
        torch.Size([])
    """

    def __init__(self, vit: ViT, *, outputs: int = 256, small: int = 16, small_crops: int = 4, momentum: float = 0.99,
                 temperature: float = 0.04, centring: bool = True) -> None:
        super().__init__()
        checks.at_least(1, outputs=outputs, small=small, small_crops=small_crops)
        if not 0 <= momentum < 1 or not temperature > 0:
            raise ValueError(f"momentum is {momentum} and temperature {temperature}; expected the first in [0, 1), or "
                             "the teacher never moves, and the second above 0")
        if vit.config.position in ("relative", *position.ROTARY):
            raise ValueError(f"position is {vit.config.position!r}, made for one size of image; expected a kind that "
                             "is added to the tokens, such as 'learned-1d'")
        checks.divides((small, small), checks.pair(vit.config.patch_size))
        vit.freeze_heads()
        width, directions = vit.config.embed_dim, nn.Linear(64, outputs, bias=False)
        head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 64))
        self.student = nn.ModuleDict({"vit": vit, "head": head, "heads": directions})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.small, self.small_crops, self.momentum = small, small_crops, momentum
        self.temperature, self.centring = temperature, centring
        self.register_buffer("centre", torch.zeros(outputs))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images ``[B, C, H, W]``: the loss, and how often student and teacher name the same class."""
        large = torch.cat([crops(images, images.shape[-1], (0.4, 1.0)) for _ in range(2)])
        small = torch.cat([crops(images, self.small, (0.1, 0.4)) for _ in range(self.small_crops)])
        with torch.no_grad():
            taught = answers(self.teacher, large)  # [2 B, outputs]
        said = answers(self.student, large).chunk(2) + answers(self.student, small).chunk(self.small_crops)
        goals = ((taught - self.centre) / self.temperature).softmax(dim=1).chunk(2)
        pairs = [(goal, said[j]) for i, goal in enumerate(goals) for j in range(len(said)) if i != j]
        losses = [-(goal * (logits / 0.1).log_softmax(dim=1)).sum(dim=1).mean() for goal, logits in pairs]
        if self.training and self.centring:
            self.centre.lerp_(taught.mean(dim=0), 0.1)  # it keeps 0.9 of itself
        same = [(goal.argmax(dim=1) == logits.argmax(dim=1)).float().mean() for goal, logits in pairs]
        return torch.stack(losses).mean(), torch.stack(same).mean()

    def after(self, trainer, moment: str) -> None:
        """The callback that moves the teacher after every step of a trainer."""
        if moment == "step":
            left = (1 + math.cos(math.pi * trainer.step / trainer.recipe.steps)) / 2
            follow(self.teacher, self.student, 1 - (1 - self.momentum) * left)


def answers(network: nn.ModuleDict, images: Tensor) -> Tensor:
    """Logits ``[B, outputs]``, cosines of a state and each output's direction, for crops of any size."""
    vit = network["vit"]
    height, width = checks.pair(vit.config.patch_size)
    grid = images.shape[2] // height, images.shape[3] // width
    y = network["head"](vit._pool(vit._encode(vit.patch_embed(images), grid=grid)[0]))
    return F.linear(F.normalize(y, dim=1), F.normalize(network["heads"].weight, dim=1)).to(images.dtype)


def crops(images: Tensor, size: int, area: tuple[float, float]) -> Tensor:
    """A window of each image ``[B, C, H, W]`` at ``[B, C, size, size]``: of a random share of it, between the two of
    ``area``, mirrored by chance, each channel scaled and shifted by up to 0.4, a fifth of them grey."""
    count, channels, device = len(images), images.shape[1], images.device
    side = (area[0] + (area[1] - area[0]) * torch.rand(count, device=device)).sqrt()
    middle = (1 - side)[:, None] * (2 * torch.rand(count, 2, device=device) - 1)  # from -1 to 1, the window inside
    mirror, zero = torch.randint(0, 2, (count,), device=device) * 2 - 1, torch.zeros_like(side)
    theta = torch.stack([side * mirror, zero, middle[:, 0], zero, side, middle[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.dtype), (count, channels, size, size), align_corners=False)
    out = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    scale, shift = 0.4 * (2 * torch.rand(2, count, channels, 1, 1, device=device) - 1)
    grey = torch.rand(count, 1, 1, 1, device=device) < 0.2
    return torch.where(grey, out.mean(dim=1, keepdim=True).expand_as(out), out) * (1 + scale) + shift


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """One step of the running average: teacher ← momentum · teacher + (1 − momentum) · student."""
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if any(ours is theirs for ours, theirs in pairs):
        raise ValueError("the teacher is the student, or shares a weight with it, so it teaches nothing; expected a "
                         "copy: copy.deepcopy(student).requires_grad_(False)")
    for ours, theirs in pairs:
        ours.lerp_(theirs, 1 - momentum)
