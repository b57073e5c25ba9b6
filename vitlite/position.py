"""Position embeddings: every kind the paper tries, rotary ones, and what happens to each at another resolution.

A position table has shape ``[1, prefix + N, D]``: first the positions of the prefix tokens (the class token, say), then
one row for each patch, row by row from the top left of the image.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks
from vitlite.checks import Grid

__all__ = [
    "CONVENTIONS", "KINDS", "ROTARY", "ROTARY_BASE", "Learned2D", "RelativeKeys", "Rotary", "SinCos2D", "at_grid",
    "check_width", "interpolate", "learned_table", "make", "rotary_angles", "sincos_table",
]

#: What ``ViTConfig.position`` may be; the last two, ``ROTARY``, turn queries and keys.
KINDS = ("none", "learned-1d", "learned-2d", "relative", "sincos-2d", "rotary", "rotary-image")
ROTARY = KINDS[-2:]

#: Rotary frequencies fall from 1 towards 1 / ROTARY_BASE radians per patch. Text has 10,000; a grid of patches is
#: short, so Heo et al. (2024) take 100.
ROTARY_BASE = 100

#: How each library resamples a grid of position embeddings: arguments of ``torch.nn.functional.interpolate``.
CONVENTIONS: dict[str, dict] = {
    "jax": {"mode": "bilinear", "align_corners": True},  # the official code: scipy's linear zoom
    "torchvision": {"mode": "bicubic", "align_corners": True},
    "timm": {"mode": "bicubic", "antialias": True},
    "timm-npz": {"mode": "bilinear"},  # timm when it reads the official .npz
    "deit": {"mode": "bicubic"},
    "dino": {"mode": "bicubic", "offset": 0.1},  # scaled by (new + 0.1) / old, against rounding
}


def check_width(kind: str, embed_dim: int) -> None:
    """Refuse a width that cannot be cut as the kind of position needs it.

    Example:
        >>> check_width("learned-2d", 9)
        Traceback (most recent call last):
        ValueError: embed_dim is 9; learned-2d positions need a multiple of 2
    """
    checks.at_least(1, embed_dim=embed_dim)
    checks.choice(KINDS, kind=kind)
    parts = {"learned-2d": 2, "sincos-2d": 4}.get(kind, 1)
    if embed_dim % parts or (parts == 4 and embed_dim < 8):
        least = ", at least 8" if parts == 4 else ""
        raise ValueError(f"embed_dim is {embed_dim}; {kind} positions need a multiple of {parts}{least}")


def make(kind: str, grid: Grid, prefix_tokens: int, embed_dim: int) -> nn.Parameter | nn.Module | None:
    """What a model of width D keeps for its positions.

    Args:
        prefix_tokens: How many prefix tokens have a position (sin-cos positions have none for them).

    Returns:
        The table itself for ``"learned-1d"``; a module that gives the table when called for ``"learned-2d"`` and
        ``"sincos-2d"``; None for ``"none"``, and for ``"relative"`` and rotary ones, which live in each attention.

    Example:
        >>> make("learned-1d", (4, 4), prefix_tokens=1, embed_dim=8).shape
        torch.Size([1, 17, 8])
    """
    check_width(kind, embed_dim)
    checks.grid(grid)
    checks.at_least(0, prefix_tokens=prefix_tokens)
    if kind == "learned-1d":
        return learned_table(prefix_tokens + grid[0] * grid[1], embed_dim)
    if kind == "learned-2d":
        return Learned2D(grid, prefix_tokens, embed_dim)
    return SinCos2D(grid, embed_dim) if kind == "sincos-2d" else None


def learned_table(tokens: int, embed_dim: int) -> nn.Parameter:
    """A learned 1-D position table ``[1, tokens, D]``: one free vector for each token (Eq. 1, ``E_pos``).

    It starts normal with standard deviation 0.02, as in the official code.

    Example:
        >>> learned_table(17, 8).shape
        torch.Size([1, 17, 8])
    """
    checks.at_least(1, tokens=tokens, embed_dim=embed_dim)
    return nn.Parameter(torch.empty(1, tokens, embed_dim).normal_(std=0.02))


class Learned2D(nn.Module):
    """Learned 2-D positions (App. D.4): half of the width says the row, the other half the column.

    Prefix tokens have no row and no column; each has a free vector of its own. The width must be even.

    Example:
        >>> Learned2D((4, 6), prefix_tokens=1, embed_dim=8)().shape
        torch.Size([1, 25, 8])
    """

    def __init__(self, grid: Grid, prefix_tokens: int, embed_dim: int) -> None:
        super().__init__()
        check_width("learned-2d", embed_dim)
        checks.grid(grid)
        checks.at_least(0, prefix_tokens=prefix_tokens)
        self.prefix = learned_table(prefix_tokens, embed_dim) if prefix_tokens else None
        self.rows = learned_table(grid[0], embed_dim // 2)
        self.columns = learned_table(grid[1], embed_dim // 2)

    def forward(self) -> Tensor:
        """The table ``[1, prefix + N, D]``: at row r and column c, the row's half, then the column's."""
        rows, columns = self.rows.shape[1], self.columns.shape[1]
        halves = self.rows[:, :, None].expand(-1, -1, columns, -1), self.columns[:, None].expand(-1, rows, -1, -1)
        table = torch.cat(halves, dim=-1).flatten(1, 2)  # [1, N, D]
        return table if self.prefix is None else torch.cat([self.prefix, table], dim=1)

    def resampled(self, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str) -> Learned2D:
        """For another grid: row and column halves are resampled each along its own line.

        That is what ``interpolate`` makes of the whole table, since its every convention works on the two axes one
        after the other.
        """
        grid = self.rows.shape[1], self.columns.shape[1]
        if grid != tuple(old_grid):
            raise ValueError(f"these positions are for a grid of {grid[0]}×{grid[1]}, old grid is {_by(old_grid)}")
        new = Learned2D(new_grid, prefix_tokens, 2 * self.rows.shape[2])
        new.prefix = _copied(self.prefix)
        for name, old, wanted in (("rows", old_grid[0], new_grid[0]), ("columns", old_grid[1], new_grid[1])):
            old_line = getattr(self, name)
            line = _interpolated(old_line.detach(), (old, 1), (wanted, 1), 0, convention)  # also where this side stays
            setattr(new, name, nn.Parameter(line.clone(), requires_grad=old_line.requires_grad))
        return new


def sincos_table(grid: Grid, embed_dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions ``[1, N, D]``, as in big_vision's plain ViT (arXiv 2205.01580).

    Width D, a multiple of 4 and at least 8, in four quarters: sine and cosine of the column, sine and cosine of the
    row, each at D/4 frequencies that fall geometrically from 1 to 1/10000. (MoCo v3 and MAE divide the same range by
    D/4, not D/4 - 1.)

    Example:
        >>> sincos_table((4, 6), 8).shape
        torch.Size([1, 24, 8])
    """
    check_width("sincos-2d", embed_dim)
    checks.grid(grid)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    frequencies = 10_000 ** -torch.linspace(0, 1, embed_dim // 4, dtype=torch.float64)  # [D/4]
    x, y = (index.flatten()[:, None] * frequencies for index in (columns, rows))  # [N, D/4]
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)[None].float()


class SinCos2D(nn.Module):
    """Holds a ``sincos_table``, which is not trained. Prefix tokens get no position.

    Example:
        >>> SinCos2D((4, 6), 8)().shape
        torch.Size([1, 24, 8])
    """

    def __init__(self, grid: Grid, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("table", sincos_table(grid, embed_dim))

    def forward(self) -> Tensor:
        """The table ``[1, N, D]``."""
        return self.table

    def resampled(self, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str) -> SinCos2D:
        """For another grid: resampled like a learned table, so that every spot of the image keeps its waves."""
        new = SinCos2D(new_grid, self.table.shape[2])
        new.table = interpolate(self.table, old_grid, new_grid, 0, convention).clone()
        return new


class RelativeKeys(nn.Module):
    """Relative positions (App. D.4): an embedding for each 1-D offset, used as a further key for the same query.

    The offset of two patches is the difference of their numbers in the sequence, from -(N - 1) to N - 1. Prefix tokens
    have no offset: with ``prefix_positions``, three more embeddings stand for "a patch asks a prefix token", "a prefix
    token asks a patch" and "a prefix token asks another or itself" (the paper leaves this open); otherwise their logits
    are 0. An embedding has the width of the model, and is split among the heads like any key.

    Example:
        >>> keys = RelativeKeys(num_patches=16, prefix_tokens=1, prefix_positions=True, embed_dim=8)
        >>> keys(torch.randn(2, 4, 17, 2)).shape  # queries of 4 heads, 2 channels each
        torch.Size([2, 4, 17, 17])
    """

    def __init__(self, num_patches: int, prefix_tokens: int, prefix_positions: bool, embed_dim: int) -> None:
        super().__init__()
        checks.at_least(1, num_patches=num_patches, embed_dim=embed_dim)
        checks.at_least(0, prefix_tokens=prefix_tokens)
        self.prefix_tokens, self.num_patches = prefix_tokens, num_patches
        self.offsets = nn.Parameter(torch.empty(2 * num_patches - 1, embed_dim).normal_(std=0.02))
        has_prefix = prefix_tokens > 0 and prefix_positions
        self.prefix = nn.Parameter(torch.empty(3, embed_dim).normal_(std=0.02)) if has_prefix else None
        self.register_buffer("index", self._index(), persistent=False)

    def _index(self) -> Tensor:
        """Which key each pair of tokens uses: ``[T, T]``; offsets first, then the three of the prefix (or zero)."""
        n, p = self.num_patches, self.prefix_tokens
        index = torch.full((p + n, p + n), 2 * n - 1)
        if self.prefix is not None:
            index[:p, p:], index[:p, :p] = 2 * n, 2 * n + 1
        numbers = torch.arange(n)
        index[p:, p:] = numbers[:, None] - numbers[None, :] + n - 1
        return index

    def forward(self, query: Tensor) -> Tensor:
        """Logits to add to the content's: scaled queries ``[B, h, T, D/h]`` -> ``[B, h, T, T]``."""
        width = self.offsets.shape[1]
        checks.queries(query, len(self.index), width)
        zero = self.offsets.new_zeros(1, width)  # the key of a prefix token without position
        keys = torch.cat([self.offsets, zero if self.prefix is None else self.prefix])  # [2N - 1 + 1 or 3, D]
        keys = keys.unflatten(1, (query.shape[1], -1)).permute(1, 2, 0)  # [h, D/h, offsets]
        logits = query @ keys  # [B, h, T, offsets]
        if isinstance(logits, torch.fx.Proxy) or torch.onnx.is_in_onnx_export():  # these know no size of a batch
            return logits[:, :, torch.arange(len(self.index))[:, None], self.index]
        return logits.gather(3, self.index.expand(*logits.shape[:2], -1, -1))  # [B, h, T, T]

    def resampled(self, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str) -> RelativeKeys:
        """For another grid: every offset keeps its meaning as a step across the image.

        In rows of C patches the offset ``o`` is the step of r rows and c columns with ``o = r C + c``. The embeddings
        are laid out by that step, as a picture of ``2 rows - 1`` by ``2 columns - 1``, which is resampled. An offset of
        the new grid stands for two steps (r, c) and (r ± 1, c ∓ C); it takes the one with fewer columns.
        """
        rows, columns = old_grid
        if rows * columns != self.num_patches:
            raise ValueError(f"these keys are for {self.num_patches} patches, old grid is {_by(old_grid)}")
        r, c = torch.arange(1 - rows, rows), torch.arange(1 - columns, columns)
        picture = self.offsets.detach()[(r[:, None] * columns + c + rows * columns - 1).flatten()]
        old_steps, new_steps = ((2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old_grid, new_grid))
        picture = picture.unflatten(0, old_steps)
        for axis in (0, 1):
            if new_steps[axis] == 1:  # no step at all: the middle one, which a convention may take from the border
                picture = picture.narrow(axis, old_steps[axis] // 2, 1)
        old_steps = tuple(picture.shape[:2])
        picture = interpolate(picture.flatten(0, 1)[None], old_steps, new_steps, 0, convention)[0]
        picture = picture.unflatten(0, new_steps)
        rows, columns = new_grid
        offsets = torch.arange(1 - rows * columns, rows * columns)
        r = (offsets / columns).round().long().clamp(1 - rows, rows - 1)
        c = offsets - r * columns
        new = RelativeKeys(rows * columns, prefix_tokens, self.prefix is not None, self.offsets.shape[1])
        picked = picture[r + rows - 1, c + columns - 1].clone()
        new.offsets = nn.Parameter(picked, requires_grad=self.offsets.requires_grad)
        new.prefix = _copied(self.prefix)
        return new.to(self.offsets.device)


def rotary_angles(grid: Grid, head_width: int, kind: str = "rotary") -> Tensor:
    """By which angle each patch's queries and keys are turned, pair by pair (Su et al., 2021, in two dimensions).

    The channels of a head are taken in pairs. The first half of the pairs is turned by the patch's row, the second half
    by its column: the row or column, times a frequency. Each half has D/4h frequencies, falling geometrically from 1
    towards ``1 / ROTARY_BASE``.

    Args:
        head_width: Channels of one head, D/h; a multiple of 4.
        kind: ``"rotary"`` counts rows and columns from 0. ``"rotary-image"`` (DINOv3) takes the middle of the patch,
            from -1 to 1 along each side of the image, times 2π.

    Returns:
        Radians, ``[rows * columns, head_width / 2]``, float64.

    Example:
        >>> rotary_angles((1, 3), 4)
        tensor([[0., 0.],
                [0., 1.],
                [0., 2.]], dtype=torch.float64)
    """
    checks.grid(grid)
    check_head_width(head_width)
    checks.choice(ROTARY, kind=kind)
    sides = [torch.arange(n, dtype=torch.float64) for n in grid]
    if kind == "rotary-image":
        sides = [2 * math.pi * ((2 * side + 1) / len(side) - 1) for side in sides]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    quarter = head_width // 4
    frequencies = ROTARY_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)  # [D/4h]
    return torch.cat([index.flatten()[:, None] * frequencies for index in (rows, columns)], dim=1)


def check_head_width(head_width: int) -> None:
    """Refuse heads whose channels cannot be cut into pairs for the row and as many for the column."""
    checks.at_least(1, head_width=head_width)
    if head_width % 4:
        raise ValueError(f"a head has {head_width} channels; rotary positions need a multiple of 4, pairs for the row "
                         "and as many for the column: change embed_dim or num_heads")


class Rotary(nn.Module):
    """Rotary positions: turns queries and keys, so that their product depends on how far apart two patches are.

    Channels 2i and 2i + 1 of a head are a point in the plane, turned by the i-th of the ``rotary_angles``. Prefix
    tokens are not turned. Nothing is learned.

    The same as timm's ``RotaryEmbedding(in_pixels=False, temperature=100)``. Other layouts of the pairs, such as
    DINOv3's, are this one with a head's channels in another order.

    Example:
        >>> turn = Rotary((4, 6), prefix_tokens=1, head_width=8)
        >>> turn(torch.randn(2, 4, 25, 8)).shape  # queries or keys of 4 heads
        torch.Size([2, 4, 25, 8])
    """

    def __init__(self, grid: Grid, prefix_tokens: int, head_width: int, kind: str = "rotary") -> None:
        super().__init__()
        checks.at_least(0, prefix_tokens=prefix_tokens)
        self.kind = kind
        angles = F.pad(rotary_angles(grid, head_width, kind), (0, 0, prefix_tokens, 0))  # by 0: not at all
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Queries or keys ``[B, h, T, D/h]`` -> the same, each pair of channels turned."""
        tokens, width = self.cos.shape[0], 2 * self.cos.shape[1]
        checks.queries(x, tokens, width, of_each=True)
        a, b = x.unflatten(3, (-1, 2)).unbind(4)  # each [B, h, T, D/2h]
        turned = torch.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=4)
        return turned.flatten(3).to(x.dtype)

    def resampled(self, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str) -> Rotary:
        """For another grid: the angles of that grid."""
        if old_grid[0] * old_grid[1] + prefix_tokens != len(self.cos):
            raise ValueError(f"these angles are for {len(self.cos)} tokens, old grid is {_by(old_grid)} with "
                             f"{prefix_tokens} prefix tokens")
        return Rotary(new_grid, prefix_tokens, 2 * self.cos.shape[1], self.kind).to(self.cos)


def at_grid(
    positions: nn.Parameter | nn.Module | None, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str
) -> nn.Parameter | nn.Module | None:
    """What ``make`` gave (or ``RelativeKeys``, or ``Rotary``), for another grid; nothing is shared with the old.

    A learned table is interpolated; what is done to the other kinds, their ``resampled`` says. The arguments are those
    of ``interpolate``; for the two that live in attention, ``prefix_tokens`` counts all of them.

    Example:
        >>> at_grid(Learned2D((4, 4), 1, 8), (4, 4), (6, 6), prefix_tokens=1, convention="jax")().shape
        torch.Size([1, 37, 8])
    """
    _check(convention, old_grid, new_grid, prefix_tokens)
    if positions is None:
        return None
    if isinstance(positions, nn.Parameter):
        return _copied(positions, old_grid, new_grid, prefix_tokens, convention)
    if not hasattr(positions, "resampled"):
        raise TypeError(f"positions are a {type(positions).__name__}; expected what make gives, RelativeKeys or Rotary")
    if tuple(old_grid) == tuple(new_grid):
        return copy.deepcopy(positions)
    return positions.resampled(old_grid, new_grid, prefix_tokens, convention)


def _copied(parameter: nn.Parameter | None, *how) -> nn.Parameter | None:
    """A parameter's own copy, trained if it was; interpolated if it is said how."""
    if parameter is None:
        return None
    table = interpolate(parameter.detach(), *how) if how else parameter.detach()
    return nn.Parameter(table.clone(), requires_grad=parameter.requires_grad)


def _check(convention: str, old_grid: Grid, new_grid: Grid, prefix_tokens: int) -> None:
    checks.choice(CONVENTIONS, convention=convention)
    checks.grid(old_grid, "old grid")
    checks.grid(new_grid, "new grid")
    checks.at_least(0, prefix_tokens=prefix_tokens)


def _by(grid: Grid) -> str:
    return f"{grid[0]}×{grid[1]}"


def interpolate(
    table: Tensor, old_grid: Grid, new_grid: Grid, prefix_tokens: int = 1, convention: str = "jax"
) -> Tensor:
    """Resample a position table for another grid of patches (Sec. 3.2).

    The patch positions are laid out as the image they came from, resized like a picture with D channels, and flattened
    again. Prefix positions do not belong to the image and are copied unchanged.

    Args:
        table: ``[1, prefix_tokens + rows * columns, D]``.
        old_grid, new_grid: Rows and columns of patches that ``table`` was learned for, and those wanted.
        prefix_tokens: How many leading positions belong to no patch (class token and the like).
        convention: Whose way of resampling: one of ``CONVENTIONS``.

    Returns:
        ``[1, prefix_tokens + new_rows * new_columns, D]``; ``table`` itself, unchanged, if the grids agree.

    Example:
        >>> interpolate(torch.randn(1, 17, 8), (4, 4), (6, 6), convention="torchvision").shape
        torch.Size([1, 37, 8])
    """
    _check(convention, old_grid, new_grid, prefix_tokens)
    checks.kind(Tensor, table=table)
    if not table.is_floating_point():
        raise TypeError(f"position table is {table.dtype}; expected floating point")
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[1] != prefix_tokens + rows * columns:
        raise ValueError(f"position table has shape {list(table.shape)}, expected "
                         f"[1, {prefix_tokens + rows * columns}, D]: {prefix_tokens} prefix tokens and a grid of "
                         f"{rows}×{columns}; check old_grid and prefix_tokens")
    if tuple(new_grid) == tuple(old_grid):
        return table
    return _interpolated(table, old_grid, new_grid, prefix_tokens, convention)


def _interpolated(table: Tensor, old_grid: Grid, new_grid: Grid, prefix_tokens: int, convention: str) -> Tensor:
    prefix, patches = table[:, :prefix_tokens], table[:, prefix_tokens:]
    picture = patches.unflatten(1, tuple(old_grid)).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    picture = _resize(picture.to(torch.promote_types(table.dtype, torch.float32)), new_grid, **CONVENTIONS[convention])
    patches = picture.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # [1, new_rows * new_columns, D]
    return torch.cat([prefix, patches], dim=1)


def _resize(picture: Tensor, new_grid: Grid, offset: float | None = None, **how) -> Tensor:
    # Channels last, at least two: torch's antialiased resize of another layout to one column is wrong by up to 2.
    count = picture.shape[1]
    picture = picture.expand(-1, max(count, 2), -1, -1).contiguous(memory_format=torch.channels_last)
    if offset is None:
        return F.interpolate(picture, size=tuple(new_grid), **how)[:, :count]
    factors = [(new + offset) / old for new, old in zip(new_grid, picture.shape[2:], strict=True)]
    return F.interpolate(picture, scale_factor=factors, **how)[:, :count]
