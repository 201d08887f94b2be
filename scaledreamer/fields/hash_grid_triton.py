"""The hash grid's Triton backend, for GPUs: see `hash_grid_backend.Encode`.

Layout: a program handles a block of points and a group of neighbouring levels, whose features together fill
the 32 bytes of a GPU memory transaction. Blocks come before groups in the grid, so that the entries of a few
levels are in the cache at a time. The 8 corners are unrolled without branches (dense and hashed rows are both
computed, and one is selected), so that all loads are in flight together, x-neighbours next to each other; the
features of an entry are one vector. All sums are in float32 for any dtype of the entries.

The table's gradient is summed atomically. Many points share the few entries of coarse levels, above all the
samples along a ray, which are adjacent in a block. These levels have `_NUM_COPIES` partial sums: neighbouring
points add to different ones, and the copies are summed at the end. The order of additions is not fixed, and
so the last bits vary.

For tests it runs on a CPU in Triton's interpreter: set TRITON_INTERPRET=1 before importing it.
"""

# Kernel constants are in capitals, as usual in Triton. Functions that Triton reads as source are exempt from
# the shape checker of the tests (no_type_check).
# ruff: noqa: N803, N806

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any, no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor

from scaledreamer.fields.once import once
from scaledreamer.fields.pyramid import PRIMES, Pyramid, make_pyramid

VERSION = triton.__version__
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK = 128  # points per program, one for each thread of its 4 warps
_SECTOR_BYTES = 32
_NUM_COPIES = 16
_MAX_COARSE_ROWS = 2**16  # total rows of the levels that are summed in copies
_MIN_POINTS_FOR_COPIES = 2**14


def runs_on(device: str) -> bool:
    """Whether the kernels are for a type of device."""
    interprets = triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]
    return device == "cuda" or (device == "cpu" and interprets)


@torch.no_grad()
def try_on(device: str) -> None:
    """Raises if it does not work: Triton needs gcc or clang, and a recent enough GPU."""
    pyramid = make_pyramid(num_levels=1, log2_table_size=3, base_resolution=2, growth=1.0)
    encode(torch.zeros(8, 1, device=device), torch.zeros(1, 3, device=device), pyramid)


def encode(
    table: Float[Tensor, "entry level_feature"],
    points: Float[Tensor, "n 3"],
    pyramid: Pyramid,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n feature"]:
    """The encoding in Triton: see `hash_grid_backend.Encode`.

    Raises: ValueError for points that are not float32, or features other than float32, float16 and bfloat16.
    """
    dtype = dtype or points.dtype
    if points.dtype != torch.float32 or dtype not in _DTYPES:
        raise ValueError(
            f"the hash grid in triton takes points in float32 and gives features in float32, float16 or "
            f"bfloat16, got {points.dtype} and {dtype}: choose backend 'torch' or 'auto'."
        )
    return _Interpolate.apply(table, points, pyramid, dtype)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, pyramid: Pyramid, dtype: torch.dtype) -> Tensor:
        points, entries = points.contiguous(), table.to(dtype).contiguous()
        ctx.save_for_backward(points, table, *([entries] if ctx.needs_input_grad[1] else []))
        ctx.pyramid = pyramid
        features = entries.new_empty(len(points), pyramid.num_levels * table.shape[1])
        sizes = _sizes(pyramid, entries)
        _launch(_encode_kernel, sizes, points, entries, features, *_constants(pyramid, points.device))
        return features

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table, *entries = ctx.saved_tensors
        pyramid: Pyramid = ctx.pyramid
        grad = grads[0].contiguous()
        constants = _constants(pyramid, points.device)
        grad_table = grad_points = None
        if ctx.needs_input_grad[0]:
            num_rows, num_features = table.shape
            sizes = _sizes(pyramid, grad.view(-1, num_features))
            copies = _copies(pyramid, len(points))
            num_sums = num_rows + copies["NUM_COPIES"] * copies["COARSE_ROWS"]
            sums = points.new_zeros(num_sums, num_features)
            _launch(_table_kernel, sizes | copies, points, grad, sums, *constants, NUM_ROWS=num_rows)
            grad_table = sums[:num_rows]
            if copies["COARSE_ROWS"]:
                parts = sums[num_rows:].view(copies["NUM_COPIES"], copies["COARSE_ROWS"], num_features)
                torch.sum(parts, 0, out=grad_table[: copies["COARSE_ROWS"]])
            grad_table = grad_table.to(table.dtype)
        if ctx.needs_input_grad[1]:
            grad_points = torch.empty_like(points)
            sizes = _sizes(pyramid, entries[0]) | {"GROUP": pyramid.num_levels}
            _launch(_points_kernel, sizes, points, entries[0], grad, grad_points, *constants)
        return grad_table, grad_points, None, None


def _sizes(pyramid: Pyramid, entries: Tensor) -> dict[str, int]:
    """Kernel constants for entries or gradients "any feature" of one dtype."""
    num_features = entries.shape[1]
    return {
        "NUM_LEVELS": pyramid.num_levels,
        "NUM_DENSE": pyramid.num_dense,
        "GROUP": min(pyramid.num_levels, max(1, _SECTOR_BYTES // (num_features * entries.element_size()))),
        "F": num_features,
        "F_PAD": triton.next_power_of_2(num_features),
    }


def _copies(pyramid: Pyramid, num_points: int) -> dict[str, int]:
    """Number of (first) levels whose gradient is summed in copies, and the number of their rows."""
    num_levels = num_rows = 0
    if num_points >= _MIN_POINTS_FOR_COPIES:
        for size in pyramid.entries[: pyramid.num_dense]:
            if num_rows + size > _MAX_COARSE_ROWS:
                break
            num_levels, num_rows = num_levels + 1, num_rows + size
    return {"NUM_COARSE": num_levels, "COARSE_ROWS": num_rows, "NUM_COPIES": _NUM_COPIES}


@lru_cache(maxsize=8)
def _constants(pyramid: Pyramid, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each level: the scale; and the factors of y and z, the size and the first row.

    Cached, because copying tensors to a GPU makes the CPU wait.
    """
    rows = []
    for level, resolution in enumerate(pyramid.resolutions):
        factors = (resolution, resolution**2) if level < pyramid.num_dense else PRIMES[1:]
        signed = [factor if factor < 2**31 else factor - 2**32 for factor in factors]
        rows.append([*signed, pyramid.entries[level], pyramid.starts[level]])
    with torch.inference_mode(False):
        scales = torch.tensor(pyramid.scales, dtype=torch.float32, device=device)
        return scales, torch.tensor(rows, dtype=torch.int32, device=device)


def _launch(kernel: Any, sizes: dict[str, int], points: Tensor, *tensors: Tensor, **more: int) -> None:
    """Runs a kernel over blocks of points and groups of levels, on the points' device."""
    if not len(points):
        return
    grid = (triton.cdiv(len(points), _BLOCK), triton.cdiv(sizes["NUM_LEVELS"], sizes["GROUP"]))
    there = torch.cuda.device(points.device) if points.is_cuda else contextlib.nullcontext()
    options = {"num_warps": 4, "enable_fp_fusion": True}
    with there:
        kernel[grid](points, *tensors, len(points), **sizes, **more, BLOCK=_BLOCK, **options)


@triton.jit
@no_type_check
def _axis(points, at, inside, axis: tl.constexpr):
    """A coordinate mapped to [0, 1] and clamped; NaN stays NaN."""
    p = tl.load(points + at * 3 + axis, mask=inside, other=0.0)
    clamped = tl.where(p < -1.0, -1.0, tl.where(p > 1.0, 1.0, p))
    return p, (clamped + 1.0) * 0.5


@triton.jit
@no_type_check
def _cell(x, scale):
    """Lower side of the cell along an axis, and the weight of the upper one. NaN is in cell 0."""
    position = x * scale + 0.5
    lower = tl.floor(position)
    return tl.maximum(lower.to(tl.int32), 0).to(tl.uint32, bitcast=True), position - lower


@triton.jit
@no_type_check
def _level(levels, level):
    """Factors of y and z, entries and first row of a level."""
    factor_y = tl.load(levels + level * 4).to(tl.uint32, bitcast=True)
    factor_z = tl.load(levels + level * 4 + 1).to(tl.uint32, bitcast=True)
    size = tl.load(levels + level * 4 + 2).to(tl.uint32, bitcast=True)
    return factor_y, factor_z, size, tl.load(levels + level * 4 + 3)


@triton.jit
@no_type_check
def _row(x, y, z, size, is_dense):
    """Row in the level, from each axis' share. A dense index is below twice the size."""
    dense = x + y + z
    dense = tl.where(dense >= size, dense - size, dense)
    return tl.where(is_dense, dense, (x ^ y ^ z) & (size - 1)).to(tl.int64)


@triton.jit
@no_type_check
def _encode_kernel(
    points, entries, features, scales, levels, num_points,
    NUM_LEVELS: tl.constexpr, NUM_DENSE: tl.constexpr, GROUP: tl.constexpr,
    F: tl.constexpr, F_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_points
    _, px = _axis(points, at, inside, 0)
    _, py = _axis(points, at, inside, 1)
    _, pz = _axis(points, at, inside, 2)
    feature = tl.arange(0, F_PAD)[None, :]
    first = tl.program_id(1) * GROUP
    for level in range(first, tl.minimum(first + GROUP, NUM_LEVELS)):
        scale = tl.load(scales + level)
        factor_y, factor_z, size, start = _level(levels, level)
        x, wx = _cell(px, scale)
        y, wy = _cell(py, scale)
        z, wz = _cell(pz, scale)
        y, z = y * factor_y, z * factor_z
        total = tl.zeros([BLOCK, F_PAD], tl.float32)
        for corner in tl.static_range(8):
            cx, vx = (x + 1, wx) if corner & 1 else (x, 1.0 - wx)
            cy, vy = (y + factor_y, wy) if corner & 2 else (y, 1.0 - wy)
            cz, vz = (z + factor_z, wz) if corner & 4 else (z, 1.0 - wz)
            row = _row(cx, cy, cz, size, level < NUM_DENSE) + start
            if F == F_PAD:
                entry = tl.load(entries + row[:, None] * F + feature)
            else:
                entry = tl.load(entries + row[:, None] * F + feature, mask=feature < F, other=0.0)
            total += (vx * vy * vz)[:, None] * entry.to(tl.float32)
        out = features + at[:, None] * (NUM_LEVELS * F) + level * F + feature
        tl.store(out, total.to(features.dtype.element_ty), mask=inside[:, None] & (feature < F))


@triton.jit
@no_type_check
def _table_kernel(
    points, grad, sums, scales, levels, num_points,
    NUM_LEVELS: tl.constexpr, NUM_DENSE: tl.constexpr, GROUP: tl.constexpr,
    F: tl.constexpr, F_PAD: tl.constexpr, BLOCK: tl.constexpr, NUM_ROWS: tl.constexpr,
    NUM_COARSE: tl.constexpr, COARSE_ROWS: tl.constexpr, NUM_COPIES: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_points
    _, px = _axis(points, at, inside, 0)
    _, py = _axis(points, at, inside, 1)
    _, pz = _axis(points, at, inside, 2)
    feature = tl.arange(0, F_PAD)[None, :]
    is_used = inside[:, None] & (feature < F)
    copy = NUM_ROWS + (at % NUM_COPIES) * COARSE_ROWS
    first = tl.program_id(1) * GROUP
    for level in range(first, tl.minimum(first + GROUP, NUM_LEVELS)):
        scale = tl.load(scales + level)
        factor_y, factor_z, size, start = _level(levels, level)
        x, wx = _cell(px, scale)
        y, wy = _cell(py, scale)
        z, wz = _cell(pz, scale)
        y, z = y * factor_y, z * factor_z
        upstream = grad + at[:, None] * (NUM_LEVELS * F) + level * F + feature
        upstream = tl.load(upstream, mask=is_used, other=0.0).to(tl.float32)
        origin = tl.where(level < NUM_COARSE, copy, 0) + start
        for corner in tl.static_range(8):
            cx, vx = (x + 1, wx) if corner & 1 else (x, 1.0 - wx)
            cy, vy = (y + factor_y, wy) if corner & 2 else (y, 1.0 - wy)
            cz, vz = (z + factor_z, wz) if corner & 4 else (z, 1.0 - wz)
            row = _row(cx, cy, cz, size, level < NUM_DENSE) + origin
            value = (vx * vy * vz)[:, None] * upstream
            tl.atomic_add(sums + row[:, None] * F + feature, value, mask=is_used, sem="relaxed")


@triton.jit
@no_type_check
def _points_kernel(
    points, entries, grad, grad_points, scales, levels, num_points,
    NUM_LEVELS: tl.constexpr, NUM_DENSE: tl.constexpr, GROUP: tl.constexpr,
    F: tl.constexpr, F_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_points
    qx, px = _axis(points, at, inside, 0)
    qy, py = _axis(points, at, inside, 1)
    qz, pz = _axis(points, at, inside, 2)
    feature = tl.arange(0, F_PAD)[None, :]
    is_used = inside[:, None] & (feature < F)
    along_x = tl.zeros([BLOCK], tl.float32)
    along_y = tl.zeros([BLOCK], tl.float32)
    along_z = tl.zeros([BLOCK], tl.float32)
    for level in range(NUM_LEVELS):
        scale = tl.load(scales + level)
        factor_y, factor_z, size, start = _level(levels, level)
        x, wx = _cell(px, scale)
        y, wy = _cell(py, scale)
        z, wz = _cell(pz, scale)
        y, z = y * factor_y, z * factor_z
        upstream = grad + at[:, None] * (NUM_LEVELS * F) + level * F + feature
        upstream = tl.load(upstream, mask=is_used, other=0.0).to(tl.float32) * scale
        for corner in tl.static_range(8):
            # Along an axis the weight has slope -1 in the position at the lower side, +1 at the upper one.
            cx, vx, sx = (x + 1, wx, 1.0) if corner & 1 else (x, 1.0 - wx, -1.0)
            cy, vy, sy = (y + factor_y, wy, 1.0) if corner & 2 else (y, 1.0 - wy, -1.0)
            cz, vz, sz = (z + factor_z, wz, 1.0) if corner & 4 else (z, 1.0 - wz, -1.0)
            row = _row(cx, cy, cz, size, level < NUM_DENSE) + start
            entry = tl.load(entries + row[:, None] * F + feature, mask=feature < F, other=0.0)
            dot = tl.sum(entry.to(tl.float32) * upstream, 1)
            along_x += sx * vy * vz * dot
            along_y += sy * vx * vz * dot
            along_z += sz * vx * vy * dot
    out = grad_points + at * 3
    tl.store(out, tl.where(tl.abs(qx) <= 1.0, 0.5, 0.0) * along_x, mask=inside)
    tl.store(out + 1, tl.where(tl.abs(qy) <= 1.0, 0.5, 0.0) * along_y, mask=inside)
    tl.store(out + 2, tl.where(tl.abs(qz) <= 1.0, 0.5, 0.0) * along_z, mask=inside)
