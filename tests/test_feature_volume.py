"""Trilinear lookup against a loop over points and corners, and against functions it must reproduce."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from scaledreamer.fields.volume import FeatureVolume


def volume(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Another number of lattice points along each axis, so that no two can be mistaken for each other."""
    return torch.randn(batch, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def some_points(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """All over the cube and a little beyond, corners and the centre among them."""
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    anywhere = 2.6 * torch.rand(batch, 20, 3, generator=torch.Generator().manual_seed(1)) - 1.3
    fixed = torch.cat([corners, torch.zeros(1, 3)]).expand(batch, -1, -1)
    return torch.cat([fixed, anywhere], 1).to(dtype)


def naive(values: Tensor, point: list[float]) -> Tensor:
    """Features "c" at one point of one scene's values "c z y x"."""
    cells = []
    for coordinate, size in zip(point, reversed(values.shape[1:]), strict=True):
        position = (coordinate + 1) / 2 * size - 0.5
        lower = math.floor(position)
        cells.append([(lower, 1 - (position - lower)), (lower + 1, position - lower)])
    total = torch.zeros(len(values), dtype=values.dtype)
    for (x, wx), (y, wy), (z, wz) in itertools.product(*cells):
        if 0 <= x < values.shape[3] and 0 <= y < values.shape[2] and 0 <= z < values.shape[1]:
            total += wx * wy * wz * values[:, z, y, x]
    return total


def test_values_equal_a_loop_over_points_and_corners() -> None:
    values, points = volume(), some_points()
    expected = torch.stack(
        [torch.stack([naive(v, p.tolist()) for p in ps]) for v, ps in zip(values, points, strict=True)]
    )
    torch.testing.assert_close(FeatureVolume(values)(points), expected, rtol=1e-12, atol=1e-12)


def test_shared_points_give_the_same_values_and_gradients_as_copies() -> None:
    shared = some_points(1).expand(3, -1, -1)
    results = []
    for points in (shared, shared.contiguous()):
        values = volume(3).requires_grad_()
        features = FeatureVolume(values)(points)
        (features**2).sum().backward()
        assert values.grad is not None and float(values.grad.norm()) > 1
        results.append((features, values.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck() -> None:
    values, points = volume().requires_grad_(), (0.77 * some_points()[:, 9:14]).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, p: FeatureVolume(v)(p), (values, points))


def test_a_linear_function_is_reproduced_between_the_outermost_lattice_points() -> None:
    centres = (2 * torch.arange(8, dtype=torch.float64) + 1) / 8 - 1
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    points = 0.85 * (2 * torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(2)).double() - 1)
    features = FeatureVolume((x + 2 * y - 3 * z)[None, None])(points)
    torch.testing.assert_close(features[..., 0], points @ points.new_tensor([1.0, 2, -3]))


def test_features_fall_to_half_at_a_face_and_to_nothing_half_a_cell_beyond() -> None:
    ones = FeatureVolume(torch.ones(1, 1, 4, 4, 4))
    along_x = torch.tensor([[[x, 0.1, 0.1] for x in (0.75, 1.0, 1.25, 7.0)]])
    torch.testing.assert_close(ones(along_x)[0, :, 0], torch.tensor([1.0, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_points_that_are_not_finite_harm_no_others(bad: float) -> None:
    values, points = volume(dtype=torch.float32), some_points(dtype=torch.float32)
    expected = FeatureVolume(values)(points)
    points[:, 3, 1] = bad
    found = FeatureVolume(values)(points)
    others = [i for i in range(points.shape[1]) if i != 3]
    assert torch.equal(found[:, others], expected[:, others])


def test_rows_are_scenes_and_no_points_are_fine() -> None:
    field, points = FeatureVolume(volume()), some_points()
    torch.testing.assert_close(field.row(1)(points[1:]), field(points)[1:])
    assert field(points[:, :0]).shape == (2, 0, 3)


def test_half_precision_values_are_looked_up_in_the_dtype_of_the_points() -> None:
    values, points = volume().bfloat16(), some_points(dtype=torch.float32)
    torch.testing.assert_close(FeatureVolume(values)(points), FeatureVolume(values.float())(points))
