"""The Vision Transformer, Eq. 1 to 4 of Dosovitskiy et al. (2021), and nothing else.

Read it from top to bottom: an image becomes patches (``PatchEmbed``), tokens talk to each other (``Attention``), each
thinks alone (``Mlp``), both steps make a ``Block``, and ``ViT`` stacks them. The letters are the paper's: B images, N
patches, D = ``embed_dim``, h heads, T = N + 1 tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks, position
from vitlite.checks import Grid, Size, pair
from vitlite.config import ViTConfig

__all__ = ["Attention", "Block", "Mlp", "PatchEmbed", "ViT"]


class PatchEmbed(nn.Module):
    """Cut images into patches, flatten each, and map it linearly to width D (``x_p E`` of Eq. 1).

    The same map as a convolution with kernel and stride P; written out, it shows the sequence.

    Example:
        >>> PatchEmbed(patch_size=4, in_channels=3, embed_dim=64)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 64, 64])
    """

    def __init__(self, patch_size: Size, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        checks.at_least(1, in_channels=in_channels, embed_dim=embed_dim)
        self.patch_size, self.in_channels = pair(patch_size, "patch_size"), in_channels
        self.projection = nn.Linear(in_channels * self.patch_size[0] * self.patch_size[1], embed_dim)
        self.checks_input = True

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, N, D]``, row by row from the top left."""
        if self.checks_input:
            checks.images(images, self.in_channels)
            checks.divides(images.shape[2:], self.patch_size)
        height, width = self.patch_size
        rows, columns = images.shape[2] // height, images.shape[3] // width
        patches = images.reshape(-1, self.in_channels, rows, height, columns, width)  # [B, C, rows, P, columns, P]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, N, C·P·P]
        return self.projection(patches)  # [B, N, D]


def fused_pays(query: Tensor) -> bool:
    """Whether to call torch's fused attention for queries ``[B, h, T, D/h]``; measured by ``benchmarks/attention.py``.

    Everywhere but in bfloat16 on a CPU: there two plain matrix products are up to seven times as fast, as long as their
    map ``[T, T]`` stays small. A tracer of torch.fx has no device yet and takes it; an exporter to ONNX, which takes it
    apart, does not.
    """
    if isinstance(query, torch.fx.Proxy) or torch.onnx.is_in_onnx_export():
        return isinstance(query, torch.fx.Proxy)
    return query.device.type != "cpu" or query.dtype != torch.bfloat16 or query.shape[-2] > 1000


class Attention(nn.Module):
    """Multi-head self-attention (Eq. 6 to 8 in App. A): every token asks all tokens, h times in parallel.

    Example:
        >>> mixed, weights = Attention(embed_dim=64, num_heads=4)(torch.randn(1, 17, 64), return_attention=True)
        >>> mixed.shape, weights.shape
        (torch.Size([1, 17, 64]), torch.Size([1, 4, 17, 17]))
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, relative: position.RelativeKeys | None = None,
        rotary: position.Rotary | None = None, norms: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        checks.heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5  # 1 / sqrt(head width), not of the whole width
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.projection = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.relative, self.rotary = relative, rotary
        self.query_norm, self.key_norm = norms or (None, None)
        self.checks_input = True

    def weights(self, query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention weights ``[B, h, T, T]`` of queries and keys ``[B, h, T, D/h]``; each row sums to 1."""
        logits = (query * self.scale) @ key.transpose(-2, -1)
        return (logits if bias is None else logits + bias).softmax(dim=-1)

    def forward(self, x: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """``[B, T, D]`` -> ``[B, T, D]`` and, if asked for, the weights ``[B, h, T, T]``."""
        if self.checks_input:
            checks.tokens(x, self.qkv.in_features)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, T, 3, h, D/h]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, h, T, D/h]
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)  # each head's vector by itself
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)  # turned by row and column
        bias = self.relative(query * self.scale) if self.relative is not None else None  # [B, h, T, T] (App. D.4)
        attention = None
        if return_attention or not fused_pays(query):
            attention = self.weights(query, key, bias)  # [B, h, T, T]
            mixed = attention.to(value.dtype) @ value  # [B, h, T, D/h]
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, bias, scale=self.scale)  # never [T, T]
        mixed = mixed.transpose(1, 2).flatten(2)  # [B, T, D]: the heads side by side
        return self.dropout(self.projection(mixed)), attention if return_attention else None


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each token alone.

    With ``kind="swiglu"`` (Shazeer, 2020) the first gives two halves, and the SiLU of one multiplies the other.

    Example:
        >>> Mlp(embed_dim=64, mlp_dim=256)(torch.zeros(1, 17, 64)).shape
        torch.Size([1, 17, 64])
    """

    def __init__(
        self, embed_dim: int, mlp_dim: int, dropout: float = 0.0, gelu: str = "exact", kind: str = "gelu"
    ) -> None:
        super().__init__()
        checks.at_least(1, embed_dim=embed_dim, mlp_dim=mlp_dim)
        checks.choice(("exact", "tanh"), gelu=gelu)
        checks.choice(("gelu", "swiglu"), kind=kind)
        self.gated = kind == "swiglu"
        self.expand = nn.Linear(embed_dim, 2 * mlp_dim if self.gated else mlp_dim)
        self.gelu = None if self.gated else nn.GELU(approximate="none" if gelu == "exact" else "tanh")
        self.contract = nn.Linear(mlp_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., D]``."""
        x = self.expand(x)  # [..., mlp_dim], or twice that
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = F.silu(gate) * x
        else:
            x = self.gelu(x)
        x = self.dropout(x)  # [..., mlp_dim]
        return self.dropout(self.contract(x))  # [..., D]


class DropPath(nn.Module):
    """Stochastic depth: while training, skip a residual branch for some images, and scale the rest to make up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """``[B, T, D]`` -> the same, with whole images set to zero at the given rate."""
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand_like(branch[:, :1, :1], dtype=torch.float32) >= self.rate
        return branch * keep.to(branch.dtype) / (1 - self.rate)


class Block(nn.Module):
    """One pre-norm encoder block: attention (Eq. 2), then the MLP (Eq. 3), each with its residual.

    Example:
        >>> z, _ = Block(ViTConfig(embed_dim=64, num_heads=4, mlp_dim=256))(torch.zeros(1, 197, 64))
        >>> z.shape
        torch.Size([1, 197, 64])
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        checks.kind(ViTConfig, config=config)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        sizes = config.num_patches, config.prefix_tokens, config.prefix_positions, config.embed_dim
        relative = position.RelativeKeys(*sizes) if config.position == "relative" else None
        turned = config.grid, config.prefix_tokens, config.embed_dim // config.num_heads
        rotary = position.Rotary(*turned, config.position) if config.position in position.ROTARY else None
        norms = [nn.LayerNorm(turned[2], eps=config.layer_norm_eps) for _ in range(2)] if config.qk_norm else None
        self.attention = Attention(config.embed_dim, config.num_heads, config.dropout, relative, rotary, norms)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.embed_dim, config.mlp_dim, config.dropout, config.gelu, config.mlp)
        self.drop_path = DropPath(drop_path)

    def forward(self, z: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """``[B, T, D]`` -> ``[B, T, D]`` and, if asked for, the attention weights ``[B, h, T, T]``."""
        mixed, attention = self.attention(self.norm1(z), return_attention)
        z = z + self.drop_path(mixed)  # Eq. 2: z'_l = MSA(LN(z_{l-1})) + z_{l-1}
        z = z + self.drop_path(self.mlp(self.norm2(z)))  # Eq. 3: z_l = MLP(LN(z'_l)) + z'_l
        return z, attention


class Head(nn.Sequential):
    """From the image representation y to logits: a linear layer, with one tanh layer in front if ``"mlp"``."""

    def __init__(self, config: ViTConfig) -> None:
        hidden = [nn.Linear(config.embed_dim, config.embed_dim), nn.Tanh()] if config.head == "mlp" else []
        super().__init__(*hidden, nn.Linear(config.embed_dim, config.num_classes))
        for layer in self:
            if isinstance(layer, nn.Linear):
                _lecun_normal(layer)
        if config.zero_head:
            nn.init.zeros_(self[-1].weight)


class ViT(nn.Module):
    """The Vision Transformer.

    Args:
        patch_embed: Any module that turns images into ``[B, N, D]``, N as in ``config.grid``; by default the linear map
            of the paper.

    Example:
        >>> model = ViT(ViTConfig(image_size=32, patch_size=4, num_classes=10, embed_dim=64, depth=2,
        ...                       num_heads=4, mlp_dim=128))
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(self, config: ViTConfig, patch_embed: nn.Module | None = None) -> None:
        super().__init__()
        checks.kind(ViTConfig, config=config)
        self.config = config
        self.patch_embed = patch_embed or PatchEmbed(config.patch_size, config.in_channels, config.embed_dim)
        checks.kind(nn.Module, patch_embed=self.patch_embed)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if config.has_class_token else None
        self.distillation_token = _tokens(config.distillation, config.embed_dim)
        self.registers = _tokens(config.registers, config.embed_dim)
        self.position = position.make(config.position, config.grid, config.table_prefix, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.head = Head(config)
        self.distillation_head = Head(config) if config.distillation else None
        for piece in (self.patch_embed, *(block.attention for block in self.blocks)):
            piece.checks_input = False  # the model checks at its door, in `embed`, `tokens` and `encode`
        _official_init(self)

    @classmethod
    def from_name(cls, name: str, **changes) -> ViT:
        """A ViT by its name in the paper: ``ViT.from_name("B/16", image_size=32)``; see ``ViTConfig.from_name``."""
        return cls(ViTConfig.from_name(name, **changes))

    # ---- the forward pass, in the paper's order

    def embed(self, images: Tensor) -> Tensor:
        """Patch embeddings ``x_p E``: ``[B, C, H, W]`` float -> ``[B, N, D]``, without token and positions."""
        checks.images(images, self.config.in_channels, self.config.image_size)
        checks.precision(images, next(self.parameters()))
        patches = self.patch_embed(images)
        checks.tokens(patches, self.config.embed_dim, self.config.num_patches, "patch_embed gave")
        return patches  # [B, N, D]

    def tokens(self, patches: Tensor) -> Tensor:
        """``z_0`` of Eq. 1: patch embeddings ``[B, N, D]`` -> tokens in front, positions added, ``[B, T, D]``."""
        self._check_patches(patches)
        return self._z0(patches)

    def _z0(self, patches: Tensor, grid: Grid | None = None) -> Tensor:
        prefix = (self.class_token, self.distillation_token, self.registers)
        prefix = [token.expand(patches.shape[0], -1, -1) for token in prefix if token is not None]
        z, table = torch.cat([*prefix, patches], dim=1), self.position_table()  # [B, T, D]
        if table is None:
            return self.dropout(z)
        if grid is not None:  # of an image of another size
            table = position.interpolate(table, self.config.grid, grid, self.config.table_prefix)
        bare = self.config.prefix_tokens - self.config.table_prefix  # prefix tokens without position
        return self.dropout(z + (F.pad(table, (0, 0, bare, 0)) if bare else table))

    def position_table(self) -> Tensor | None:
        """What is added to the tokens: ``[1, prefix + N, D]``, or ``[1, N, D]`` where prefix tokens have none.

        None without positions, and with relative and rotary ones, which have no vector for a position.
        """
        return self.position() if isinstance(self.position, nn.Module) else self.position

    def encode(self, patches: Tensor) -> Tensor:
        """Patch embeddings ``[B, N, D]`` -> the final state of every token, ``[B, T, D]`` (Eq. 1 to 3, and LN)."""
        self._check_patches(patches)
        return self._encode(patches)[0]

    def _encode(
        self, patches: Tensor, return_attention: bool = False, grid: Grid | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        z, maps = self._z0(patches, grid), []
        for block in self.blocks:
            z, attention = block(z, return_attention)
            maps.append(attention)
        return self.norm(z) if self.config.pool_norm == "before" else z, tuple(maps)

    def features(self, images: Tensor) -> Tensor:
        """The image representation y of Eq. 4, what the (class) head reads: ``[B, C, H, W]`` -> ``[B, D]``."""
        return self._pool(self._encode(self.embed(images))[0])

    def forward(self, images: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of each image, and on request where every token looked.

        Args:
            images: ``[B, C, H, W]``, floating point, normalised as in training.
            return_attention: Also return the attention weights of every layer, which fused attention never forms.

        Returns:
            Logits ``[B, classes]``, or these and a tuple of ``depth`` tensors ``[B, heads, T, T]``, rows summing to 1.
        """
        if isinstance(return_attention, torch.fx.Proxy):
            checks.no_maps(return_attention)
            return_attention = False
        z, maps = self._encode(self.embed(images), return_attention)
        logits = self.head(self._pool(z)) if self.distillation_head is None else sum(self._heads(z)) / 2
        return (logits, maps) if return_attention else logits

    def forward_heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class and of the distillation head, each ``[B, classes]``; ``forward`` takes their mean."""
        if self.distillation_head is None:
            raise ValueError("this model has one head; build it with ViTConfig(distillation=True) for a second")
        return self._heads(self._encode(self.embed(images))[0])

    def iter_attention(self, images: Tensor) -> Iterator[Tensor]:
        """The maps ``[B, heads, T, T]`` of ``return_attention``, first block first, one in memory at a time."""
        z = self._z0(self.embed(images))
        for block in self.blocks:
            z, attention = block(z, return_attention=True)
            yield attention
            del attention  # ours goes before the next is made

    # ---- changing a model

    def at_resolution(self, image_size: Size, convention: str = "jax") -> ViT:
        """A new model for another image size: positions resampled, every other weight the same.

        ``vitlite.position.at_grid`` says what that does to each kind of position.

        Args:
            image_size: New image size in pixels; the patch size stays, so the number of tokens changes.
            convention: How positions are resampled: one of ``vitlite.position.CONVENTIONS``.
        """
        model = copy.deepcopy(self)
        model.config = replace(self.config, image_size=image_size)
        grids = self.config.grid, model.config.grid
        model.position = position.at_grid(self.position, *grids, self.config.table_prefix, convention)
        for block in model.blocks:
            for name in ("relative", "rotary"):
                old = getattr(block.attention, name)
                setattr(block.attention, name, position.at_grid(old, *grids, self.config.prefix_tokens, convention))
        return model

    def reset_head(self, num_classes: int) -> ViT:
        """Replace each head by a linear one for other classes, zero-initialised, as for fine-tuning (Sec. 3.2).

        Changes this model in place and returns it; its logits are zero until it is trained.
        """
        self.config = replace(self.config, num_classes=num_classes, head="linear", zero_head=True)
        self.head = Head(self.config).to(self.norm.weight)
        self.distillation_head = Head(self.config).to(self.norm.weight) if self.config.distillation else None
        return self

    def freeze_heads(self) -> None:
        """Promise no gradient to the heads, for a training in which they take no part: processes would wait for it."""
        for head in filter(None, (self.head, self.distillation_head)):
            head.requires_grad_(False)

    # ---- details

    def _check_patches(self, patches: Tensor) -> None:
        checks.tokens(patches, self.config.embed_dim, self.config.num_patches, "patches have shape")

    def _pool(self, z: Tensor) -> Tensor:
        y = z[:, 0] if self.config.pool == "token" else z[:, self.config.prefix_tokens :].mean(dim=1)  # [B, D]
        return y if self.config.pool_norm == "before" else self.norm(y)

    def _heads(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = z[:, int(self.config.has_class_token)]  # [B, D]: the distillation token
        y = y if self.config.pool_norm == "before" else self.norm(y)
        return self.head(self._pool(z)), self.distillation_head(y)


def _tokens(count: int, embed_dim: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(1, count, embed_dim).normal_(std=0.02)) if count else None  # as in DeiT


def _lecun_normal(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)


def _official_init(model: ViT) -> None:
    """Initial values as in the official code: Xavier for attention and MLP, LeCun for the patch projection."""
    if isinstance(model.patch_embed, PatchEmbed):
        _lecun_normal(model.patch_embed.projection)
    for block in model.blocks:
        for matrix in block.attention.qkv.weight.chunk(3):  # three projections in one layer: each Xavier by itself
            nn.init.xavier_uniform_(matrix)
        nn.init.zeros_(block.attention.qkv.bias)
        nn.init.xavier_uniform_(block.attention.projection.weight)
        nn.init.zeros_(block.attention.projection.bias)
        for layer in (block.mlp.expand, block.mlp.contract):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
