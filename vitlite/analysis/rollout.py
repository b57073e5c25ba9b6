"""Attention followed through all layers (Fig. 6 and App. D.8; Abnar & Zuidema, 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite.analysis.maps import checked, prefix_tokens

__all__ = ["attention_rollout", "gradient_rollout", "iter_rollout", "token_map"]

FUSIONS = {"mean": lambda maps: maps.mean(dim=1), "min": lambda maps: maps.amin(dim=1),
           "max": lambda maps: maps.amax(dim=1)}  # fmt: skip


def attention_rollout(
    attention: Iterable[Tensor], *, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5
) -> Tensor:
    """How much of each input token is in each output token, if attention alone mixed them.

    The paper's rollout: heads averaged, the identity added for the residual connection, rows renormalised, and the
    layers multiplied, the last one on the left. ``fusion`` and ``discard`` are later inventions, not the paper's.

    Args:
        attention: ``[B, heads, T, T]`` for each layer, first layer first.
        fusion: How heads are joined: ``"mean"``, ``"min"`` or ``"max"``.
        discard: Share of each image's smallest fused weights that is set to zero, in [0, 1).
        residual: Weight of the identity against attention; one half is "add the identity and renormalise".

    Returns:
        float32 ``[B, T, T]``, rows summing to 1; row 0 is the class token's, see ``token_map``.

    Raises:
        ValueError: If the maps are no probabilities ``[B, heads, T, T]``, or an option is unknown.

    Example:
        >>> attention_rollout([torch.eye(3).expand(1, 2, 3, 3)] * 4)[0]  # of identity attention: the identity
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    *_, last = iter_rollout(attention, fusion=fusion, discard=discard, residual=residual)
    return last


def iter_rollout(
    attention: Iterable[Tensor], *, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5
) -> Iterator[Tensor]:
    """The rollout up to each layer; arguments and errors as for ``attention_rollout``.

    Yields:
        float32 ``[B, T, T]`` after each layer.

    Example:
        >>> len(list(iter_rollout([torch.eye(3).expand(1, 2, 3, 3)] * 4)))
        4
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion is {fusion!r}; expected one of {', '.join(map(repr, FUSIONS))}")
    if not 0 <= discard < 1 or not 0 <= residual < 1:
        raise ValueError(f"discard is {discard} and residual {residual}; both are shares, at least 0 and below 1")
    rollout = None
    for layer in checked(attention):
        fused = FUSIONS[fusion](layer.float())  # [B, T, T]
        del layer
        if discard:
            fused = _without_smallest(fused, discard)
        fused = fused / fused.sum(dim=-1, keepdim=True)
        mixed = (1 - residual) * fused + residual * torch.eye(fused.shape[-1], device=fused.device)
        rollout = mixed if rollout is None else mixed @ rollout
        yield rollout


def gradient_rollout(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Rollout in which each attention weight counts as far as it raises a class's logit (Chefer et al., 2021).

    In each layer the weights are multiplied by the logit's gradient with respect to them, what is negative is set to
    zero, and the heads are averaged; the identity is added and the layers are multiplied. Rows are not renormalised.

    Args:
        model: Called as ``model(images, return_attention=True)``; gives logits and maps that have a gradient.
        images: ``[B, C, H, W]``, normalised.
        classes: int64 ``[B]``, which logit; the largest one by default.

    Returns:
        float32 ``[B, T, T]``.

    Raises:
        ValueError: If the maps have no gradient.

    Example:
        >>> from vitlite import ViT, ViTConfig
        >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=2, num_heads=3, mlp_dim=48, zero_head=False))
        >>> gradient_rollout(model.eval(), torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 17, 17])
    """
    with torch.enable_grad():
        logits, maps = model(images, return_attention=True)
        if not all(layer.requires_grad for layer in maps):
            raise ValueError("the attention maps have no gradient; call this outside torch.inference_mode, with a "
                             "model whose parameters require gradients")  # fmt: skip
        classes = logits.argmax(dim=1) if classes is None else classes.to(logits.device)
        gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    rollout = torch.eye(maps[0].shape[-1], device=images.device).expand(len(images), -1, -1)
    for layer, gradient in zip(maps, gradients, strict=True):
        relevant = (layer.detach() * gradient).clamp(min=0).mean(dim=1).float()
        rollout = rollout + relevant @ rollout
    return rollout


def token_map(
    rollout: Tensor, grid: tuple[int, int], image_size: int | tuple[int, int] | None = None, token: int = 0
) -> Tensor:
    """A token's row as a picture: how much of each patch is in it.

    Args:
        rollout: ``[B, T, T]``, or attention with its heads joined.
        grid: Rows and columns of patches.
        image_size: Resample bilinearly to this many pixels; by default one number a patch.
        token: Whose row; 0 is the class token. For average pooling take the mean of the patches' rows instead.

    Returns:
        ``[B, rows, cols]``, or ``[B, height, width]``.

    Raises:
        ValueError: If the shape does not fit the grid, or there is no such token.

    Example:
        >>> token_map(torch.full((1, 5, 5), 0.2), grid=(2, 2), image_size=8).shape
        torch.Size([1, 8, 8])
    """
    if rollout.ndim != 3 or rollout.shape[1] != rollout.shape[2]:
        raise ValueError(f"rollout has shape {list(rollout.shape)}; expected [batch, tokens, tokens]")
    tokens = rollout.shape[-1]
    prefix = prefix_tokens(tokens, grid)
    if not 0 <= token < tokens:
        raise ValueError(f"token is {token}; expected a number from 0 to {tokens - 1}")
    picture = rollout[:, token, prefix:].unflatten(-1, grid)
    if image_size is None:
        return picture
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return F.interpolate(picture[:, None], size, mode="bilinear")[:, 0]


def _without_smallest(fused: Tensor, share: float) -> Tensor:
    """Set that share of each image's weights to zero, smallest first; the diagonal stays, so no row is empty."""
    flat = fused.flatten(1)
    count = int(share * flat.shape[1])
    if not count:
        return fused
    kept = flat.scatter(1, flat.topk(count, dim=1, largest=False).indices, 0.0).view_as(fused)
    diagonal = torch.eye(fused.shape[-1], dtype=torch.bool, device=fused.device)
    return torch.where(diagonal, fused, kept)
