"""Attention followed through all layers (Fig. 6 and App. D.8; Abnar & Zuidema, arXiv 2005.00928)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from vitlite import checks
from vitlite.analysis.maps import check_tensor, checked, precision, token_rows

FUSIONS = {
    "mean": lambda maps: maps.mean(dim=1, dtype=precision(maps)),
    "min": lambda maps: maps.amin(dim=1).to(precision(maps)),
    "max": lambda maps: maps.amax(dim=1).to(precision(maps)),
}


def attention_rollout(
    attention: Iterable[Tensor], *, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5
) -> Tensor:
    """How much of each input token is in each output token, if attention alone mixed them.

    The paper's rollout: heads averaged, the identity added for the residual connection, rows renormalised, and the
    layers multiplied, the last one on the left. ``fusion`` and ``discard`` are later inventions, not the paper's.

    Args:
        attention: ``[B, heads, T, T]`` for each layer, first layer first. A generator, such as
            ``model.iter_attention(images)``, runs here, without gradients and with one layer in memory.
        fusion: How heads are joined: ``"mean"``, ``"min"`` or ``"max"``.
        discard: Share of each image's joined weights that is set to zero, the smallest, in [0, 1). Weights equal to the
            smallest that stays all stay.
        residual: Weight of the identity against attention; one half is "add the identity", 0 leaves it out.

    Returns:
        ``[B, T, T]``, rows summing to 1: by row the output tokens, by column the input tokens. Row 0 is the class
        token's, see ``token_map``. float32, or float64 as the maps.

    Example:
        >>> attention_rollout([torch.eye(3).expand(1, 2, 3, 3)] * 4)[0]  # of identity attention: the identity
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    for rollout in iter_rollout(attention, fusion=fusion, discard=discard, residual=residual):  # noqa: B007
        pass
    return rollout


@torch.no_grad()
def iter_rollout(
    attention: Iterable[Tensor], *, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5
) -> Iterator[Tensor]:
    """The rollout up to each layer, each ``[B, T, T]``; arguments and errors as for ``attention_rollout``.

    Example:
        >>> len(list(iter_rollout([torch.eye(3).expand(1, 2, 3, 3)] * 4)))
        4
    """
    checks.choice(FUSIONS, fusion=fusion)
    if not (0 <= discard < 1 and 0 <= residual < 1):
        raise ValueError(f"discard is {discard} and residual {residual}; both are shares, at least 0 and below 1")
    rollout = None
    for layer in checked(attention):
        fused = FUSIONS[fusion](layer)  # [B, T, T]
        del layer
        if discard:
            fused = _without_smallest(fused, discard)
        mixed = (1 - residual) * fused + residual * torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        sums = mixed.sum(dim=-1, keepdim=True)
        if not sums.min() > 0:
            raise ValueError(f"fusion={fusion!r} and discard={discard} leave a row without any weight; pass a residual "
                             "above 0, which keeps the token itself, or discard less")
        mixed = mixed / sums
        rollout = mixed if rollout is None else mixed @ rollout
        yield rollout


def gradient_rollout(
    model: Callable[..., tuple[Tensor, Sequence[Tensor]]], images: Tensor, classes: Tensor | None = None
) -> Tensor:
    """Rollout in which each attention weight counts as far as it raises a class's logit.

    In each layer the weights are multiplied by the logit's gradient with respect to them, what is negative is set to
    zero, and the heads are averaged; the identity is added and the layers are multiplied. Rows are not renormalised.
    This is the rule for self-attention of Chefer et al. (arXiv 2103.15679, Eq. 5 and 6).

    It needs the maps of all layers at once, with their gradients: pass few images at a time.

    Args:
        model: Called as ``model(images, return_attention=True)``, it gives logits ``[B, classes]`` and the maps that
            they were computed from, ``[B, heads, T, T]`` for each layer: a ``ViT``, or any function that does so.
        images: ``[B, C, H, W]``, normalised.
        classes: int64 ``[B]``, which logit; the largest one by default.

    Returns:
        ``[B, T, T]``, not negative. Of a model whose head is all zeros, as ``ViT`` starts, the identity.

    Example:
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=2, num_heads=3, mlp_dim=48, zero_head=False))
        >>> gradient_rollout(model.eval(), torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 17, 17])
    """
    check_tensor(images, "images", "[B, C, H, W]")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; a gradient needs floating point: normalise them first")
    with torch.enable_grad():
        # That the images ask for a gradient makes one also through a model whose weights are frozen.
        logits, maps = model(images.detach().clone().requires_grad_(), return_attention=True)
        maps = list(checked(maps))
        if not all(layer.requires_grad for layer in maps):
            raise ValueError("the attention maps have no gradient; leave torch.inference_mode, and let the model "
                             "return the maps that it multiplies with the values, not copies")
        gradients = torch.autograd.grad(_chosen(logits, classes).sum(), maps, allow_unused=True)
    if any(gradient is None for gradient in gradients):
        raise ValueError("the logits do not depend on these maps; the model must return the maps that it multiplies "
                         "with the values")
    batch, _, tokens, _ = maps[0].shape
    rollout = torch.eye(tokens, dtype=precision(maps[0]), device=maps[0].device).expand(batch, -1, -1)
    for layer, gradient in zip(maps, gradients, strict=True):
        relevant = (layer.detach() * gradient).clamp(min=0).mean(dim=1, dtype=rollout.dtype)  # [B, T, T]
        rollout = rollout + relevant @ rollout
    return rollout


def _chosen(logits: Tensor, classes: Tensor | None) -> Tensor:
    """The logit of each image's class, ``[B]``."""
    classes = logits.argmax(dim=1) if classes is None else torch.as_tensor(classes, device=logits.device)
    fits = classes.shape == logits.shape[:1] and not classes.is_floating_point()
    if not fits or classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise ValueError(f"classes are {classes.tolist()}; expected one whole number from 0 to {logits.shape[1] - 1} "
                         f"for each of {len(logits)} images")
    return logits.gather(1, classes.long()[:, None])


def token_map(rollout: Tensor, grid: tuple[int, int], token: int | None = 0) -> Tensor:
    """A token's row as a picture ``[B, rows, cols]``: how much of each patch is in it.

    Args:
        rollout: ``[B, T, T]``, or attention with its heads joined.
        token: Whose row: which of the tokens before the patches; 0 is the class token. None is the mean of the patches'
            rows, for models that average the patches.

    Example:
        >>> token_map(torch.full((1, 5, 5), 0.2), grid=(2, 2)).shape
        torch.Size([1, 2, 2])
    """
    check_tensor(rollout, "rollout", "[batch, tokens, tokens]")
    if rollout.ndim != 3 or rollout.shape[1] != rollout.shape[2]:
        raise ValueError(f"rollout has shape {list(rollout.shape)}; expected [batch, tokens, tokens]")
    return token_rows(rollout.detach(), grid, token)


def _without_smallest(fused: Tensor, share: float) -> Tensor:
    """Set that share of each image's weights to zero, smallest first."""
    flat = fused.flatten(1)
    least = flat.kthvalue(int(share * flat.shape[1]) + 1, dim=1).values  # the smallest that stays
    return fused * (fused >= least[:, None, None])
