"""Objectives: what a batch asks of the model. Each gives the loss to descend and how many answers were right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite.config import pair
from vitlite.model import ViT

__all__ = ["MaskedPatches", "Objective", "classify", "distil", "masked_patches"]

# (model, images [B, C, H, W], targets: labels [B] or probabilities [B, classes]) -> (mean loss, number of right
# answers), both scalar tensors
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]

LEVELS = 8  # of each channel of a mean colour: 3 bits


def classify(label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy between the logits and the target, softened by label smoothing.

    The target is a label, or a probability for each class; then the likeliest class counts as the right answer.

    Args:
        label_smoothing: Probability taken from the true class and spread evenly over all classes
            (Szegedy et al., 2016).

    Example:
        >>> logits = torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0]])
        >>> loss, right = classify()(torch.nn.Identity(), logits, torch.tensor([1, 0, 0]))
        >>> right
        tensor(2)
    """

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images).float()
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing), _count_right(logits, targets)

    return objective


def distil(
    teacher: nn.Module,
    kind: Literal["hard", "soft"] = "hard",
    *,
    weight: float | None = None,
    temperature: float = 3.0,
    label_smoothing: float = 0.0,
) -> Objective:
    """Distillation as in DeiT (Touvron et al., 2021, Sec. 4): one loss for the label, one for what a teacher says.

    A student with a distillation token (``ViTConfig(distillation=True)``) answers the label with its class head and
    the teacher with its distillation head. A student without one answers both with its only head: the usual
    distillation, which the paper compares with. The right answers counted are those of ``model(images)``.

    Args:
        teacher: Images ``[B, C, H, W]`` to logits ``[B, classes]``. It sees the student's images, augmented and
            normalised; if it wants another size or normalisation, put that in front of it, as in
            ``nn.Sequential(nn.Upsample(64), teacher)``. It is moved to the images' device, put in evaluation mode,
            and never trained.
        kind: ``"hard"``: cross-entropy with the teacher's likeliest class. ``"soft"``: Kullback-Leibler divergence
            from the teacher's probabilities to the student's (Hinton et al., 2015).
        weight: Share of the teacher's loss; the label's has the rest. By default the paper's, 0.5 for hard and 0.1
            for soft.
        temperature: What both logits are divided by in soft distillation.
        label_smoothing: As in ``classify``, for the labels alone.

    Raises:
        ValueError: If an argument is out of range; and, on the first batch, if the teacher has other classes than the
            student.

    Example:
        >>> shape = dict(image_size=8, patch_size=4, num_classes=10, embed_dim=16, depth=1, num_heads=2, mlp_dim=32)
        >>> student, teacher = ViT(ViTConfig(**shape, distillation=True)), ViT(ViTConfig(**shape))
        >>> loss, right = distil(teacher)(student, torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 4]))
        >>> round(loss.item(), 4)  # ln 10: neither head has learned anything
        2.3026
    """
    if kind not in ("hard", "soft"):
        raise ValueError(f"kind is {kind!r}; expected 'hard' or 'soft'")
    share = {"hard": 0.5, "soft": 0.1}[kind] if weight is None else weight
    if not 0 <= share <= 1:
        raise ValueError(f"weight is {weight}; expected the teacher's share of the loss, between 0 and 1")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be above 0, and finite")

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        for_label, for_teacher = _two_answers(model, images)
        taught = _ask(teacher, images, for_teacher)
        label_loss = F.cross_entropy(for_label, targets, label_smoothing=label_smoothing)
        if kind == "hard":
            teacher_loss = F.cross_entropy(for_teacher, taught.argmax(dim=1))
        else:
            # "batchmean": summed over the classes, then the mean of the batch, as the divergence is defined. DeiT's
            # released code divides by the classes as well, which leaves the teacher a tenth of its say for ten.
            answer, goal = (F.log_softmax(logits / temperature, dim=1) for logits in (for_teacher, taught))
            teacher_loss = temperature**2 * F.kl_div(answer, goal, reduction="batchmean", log_target=True)
        return (1 - share) * label_loss + share * teacher_loss, _count_right(for_label + for_teacher, targets)

    return objective


def _two_answers(student: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits for the label and for the teacher, the same ones where the student has no distillation token."""
    if getattr(student, "distillation_head", None) is None:
        logits = student(images).float()
        return logits, logits
    class_logits, distillation_logits = student.forward_heads(images)
    return class_logits.float(), distillation_logits.float()


def _ask(teacher: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
    """The teacher's logits, as many as the student's."""
    with torch.no_grad():
        taught = teacher.to(images.device).eval()(images).float()
    if taught.shape != answers.shape:
        raise ValueError(
            f"the teacher's logits have shape {list(taught.shape)}, the student's {list(answers.shape)}: both need the "
            "same classes in the same order; train or fine-tune the teacher on the student's data set"
        )
    return taught


class MaskedPatches(nn.Module):
    """Masked patch prediction (Dosovitskiy et al., 2021, Sec. 4.6 and App. B.1.2): a ViT learns without labels.

    In each image a share of the patch embeddings is corrupted: of these, 80 % are replaced by a learnable [mask]
    embedding, 10 % by the embedding of another random patch, and 10 % stay as they are. From the final token of every
    corrupted patch, and of no other, a linear head predicts what was there. Which ones is drawn from torch's own
    random state.

    Train it with the objective ``masked_patches``. What is kept is ``vit``; its own heads take no part and are frozen,
    and ``vit.reset_head(classes)`` gives it a new one for fine-tuning.

    Args:
        vit: The model to pre-train, in place.
        mean: Mean of each channel by which the images are normalised, white being 1.
        std: Standard deviation of each channel, likewise.
        mask_ratio: Share of the patches that is corrupted, the same number in each image.
        target: ``"colour"``: the patch's mean colour in 3 bits a channel, that is one of 512 classes for three
            channels. ``"pixels"``: its normalised pixels, by mean squared error.

    Attributes:
        vit: The model.
        mask_token: The [mask] embedding, ``[D]``.
        head: From a token ``[D]`` to logits ``[8^C]`` or pixels ``[C·P·P]``.

    Raises:
        ValueError: If an argument is out of range, or ``mean`` and ``std`` do not fit the channels.

    Example:
        >>> vit = ViT(ViTConfig(image_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, mlp_dim=32))
        >>> model = MaskedPatches(vit, mean=[0.5] * 3, std=[0.25] * 3)
        >>> predictions, places = model.predict(torch.randn(2, 3, 32, 32))
        >>> predictions.shape, places.shape  # half of 64 patches, one of 512 colours each
        (torch.Size([2, 32, 512]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        vit: ViT,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        mask_ratio: float = 0.5,
        target: Literal["colour", "pixels"] = "colour",
    ) -> None:
        super().__init__()
        config = vit.config
        if not len(mean) == len(std) == config.in_channels:
            raise ValueError(
                f"the model reads {config.in_channels} channels, mean has {len(mean)} and std {len(std)} figures"
            )
        if target not in ("colour", "pixels"):
            raise ValueError(f"target is {target!r}; expected 'colour' or 'pixels'")
        self.vit, self.target, self.patch_size = vit, target, pair(config.patch_size)
        self.corrupted = _whole_share(mask_ratio, config.num_patches)
        pixels = config.in_channels * self.patch_size[0] * self.patch_size[1]
        self.mask_token = nn.Parameter(torch.empty(config.embed_dim).normal_(std=0.02))
        self.head = nn.Linear(config.embed_dim, LEVELS**config.in_channels if target == "colour" else pixels)
        self.register_buffer("mean", torch.tensor([*mean], dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([*std], dtype=torch.float32).view(-1, 1, 1))
        for head in (vit.head, vit.distillation_head):
            if head is not None:
                head.requires_grad_(False)  # several processes wait for every gradient that is promised

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss over the corrupted patches, and the share of them whose mean colour was predicted right.

        Predicted pixels count by their mean colour, so both targets are measured alike.

        Args:
            images: ``[B, C, H, W]``, normalised.

        Returns:
            Cross-entropy or mean squared error, and the share; both scalars.
        """
        predictions, places = self.predict(images)
        pixels = _take(self._cut(images), places)  # [B, K, C·P·P]
        colours = self.colours(pixels)  # [B, K]
        if self.target == "colour":
            loss, answers = F.cross_entropy(predictions.flatten(0, 1), colours.flatten()), predictions.argmax(dim=2)
        else:
            loss, answers = F.mse_loss(predictions, pixels), self.colours(predictions)
        return loss, (answers == colours).float().mean()

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupt patches, and predict what was there.

        Args:
            images: ``[B, C, H, W]``, normalised.

        Returns:
            Logits ``[B, K, 8^C]`` or pixels ``[B, K, C·P·P]``, and the places ``[B, K]`` they are for.
        """
        patches, places = self.corrupt(self.vit.embed(images))
        return self._read(patches, places), places

    def corrupt(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Corrupt some patch embeddings, the same number in each image.

        Args:
            patches: Patch embeddings ``[B, N, D]``.

        Returns:
            The embeddings ``[B, N, D]``, and the places ``[B, K]`` of those that were chosen.
        """
        places = self._choose(patches)
        others = (places + torch.randint_like(places, 1, patches.shape[1])) % patches.shape[1]  # never the own place
        fate = torch.rand(places.shape, device=patches.device)[:, :, None]
        new = torch.where(fate < 0.9, _take(patches, others), _take(patches, places))
        return _put(patches, places, torch.where(fate < 0.8, self.mask_token.to(patches.dtype), new)), places

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
        """Hide patches, each behind [mask], and let the model fill them in.

        Args:
            images: ``[B, C, H, W]``, normalised.

        Returns:
            What the model sees, the hidden patches in the mean colour of all images; and the same with its answers in
            their place, the likeliest mean colours or the pixels. Both ``[B, C, H, W]``, white being 1.
        """
        patches, canvas = self.vit.embed(images), self._cut(images)
        places = self._choose(patches)
        mask = self.mask_token.to(patches.dtype).expand(*places.shape, -1)
        answers = self._read(_put(patches, places, mask), places)
        if self.target == "colour":
            levels = answers.argmax(dim=2)[:, :, None] // self._powers() % LEVELS  # [B, K, C]
            colour = ((levels + 0.5) / LEVELS - self.mean.flatten()) / self.std.flatten()
            answers = colour.repeat_interleave(canvas.shape[2] // len(self.mean), dim=2)  # every pixel of the patch
        seen, filled = (_put(canvas, places, what) for what in (torch.zeros_like(answers), answers))
        return self._picture(seen, images), self._picture(filled, images)

    def _choose(self, patches: Tensor) -> Tensor:
        return torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)[:, : self.corrupted]  # [B, K]

    def _read(self, patches: Tensor, places: Tensor) -> Tensor:
        tokens = self.vit.encode(patches)[:, self.vit.config.prefix_tokens :]  # [B, N, D]
        tokens = _take(tokens, places)
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

    That is ``Trainer(model, recipe, objective=masked_patches, val_objective=masked_patches)``.

    Args:
        model: A ``MaskedPatches``.
        images: ``[B, C, H, W]``, normalised.
        targets: Labels or probabilities of the images; only how many they are counts.

    Returns:
        The loss; and as the number of right answers, the share of corrupted patches whose mean colour was predicted
        right, times B, so that an accuracy taken over images is the accuracy over corrupted patches.

    Raises:
        TypeError: If the model is no ``MaskedPatches``.

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


def _count_right(logits: Tensor, targets: Tensor) -> Tensor:
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return (logits.argmax(dim=1) == labels).sum()


def _whole_share(mask_ratio: float, patches: int) -> int:
    """How many of the patches are corrupted."""
    if not 0 < mask_ratio < 1:
        raise ValueError(
            f"mask_ratio is {mask_ratio}; expected above 0, or there is nothing to predict, and below 1, or nothing to "
            "predict it from"
        )
    share = round(mask_ratio * patches)
    if not 0 < share < patches:
        raise ValueError(
            f"mask_ratio is {mask_ratio}: of {patches} patches that is {share}; expected at least one to corrupt and "
            "one to keep; change the ratio, or make patches smaller"
        )
    return share


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """``[B, N, D]`` at ``[B, K]`` -> ``[B, K, D]``."""
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))


def _put(rows: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """``[B, N, D]`` with ``[B, K, D]`` in the places ``[B, K]``."""
    return rows.scatter(1, places[:, :, None].expand(-1, -1, rows.shape[2]), new)
