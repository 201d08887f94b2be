"""Feature planes against a naive loop over planes and corners."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scaledreamer.fields.planes import FeaturePlanes


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_points(batch: int, n: int = 40) -> Tensor:
    """Points all over the cube, with corners and a point outside among them."""
    points = torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    points[:, 0], points[:, 1], points[:, 2] = 1.0, -1.0, points.new_tensor([1.3, 0.2, -0.4])
    return points


def naive(values: Tensor, points: Tensor) -> Tensor:
    """One point, plane and corner at a time; pixels beyond the edge are zero."""
    batch, _, c, height, width = values.shape
    rows = []
    for b in range(batch):
        for point in points[b]:
            for plane, (along_w, along_h) in enumerate([("x", "y"), ("x", "z"), ("z", "y")]):
                column = ((point["xyz".index(along_w)] + 1) * width - 1) / 2
                line = ((point["xyz".index(along_h)] + 1) * height - 1) / 2
                feature = torch.zeros(c, dtype=values.dtype)
                for j in (int(line.detach().floor()), int(line.detach().floor()) + 1):
                    for i in (int(column.detach().floor()), int(column.detach().floor()) + 1):
                        if 0 <= j < height and 0 <= i < width:
                            weight = (1 - (column - i).abs()) * (1 - (line - j).abs())
                            feature = feature + weight * values[b, plane, :, j, i]
                rows.append(feature)
    return torch.stack(rows).view(batch, -1, 3 * c)


def test_values_and_gradients_equal_the_naive_loop() -> None:
    values = random_tensor(2, 3, 2, 5, 4).requires_grad_()
    points = some_points(2, 12).requires_grad_()
    results = []
    for lookup in (lambda: FeaturePlanes(values)(points), lambda: naive(values, points)):
        features = lookup()
        loss = (features * random_tensor(*features.shape, seed=2)).sum()
        grads = torch.autograd.grad(loss, (values, points))
        results.append((features, *grads))
    for ours, expected in zip(*results, strict=True):
        assert float(expected.detach().norm()) > 1
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_a_linear_function_of_the_coordinates_is_reproduced() -> None:
    """Law: planes that hold linear functions give them back, between the outermost pixels' centres."""
    centres = (2 * torch.arange(8, dtype=torch.float64) + 1) / 8 - 1
    line, column = torch.meshgrid(centres, centres, indexing="ij")
    values = (column + 10 * line).expand(1, 3, 1, 8, 8)
    points = some_points(1)[:, 3:] * centres[-1]
    x, y, z = points.unbind(-1)
    expected = torch.stack([x + 10 * y, x + 10 * z, z + 10 * y], -1)
    torch.testing.assert_close(FeaturePlanes(values)(points), expected)


def test_shared_points_give_the_same_as_copies() -> None:
    planes = FeaturePlanes(random_tensor(3, 3, 4, 6, 6))
    shared = some_points(1).expand(3, -1, -1)
    assert torch.equal(planes(shared), planes(shared.contiguous()))


def test_rows_are_the_scenes_of_the_batch() -> None:
    planes, points = FeaturePlanes(random_tensor(3, 3, 4, 6, 6)), some_points(3)
    for b in range(3):
        torch.testing.assert_close(planes.row(b)(points[b : b + 1]), planes(points)[b : b + 1])


def test_features_fade_to_zero_outside() -> None:
    planes = FeaturePlanes(torch.ones(1, 3, 1, 4, 4, dtype=torch.float64))
    along_x = torch.tensor([[[1.0, 0.0, 0.0], [1.25, 0.0, 0.0], [3.0, 0.0, 0.0]]], dtype=torch.float64)
    expected = torch.tensor([[[0.5, 0.5, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(planes(along_x), expected)


def test_coordinates_follow_the_features_if_asked_for() -> None:
    values, points = random_tensor(3, 3, 4, 6, 6), some_points(3)
    with_coordinates = FeaturePlanes(values, has_coordinates=True)
    assert torch.equal(with_coordinates(points)[..., :-3], FeaturePlanes(values)(points))
    assert torch.equal(with_coordinates(points)[..., -3:], points)
    assert torch.equal(with_coordinates.row(1)(points[1:2]), with_coordinates(points)[1:2])


@pytest.mark.parametrize("has_coordinates", [False, True])
def test_no_points_are_fine(has_coordinates: bool) -> None:
    planes, points = FeaturePlanes(random_tensor(2, 3, 4, 6, 6), has_coordinates), some_points(2)
    assert planes(points[:, :0]).shape == planes(points)[:, :0].shape


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    values, points = random_tensor(2, 3, 4, 6, 6), some_points(2)
    found = FeaturePlanes(values.cuda())(points.cuda())
    torch.testing.assert_close(found.cpu(), FeaturePlanes(values)(points))
