"""Cameras on spheres around the origin, their sampling, and their rays. Pure functions of tensors.

World: z up, front +x, right-handed. Azimuth 0 is a camera on +x (it sees the front), and grows
counter-clockwise seen from above: a camera at azimuth 90 degrees is on +y. Elevation 90 degrees looks
straight down. Every camera looks at the origin. Camera axes are OpenGL's: x right, y up, looking along -z.
Angles are radians, degrees only in arguments named `*_deg`. The field of view is vertical. Axes: `batch`
prompts, `view` cameras of one prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Range = tuple[float, float]


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras, all looking at the origin.

    Attributes:
        elevation: above the ground plane, in [-pi/2, pi/2].
        azimuth: from +x towards +y.
        distance: from the origin, in scene units.
        fov: vertical field of view, in (0, pi).
    """

    elevation: Float[Tensor, "batch view"]
    azimuth: Float[Tensor, "batch view"]
    distance: Float[Tensor, "batch view"]
    fov: Float[Tensor, "batch view"]

    @property
    def position(self) -> Float[Tensor, "batch view 3"]:
        """Centres of projection in world coordinates."""
        return self.distance[..., None] * self.camera_to_world[..., :3, 2]

    @property
    def camera_to_world(self) -> Float[Tensor, "batch view 4 4"]:
        """Rigid transforms whose columns are right, up, backward and position; defined at the poles too."""
        cos_e, sin_e = self.elevation.cos(), self.elevation.sin()
        cos_a, sin_a = self.azimuth.cos(), self.azimuth.sin()
        zero, one = torch.zeros_like(cos_e), torch.ones_like(cos_e)
        right = torch.stack([-sin_a, cos_a, zero, zero], -1)
        up = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e, zero], -1)
        backward = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e, zero], -1)
        position = self.distance[..., None] * backward
        position = torch.cat([position[..., :3], one[..., None]], -1)
        return torch.stack([right, up, backward, position], -1)

    def rays(
        self, height: int, width: int
    ) -> tuple[Float[Tensor, "batch view h w 3"], Float[Tensor, "batch view h w 3"]]:
        """Origins and unit directions of the rays through pixel centres; row 0 is the top of the image.

        Raises: ValueError if the image has no pixels.
        """
        if height < 1 or width < 1:
            raise ValueError(
                f"An image of {height} x {width} pixels cannot be rendered: both must be at least 1."
            )
        transform = self.camera_to_world
        like = {"dtype": transform.dtype, "device": transform.device}
        half = (0.5 * self.fov).tan()[..., None, None]
        x = half * (2 * torch.arange(width, **like) + 1 - width) / height
        y = half * (height - 1 - 2 * torch.arange(height, **like)[:, None]) / height
        x, y = torch.broadcast_tensors(x, y)
        directions = torch.stack([x, y, -torch.ones_like(x)], -1)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        directions = torch.einsum("bvij,bvhwj->bvhwi", transform[..., :3, :3], directions)
        origins = transform[..., None, None, :3, 3].expand_as(directions)
        return origins, directions

    def select(self, views: slice | list[int]) -> Cameras:
        """Some of the views of each prompt."""
        return Cameras(*(t[:, views] for t in (self.elevation, self.azimuth, self.distance, self.fov)))

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on another device."""
        return Cameras(*(t.to(device) for t in (self.elevation, self.azimuth, self.distance, self.fov)))


def sample_cameras(
    uniforms: Float[Tensor, "batch view 4"],
    *,
    elevation_deg: Range,
    distance: Range,
    fov_deg: Range,
    azimuth_deg: Range = (-180.0, 180.0),
    elevation_on_sphere: float = 0.0,
) -> Cameras:
    """Random cameras, as a function of the given uniforms in [0, 1).

    The four uniforms determine elevation, azimuth, distance and field of view. The views of one prompt are
    evenly spaced: view i is offset from view 0 (whose uniform is the only one used for azimuth) by
    i/num_views of the azimuth range, wrapping around, so each view by itself is uniform over the whole range.

    Args:
        elevation_on_sphere: share of the cameras whose elevation is uniform on the sphere within its range;
            the others are uniform in degrees, which favours the poles. ScaleDreamer uses one half.

    Raises: ValueError naming the range or share that is wrong.
    """
    if not 0 <= elevation_on_sphere <= 1:
        raise ValueError(f"elevation_on_sphere is {elevation_on_sphere}: it must be from 0 to 1.")
    _check_range("elevation_deg", elevation_deg, -90, 90)
    _check_range("azimuth_deg", azimuth_deg, -360, 360)
    _check_range("distance", distance, 0, math.inf, is_open=True)
    _check_range("fov_deg", fov_deg, 0, 180, is_open=True)

    def between(u: Tensor, limits: Range) -> Tensor:
        return limits[0] + (limits[1] - limits[0]) * u

    u_elevation, u_azimuth, u_distance, u_fov = uniforms.unbind(-1)
    num_views = uniforms.shape[1]
    offset = torch.arange(num_views, dtype=uniforms.dtype, device=uniforms.device) / max(num_views, 1)
    u_azimuth = (u_azimuth[:, :1] + offset) % 1.0
    # The same uniform selects the distribution and, rescaled to [0, 1), the elevation.
    is_on_sphere = u_elevation < elevation_on_sphere
    u_on_sphere = u_elevation / max(elevation_on_sphere, 1e-9)
    u_in_degrees = (u_elevation - elevation_on_sphere) / max(1 - elevation_on_sphere, 1e-9)
    low, high = (math.sin(math.radians(limit)) for limit in elevation_deg)
    return Cameras(
        elevation=torch.where(
            is_on_sphere,
            between(u_on_sphere, (low, high)).clamp(-1, 1).asin(),
            torch.deg2rad(between(u_in_degrees, elevation_deg)),
        ),
        azimuth=torch.deg2rad(between(u_azimuth, azimuth_deg)),
        distance=between(u_distance, distance),
        fov=torch.deg2rad(between(u_fov, fov_deg)),
    )


def orbit_cameras(
    num_views: int,
    *,
    elevation_deg: float,
    distance: float,
    fov_deg: float,
    start_azimuth_deg: float = 0.0,
    batch: int = 1,
) -> Cameras:
    """A turntable: evenly spaced azimuths, counter-clockwise from the start, the same for every prompt.

    Raises: ValueError naming the value that is wrong.
    """
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}: a turntable needs at least 1 view.")
    if batch < 1:
        raise ValueError(f"batch is {batch}: a turntable needs at least 1 scene.")
    _check_range("elevation_deg", (elevation_deg, elevation_deg), -90, 90)
    _check_range("distance", (distance, distance), 0, math.inf, is_open=True)
    _check_range("fov_deg", (fov_deg, fov_deg), 0, 180, is_open=True)
    turn = torch.arange(num_views) / num_views * (2 * math.pi) + math.radians(start_azimuth_deg)
    one = torch.ones(batch, num_views)
    return Cameras(
        elevation=math.radians(elevation_deg) * one,
        azimuth=turn * one,
        distance=distance * one,
        fov=math.radians(fov_deg) * one,
    )


def _check_range(name: str, limits: Range, low: float, high: float, is_open: bool = False) -> None:
    """Raises ValueError unless low <= limits[0] <= limits[1] <= high (strictly inside if `is_open`)."""
    first, last = limits
    inside = low < first and last < high if is_open else low <= first and last <= high
    if not (first <= last and inside):
        kind = "between, and not equal to," if is_open else "from"
        raise ValueError(
            f"{name} is {first} to {last}: give a lower and an upper limit {kind} {low} and {high}."
        )
