"""What fixes the shape of a Vision Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitlite import checks, position
from vitlite.checks import Size, pair

__all__ = ["VARIANTS", "ViTConfig"]

#: The variants of Table 1, and DeiT's two smaller ones: width D, depth L, heads, MLP width.
VARIANTS = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that fixes the shape of a ViT. Sizes in pixels, as one number or (height, width).

    Attributes:
        image_size: Size of the input images (H, W).
        patch_size: Size of a patch (P); must divide the image size.
        in_channels: Channels of the images (C).
        num_classes: Number of classes, hence of logits.
        embed_dim: Width D of the tokens.
        depth: Number L of blocks.
        num_heads: Heads of each attention; must divide ``embed_dim``.
        mlp_dim: Hidden width of each MLP.
        pool: What represents the image: the class ``"token"`` (Eq. 4) or the ``"mean"`` of the patch tokens (App. D.3).
        class_token: Whether there is a class token; by default where it is pooled, and with the mean only on request.
        distillation: Whether a distillation token follows it, with a head of its own (DeiT); the logits are the mean of
            both heads', as in the released code.
        registers: How many register tokens come next: free tokens that no head reads.
        position: Kind of position embedding: ``"learned-1d"``, ``"learned-2d"``, ``"relative"`` or ``"none"``
            (App. D.4), ``"sincos-2d"``, or ``"rotary"`` and DINOv3's ``"rotary-image"``, whose heads need a multiple of
            4 channels; see ``vitlite.position``.
        prefix_positions: Whether class, distillation and register tokens carry positions as well (with ``"sincos-2d"``
            and rotary ones they never do).
        pool_norm: Final LayerNorm ``"before"`` pooling (the paper) or ``"after"`` (timm, for the mean).
        head: ``"linear"``, or ``"mlp"``: one tanh layer of width D in front, as in pre-training.
        zero_head: Whether a new head starts at zero, as in the official code; otherwise it starts normal with variance
            1 / D.
        dropout: Dropout rate after the embeddings and after every dense layer but the qkv projection (App. B).
        drop_path: Stochastic depth: the rate at which the last block's branches are skipped, for each image alone; it
            grows linearly with depth from 0.
        layer_norm_eps: Epsilon of every LayerNorm.
        gelu: ``"exact"`` or ``"tanh"``, the approximation that the official code uses.
        qk_norm: Whether each head's queries and keys pass a LayerNorm of their own before they are compared.
        mlp: ``"gelu"``, the paper's two layers, or ``"swiglu"``, where one half of the first layer gates the other; its
            ``mlp_dim`` counts one half.

    Example:
        >>> config = ViTConfig(image_size=(32, 48), patch_size=4, num_classes=10)
        >>> config.grid, config.num_patches, config.prefix_tokens
        ((8, 12), 96, 1)
    """

    image_size: Size = 224
    patch_size: Size = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: Literal["token", "mean"] = "token"
    class_token: bool | None = None
    distillation: bool = False
    registers: int = 0
    position: Literal[
        "none", "learned-1d", "learned-2d", "relative", "sincos-2d", "rotary", "rotary-image"] = "learned-1d"
    prefix_positions: bool = True
    pool_norm: Literal["before", "after"] = "before"
    head: Literal["linear", "mlp"] = "linear"
    zero_head: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6
    gelu: Literal["exact", "tanh"] = "exact"
    qk_norm: bool = False
    mlp: Literal["gelu", "swiglu"] = "gelu"

    def __post_init__(self) -> None:
        names = "in_channels", "num_classes", "embed_dim", "depth", "num_heads", "mlp_dim"
        checks.at_least(1, **{name: getattr(self, name) for name in names})
        checks.at_least(0, registers=self.registers)
        for name in ("image_size", "patch_size"):
            size = pair(getattr(self, name), name)
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, size)
        for name in ("dropout", "drop_path", "layer_norm_eps"):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected a number")
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        flag = False, True
        choices = {"pool": ("token", "mean"), "pool_norm": ("before", "after"), "head": ("linear", "mlp"),
                   "gelu": ("exact", "tanh"), "position": position.KINDS, "class_token": (None, *flag),
                   "distillation": flag, "prefix_positions": flag, "zero_head": flag, "qk_norm": flag,
                   "mlp": ("gelu", "swiglu")}
        for name, known in choices.items():
            checks.choice(known, **{name: getattr(self, name)})
        if self.pool == "token" and self.class_token is False:
            raise ValueError("pool is 'token', class_token is False: nothing to pool; pass pool='mean'")
        position.check_width(self.position, self.embed_dim)
        checks.heads(self.embed_dim, self.num_heads)
        if self.position in position.ROTARY:
            position.check_head_width(self.embed_dim // self.num_heads)
        checks.divides(pair(self.image_size), pair(self.patch_size))

    @classmethod
    def from_name(cls, name: str, **changes) -> ViTConfig:
        """The shape that has a name in the paper, one of ``VARIANTS`` and a patch size; any field may be changed.

        Example:
            >>> ViTConfig.from_name("B/16", image_size=32).grid
            (2, 2)
        """
        variant, _, patch = str(name).partition("/")
        if variant not in VARIANTS or not patch.isdecimal():
            raise ValueError(f"model name is {name!r}; expected one of {', '.join(VARIANTS)} and a patch size, like "
                             "'B/16'")
        shape = dict(zip(("embed_dim", "depth", "num_heads", "mlp_dim"), VARIANTS[variant], strict=True))
        return cls(**({"patch_size": int(patch)} | shape | changes))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (patch_height, patch_width) = pair(self.image_size), pair(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def num_patches(self) -> int:
        """N = H · W / P²."""
        return self.grid[0] * self.grid[1]

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token: as asked for, or else where it is pooled."""
        return self.pool == "token" if self.class_token is None else self.class_token

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand in front of the patches: class token, distillation token, registers."""
        return self.has_class_token + self.distillation + self.registers

    @property
    def table_prefix(self) -> int:
        """How many rows of the position table belong to prefix tokens: all of these or none."""
        without = self.position in ("sincos-2d", *position.ROTARY) or not self.prefix_positions
        return 0 if without else self.prefix_tokens
