"""Fast frames against plain quadrature of the volume rendering integral, and the laws of compositing."""

from __future__ import annotations

import pytest
import torch

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.fields.sdf import volsdf_density
from scaledreamer.meshing.isosurface import sample_near_surface
from scaledreamer.rendering.turntable import Space, march_frames, march_rays
from tests.support.analytic_scenes import AnalyticScene, ball, box, position_color, union

CAMERAS = orbit_cameras(3, elevation_deg=20, distance=2.6, fov_deg=41, start_azimuth_deg=25)
SHAPE = union(ball((0.0, 0.2, 0.3), 0.3), box((0.1, 0, -0.3), (0.4, 0.3, 0.15)))


def quadrature(scene: AnalyticScene, cameras: Cameras, size: int, beta: float) -> torch.Tensor:
    """300 equal steps along every ray, from 1.8 before the origin to 1.8 behind it, on white."""
    origins, directions = cameras.rays(size, size)
    edges = torch.linspace(-1.8, 1.8, 301) + cameras.distance.mean()
    depths = (edges[1:] + edges[:-1]) / 2
    points = origins[..., None, :] + depths[:, None] * directions[..., None, :]
    sdf, rgb = scene.query(points.reshape(1, -1, 3))
    density = volsdf_density(sdf, beta).reshape(points.shape[:-1])
    density *= (points.abs() <= 1).all(dim=-1)
    optical_depth = density.cumsum(-1) * (edges[1] - edges[0])
    behind = (-optical_depth).exp()
    weights = torch.cat([1 - behind[..., :1], behind[..., :-1] - behind[..., 1:]], dim=-1)
    image = (weights[..., None] * rgb.reshape(points.shape)).sum(-2) + behind[..., -1:]
    return image[0]


@pytest.mark.parametrize("beta", [1 / 30, 0.01])
def test_frames_agree_with_quadrature_of_the_rendering_integral(beta):
    scene = AnalyticScene(SHAPE, position_color)
    space = Space.from_distances(sample_near_surface(scene, 128).values, beta)
    frames = march_frames(scene, space, CAMERAS, 32, beta=beta, frames_at_once=2)
    frames = frames[..., :3] + 1 - frames[..., 3:]
    expected = quadrature(scene, CAMERAS, 32, beta)
    assert (frames - expected).abs().mean() < 0.005
    assert (frames - expected).square().mean().sqrt() < 0.01


def test_shares_of_a_ray_and_of_what_is_behind_add_up_to_one():
    space = Space.from_distances(sample_near_surface(AnalyticScene(SHAPE), 64).values, 1 / 30)
    origins, directions = (rays.reshape(-1, 3) for rays in CAMERAS.rays(24, 24))
    ray, point, share, behind = march_rays(space, origins, directions, 1 / 30)
    total = behind.index_add(0, ray, share)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    along = torch.linalg.cross(point - origins[ray], directions[ray]).norm(dim=-1)
    assert along.max() < 1e-4 and point.abs().max() < 1 + 0.05
    assert (behind == 0).any() and (behind == 1).any()


def test_few_points_are_queried_for_their_color():
    scene = AnalyticScene(SHAPE, position_color)
    space = Space.from_distances(sample_near_surface(scene, 64).values, 0.01)
    origins, directions = (rays.reshape(-1, 3) for rays in CAMERAS.rays(48, 48))
    ray, _, _, behind = march_rays(space, origins, directions, 0.01)
    assert len(ray) < 6 * (behind < 1).sum()


@pytest.mark.parametrize(
    "distance", [ball((0, 0, 0), 0.1), ball((0.9, 0.9, 0.9), 0.05), ball((5, 0, 0), 0.1)]
)
def test_leaps_never_enter_what_can_be_seen(distance):
    space = Space.from_distances(sample_near_surface(AnalyticScene(distance), 32).values, 1 / 30)
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    leap = space.leap_at(points)
    assert (space.leap_at(points[leap == 0]) == 0).all()
    directions = torch.nn.functional.normalize(torch.randn_like(points), dim=-1)
    landed = points + 0.999 * leap[:, None] * directions
    inside = (landed.abs() < 1).all(dim=-1) & (leap > 2 / 16)  # shorter ones step into the neighbouring cell
    assert (space.distance_at(landed[inside]) > 5 / 30 - 2 * 2 / 32 * 3**0.5).all()


def test_an_empty_scene_is_transparent():
    scene = AnalyticScene(lambda points: torch.full_like(points[..., 0], 3.0))
    space = Space.from_distances(sample_near_surface(scene, 32).values, 1 / 30)
    assert not march_frames(scene, space, CAMERAS, 8, beta=1 / 30).any()
