"""Samples of the volume renderer: from near to far, at the proposals and at what is resampled from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.fields.sdf import volsdf_density
from scaledreamer.rendering.sampling import cube_interval
from tests.support import reference_fields
from tests.support.analytic_scenes import AnalyticScene, ball, bumpy, colorful, front, recorded
from tests.support.renders import FullRenderer, volume_renderer

PUBLISHED: dict[str, Any] = {
    "near": 0.05,
    "far": 2.0,
    "num_proposals": 128,
    "num_resampled": 64,
    "rendered": "union",
    "lattice_resolution": 40,
    "min_opacity": 0.0,
    "beta": 1 / 60,
}
SMALL: dict[str, Any] = {"num_proposals": 16, "num_resampled": 8, "far": 6.0}


def published(**changes: Any) -> FullRenderer:
    return volume_renderer(**{**PUBLISHED, **changes})


def close_up(distance: float = 0.5, fov_deg: float = 60.0) -> Cameras:
    """The nearest published camera, at .5 from the centre: within the scene cube."""
    return orbit_cameras(1, elevation_deg=20, distance=distance, fov_deg=fov_deg)


def test_nothing_is_asked_before_near_or_behind_far() -> None:
    cameras, size = close_up(), 8
    origins, directions = (rays.flatten(1, 3) for rays in cameras.rays(size, size))
    for near, far in ((0.05, 2.0), (0.3, 0.7)):
        scene, queried = recorded(bumpy)
        published(near=near, far=far)(scene, cameras, size, size, jitter=torch.rand(1, 1, size, size))
        depths = (queried[0].unflatten(1, (size**2, -1)) - origins[:, :, None]).norm(dim=-1)
        enter, leave, _ = cube_interval(origins, directions, 1.0, near, far)
        assert float(depths.min()) >= near - 1e-6 and float(depths.max()) <= far + 1e-6
        assert bool((depths >= enter[..., None] - 1e-5).all() & (depths <= leave[..., None] + 1e-5).all())
        assert float(depths.min()) < near + 0.02 and float(depths.max()) > min(far, float(leave.max())) - 0.02


def test_what_lies_before_near_or_behind_far_is_not_seen() -> None:
    """A ball that spans depths .2 to .8 of the central ray."""
    cameras = close_up(fov_deg=20)

    def central(near: float, far: float) -> tuple[float, float]:
        renderer = published(near=near, far=far, beta=0.005)
        out = renderer(colorful(ball(radius=0.3)), cameras, 5, 5)
        return float(out.opacity[0, 0, 0, 2, 2]), float(out.depth[0, 0, 0, 2, 2])

    assert central(0.05, 2.0) == pytest.approx((1, 0.2), abs=0.02)
    assert central(0.4, 2.0) == pytest.approx((1, 0.4), abs=0.02)
    assert central(0.05, 0.15)[0] < 0.02 and central(0.85, 2.0)[0] < 0.02


def test_the_nearest_camera_sees_the_initial_sphere_in_front_of_the_near_plane_uncut() -> None:
    """Published: a sphere of radius .4 and cameras at .5, so .1 away, where density is half of its most."""
    cameras = close_up()
    cut, whole = (published(near=near)(colorful(ball(radius=0.4)), cameras, 16, 16) for near in (0.1, 0.05))
    assert float(whole.depth[0, 0, 0, 8, 8]) < float(cut.depth[0, 0, 0, 8, 8]) - 0.005
    assert float((whole.rgb - cut.rgb).abs().max()) > 0.002


def test_the_union_has_each_interval_of_the_proposals_and_of_what_is_resampled() -> None:
    """193 of a ray, which tile it, cut at all the proposals' edges; all are queried with gradients."""
    assert published().renderer.num_samples == 193
    cameras, size = close_up(), 6
    scene, queried = recorded(bumpy)
    renderer = published()
    renderer(scene, cameras, size, size)
    assert [points.shape[1] for points in queried] == [193 * size**2]

    origins, directions = (rays.flatten(1, 3) for rays in cameras.rays(size, size))
    middle = torch.full_like(origins[..., 0], 0.5)
    kept, depths, lengths, is_seen = renderer.renderer._plan(scene, origins, directions, middle, None, None)
    assert bool(is_seen.all()) and torch.equal(kept[0], torch.arange(size**2))
    enter, leave, _ = cube_interval(origins, directions, 1.0, 0.05, 2.0)
    torch.testing.assert_close(lengths.sum(-1), leave - enter)
    starts = depths - lengths / 2
    proposals = enter[..., None] + (leave - enter)[..., None] * torch.arange(128) / 128
    distance = (starts[..., None, :] - proposals[..., None]).abs().amin(-1)
    assert float(distance.max()) < 1e-5


def test_resampled_intervals_lie_where_the_light_is_stopped() -> None:
    """Oracle: dense transmittance. As many edges as resampled lie where half of a ray's light is stopped."""
    renderer = published(far=6.0)
    cameras = front(fov_deg=5)
    origins, directions = (rays.flatten(1, 3) for rays in cameras.rays(3, 3))
    middle = torch.full_like(origins[..., 0], 0.5)
    planned = renderer.renderer._plan(colorful(ball(radius=0.5)), origins, directions, middle, None, None)
    depths = torch.linspace(1.6, 3.6, 20001, dtype=torch.float64)
    optical = (volsdf_density((2.6 - depths).abs() - 0.5, renderer.renderer.beta) * 1e-4).cumsum(0)
    first, last = (depths[(1 - torch.exp(-optical)) > share][0] for share in (0.25, 0.75))
    between = ((planned[1][0, 4] > first) & (planned[1][0, 4] < last)).sum()
    proposals = 128 * float(last - first) / 2
    assert abs(float(between) - 32 - proposals) < 5


def test_proposals_carry_no_gradient() -> None:
    """A scene whose distance for the proposals has a parameter of its own; no graph for its queries."""
    proposed, rendered = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    with_graph: list[bool] = []

    class Split(AnalyticScene):
        def sdf(self, points: Tensor) -> Tensor:
            with_graph.append(torch.is_grad_enabled())
            return bumpy(points) + proposed

        def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
            return bumpy(points) + rendered, 0.5 + 0.4 * points

    out = published(**SMALL)(Split(bumpy), front(), 8, 8)
    (out.rgb.sum() + out.depth.sum() + out.opacity.sum()).backward()
    assert with_graph and not any(with_graph)
    assert proposed.grad is None
    assert rendered.grad is not None and float(rendered.grad.abs()) > 1


def test_a_rendered_union_is_dense_quadrature() -> None:
    """Oracle: 4,000 even samples of each ray in float64."""
    scene, cameras = colorful(bumpy), close_up(distance=0.75)
    origins, directions = (rays.flatten(0, 3).double() for rays in cameras.rays(12, 12))
    rgb, opacity = reference_fields.render_densely(
        scene.query, lambda sdf: volsdf_density(sdf, 1 / 60), origins, directions, 0.05, 2.0, 4000
    )
    out = published()(scene, cameras, 12, 12, background=torch.zeros(1, 1, 3))
    assert float((out.opacity.flatten() - opacity).abs().max()) < 0.01
    assert float((out.rgb[0, 0].flatten(1).mT - rgb).square().mean().sqrt()) < 0.002


@pytest.mark.parametrize("settings", [{"chunk_size": 37}, {"memory_gib": 2e-3}])
def test_chunks_of_a_union_make_no_difference(settings: dict[str, Any]) -> None:
    cameras, jitter = front(batch=2), torch.rand(2, 1, 10, 8, generator=torch.Generator().manual_seed(0))
    memory_gib = settings.get("memory_gib")
    call = {name: value for name, value in settings.items() if name != "memory_gib"}
    scene = colorful(bumpy)
    whole = published(**SMALL)(scene, cameras, 10, 8, jitter=jitter)
    parts = published(**SMALL, memory_gib=memory_gib)(scene, cameras, 10, 8, jitter=jitter, **call)
    for name in ("rgb", "opacity", "depth"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_samples_of_a_union_that_nobody_sees_may_be_left_out() -> None:
    """Limit of min_opacity: shares below it, over all 193 intervals, are what a ray may lose."""
    scene, queried = recorded(bumpy)
    whole = published(far=6.0)(scene, front(), 12, 12)
    kept = published(far=6.0, min_opacity=0.01)(scene, front(), 12, 12)
    assert queried[1].shape[1] < 0.5 * queried[0].shape[1]
    assert float((whole.opacity - kept.opacity).max()) < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rendered": "both"}, "rendered is 'both': choose 'resampled' or 'union'"),
        ({"far": math.inf}, "near is 0.1 and far is inf: depths need 0 <= near < far, both finite"),
        ({"near": -0.1}, "near is -0.1"),
    ],
)
def test_bad_settings_of_samples_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        volume_renderer(**settings)
