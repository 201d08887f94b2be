"""Naive oracles for fields and volume rendering, from the sources of the conventions, number by number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def hash_grid(
    table: Tensor,
    points: Tensor,
    *,
    num_levels: int,
    log2_table_size: int,
    base_resolution: int,
    growth: float,
) -> Tensor:
    """tiny-cuda-nn's GridEncoding (type Hash, linear interpolation), as its `grid.h` and `common_device.h`
    have it.

    A loop over points, levels and corners with Python's integers; differentiable in `table` and `points`.
    """
    rows = []
    for point in points:
        features, offset = [], 0
        for level in range(num_levels):
            # grid_scale and grid_resolution
            scale = base_resolution * growth**level - 1.0
            resolution = math.ceil(scale) + 1
            # params_in_level: next_multiple(resolution^3, 8), at most the size of the hash map
            size = min((resolution**3 + 7) // 8 * 8, 2**log2_table_size)
            # pos_fract
            position = (point * 0.5 + 0.5) * scale + 0.5
            lower = [math.floor(float(p.detach())) for p in position]
            fraction = [position[axis] - lower[axis] for axis in range(3)]
            total = torch.zeros_like(table[0])
            for corner in range(8):
                weight, cell = torch.ones_like(position[0]), []
                for axis in range(3):
                    if corner >> axis & 1:
                        weight = weight * fraction[axis]
                        cell.append(lower[axis] + 1)
                    else:
                        weight = weight * (1 - fraction[axis])
                        cell.append(lower[axis])
                # grid_index: strides until they pass the size, then the hash
                stride, index = 1, 0
                for axis in range(3):
                    if stride > size:
                        break
                    index += cell[axis] * stride
                    stride *= resolution
                if size < stride:
                    index = 0
                    for axis, prime in enumerate((1, 2654435761, 805459861)):
                        index ^= (cell[axis] * prime) % 2**32
                total = total + weight * table[offset + index % size]
            features.append(total)
            offset += size
        rows.append(torch.cat(features))
    return torch.stack(rows)


def composite(density: list[float], lengths: list[float], colors: list[float]) -> tuple[float, float]:
    """Front-to-back alpha compositing of one ray and one channel: its colour over black, and its opacity."""
    transmittance, color = 1.0, 0.0
    for d, length, c in zip(density, lengths, colors, strict=True):
        alpha = 1.0 - math.exp(-d * length)
        color += transmittance * alpha * c
        transmittance *= 1.0 - alpha
    return color, 1.0 - transmittance


def render_densely(
    query: Callable[[Tensor], tuple[Tensor, Tensor]],
    density: Callable[[Tensor], Tensor],
    origins: Tensor,
    directions: Tensor,
    near: float,
    far: float,
    num_samples: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Rgb over black and opacity of rays "n 3" by even quadrature of the emission-absorption integral.

    Points outside of the cube [-1, 1]^3 are empty. Differentiable.
    """
    step = (far - near) / num_samples
    depths = near + step * (torch.arange(num_samples, dtype=origins.dtype) + 0.5)
    points = origins[:, None] + depths[:, None] * directions[:, None]
    sdf, features = query(points.flatten(0, 1))
    inside = (points.abs() <= 1).all(-1)
    optical = density(sdf).view(len(origins), num_samples) * inside * step
    transmittance = torch.exp(-(optical.cumsum(1) - optical))
    weights = transmittance * (1 - torch.exp(-optical))
    rgb = (weights[..., None] * features[..., :3].view(len(origins), num_samples, 3)).sum(1)
    return rgb, weights.sum(1)
