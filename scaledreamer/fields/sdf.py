"""Signed distances: > 0 outside. Pure functions of tensors; lengths in scene units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def sphere_bias(points: Float[Tensor, "*n 3"], radius: float) -> Float[Tensor, "*n"]:
    """Signed distance to the sphere of this radius around the origin."""
    return points.norm(dim=-1) - radius


def finite_difference_gradient(
    sdf: Callable[[Tensor], Tensor], points: Float[Tensor, "batch n 3"], eps: float
) -> Float[Tensor, "batch n 3"]:
    """Central differences `(f(x + eps e_i) - f(x - eps e_i)) / (2 eps)`, in one call of `sdf` with 6 n
    points.

    Differentiable in the parameters of `sdf`. The gradient points outwards; its length is 1 for a distance.

    Raises: ValueError if eps is not positive.
    """
    if not eps > 0:
        raise ValueError(f"eps is {eps}: the step of finite differences must be positive, for example 0.01.")
    steps = eps * torch.eye(3, dtype=points.dtype, device=points.device)
    around = points[:, None] + torch.cat([steps, -steps])[:, None]  # "batch 6 n 3"
    values = sdf(around.flatten(1, 2)).unflatten(1, (6, -1))
    return ((values[:, :3] - values[:, 3:]) / (2 * eps)).movedim(1, -1)


def volsdf_density(sdf: Float[Tensor, "*n"], inverse_deviation: float) -> Float[Tensor, "*n"]:
    """Density of VolSDF (Yariv et al. 2021, Eq. 2 and 3) with alpha = 1 / beta = `inverse_deviation`, per
    unit length.

    The inverse deviation times the Laplace cumulative distribution of -sdf: 0 far outside, half of the
    inverse deviation on the surface, all of it deep inside.
    """
    tail = 0.5 * torch.exp(-inverse_deviation * sdf.abs())
    return inverse_deviation * torch.where(sdf > 0, tail, 1 - tail)
