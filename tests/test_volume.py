"""Volume rendering against closed forms and dense quadrature; conventions of images; what may be dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledreamer.accounting import count
from scaledreamer.cameras import Cameras
from scaledreamer.fields.sdf import volsdf_density
from tests.support import reference_fields
from tests.support.analytic_scenes import AnalyticScene, ball, bumpy, colorful, front, recorded
from tests.support.renders import FullRenderer, volume_renderer


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.99])
def test_homogeneous_cube_has_the_transmittance_of_its_chords(jitter: float) -> None:
    """Closed form: opacity = 1 - exp(-density * chord), whatever the samples."""
    alpha = 0.8
    scene = colorful(lambda p: torch.full_like(p[..., 0], -1e3))
    cameras = front(fov_deg=60, elevation_deg=20)
    out = volume_renderer(beta=1 / alpha)(scene, cameras, 9, 9, jitter=torch.full((1, 1, 9, 9), jitter))
    origins, directions = cameras.rays(9, 9)
    with_zero = directions + 1e-9
    one, other = (-1 - origins) / with_zero, (1 - origins) / with_zero
    chord = torch.maximum(one, other).amin(-1) - torch.minimum(one, other).amax(-1)
    expected = 1 - torch.exp(-alpha * chord.clamp(min=0))
    assert 0 < float((chord > 0).float().mean()) < 1
    torch.testing.assert_close(out.opacity[:, :, 0], expected, atol=1e-4, rtol=0)


def test_sharp_ball_has_the_silhouette_and_the_depth_of_a_ball() -> None:
    """Closed forms: the disc seen from distance d has angular radius asin(r / d); depth is where rays enter.

    Density's tail thickens the silhouette: at a distance x from the surface a ray gathers half of its light
    where s / 2 exp(-s x) sqrt(2 pi r / s) = log 2 (Laplace's method), s = 1 / beta.
    """
    size, radius, alpha = 64, 0.5, 300.0
    cameras = front(elevation_deg=30)
    renderer = volume_renderer(beta=1 / alpha, num_resampled=32)
    out = renderer(colorful(ball(radius=radius)), cameras, size, size)
    focal = size / 2 / math.tan(math.radians(20))
    tail = math.log(alpha / 2 * math.sqrt(2 * math.pi * radius / alpha) / math.log(2)) / alpha
    area = math.pi * (focal * math.tan(math.asin((radius + tail) / 2.6))) ** 2
    assert abs(float(out.opacity.sum()) / area - 1) < 0.01

    origins, directions = cameras.rays(size, size)
    half_b = (origins * directions).sum(-1)
    root = half_b**2 - (2.6**2 - radius**2)
    expected = -half_b - root.clamp(min=0).sqrt()
    inside = (root > 0.05)[:, :, None]
    assert float((out.depth - expected[:, :, None])[inside].abs().max()) < 0.015
    assert torch.equal(out.depth[out.opacity == 0], torch.full_like(out.depth[out.opacity == 0], 6.0))


def test_image_rows_start_at_the_top_and_plus_y_is_right_from_the_front() -> None:
    renderer = volume_renderer()
    up = renderer(colorful(ball((0.0, 0.0, 0.5), radius=0.2)), front(), 16, 16).opacity[0, 0, 0]
    assert up[:8].sum() > 100 * up[8:].sum()
    left_hand = renderer(colorful(ball((0.0, 0.5, 0.0), radius=0.2)), front(), 16, 16).opacity[0, 0, 0]
    assert left_hand[:, 8:].sum() > 100 * left_hand[:, :8].sum()
    near = renderer(colorful(ball((0.5, 0.0, 0.0), radius=0.2)), front(), 16, 16)
    assert abs(float(near.depth[0, 0, 0, 8, 8]) - (2.6 - 0.7)) < 0.05


def test_views_of_a_turntable_see_a_part_on_plus_x_front_right_behind_left() -> None:
    out = volume_renderer()(colorful(ball((0.6, 0.0, 0.0), radius=0.15)), front(num_views=4), 16, 16)
    columns = (out.opacity[0, :, 0].sum(1) * (torch.arange(16) - 7.5)).sum(1) / out.opacity[0, :, 0].sum(
        (1, 2)
    )
    torch.testing.assert_close(columns[[0, 2]], torch.zeros(2), atol=0.2, rtol=0)
    assert columns[1] < -3 and columns[3] > 3  # from +y the front is on the left, from -y on the right
    assert out.depth[0, 0].min() < 2.1 and out.depth[0, 2].min() > 2.9


def test_rendering_converges_to_dense_quadrature() -> None:
    """Oracle: 1,000 even samples in float64."""
    scene, cameras = colorful(bumpy), front(elevation_deg=25)
    origins, directions = (rays.flatten(0, 3).double() for rays in cameras.rays(16, 16))
    rgb, opacity = reference_fields.render_densely(
        scene.query, lambda sdf: volsdf_density(sdf, 1 / 30), origins, directions, 0.5, 5.0
    )
    rgb = rgb + (1 - opacity[:, None]) * torch.tensor(scene.behind)
    errors = []
    for num_samples in (8, 16, 64):
        renderer = volume_renderer(num_resampled=num_samples, min_opacity=0.0)
        jitter = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        out = renderer(scene, cameras, 16, 16, jitter=jitter)
        difference = out.rgb[0, 0].flatten(1).mT - rgb
        errors.append(float(difference.square().mean().sqrt()))
        assert float((out.opacity.flatten() - opacity).abs().max()) < 1.5 / num_samples
    assert errors[0] < 0.03 and errors[1] < 0.012 and errors[2] < 0.004


def test_samples_are_unbiased_over_jitter_even_where_little_is_seen() -> None:
    """The mean over many jitters equals dense quadrature in thin fog, and nearly so at a surface."""
    renderer = volume_renderer(min_opacity=0.0)
    for function, tolerance in ((lambda p: 0.12 + 0.1 * p.norm(dim=-1), 1e-3), (bumpy, 6e-3)):
        scene, cameras = colorful(function), front()
        origins, directions = (rays.flatten(0, 3).double() for rays in cameras.rays(6, 6))
        rgb, opacity = reference_fields.render_densely(
            scene.query, lambda sdf: volsdf_density(sdf, 1 / 30), origins, directions, 0.5, 5.0
        )
        jitter = (torch.arange(64) + 0.5)[:, None, None, None].expand(-1, 1, 6, 6) / 64
        out = renderer(scene, front(batch=64), 6, 6, jitter=jitter, background=torch.zeros(64, 1, 3))
        torch.testing.assert_close(out.opacity.mean(0).flatten().double(), opacity, atol=tolerance, rtol=0)
        torch.testing.assert_close(out.rgb.mean(0)[0].flatten(1).mT.double(), rgb, atol=tolerance, rtol=0)


class LearnedBall(nn.Module):
    """A ball of learned radius, centre and colour: a scene with seven parameters."""

    def __init__(self, radius: float = 0.4) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius, dtype=torch.float64))
        self.center = nn.Parameter(torch.tensor([0.1, -0.05, 0.1], dtype=torch.float64))
        self.color = nn.Parameter(torch.tensor([0.8, 0.3, 0.1], dtype=torch.float64))

    def sdf(self, points: Tensor) -> Tensor:
        return (points - self.center).norm(dim=-1) - self.radius

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.sdf(points), self.color * (0.6 + 0.4 * points)

    def background(self, directions: Tensor) -> Tensor:
        return torch.zeros_like(directions)


def test_parameter_gradients_equal_those_of_dense_quadrature() -> None:
    """Oracle: autograd through 1,000 even samples. Few samples and dropped rays cost a few percent."""
    cameras = front(elevation_deg=20)
    cameras = Cameras(
        *(t.double() for t in (cameras.elevation, cameras.azimuth, cameras.distance, cameras.fov))
    )
    target = torch.rand(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(5)).double()

    def gradient(rgb: Tensor, scene: LearnedBall) -> Tensor:
        ((rgb - target) ** 2).sum().backward()
        parts = [parameter.grad.flatten() for parameter in scene.parameters() if parameter.grad is not None]
        return torch.cat(parts)

    dense = LearnedBall()
    origins, directions = (rays.flatten(0, 3) for rays in cameras.rays(16, 16))
    rgb, _ = reference_fields.render_densely(
        dense.query, lambda sdf: volsdf_density(sdf, 1 / 30), origins, directions, 0.5, 5.0
    )
    expected = gradient(rgb.mT.view(1, 1, 3, 16, 16), dense)
    assert float(expected.abs().min()) > 0.1
    for num_samples, min_opacity, tolerance in ((64, 0.0, 0.005), (12, 0.0, 0.03), (12, 0.01, 0.05)):
        scene = LearnedBall()
        renderer = volume_renderer(num_resampled=num_samples, min_opacity=min_opacity)
        got = gradient(renderer(scene, cameras, 16, 16).rgb, scene)
        assert float((got - expected).norm() / expected.norm()) < tolerance


def test_parameter_gradients_equal_finite_differences() -> None:
    """The same samples: with the coarse pass fixed by a tiny step, the loss' slope is the gradient."""
    cameras = front()
    cameras = Cameras(
        *(t.double() for t in (cameras.elevation, cameras.azimuth, cameras.distance, cameras.fov))
    )
    renderer = volume_renderer(num_resampled=64)

    def loss(scene: LearnedBall) -> Tensor:
        return (renderer(scene, cameras, 8, 8).rgb ** 2).sum()

    scene = LearnedBall()
    loss(scene).backward()
    eps = 1e-3
    with torch.no_grad():
        slope = (loss(LearnedBall(0.4 + eps)) - loss(LearnedBall(0.4 - eps))) / (2 * eps)
    assert scene.radius.grad is not None
    assert abs(float(scene.radius.grad / slope) - 1) < 0.02


def test_dropped_rays_are_next_to_invisible() -> None:
    scene, cameras = colorful(bumpy), front()
    kept = volume_renderer(min_opacity=0.0)(scene, cameras, 24, 24).opacity
    dropped = kept[volume_renderer()(scene, cameras, 24, 24).opacity == 0]
    assert 100 < len(dropped) < 24**2 - 100
    assert float(dropped.max()) < 0.02


def test_an_empty_scene_shows_its_background_and_can_be_differentiated() -> None:
    """It is queried at one point at least, so that there is something to differentiate."""
    bias = torch.zeros((), requires_grad=True)

    def far_away(p: Tensor) -> Tensor:
        assert p.shape[1] > 0
        return p.norm(dim=-1) + 5 + bias

    scene = colorful(far_away)
    out = volume_renderer()(scene, front(batch=2), 8, 8)
    torch.testing.assert_close(out.rgb, torch.tensor(scene.behind).view(1, 1, 3, 1, 1).expand_as(out.rgb))
    assert not out.opacity.any() and torch.equal(out.depth, torch.full_like(out.depth, 6.0))
    (out.rgb.sum() + out.depth.sum()).backward()
    assert bias.grad is not None and bias.grad.isfinite()


def test_a_full_scene_is_opaque_and_finite() -> None:
    bias = torch.zeros((), requires_grad=True)
    scene = colorful(lambda p: 0 * p[..., 0] - 5 + bias)
    out = volume_renderer()(scene, front(fov_deg=30), 8, 8)
    assert bool((out.opacity > 0.999).all())
    out.rgb.sum().backward()
    assert bias.grad is not None and bias.grad.isfinite()


@pytest.mark.parametrize("alpha", [100.0, 1000.0])
def test_a_plate_thinner_than_the_lattice_is_not_overlooked(alpha: float) -> None:
    """A plate of 0.04 between two planes of the lattice, 0.105 apart, seen face-on; however sharp it is."""
    scene = colorful(lambda p: (p[..., 0] - 0.0).abs() - 0.02)
    out = volume_renderer(beta=1 / alpha)(scene, front(fov_deg=20), 6, 6)
    depths = torch.linspace(-0.5, 0.5, 20001, dtype=torch.float64)
    expected = 1 - torch.exp(-volsdf_density(depths.abs() - 0.02, 1 / alpha).mean())
    assert abs(float(out.opacity[0, 0, 0, 3, 3] - expected)) < 0.03


def test_normals_of_a_ball_point_away_from_its_centre() -> None:
    cameras = front(elevation_deg=10)
    out = volume_renderer(beta=0.005)(colorful(ball(radius=0.5)), cameras, 32, 32, with_normal=True)
    assert out.normal is not None
    origins, directions = cameras.rays(32, 32)
    hits = (origins + out.depth.movedim(2, -1) * directions)[0, 0]
    opaque = out.opacity[0, 0, 0] > 0.99
    normal = out.normal[0, 0].movedim(0, -1)[opaque]
    facing = (normal * torch.nn.functional.normalize(hits[opaque], dim=-1)).sum(-1)
    assert float(facing.min()) > 0.97
    assert float(normal.norm(dim=-1).max()) < 1 + 1e-5
    assert torch.equal(out.normal[0, 0, :, out.opacity[0, 0, 0] == 0].abs().max(), torch.zeros(()))
    assert volume_renderer()(colorful(ball(radius=0.5)), cameras, 8, 8).normal is None


def test_chunks_make_no_difference() -> None:
    scene, cameras = colorful(bumpy), front(batch=2, num_views=2)
    jitter = torch.rand(2, 2, 10, 8)
    whole = volume_renderer()(scene, cameras, 10, 8, jitter=jitter, with_normal=True)
    pieces = volume_renderer()(scene, cameras, 10, 8, jitter=jitter, with_normal=True, chunk_size=37)
    for name in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_a_chunk_asks_for_the_samples_of_its_rays_alone() -> None:
    scene, queried = recorded(bumpy)
    volume_renderer(min_opacity=0.0)(scene, front(), 10, 8, chunk_size=37)
    assert [points.shape[1] for points in queried] == [37 * 16, 37 * 16, 6 * 16]


def test_a_budget_bounds_what_is_done_before_the_samples_too() -> None:
    """Counting what a point takes, and the lattice, where points are dear; the coarse pass of many samples a
    ray, whose weights are kept for all rays.
    """

    def dear(p: Tensor) -> Tensor:
        return p.norm(dim=-1) - 0.3 + 0 * p[..., :1].expand(*p.shape[:-1], 500).square().sum(-1)

    def peak(function: Callable[[Tensor], Tensor], **settings: Any) -> int:
        renderer = volume_renderer(num_resampled=1, **settings)
        with torch.no_grad():
            return count(lambda: renderer(colorful(function), front(), 32, 32)).peak_bytes

    for function, settings in ((dear, {"lattice_resolution": 32}), (bumpy, {"num_proposals": 500})):
        budget = peak(function, **settings) // 4
        assert peak(function, memory_gib=budget / 2**30, **settings) < 1.2 * budget


@pytest.mark.parametrize("settings", [{"chunk_size": 17}, {"memory_gib": 1e-3}])
def test_gradients_of_chunks_are_those_of_the_whole(settings: dict[str, Any]) -> None:
    """Float64: the chunks' graphs are made again, from the same samples."""
    cameras = front(batch=2)
    cameras = Cameras(
        *(t.double() for t in (cameras.elevation, cameras.azimuth, cameras.distance, cameras.fov))
    )

    def gradient(renderer: FullRenderer, **call: Any) -> Tensor:
        scene = LearnedBall()
        out = renderer(scene, cameras, 32, 32, with_normal=True, **call)
        assert out.normal is not None
        (out.rgb.square().sum() + out.depth.square().sum() + out.normal[:, :, 0].sum()).backward()
        assert scene.radius.grad is not None and scene.center.grad is not None
        return torch.cat([scene.radius.grad[None], scene.center.grad])

    memory_gib = settings.pop("memory_gib", None)
    torch.testing.assert_close(
        gradient(volume_renderer(memory_gib=memory_gib), **settings), gradient(volume_renderer())
    )


def test_samples_that_are_left_out_stay_below_the_opacity_that_may_be_missed() -> None:
    scene, queried = recorded(bumpy)
    whole = volume_renderer(min_opacity=0.0)(scene, front(), 24, 24)
    kept = volume_renderer()(scene, front(), 24, 24)
    num_all, num_kept = (points.shape[1] for points in queried)
    num_rays = int((kept.opacity > 0).sum())
    assert num_all == 24**2 * 16 and num_kept < 0.85 * num_rays * 16
    # Of a ray of the coarse pass' opinion; that of the scene itself may be a little more.
    assert float((whole.opacity - kept.opacity).max()) < 0.02
    assert float((whole.rgb - kept.rgb).square().mean().sqrt()) < 1e-3


def test_nothing_is_asked_behind_an_opaque_surface_or_far_in_front_of_it() -> None:
    """Of a ball of radius 0.7: nothing near its centre, nothing where its density has gone."""
    scene, queried = recorded(lambda p: p.norm(dim=-1) - 0.7)
    out = volume_renderer(beta=1 / 60, num_resampled=32)(scene, front(), 24, 24)
    radii = queried[0].norm(dim=-1)
    assert float(out.opacity.max()) > 0.999
    assert float(radii.min()) > 0.4 and float(radii.max()) < 0.95
    queried.clear()
    volume_renderer(beta=1 / 60, num_resampled=32, min_opacity=0)(scene, front(), 24, 24)
    assert float(queried[0].norm(dim=-1).min()) < 0.3 and float(queried[0].norm(dim=-1).max()) > 1.0


def test_prompts_one_by_one_are_prompts_together() -> None:
    """A ball and next to nothing, so that one prompt wants many samples and the other few."""
    radii = torch.tensor([[0.6], [0.05]])

    def scene_of(rows: slice) -> AnalyticScene:
        return colorful(lambda p: p.norm(dim=-1) - radii[rows])

    together, apart = scene_of(slice(None)), scene_of(slice(None))
    apart.row = lambda index: scene_of(slice(index, index + 1))  # type: ignore[attr-defined]
    one, other = (
        volume_renderer()(scene, front(batch=2), 16, 16, with_normal=True) for scene in (together, apart)
    )
    assert 0 < int((one.opacity[1] > 0).sum()) < 20 < int((one.opacity[0] > 0).sum())
    for name in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)


def test_given_backgrounds_replace_the_scenes() -> None:
    scene, cameras = colorful(ball(radius=0.3)), front(batch=2, num_views=2)
    colors = torch.rand(2, 2, 3)
    plain = volume_renderer()(scene, cameras, 8, 8, background=colors)
    torch.testing.assert_close(plain.rgb[:, :, :, 0, 0], colors)
    image = colors[..., None, None].expand(-1, -1, -1, 8, 8)
    assert torch.equal(volume_renderer()(scene, cameras, 8, 8, background=image).rgb, plain.rgb)
    own = volume_renderer()(scene, cameras, 8, 8)
    difference = own.rgb - plain.rgb
    behind = torch.tensor(scene.behind).view(3, 1, 1) - colors[..., None, None]
    torch.testing.assert_close(difference, (1 - own.opacity) * behind)


def test_images_need_not_be_square() -> None:
    out = volume_renderer()(colorful(ball(radius=0.5)), front(), 12, 20)
    assert out.rgb.shape == (1, 1, 3, 12, 20)
    torch.testing.assert_close(out.opacity, out.opacity.flip(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_proposals": 1}, "num_proposals is 1: the renderer needs at least 2"),
        ({"num_resampled": 0}, "num_resampled is 0"),
        ({"lattice_resolution": 2}, "lattice_resolution is 2"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"radius": math.inf}, "radius is inf"),
        ({"near": 3.0, "far": 2.0}, "near is 3.0 and far is 2.0"),
        ({"min_opacity": 1.0}, "min_opacity is 1.0"),
        ({"normal_epsilon": -0.01}, "normal_epsilon is -0.01"),
        ({"memory_gib": 0.0}, "memory_gib is 0.0: it must be positive and finite, or None"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        volume_renderer(**settings)


def test_bad_calls_are_named() -> None:
    with pytest.raises(ValueError, match="chunk_size is 0"):
        volume_renderer()(colorful(ball(radius=0.5)), front(), 4, 4, chunk_size=0)
    with pytest.raises(ValueError, match="background is 3 x 3 pixels, the image 4 x 4"):
        volume_renderer()(colorful(ball(radius=0.5)), front(), 4, 4, background=torch.zeros(1, 1, 3, 3, 3))
