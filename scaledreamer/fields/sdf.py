"""Signed distances: > 0 outside. Pure functions of tensors; lengths in scene units."""

from __future__ import annotations

import math
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


def volsdf_density(sdf: Float[Tensor, "*n"], beta: float) -> Float[Tensor, "*n"]:
    """Density `alpha Psi_beta(-sdf)` of VolSDF (Yariv et al. 2021, Eq. 2 and 3) with alpha = 1 / beta, per
    unit length.

    Psi_beta is the cumulative distribution function of a Laplace distribution with scale beta. The density is
    0 far outside, alpha / 2 on the surface and alpha deep inside.
    """
    alpha = 1 / beta
    tail = 0.5 * torch.exp(-alpha * sdf.abs())
    return alpha * torch.where(sdf > 0, tail, 1 - tail)


def volsdf_depths(beta: float, num: int = 3) -> tuple[float, ...]:
    """Equally likely distances from a flat surface at which a ray that hits it head-on terminates.

    With VolSDF's density a surface is a soft layer. In units of beta, at depth u below it (negative outside),
    a ray has accumulated the optical depth exp(u) / 2 for u < 0 and 1/2 + u - (1 - exp(-u)) / 2 for u > 0,
    and has terminated with probability 1 - exp(-optical depth). Returns the quantiles (i + 1/2) / num of the
    distance at which it terminates, positive outside.
    """
    depths = []
    for index in range(num):
        optical_depth = -math.log1p(-(index + 0.5) / num)
        if optical_depth < 0.5:
            depth = math.log(2 * optical_depth)
        else:
            low, high = 0.0, 2 * optical_depth
            for _ in range(50):
                depth = (low + high) / 2
                reached = 0.5 + depth - 0.5 * (1 - math.exp(-depth))
                low, high = (depth, high) if reached < optical_depth else (low, depth)
            depth = (low + high) / 2
        depths.append(-depth * beta)
    return tuple(depths)
