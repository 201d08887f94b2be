"""Regularizers: values in closed form on known scenes, gradients that push the right way, schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.contracts import Rendering
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.schedules import Constant, Linear
from scaledreamer.training.regularizers import (
    Regularizers,
    eikonal,
    eikonal_points,
    opaque,
    orientation,
    sparsity,
)


class Sphere:
    """Signed distance `scale * (|p| - 0.5)` of each prompt."""

    def __init__(self, *scales: float) -> None:
        self.scale = torch.tensor(scales, requires_grad=True)

    def sdf(self, points: Tensor) -> Tensor:
        return self.scale[:, None] * (points.norm(dim=-1) - 0.5)

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.sdf(points), torch.full_like(points, 0.5)

    def background(self, directions: Tensor) -> Tensor:
        return torch.ones_like(directions)


def render(scene: Sphere, with_normal: bool = False) -> tuple[Rendering, Cameras]:
    cameras = orbit_cameras(2, elevation_deg=10, distance=2.6, fov_deg=41, batch=len(scene.scale))
    needs = frozenset({"depth", "normal"} if with_normal else {"depth"})
    return VolumeRenderer()(scene, cameras, 16, 16, needs=needs), cameras


def test_eikonal_is_zero_for_distances_and_closed_form_for_scaled_ones() -> None:
    scene = Sphere(1.0, 3.0)
    rendering, cameras = render(scene)
    regularizers = Regularizers(eikonal=Constant(1.0), num_points=64)
    uniforms = torch.rand(2, 64, 4)
    term = regularizers.terms(frozenset({"eikonal"}), scene, cameras, rendering, uniforms)["eikonal"]
    assert term.shape == (2, 64)
    assert term[0].median() < 1e-4
    assert term[1].median().item() == pytest.approx(4.0, rel=1e-3)
    term.mean().backward()
    assert scene.scale.grad is not None and scene.scale.grad[1] > 0.1


def test_eikonal_has_no_infinite_gradient_where_the_field_is_flat() -> None:
    gradient = torch.zeros(1, 1, 3, requires_grad=True)
    eikonal(gradient).sum().backward()
    assert gradient.grad is not None and gradient.grad.isfinite().all()


def test_eikonal_points_are_half_anywhere_and_half_near_the_surface() -> None:
    rendering, cameras = render(Sphere(1.0))
    points = eikonal_points(torch.rand(1, 400, 4), cameras, rendering, spread=0.02)
    assert points.abs().max() <= 1
    assert points[0, :200].mean(0).abs().max() < 0.15
    distance = (points[0, 200:].norm(dim=-1) - 0.5).abs()
    assert distance.median() < 0.05
    assert distance.quantile(0.95) < 0.25  # at its outline, a pixel sees the sphere and what is behind


def test_sparsity_and_opaque_in_closed_form() -> None:
    opacity = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 1, 3)
    assert torch.allclose(sparsity(opacity).flatten(), torch.tensor([0.1, math.sqrt(0.26), math.sqrt(1.01)]))
    entropy = opaque(opacity).flatten()
    assert entropy[1].item() == pytest.approx(math.log(2))
    assert entropy[0] < 0.01 and entropy[2] < 0.01


def test_opaque_pushes_away_from_one_half() -> None:
    opacity = torch.tensor([0.3, 0.7]).view(1, 1, 1, 1, 2).requires_grad_()
    opaque(opacity).sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.flatten()[0] > 0 > opacity.grad.flatten()[1]


def test_orientation_is_zero_for_a_sphere_and_positive_for_one_turned_inside_out() -> None:
    rendering, cameras = render(Sphere(1.0), with_normal=True)
    _, directions = cameras.rays(16, 16)
    assert rendering.normal is not None
    assert orientation(rendering.normal, directions).max() < 1e-3
    assert orientation(-rendering.normal, directions).mean() > 0.01


def test_factors_follow_schedules_and_zero_leaves_out() -> None:
    regularizers = Regularizers(eikonal=Linear(2.0, 0.0, 0, 10), sparsity=Constant(3.0))
    assert regularizers.factors_at(0) == {"eikonal": 2.0, "sparsity": 3.0}
    assert regularizers.factors_at(5) == {"eikonal": 1.0, "sparsity": 3.0}
    assert regularizers.factors_at(10) == {"sparsity": 3.0}


def test_every_term_has_the_same_number_of_entries_for_each_prompt() -> None:
    scene = Sphere(1.0, 1.2, 0.8)
    rendering, cameras = render(scene, with_normal=True)
    names = frozenset({"eikonal", "sparsity", "opaque", "orientation"})
    terms = Regularizers(num_points=8).terms(names, scene, cameras, rendering, torch.rand(3, 8, 4))
    assert set(terms) == names
    assert all(len(term) == 3 for term in terms.values())
