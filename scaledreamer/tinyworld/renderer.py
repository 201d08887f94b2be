"""Batched sphere tracing of signed distances on CPU and CUDA.

Rays that have hit or left are dropped along the way: after every few steps the active rays are packed to the
front and padded to the largest count of the batch, so that different objects stay one tensor expression.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scaledreamer.tinyworld.scene import WorldScene

BOUND = 1.25
"""Radius of a sphere around the origin that contains every object with its wear and support."""


def _sphere_span(
    origins: Float[Tensor, "batch n 3"], directions: Float[Tensor, "batch n 3"], radius: float
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
    """Depths at which rays enter and leave a sphere around the origin, and whether they hit it."""
    half_b = (origins * directions).sum(-1)
    discriminant = half_b**2 - (origins**2).sum(-1) + radius**2
    root = discriminant.clamp(min=0).sqrt()
    return (-half_b - root).clamp(min=0), -half_b + root, discriminant > 0


@torch.no_grad()
def trace(
    scene: WorldScene,
    origins: Float[Tensor, "batch n 3"],
    directions: Float[Tensor, "batch n 3"],
    *,
    num_steps: int = 48,
    tolerance: float = 2e-3,
    pack_every: int = 3,
) -> tuple[Float[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
    """Depth at which each ray first hits the surface, and whether it does.

    Args:
        origins, directions: world rays, directions of unit length.
        num_steps: marching steps; a ray that is still active afterwards counts as a miss unless it is near
            the surface.
        tolerance: distance at which a ray counts as a hit.
    """
    depth, leave, alive = _sphere_span(origins, directions, BOUND)
    hit = torch.zeros_like(alive)
    index = None
    for step in range(num_steps):
        if step % pack_every == 0:
            count = int(alive.sum(1).max())
            if count == 0:
                break
            index = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
            spread = index[..., None].expand(-1, -1, 3)
            near, far, live = depth.gather(1, index), leave.gather(1, index), alive.gather(1, index)
            start, heading = origins.gather(1, spread), directions.gather(1, spread)
        distance = scene.sdf(start + near[..., None] * heading)
        arrived = live & (distance < tolerance)
        near = torch.where(live & ~arrived, near + distance, near)
        live = live & ~arrived & (near < far)
        if step % pack_every == pack_every - 1 or step == num_steps - 1:
            assert index is not None
            depth.scatter_(1, index, near)
            alive.scatter_(1, index, live)
            hit.scatter_(1, index, hit.gather(1, index) | (near < far) & ~live)
    return depth, hit


@torch.no_grad()
def render_rays(
    scene: WorldScene, origins: Float[Tensor, "batch n 3"], directions: Float[Tensor, "batch n 3"]
) -> tuple[Float[Tensor, "batch n 3"], Bool[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Lit rgb (black for misses), whether a ray hits, and the depth."""
    depth, hit = trace(scene, origins, directions)
    count = max(int(hit.sum(1).max()), 1)
    index = hit.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    spread = index[..., None].expand(-1, -1, 3)
    points = (origins + depth[..., None] * directions).gather(1, spread)
    _, colors = scene.query(points)
    rgb = torch.zeros_like(origins).scatter_(1, spread, colors)
    return rgb * hit[..., None], hit, depth
