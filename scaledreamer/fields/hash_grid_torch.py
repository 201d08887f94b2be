"""The hash grid's plain torch backend, for every device: see `hash_grid_backend.Encode`.

Speed on a CPU: the forward pass is one `embedding_bag` per chunk of points, the backward pass one flat
`scatter_add_` per pair of features, as complex numbers (22,000 points, forward and backward: 8 levels of 4
features 26 ms instead of 28 one by one, 16 levels of 2 in large tables 93 instead of 166). In comparison, the
backward pass of `embedding_bag` takes 5 times as long, that of a sparse CSR product 6 times, `index_select`
or `index_add_` 4 times. `python -m tools.benchmark field` compares with a naive grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.fields.once import once
from scaledreamer.fields.pyramid import PRIMES, Pyramid

# Points times levels per chunk: temporaries of about 2 MB on CPUs, which fit into a core's cache (half of it
# takes 11 % longer, twice 5 %), and 0.5 GB on GPUs, only to bound memory.
_BAGS_AT_ONCE = 2**16
_BAGS_AT_ONCE_ON_GPU = 2**22


def encode(
    table: Float[Tensor, "entry level_feature"],
    points: Float[Tensor, "n 3"],
    pyramid: Pyramid,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n feature"]:
    """The encoding in plain torch: see `hash_grid_backend.Encode`. Computes in the points' precision."""
    features = _Interpolate.apply(table, points, pyramid, dtype)
    return features if dtype is None else features.to(dtype)


class _Locator:
    """Finds the cells of points and their table rows, with constants as tensors "level 1"."""

    def __init__(self, pyramid: Pyramid, dtype: torch.dtype, device: torch.device) -> None:
        def column(values: Iterable[float], dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)[:, None]

        self.num_dense = num_dense = pyramid.num_dense
        self.scales = column(pyramid.scales, dtype)
        self.step_y = column(pyramid.resolutions[:num_dense])
        self.step_z = self.step_y**2
        self.sizes = column(pyramid.entries[:num_dense])
        self.masks = column(size - 1 for size in pyramid.entries[num_dense:])
        self.starts = column(pyramid.starts)

    def cells(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Int[Tensor, "3 level n"], Float[Tensor, "2 3 level n"]]:
        """Lower corners of the cells that contain the points, and linear weights of lower and upper sides.

        NaN is in cell 0, with NaN weights.
        """
        x = (points.t().contiguous().clamp(-1, 1) + 1) * 0.5
        position = (x[:, None] * self.scales).add_(0.5)
        lower = position.floor()
        sides = position.new_empty(2, *position.shape)
        torch.sub(position, lower, out=sides[1])
        torch.sub(1, sides[1], out=sides[0])
        return lower.int().clamp_(min=0), sides  # NaN as an integer is arbitrary, here not above 0

    def rows(self, cells: Int[Tensor, "3 level n"]) -> Int[Tensor, "z=2 y=2 x=2 level n"]:
        """Table rows of the 8 corners of each cell. 32-bit integers may wrap; the low bits stay correct."""
        rows = cells.new_empty(2, 2, 2, *cells.shape[1:])
        split = self.num_dense
        if split > 0:
            x, y, z = cells[:, :split]
            x, y, z = (
                _sides(x - self.sizes, 1),
                _sides(y * self.step_y, self.step_y),
                _sides(z * self.step_z, self.step_z),
            )
            # row - size, in [-size, size): modulo adds size where negative
            over = (z[:, None] + y)[:, :, None] + x
            added = (over >> 31).bitwise_and_(self.sizes).add_(self.starts[:split])
            torch.add(over, added, out=rows[..., :split, :])
        if split < cells.shape[1]:
            x, y, z = (
                _sides(cells[axis, split:] * prime, prime).bitwise_and_(self.masks)
                for axis, prime in enumerate(_PRIMES)
            )
            hashed = torch.bitwise_xor((z[:, None] ^ y)[:, :, None], x, out=rows[..., split:, :])
            hashed.add_(self.starts[split:])
        return rows


_PRIMES = tuple(prime if prime < 2**31 else prime - 2**32 for prime in PRIMES)
"""As signed 32-bit integers, whose products wrap to the same bits."""


@lru_cache(maxsize=8)
def _locator_on_gpu(pyramid: Pyramid, dtype: torch.dtype, device: torch.device) -> _Locator:
    """Cached, because copying constants to a GPU makes the CPU wait."""
    with torch.inference_mode(False):
        return _Locator(pyramid, dtype, device)


def _locator(pyramid: Pyramid, like: Tensor) -> _Locator:
    make = _locator_on_gpu if like.device.type == "cuda" else _Locator
    return make(pyramid, like.dtype, like.device)


def _sides(lower: Int[Tensor, "level n"], step: Tensor | int) -> Int[Tensor, "2 level n"]:
    """An axis's share of the row index, for the lower and the upper side of the cell."""
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
    """Features of points "n 3" from a table "entry feature", in chunks.

    Saves only its inputs: rows and weights, which are cheap, are recomputed in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, points: Tensor, pyramid: Pyramid, dtype: torch.dtype | None
    ) -> Tensor:
        ctx.save_for_backward(table, points)
        ctx.pyramid, ctx.dtype = pyramid, dtype
        entries = _rounded(table, dtype, points)
        num_levels, num_features = pyramid.num_levels, table.shape[1]
        features = entries.new_empty(len(points), num_levels, num_features)
        locator = _locator(pyramid, points)
        for piece, out in zip(_pieces(points, num_levels), _pieces(features, num_levels), strict=True):
            cells, sides = locator.cells(piece)
            rows, weights = (
                _corners_last(locator.rows(cells)),
                _corners_last(_corner_weights(*sides.unbind(1))),
            )
            bags = F.embedding_bag(rows, entries, per_sample_weights=weights, mode="sum")
            out.copy_(bags.view(num_levels, -1, num_features).transpose(0, 1))
        return features.flatten(1)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        table, points = ctx.saved_tensors
        pyramid: Pyramid = ctx.pyramid
        entries = _rounded(table, ctx.dtype, points)
        num_levels, num_features = pyramid.num_levels, table.shape[1]
        sums = _Sums(entries) if ctx.needs_input_grad[0] else None
        grad_points = torch.empty_like(points) if ctx.needs_input_grad[1] else None
        locator = _locator(pyramid, points)
        for number, (piece, grad) in enumerate(
            zip(_pieces(points, num_levels), _pieces(grads[0], num_levels), strict=True)
        ):
            cells, sides = locator.cells(piece)
            rows = locator.rows(cells).flatten().long()
            grad = grad.view(-1, num_levels, num_features).permute(2, 1, 0).contiguous()
            if sums is not None:
                sums.add(rows, _corner_weights(*sides.unbind(1)), grad)
            if grad_points is not None:
                grad_weights = _grad_weights(entries, rows, grad)
                _pieces(grad_points, num_levels)[number].copy_(
                    _grad_points(grad_weights, sides, piece, locator.scales)
                )
        grad_table = None if sums is None else sums.table_gradient().to(table.dtype)
        return grad_table, grad_points, None, None


def _rounded(table: Tensor, dtype: torch.dtype | None, points: Tensor) -> Tensor:
    """Entries in the points' precision, after rounding to `dtype`."""
    return table.to(dtype or points.dtype).to(points.dtype)


class _Sums:
    """Sums the gradient of a table, two features at a time: as complex numbers they share an index."""

    def __init__(self, table: Tensor) -> None:
        num_entries, num_features = table.shape
        self.is_paired = num_features % 2 == 0 and table.dtype in (torch.float32, torch.float64)
        dtype = table.dtype.to_complex() if self.is_paired else table.dtype
        num_columns = num_features // 2 if self.is_paired else num_features
        self.columns = table.new_zeros(num_columns, num_entries, dtype=dtype)

    def add(self, rows: Int[Tensor, " m"], weights: Float[Tensor, "2 2 2 level n"], grad: Tensor) -> None:
        """Adds each corner's weight times the gradient of its features, "feature level n"."""
        if self.is_paired:
            grad = torch.complex(grad[0::2], grad[1::2])
            weights = weights.to(grad.dtype)
        values = torch.empty_like(weights)
        for column, grad_feature in zip(self.columns, grad, strict=True):
            torch.mul(weights, grad_feature, out=values)
            column.scatter_add_(0, rows, values.flatten())

    def table_gradient(self) -> Float[Tensor, "entry feature"]:
        """The sum, in the table's layout."""
        if not self.is_paired:
            return self.columns.t()
        return torch.view_as_real(self.columns.t().contiguous()).flatten(1)


def _grad_weights(
    table: Float[Tensor, "entry feature"], rows: Int[Tensor, " m"], grad: Float[Tensor, "feature level n"]
) -> Float[Tensor, "z=2 y=2 x=2 level n"]:
    """Gradient of the corners' weights: each corner's entry times the gradient of the features."""
    total = None
    for column, grad_feature in zip(table.unbind(1), grad, strict=True):
        term = column.index_select(0, rows).view(2, 2, 2, *grad_feature.shape).mul_(grad_feature)
        total = term if total is None else total.add_(term)
    assert total is not None
    return total


def _grad_points(grad_weights: Tensor, sides: Tensor, points: Tensor, scales: Tensor) -> Float[Tensor, "n 3"]:
    """Chain rule through the trilinear weights: a side's weight has slope -1 or +1 in the position."""
    x, y, z = sides.unbind(1)
    lower, upper = grad_weights.unbind(2)
    along_x = ((upper - lower) * (z[:, None] * y)).sum((0, 1))
    lower, upper = (lower * x[0] + upper * x[1]).unbind(1)
    along_y = ((upper - lower) * z).sum(0)
    lower, upper = (lower * y[0] + upper * y[1]).unbind(0)
    slopes = torch.stack([along_x, along_y, upper - lower], -1)
    return (slopes * scales[:, :, None]).sum(0) * 0.5 * (points.abs() <= 1)


def _pieces(values: Tensor, num_levels: int) -> tuple[Tensor, ...]:
    """Chunks along the first axis."""
    at_once = _BAGS_AT_ONCE if values.device.type == "cpu" else _BAGS_AT_ONCE_ON_GPU
    return values.split(max(1, at_once // num_levels))
