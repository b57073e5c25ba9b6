"""Muon: orthogonalised momentum for the matrices inside a network, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitlite.train.device import autocast_dtype

__all__ = ["Muon", "hidden_matrices", "orthogonalised"]

# Coefficients of a x + b x³ + c x⁵, which drives every singular value in (0, 1] towards 1 (Jordan, 2024).
A, B, C = 3.4445, -4.7750, 2.0315
MOMENTUM = 0.95  # decay of the running sum of gradients that is orthogonalised, with Nesterov's look ahead


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly: singular values come to lie near 1 (between about 0.7 and 1.2).

    A step of the Newton-Schulz iteration multiplies matrices and nothing else, so it is fast, in bfloat16 where the
    device gains from it; a singular value decomposition gives the exact answer and is many times slower.

    Args:
        matrices: ``[K, m, n]``, convolutions flattened to matrices; the result is in bfloat16 or float32.

    Example:
        >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(1, 8, 16)).float())
        >>> bool((values > 0.5).all() and (values < 1.5).all())
        True
    """
    fast = autocast_dtype(matrices.device) is torch.bfloat16  # elsewhere bfloat16 may be far slower than float32
    x = matrices.bfloat16() if fast else matrices.float()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT  # the product below is then the smaller one
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    for _ in range(5):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        x = torch.baddbmm(x, gram, x, beta=A)
    return x.mT if tall else x


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon updates: those with two or more axes, but not the first layer's and not a head's.

    Example:
        >>> from vitlite import ViT, ViTConfig
        >>> vit = ViT(ViTConfig(image_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_dim=16))
        >>> len(hidden_matrices(vit))  # of each block: queries, keys and values in one; projection; and the MLP's two
        8
    """
    weights = [(name, p) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim >= 2]
    return [p for name, p in weights[1:] if "head" not in name and p.requires_grad]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan, 2024) for the groups marked ``orthogonal``, AdamW for the others, at one learning rate.

    A step of AdamW moves each number by about the learning rate. An orthogonalised step is scaled to move them by as
    much (Liu et al., 2025, Sec. 2.2: 0.2 √max(m, n)), so that one learning rate serves both.

    Args:
        groups: Parameter groups as any optimiser of PyTorch takes them; those with ``"orthogonal": True`` hold weights
            with two or more axes, the first of them the output's.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> matrices = {"params": [layer.weight], "orthogonal": True, "weight_decay": 0.05}
        >>> optimizer = Muon([matrices, {"params": [layer.bias]}], lr=1e-3)
        >>> layer(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(self, groups: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        others = [group["params"] for group in groups if not group.get("orthogonal")]
        self.adamw = torch.optim.AdamW(sum(others, []) or [torch.empty(0)], lr, betas, weight_decay=0, fused=True)
        super().__init__(groups, self.adamw.defaults | {"momentum": MOMENTUM, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        self.adamw.state, self.adamw.param_groups = self.state, [g for g in self.param_groups if not g["orthogonal"]]
        self.adamw.step()

    def _orthogonal_step(self, group: dict) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault(p.shape, []).append(p)
        for shape, weights in by_shape.items():  # all of one shape at a time: fewer and larger products
            updates = torch.stack([self._momentum(p, group["momentum"]) for p in weights]).flatten(2)
            updates = orthogonalised(updates).to(weights[0].dtype).view(-1, *shape)
            rate = 0.2 * max(updates[0].flatten(1).shape) ** 0.5 * group["lr"]
            for p, update in zip(weights, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, p: Tensor, decay: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - decay)
        return p.grad.lerp(state["momentum"], decay)
