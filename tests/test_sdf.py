"""Signed distances and the density of VolSDF."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scaledreamer.fields.sdf import finite_difference_gradient, sphere_bias, volsdf_density


def test_sphere_bias_is_positive_outside_and_grows_by_one_per_unit() -> None:
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, -2, 0]])
    torch.testing.assert_close(sphere_bias(points, 0.5), torch.tensor([-0.5, 0, 1.5]))


def test_finite_differences_converge_to_the_analytic_gradient_quadratically() -> None:
    points = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2

    def function(p: Tensor) -> Tensor:
        return torch.sin(3 * p[..., 0]) * p[..., 1] ** 3 + torch.exp(p[..., 2] * p[..., 0])

    x, y, z = points.unbind(-1)
    expected = torch.stack(
        [
            3 * torch.cos(3 * x) * y**3 + z * torch.exp(z * x),
            3 * torch.sin(3 * x) * y**2,
            x * torch.exp(z * x),
        ],
        -1,
    )
    errors = [
        float((finite_difference_gradient(function, points, eps) - expected).norm() / expected.norm())
        for eps in (1e-2, 1e-3)
    ]
    assert errors[0] < 1e-3
    assert 80 < errors[0] / errors[1] < 120  # a tenth of the step, a hundredth of the error


def test_finite_differences_of_a_sphere_are_unit_vectors_that_point_outside() -> None:
    points = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    gradient = finite_difference_gradient(lambda p: sphere_bias(p, 0.5), points, 0.01)
    torch.testing.assert_close(gradient, torch.nn.functional.normalize(points, dim=-1), atol=1e-3, rtol=0)


def test_finite_differences_are_differentiable_in_parameters() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    gradient = finite_difference_gradient(lambda p: scale * p[..., 0] ** 2, torch.full((1, 1, 3), 0.5), 0.01)
    gradient.sum().backward()
    torch.testing.assert_close(scale.grad, torch.tensor(1.0))


def test_density_has_the_limits_of_volsdf() -> None:
    density = volsdf_density(torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64), 1 / 30)
    torch.testing.assert_close(density, torch.tensor([30.0, 15.0, 0.0], dtype=torch.float64))


def test_density_is_the_laplace_distribution_and_falls_everywhere() -> None:
    """Oracle: VolSDF, Eq. 2, by torch's Laplace distribution of mean 0 and scale beta, times 1 / beta."""
    sdf = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    laplace = torch.distributions.Laplace(torch.zeros((), dtype=torch.float64), 1 / 30)
    density = volsdf_density(sdf, 1 / 30)
    torch.testing.assert_close(density, 30 * laplace.cdf(-sdf))
    assert (density.diff() < 0).all()


def test_density_is_symmetric_about_the_surface_and_sharpens() -> None:
    sdf = torch.linspace(0.01, 0.4, 20)
    torch.testing.assert_close(
        volsdf_density(sdf, 1 / 30) + volsdf_density(-sdf, 1 / 30), torch.full((20,), 30.0)
    )
    outside = torch.tensor(0.05)
    assert float(volsdf_density(outside, 1 / 300)) < float(volsdf_density(outside, 1 / 30))


def test_density_and_its_gradient_are_finite_far_away() -> None:
    sdf = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], requires_grad=True)
    volsdf_density(sdf, 80.0).sum().backward()
    assert sdf.grad is not None and sdf.grad.isfinite().all()


@pytest.mark.parametrize("eps", [0.0, -0.1, math.nan])
def test_bad_steps_are_named(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps is {eps}"):
        finite_difference_gradient(lambda p: p[..., 0], torch.zeros(1, 1, 3), eps)
