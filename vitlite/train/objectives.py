"""Objectives: what a batch asks of the model. Each gives the loss to descend and how many answers were right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks

__all__ = ["Objective", "classify", "distil"]

# (model, images [B, C, H, W], targets: labels [B] or probabilities [B, classes]) -> (mean loss, number of right
# answers), both scalar tensors
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def classify(label_smoothing: float = 0.0, classes: int | None = None) -> Objective:
    """Cross-entropy between the logits and the target, softened by label smoothing.

    The target is a label, or a probability for each class; then the likeliest class counts as the right answer.

    Args:
        label_smoothing: Probability taken from the true class and spread evenly over all classes (Szegedy et al.,
            2016).
        classes: How many the data have; a model with another number of logits is refused. None accepts any.

    Example:
        >>> logits = torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0]])
        >>> loss, right = classify()(torch.nn.Identity(), logits, torch.tensor([1, 0, 0]))
        >>> right
        tensor(2)
    """

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        checks.kind(Tensor, logits=(answer := model(images)))
        logits = answer.float()
        if classes is not None and logits.shape != (len(images), classes):
            raise ValueError(f"for {len(images)} image(s) the model gives {list(logits.shape)}, but the data have "
                             f"{classes} classes; give it a head for so many, a ViT by model.reset_head({classes})")
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing), _count_right(logits, targets)

    return objective


def distil(
    teacher: nn.Module, kind: Literal["hard", "soft"] = "hard", *, weight: float | None = None,
    temperature: float = 3.0, label_smoothing: float = 0.0
) -> Objective:
    """Distillation as in DeiT (Touvron et al., 2021, Sec. 4): one loss for the label, one for what a teacher says.

    A student with a distillation token (``ViTConfig(distillation=True)``) answers the label with its class head and the
    teacher with its distillation head. A student without one answers both with its only head: the usual distillation,
    which the paper compares with. The right answers counted are those of ``model(images)``.

    Args:
        teacher: Images ``[B, C, H, W]`` to logits ``[B, classes]``. It sees the student's images, augmented and
            normalised; if it wants another size or normalisation, put that in front of it, as in
            ``nn.Sequential(nn.Upsample(64), teacher)``. It is moved to the images' device, put in evaluation mode, and
            never trained.
        kind: ``"hard"``: cross-entropy with the teacher's likeliest class. ``"soft"``: Kullback-Leibler divergence from
            the teacher's probabilities to the student's (Hinton et al., 2015).
        weight: Share of the teacher's loss; the label's has the rest. By default the paper's, 0.5 for hard and 0.1 for
            soft.
        temperature: What both logits are divided by in soft distillation.

    Example:
        >>> shape = dict(image_size=8, patch_size=4, num_classes=10, embed_dim=16, depth=1, num_heads=2, mlp_dim=32)
        >>> student, teacher = ViT(ViTConfig(**shape, distillation=True)), ViT(ViTConfig(**shape))
        >>> loss, right = distil(teacher)(student, torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 4]))
        >>> round(loss.item(), 4)  # ln 10: neither head has learned anything
        2.3026
    """
    checks.choice(("hard", "soft"), kind=kind)
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
        raise ValueError(f"the teacher's logits have shape {list(taught.shape)}, the student's {list(answers.shape)}: "
                         "both need the same classes in the same order; train or fine-tune the teacher on the "
                         "student's data set")
    return taught


def _count_right(logits: Tensor, targets: Tensor) -> Tensor:
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return (logits.argmax(dim=1) == labels).sum()
