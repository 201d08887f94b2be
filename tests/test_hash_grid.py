"""The hash grid against a naive loop over levels and corners written from tiny-cuda-nn's sources."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.fields import hash_grid
from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.fields.hash_grid_backend import Backend, choose_backend
from tests.support import reference_fields

# Resolutions 4, 6, 10, 16, 25, 39: up to 512 entries only 4 and 6 are dense; up to 32,768 entries all but the
# last.
SHAPE = {"num_levels": 6, "base_resolution": 4, "growth": 1.58}


def make_grid(dtype: torch.dtype = torch.float64, **settings: Any) -> HashGrid:
    grid = HashGrid(features_per_level=3, **{**SHAPE, **settings})
    with torch.no_grad():
        grid.table.normal_(generator=torch.Generator().manual_seed(0))
    return grid.to(dtype)


def some_points(dtype: torch.dtype = torch.float64) -> Tensor:
    """Points all over the cube, its corners, faces and centre among them."""
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    anywhere = torch.rand(16, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    faces = anywhere[:6].clone()
    faces[range(6), [0, 1, 2, 0, 1, 2]] = torch.tensor([1.0, 1, 1, -1, -1, -1])
    return torch.cat([corners, anywhere, faces, torch.zeros(1, 3)]).to(dtype)


def reference(grid: HashGrid, points: Tensor, table: Tensor, log2_table_size: int) -> Tensor:
    return reference_fields.hash_grid(table, points, log2_table_size=log2_table_size, **SHAPE)


@pytest.mark.parametrize("log2_table_size", [9, 15])
def test_values_and_table_gradients_equal_the_naive_loop(log2_table_size: int) -> None:
    grid, points = make_grid(log2_table_size=log2_table_size), some_points()
    features = grid(points)
    table = grid.table.detach().clone().requires_grad_()
    expected = reference(grid, points, table, log2_table_size)
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(2), dtype=features.dtype)
    features.backward(upstream)
    expected.backward(upstream)
    assert table.grad is not None and float(table.grad.norm()) > 1
    torch.testing.assert_close(grid.table.grad, table.grad, rtol=1e-12, atol=1e-12)


def test_point_gradients_equal_the_naive_loop() -> None:
    grid = make_grid(log2_table_size=9)
    points = some_points()[8:24].requires_grad_()
    copied = points.detach().clone().requires_grad_()
    upstream = torch.randn(
        len(points), grid.num_features, generator=torch.Generator().manual_seed(3)
    ).double()
    grid(points).backward(upstream)
    reference(grid, copied, grid.table.detach(), 9).backward(upstream)
    assert copied.grad is not None and float(copied.grad.norm()) > 1
    torch.testing.assert_close(points.grad, copied.grad, rtol=1e-10, atol=1e-10)


def test_gradients_pass_gradcheck() -> None:
    grid = make_grid(num_levels=2, log2_table_size=3)
    points = (some_points()[8:10] * 0.9).requires_grad_()

    def features(table: Tensor, points: Tensor) -> Tensor:
        return torch.func.functional_call(grid, {"table": table}, (points,))

    assert torch.autograd.gradcheck(features, (grid.table, points), eps=1e-7)


def test_float32_is_close_to_float64() -> None:
    points = some_points(torch.float32)
    torch.testing.assert_close(
        make_grid(torch.float32, log2_table_size=9)(points),
        make_grid(log2_table_size=9)(points.double()).float(),
        rtol=0,
        atol=2e-4,
    )


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many points are worked through in pieces; so small ones have to give the same values and gradients."""
    grid, points = make_grid(log2_table_size=9), some_points().requires_grad_()
    whole = grid(points)
    (whole**2).sum().backward()
    table_grad, point_grad = grid.table.grad, points.grad
    grid.table.grad = points.grad = None
    monkeypatch.setattr("scaledreamer.fields.hash_grid_torch._BAGS_AT_ONCE", 6 * 7)
    pieces = grid(points)
    (pieces**2).sum().backward()
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(grid.table.grad, table_grad)
    torch.testing.assert_close(points.grad, point_grad)


def test_a_linear_function_of_a_dense_grid_is_reproduced() -> None:
    """Law: a table that holds a linear function of the grid position interpolates to that function."""
    grid = HashGrid(
        num_levels=1, features_per_level=1, log2_table_size=12, base_resolution=16, growth=1.0
    ).double()
    z, y, x = torch.meshgrid(*[torch.arange(16.0, dtype=torch.float64)] * 3, indexing="ij")
    with torch.no_grad():
        grid.table[:, 0] = (x + 2 * y - 3 * z).flatten()
    points = some_points()[8:24] * 0.9
    position = (points + 1) / 2 * 15 + 0.5
    torch.testing.assert_close(grid(points)[:, 0], position @ position.new_tensor([1.0, 2, -3]))


def test_points_outside_count_as_on_the_face_and_inputs_are_untouched() -> None:
    grid = make_grid(log2_table_size=9)
    points = torch.tensor([[1.5, 0.2, -7.0]], dtype=torch.float64)
    before = points.clone()
    torch.testing.assert_close(grid(points), grid(points.clamp(-1, 1)))
    assert torch.equal(points, before)
    grid(points.requires_grad_()).square().sum().backward()
    assert points.grad is not None and points.grad[0, 0] == points.grad[0, 2] == 0 != points.grad[0, 1]


def test_points_that_are_not_finite_read_nothing_outside_of_the_table() -> None:
    """Infinite ones count as on the face; NaN makes its point's features NaN, and its cells' gradients."""
    inf, nan = float("inf"), float("nan")
    for size in (9, 15):
        grid = make_grid(log2_table_size=size)
        points = torch.tensor([[inf, 0.2, -inf], [nan, 0.1, 0.2], [0.1, 0.2, nan], [0.3, 0.1, 0.2]]).double()
        features = grid(points)
        torch.testing.assert_close(features[0], grid(torch.tensor([[1, 0.2, -1]], dtype=torch.float64))[0])
        assert bool(features[1:3].isnan().all()) and bool(features[3].isfinite().all())
        features.sum().backward()
        assert grid.table.grad is not None
        assert 0 < int(grid.table.grad.isnan().any(1).sum()) <= 2 * 8 * 6


def test_a_second_derivative_is_refused() -> None:
    """The gradient in the points may be had with a graph, as long as nobody differentiates it."""
    grid, points = make_grid(log2_table_size=9), some_points()[8:12].requires_grad_()
    (gradient,) = torch.autograd.grad(grid(points).sum(), points, create_graph=True)
    expected = torch.autograd.grad(grid(points).sum(), points)[0]
    assert torch.equal(gradient, expected) and bool(gradient.any())
    with pytest.raises(RuntimeError, match="can be differentiated once only.*finite_difference_gradient"):
        gradient.square().sum().backward()


def test_entries_in_half_precision_are_rounded_alone() -> None:
    grid, points = make_grid(torch.float32, log2_table_size=9), some_points(torch.float32)
    half = grid(points, dtype=torch.float16)
    assert half.dtype == torch.float16
    rounded = HashGrid(features_per_level=3, log2_table_size=9, **SHAPE)
    rounded.load_state_dict({"table": grid.table.half().float()})
    torch.testing.assert_close(half, rounded(points).half())
    half.float().sum().backward()
    assert grid.table.grad is not None and grid.table.grad.dtype == torch.float32


@pytest.mark.parametrize("features", [1, 2, 3, 4])
def test_gradients_of_any_number_of_features_equal_those_one_by_one(features: int) -> None:
    """An even number is added up in pairs."""
    random = torch.Generator().manual_seed(0)
    grid = HashGrid(features_per_level=features, log2_table_size=9, **SHAPE).double()
    points, upstream = some_points(), torch.randn(31, 6, features, generator=random).double()
    grid(points).backward(upstream.flatten(1))
    one = HashGrid(features_per_level=1, log2_table_size=9, **SHAPE).double()
    assert grid.table.grad is not None
    for feature in range(features):
        one.table.grad = None
        one(points).backward(upstream[:, :, feature])
        assert one.table.grad is not None
        torch.testing.assert_close(grid.table.grad[:, feature], one.table.grad[:, 0])


def test_a_table_beyond_memory_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaledreamer.fields.hash_grid.memory_bytes", lambda: (2**30, 2**34))
    settings: dict[str, Any] = {
        "num_levels": 32,
        "features_per_level": 16,
        "log2_table_size": 24,
        "base_resolution": 512,
    }
    match = "num_levels 32.* log2_table_size 24 make a hash table of 32.0 GiB, and 1.0 GiB of memory are free"
    with pytest.raises(ValueError, match=match):
        HashGrid(**settings, growth=1.1)
    with torch.device("meta"):
        assert HashGrid(**settings, growth=1.1).table.shape == (32 * 2**24, 16)
    HashGrid(num_levels=4)


def test_shapes_of_points_are_kept_and_none_is_fine() -> None:
    grid = make_grid(log2_table_size=9)
    points = some_points()[:24]
    torch.testing.assert_close(grid(points.view(2, 3, 4, 3)), grid(points).view(2, 3, 4, -1))
    assert grid(points[:0]).shape == (0, 18)


def test_entries_are_rounded_up_and_bounded() -> None:
    grid = HashGrid(num_levels=3, features_per_level=2, log2_table_size=10, base_resolution=5, growth=2.0)
    assert grid.table.shape == (128 + 1000 + 1024, 2)  # 5^3 = 125 to 128, 10^3 = 1000, 20^3 to 2^10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_auto_takes_plain_torch_for_points_that_the_others_do_not_read(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where auto is a backend that only reads points in float32, and says so if it is named."""
    plain = choose_backend("torch", torch.device("cpu"))

    def encode(table: Tensor, points: Tensor, pyramid: Any, dtype: Any = None) -> Tensor:
        raise ValueError("takes points in float32")

    other = Backend("triton", encode, "")
    monkeypatch.setattr(hash_grid, "choose_backend", lambda name, device: plain if name == "torch" else other)
    points = some_points(dtype)
    features = make_grid(dtype, log2_table_size=9)(points)
    expected = make_grid(log2_table_size=9)(points.double())
    assert features.dtype == dtype
    assert (
        float((features.double() - expected).detach().norm() / expected.detach().norm())
        < 30 * torch.finfo(dtype).eps
    )
    with pytest.raises(ValueError, match="takes points in float32"):
        make_grid(dtype, log2_table_size=9, backend="triton")(points)


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    grid, points = make_grid(log2_table_size=9), some_points()
    expected = grid(points)
    (expected**2).sum().backward()
    expected_grad, grid.table.grad = grid.table.grad, None
    cuda = grid.cuda()
    features = cuda(points.cuda())
    (features**2).sum().backward()
    torch.testing.assert_close(features.cpu(), expected)
    assert cuda.table.grad is not None
    torch.testing.assert_close(cuda.table.grad.cpu(), expected_grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_levels": 0}, "num_levels is 0: a hash grid takes 1 to 32"),
        ({"features_per_level": 17}, "features_per_level is 17"),
        ({"log2_table_size": 2}, "log2_table_size is 2"),
        ({"base_resolution": 1}, "base_resolution is 1"),
        ({"growth": 0.5}, "growth is 0.5"),
        ({"backend": "tcnn"}, "backend is 'tcnn': choose 'auto', 'torch', 'triton', 'tinycudann'"),
        ({"num_levels": 32, "growth": 2.0}, "more than 65536.*lower growth or num_levels"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashGrid(**settings)
