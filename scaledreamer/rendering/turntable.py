"""Many frames of one finished scene without gradients: with any renderer, or by fast volume rendering.

Fast volume rendering has the same image formation as `rendering/volume.py` (VolSDF density, front-to-back
compositing) and two shortcuts. Distances are interpolated from the lattice of the mesh. Rays skip empty
space: a grid stores for every cell the distance to the nearest cell with visible density. Colours are queried
at a few depths per ray, each of which represents a share of the ray's weight. World axes; points in [-1,
1]^3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.contracts import Renderer, Scene
from scaledreamer.fields.sdf import volsdf_density

VISIBLE_WITHIN = 5.0
"""Density further outside a surface than this many betas is ignored; it absorbs 0.3 % of the light."""

OPAQUE_BELOW = 0.01
"""Rays end at this transmittance; what they accumulated is then scaled up to 1."""

COLOR_SHARE = 0.15
"""The colour is queried again after each such share of a ray's weight."""

RAYS_AT_ONCE = 8192
"""Rays of one image that are rendered at once, to bound memory."""


@dataclass(frozen=True)
class Space:
    """Occupancy of the scene cube.

    Attributes:
        distances: the SDF on a lattice of n + 1 points per side.
        leap: for each of the (n / 2)^3 cells, a distance that a ray may safely skip from anywhere in it; 0 if
            something may be visible in the cell.
    """

    distances: Float[Tensor, "x y z"]
    leap: Float[Tensor, "cx cy cz"]

    @classmethod
    def from_distances(cls, distances: Float[Tensor, "x y z"], beta: float) -> Space:
        """From signed distances on a lattice of n + 1 points per side, n even."""
        lowest = -F.max_pool3d(-distances[None, None], 3, stride=2)[0, 0]
        cell = 2 / lowest.shape[0]
        occupied = (lowest < VISIBLE_WITHIN * beta).cpu().numpy()
        cells_away = distance_transform_edt(~occupied) if occupied.any() else np.full(occupied.shape, 1e3)
        assert isinstance(cells_away, np.ndarray)
        between_any_points = cells_away.astype(np.float32) * cell - cell * 3**0.5
        leap = np.where(occupied, np.float32(0), np.maximum(between_any_points, cell / 2)).astype(np.float32)
        return cls(distances, torch.from_numpy(leap).to(distances.device))

    def leap_at(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The leaps of the cells that contain the points."""
        size = self.leap.shape[0]
        x, y, z = ((points + 1) * (size / 2)).int().clamp_(0, size - 1).unbind(-1)
        return self.leap.view(-1)[(x * size + y) * size + z]

    def distance_at(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Interpolated."""
        grid = points.flip(-1)[None, None, None]  # grid_sample counts the last axis first
        return F.grid_sample(
            self.distances[None, None], grid, align_corners=True, padding_mode="border"
        ).view(-1)


@torch.no_grad()
def render_frames(
    renderer: Renderer, scene: Scene, cameras: Cameras, size: int
) -> Float[Tensor, "view {size} {size} 4"]:
    """Square images of one scene, without its background, with any renderer: premultiplied rgba in [0, 1]."""
    frames = []
    for number in range(cameras.azimuth.shape[1]):
        one = cameras.select([number])
        black = torch.zeros(1, 1, 3, device=one.azimuth.device)
        image = renderer(scene, one, size, size, background=black, chunk_size=RAYS_AT_ONCE)
        frames.append(torch.cat([image.rgb, image.opacity], dim=2)[0].float().movedim(1, -1))
    return torch.cat(frames).clamp(0, 1)


@torch.no_grad()
def march_frames(
    scene: Scene,
    space: Space,
    cameras: Cameras,
    size: int,
    *,
    beta: float,
    frames_at_once: int = 4,
) -> Float[Tensor, "view {size} {size} 4"]:
    """Like `render_frames`, by fast volume rendering."""
    frames = []
    for first in range(0, cameras.azimuth.shape[1], frames_at_once):
        some = cameras.select(slice(first, first + frames_at_once))
        origins, directions = (rays.reshape(-1, 3) for rays in some.rays(size, size))
        ray, point, share, transmittance = march_rays(space, origins, directions, beta)
        rgb = torch.zeros_like(origins)
        for chunk in torch.arange(len(ray), device=ray.device).split(1 << 16):
            _, features = scene.query(point[chunk][None])
            rgb.index_add_(0, ray[chunk], share[chunk, None] * features[0, :, :3].float())
        rgba = torch.cat([rgb, 1 - transmittance[:, None]], dim=-1)
        frames.append(rgba.reshape(-1, size, size, 4))
    return torch.cat(frames).clamp(0, 1)


def march_rays(
    space: Space,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    beta: float,
) -> tuple[
    Int[Tensor, " sample"], Float[Tensor, "sample 3"], Float[Tensor, " sample"], Float[Tensor, " ray"]
]:
    """Samples along rays.

    Returns: for each sample its ray, its point and its weight; and for each ray the weight of the background.
        A ray's weights sum to 1.
    """
    step = beta
    transmittance = torch.ones_like(origins[:, 0])
    depth, leave = _cube_span(origins, directions)
    ray = (depth < leave).nonzero()[:, 0]
    depth, leave, origins, directions = depth[ray], leave[ray], origins[ray], directions[ray]
    light = torch.ones_like(depth)  # transmittance
    # Accumulated since the last sample.
    share, share_times_depth = torch.zeros_like(depth), torch.zeros_like(depth)
    samples: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(ray):
        leap = space.leap_at(torch.addcmul(origins, depth[:, None], directions))
        depth_now, depth = depth, depth + torch.where(leap == 0, step, leap)
        here = (leap == 0).nonzero()[:, 0]
        middle = depth_now.index_select(0, here) + 0.5 * step
        heading = directions.index_select(0, here)
        sdf = space.distance_at(torch.addcmul(origins.index_select(0, here), middle[:, None], heading))
        through = (-step * volsdf_density(sdf, beta)).exp()
        light_here = light.index_select(0, here)
        seen = light_here * (1 - through)
        light.index_copy_(0, here, light_here * through)
        share.index_add_(0, here, seen)
        share_times_depth.index_add_(0, here, seen * middle)

        has_ended = (depth >= leave) | (light <= OPAQUE_BELOW)
        take = ((share > COLOR_SHARE) | (has_ended & (share > 0))).nonzero()[:, 0]
        taken = share.index_select(0, take)
        at = share_times_depth.index_select(0, take) / taken
        heading = directions.index_select(0, take)
        point = torch.addcmul(origins.index_select(0, take), at[:, None], heading)
        samples.append((ray.index_select(0, take), point, taken))
        share.index_fill_(0, take, 0)
        share_times_depth.index_fill_(0, take, 0)

        ended, on = has_ended.nonzero()[:, 0], (~has_ended).nonzero()[:, 0]
        if len(ended):
            transmittance[ray.index_select(0, ended)] = light.index_select(0, ended)
            state = (ray, depth, leave, light, share, share_times_depth, origins, directions)
            ray, depth, leave, light, share, share_times_depth, origins, directions = (
                values.index_select(0, on) for values in state
            )
    if not samples:
        nothing = origins.new_zeros(0)
        return nothing.long(), nothing.view(0, 3), nothing, transmittance
    rays, points, shares = (torch.cat(parts) for parts in zip(*samples, strict=True))
    is_opaque = transmittance <= OPAQUE_BELOW
    shares = shares / torch.where(is_opaque, 1 - transmittance, 1.0)[rays]
    return rays, points, shares, transmittance.masked_fill(is_opaque, 0)


def _cube_span(
    origins: Float[Tensor, "ray 3"], directions: Float[Tensor, "ray 3"]
) -> tuple[Float[Tensor, " ray"], Float[Tensor, " ray"]]:
    """Depths at which rays enter and leave the cube [-1, 1]^3; entry > exit if they miss it."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    one, other = (-1 - origins) / safe, (1 - origins) / safe
    return torch.minimum(one, other).amax(-1).clamp(min=0), torch.maximum(one, other).amin(-1)
