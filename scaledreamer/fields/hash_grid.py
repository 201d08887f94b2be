"""Multiresolution hash grid (Müller et al. 2022, section 3) in plain torch, with tiny-cuda-nn's conventions.

Points lie in [-1, 1]^3, `x = (point + 1) / 2`; points outside are clamped. Level l has

    scale      = base_resolution * growth^l - 1
    position   = x * scale + 0.5
    resolution = ceil(scale) + 1
    entries    = min(resolution^3 rounded up to a multiple of 8, 2^log2_table_size)

Levels with resolution^3 <= 2^log2_table_size are dense (x fastest, then y, then z), higher ones are hashed
(Eq. 4). As in tiny-cuda-nn a dense index is taken modulo the entries: the last half cell before x = 1 shares
entries with the far side.

Speed (one core, 22,000 points, 8 levels of 4 features, 2^14 entries): 11 ms forward, one `embedding_bag`,
and 18 ms backward, one flat `scatter_add_` per feature. Beside it the backward pass of `embedding_bag` takes
5 times as long, that of a sparse CSR product 6 times, `index_select` or `index_add_` 4 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

# One per axis, Eq. 4; the second and third as signed 32-bit integers, whose products wrap to the same bits.
_PRIMES = (1, 2654435761 - 2**32, 805459861)

# Points times levels that are worked on together on CPUs: temporaries of about 1 MB.
_BAGS_AT_ONCE = 2**15


class HashGrid(nn.Module):
    """Learned features of points, interpolated from a pyramid of grids.

    Args:
        num_levels: grids in the pyramid.
        features_per_level: features of one entry.
        log2_table_size: log2 of the most entries a level may have.
        base_resolution: grid points along an edge at level 0.
        growth: ratio of resolutions of neighbouring levels, at least 1.
        init_scale: initial entries are uniform in [-init_scale, init_scale].

    Raises: ValueError naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        num_levels: int = 8,
        features_per_level: int = 4,
        log2_table_size: int = 14,
        base_resolution: int = 8,
        growth: float = 1.4,
        init_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        for name, value, low, high in (
            ("num_levels", num_levels, 1, 32),
            ("features_per_level", features_per_level, 1, 16),
            ("log2_table_size", log2_table_size, 3, 24),
            ("base_resolution", base_resolution, 2, 512),
            ("growth", growth, 1.0, 4.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}: a hash grid takes {low} to {high}.")
        if base_resolution * growth ** (num_levels - 1) > 2**16:
            raise ValueError(
                f"base_resolution {base_resolution} and growth {growth} give level {num_levels - 1} more "
                "than 65536 grid points along an edge: lower growth or num_levels."
            )
        scales = tuple(base_resolution * growth**level - 1 for level in range(num_levels))
        resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
        entries = tuple(min(-(-(r**3) // 8) * 8, 2**log2_table_size) for r in resolutions)
        num_dense = sum(r**3 <= 2**log2_table_size for r in resolutions)
        self._pyramid = _Pyramid(scales, resolutions, entries, num_dense)
        self.num_features = num_levels * features_per_level
        self.table = nn.Parameter(
            torch.empty(sum(entries), features_per_level).uniform_(-init_scale, init_scale)
        )

    def forward(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n feature"]:
        """Features of points, level by level (axis feature = level * features_per_level + feature of the
        level).

        Differentiable in the table, and in the points if they ask for it.
        """
        features = _Interpolate.apply(self.table.to(points.dtype), points.reshape(-1, 3), self._pyramid)
        return features.view(*points.shape[:-1], self.num_features)


class _Pyramid(NamedTuple):
    """The constants of a hash grid, level by level; the first `num_dense` levels are dense."""

    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    entries: tuple[int, ...]
    num_dense: int


class _Locator:
    """Finds the cells of points and their table rows, with constants as tensors "level 1"."""

    def __init__(self, pyramid: _Pyramid, like: Tensor) -> None:
        def column(values: Iterable[float], dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=like.device)[:, None]

        self.num_dense = num_dense = pyramid.num_dense
        self.scales = column(pyramid.scales, like.dtype)
        self.step_y = column(pyramid.resolutions[:num_dense])
        self.step_z = self.step_y**2
        self.sizes = column(pyramid.entries[:num_dense])
        self.masks = column(size - 1 for size in pyramid.entries[num_dense:])
        self.starts = column(list(accumulate(pyramid.entries, initial=0))[:-1])

    def cells(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Int[Tensor, "3 level n"], Float[Tensor, "2 3 level n"]]:
        """Lower corners of the cells that hold the points, and linear weights of lower and upper sides."""
        x = (points.t().contiguous().clamp(-1, 1) + 1) * 0.5
        position = (x[:, None] * self.scales).add_(0.5)
        lower = position.floor()
        sides = position.new_empty(2, *position.shape)
        torch.sub(position, lower, out=sides[1])
        torch.sub(1, sides[1], out=sides[0])
        return lower.int(), sides

    def rows(self, cells: Int[Tensor, "3 level n"]) -> Int[Tensor, "z=2 y=2 x=2 level n"]:
        """Table rows of the 8 corners of each cell. 32-bit integers wrap, which keeps the low bits right."""
        rows = cells.new_empty(2, 2, 2, *cells.shape[1:])
        split = self.num_dense
        if split > 0:
            x, y, z = cells[:, :split]
            x, y, z = (
                _sides(x - self.sizes, 1),
                _sides(y * self.step_y, self.step_y),
                _sides(z * self.step_z, self.step_z),
            )
            over = (z[:, None] + y)[
                :, :, None
            ] + x  # row - size, in [-size, size): modulo adds size where negative
            over += (over >> 31) & self.sizes
            torch.add(over, self.starts[:split], out=rows[..., :split, :])
        if split < cells.shape[1]:
            x, y, z = (_sides(cells[axis, split:] * prime, prime) for axis, prime in enumerate(_PRIMES))
            hashed = (z[:, None] ^ y)[:, :, None] ^ x
            torch.add(hashed.bitwise_and_(self.masks), self.starts[split:], out=rows[..., split:, :])
        return rows


def _sides(lower: Int[Tensor, "level n"], step: Tensor | int) -> Int[Tensor, "2 level n"]:
    """An axis' share of a row, for the lower and the upper side of the cell."""
    sides = lower.new_empty(2, *lower.shape)
    sides[0] = lower
    torch.add(lower, step, out=sides[1])
    return sides


def _corner_weights(x: Tensor, y: Tensor, z: Tensor) -> Float[Tensor, "z=2 y=2 x=2 level n"]:
    """Products of one weight per axis, each "2 level n" for the lower and the upper side."""
    return (z[:, None] * y)[:, :, None] * x


def _corners_last(values: Tensor) -> Tensor:
    """ "2 2 2 level n" to contiguous "level*n 8"."""
    return values.flatten(0, 2).permute(1, 2, 0).contiguous().flatten(0, 1)


class _Interpolate(torch.autograd.Function):
    """Features of points "n 3" from a table "entry feature", in pieces that stay in the cache of a core.

    Saves the points only: rows and weights, small work, are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, pyramid: _Pyramid) -> Tensor:
        ctx.save_for_backward(table, points)
        ctx.pyramid = pyramid
        num_levels, num_features = len(pyramid.scales), table.shape[1]
        features = table.new_empty(len(points), num_levels, num_features)
        locator = _Locator(pyramid, points)
        for piece, out in zip(_pieces(points, num_levels), _pieces(features, num_levels), strict=True):
            cells, sides = locator.cells(piece)
            rows, weights = (
                _corners_last(locator.rows(cells)),
                _corners_last(_corner_weights(*sides.unbind(1))),
            )
            bags = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
            out.copy_(bags.view(num_levels, -1, num_features).transpose(0, 1))
        return features.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, points = ctx.saved_tensors
        pyramid: _Pyramid = ctx.pyramid
        num_levels, num_features = len(pyramid.scales), table.shape[1]
        grad_columns = table.new_zeros(num_features, len(table)) if ctx.needs_input_grad[0] else None
        grad_points = torch.empty_like(points) if ctx.needs_input_grad[1] else None
        locator = _Locator(pyramid, points)
        for number, (piece, grad) in enumerate(
            zip(_pieces(points, num_levels), _pieces(grads[0], num_levels), strict=True)
        ):
            cells, sides = locator.cells(piece)
            rows = locator.rows(cells).flatten().long()
            grad = grad.view(-1, num_levels, num_features).permute(2, 1, 0).contiguous()
            if grad_columns is not None:
                weights = _corner_weights(*sides.unbind(1))
                for column, grad_feature in zip(grad_columns, grad, strict=True):
                    column.scatter_add_(0, rows, (weights * grad_feature).flatten())
            if grad_points is not None:
                corners = table.index_select(0, rows).view(2, 2, 2, num_levels, -1, num_features)
                grad_weights = torch.einsum("zyxlnf,fln->zyxln", corners, grad)
                _pieces(grad_points, num_levels)[number].copy_(
                    _grad_points(grad_weights, sides, piece, locator.scales)
                )
        return None if grad_columns is None else grad_columns.t(), grad_points, None


def _grad_points(grad_weights: Tensor, sides: Tensor, points: Tensor, scales: Tensor) -> Float[Tensor, "n 3"]:
    """Chain rule through the trilinear weights: a side's weight has slope -1 or +1 in the position."""
    slope = torch.tensor([-1.0, 1.0], dtype=points.dtype, device=points.device)[:, None, None]
    grad = []
    for axis in range(3):
        factors = [slope if other == axis else sides[:, other] for other in range(3)]
        grad.append((grad_weights * _corner_weights(*factors)).sum((0, 1, 2)).mul(scales).sum(0))
    return torch.stack(grad, -1) * 0.5 * (points.abs() <= 1)


def _pieces(values: Tensor, num_levels: int) -> tuple[Tensor, ...]:
    """Pieces along the first axis: small on CPUs, where temporaries then stay in the cache, whole on GPUs."""
    return values.split(
        max(1, _BAGS_AT_ONCE // num_levels) if values.device.type == "cpu" else max(1, len(values))
    )
