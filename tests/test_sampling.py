"""Places along rays: laws of stratified and importance sampling, and compositing weights against a loop."""

from __future__ import annotations

import math

import pytest
import torch

from scaledreamer.rendering import sampling
from scaledreamer.rendering.sampling import (
    compositing_weights,
    cube_interval,
    importance_depths,
    running_sum,
    stratified_depths,
    union_edges,
)
from tests.support import reference_fields


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stratified_depths_have_one_sample_in_each_interval() -> None:
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5])
    depths = stratified_depths(near, far, 8, torch.rand(2, 8, generator=generator()))
    which = (depths - near[:, None]) / (far - near)[:, None] * 8
    assert torch.equal(which.floor(), torch.arange(8.0).expand(2, 8))


def test_stratified_depths_without_uniforms_are_centres_and_one_uniform_shifts_a_ray() -> None:
    near, far = torch.zeros(2), torch.ones(2)
    centres = stratified_depths(near, far, 4)
    torch.testing.assert_close(centres, torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(2, 4))
    shifted = stratified_depths(near, far, 4, torch.tensor([[0.5], [0.0]]))
    torch.testing.assert_close(shifted, torch.stack([centres[0], torch.arange(4) / 4]))


def test_stratified_mean_is_unbiased_and_converges_faster_than_plain_monte_carlo() -> None:
    """Law: the variance of a smooth integrand's mean falls with the third power of the number of samples."""
    near, far = torch.zeros(4000).double(), torch.ones(4000).double()
    errors = []
    for num_samples in (4, 16):
        uniforms = torch.rand(4000, num_samples, generator=generator(), dtype=torch.float64)
        means = stratified_depths(near, far, num_samples, uniforms).exp().mean(-1)
        assert abs(float(means.mean()) - (math.e - 1)) < 4 * float(means.std()) / math.sqrt(4000)
        errors.append(float(means.var()))
    assert 48 < errors[0] / errors[1] < 80


def test_importance_depths_follow_the_weights() -> None:
    """Statistics: shares of samples are shares of weight, and samples spread evenly inside of a bin."""
    edges = torch.tensor([[0.0, 1.0, 1.5, 4.0]])
    weights = torch.tensor([[1.0, 0.0, 3.0]])
    uniforms = torch.rand(1, 40000, generator=generator()).sort(-1).values
    depths = importance_depths(edges, weights, uniforms)[0]
    counts = torch.histogram(depths, edges[0]).hist / 40000
    torch.testing.assert_close(counts, torch.tensor([0.25, 0.0, 0.75]), atol=0.01, rtol=0)
    inside = (depths[depths > 1.5] - 1.5) / 2.5
    even = (torch.arange(len(inside)) + 0.5) / len(inside)
    assert float((inside - even).abs().max()) < 1.63 / math.sqrt(len(inside))  # Kolmogorov-Smirnov at 1 %


def test_importance_depths_invert_the_cumulative_distribution() -> None:
    """Oracle: integrating the piecewise constant density up to each depth gives the uniforms back."""
    edges = torch.rand(5, 9, generator=generator(), dtype=torch.float64).sort(-1).values
    weights = torch.rand(5, 8, generator=generator(1), dtype=torch.float64)
    uniforms = torch.linspace(0, 1, 13, dtype=torch.float64)
    depths = importance_depths(edges, weights, uniforms)
    for ray in range(5):
        for depth, uniform in zip(depths[ray].tolist(), uniforms.tolist(), strict=True):
            mass = 0.0
            for low, high, weight in zip(edges[ray], edges[ray, 1:], weights[ray], strict=False):
                mass += float(weight) * min(max((depth - float(low)) / float(high - low), 0.0), 1.0)
            assert math.isclose(mass / float(weights[ray].sum()), uniform, abs_tol=1e-9)


def test_importance_depths_grow_end_at_the_edges_and_survive_zero_weights() -> None:
    edges = torch.linspace(1, 2, 5).expand(3, 5)
    weights = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0], [1e-30, 0, 0, 1e30]])
    depths = importance_depths(edges, weights, torch.linspace(0, 1, 9))
    assert depths.isfinite().all() and (depths.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(depths[0], torch.linspace(1, 2, 9))
    assert depths.min() >= 1 and depths.max() <= 2
    assert ((depths[1, 1:-1] >= 1.25) & (depths[1, 1:-1] <= 1.5)).all()


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_running_sums_without_cumsum_are_those_of_a_loop_with_its_gradient(size: int) -> None:
    values = torch.rand(3, size, generator=generator(), dtype=torch.float64).requires_grad_()
    upstream = torch.rand(3, size, generator=generator(1), dtype=torch.float64)
    found = sampling._doubling_sum(values)
    (found * upstream).sum().backward()
    assert values.grad is not None
    for row, sums, given, grad in zip(
        values.tolist(), found.tolist(), upstream.tolist(), values.grad.tolist(), strict=True
    ):
        assert sums == pytest.approx([sum(row[: i + 1]) for i in range(size)], rel=1e-12)
        assert grad == pytest.approx([sum(given[i:]) for i in range(size)], rel=1e-12)


@pytest.mark.gpu
def test_rendering_repeats_on_a_gpu_under_deterministic_algorithms() -> None:
    density = torch.rand(64, 32, generator=generator()).cuda()
    lengths = torch.full_like(density, 0.05)
    expected = compositing_weights(density, lengths)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(compositing_weights(density, lengths), expected)
        torch.testing.assert_close(running_sum(density), density.cpu().cumsum(-1).cuda())
    finally:
        torch.use_deterministic_algorithms(False)


def test_compositing_weights_equal_the_loop() -> None:
    density = 5 * torch.rand(6, 10, generator=generator(), dtype=torch.float64)
    lengths = torch.rand(6, 10, generator=generator(1), dtype=torch.float64)
    colors = torch.rand(6, 10, generator=generator(2), dtype=torch.float64)
    weights = compositing_weights(density, lengths)
    for ray in range(6):
        color, opacity = reference_fields.composite(
            density[ray].tolist(), lengths[ray].tolist(), colors[ray].tolist()
        )
        assert math.isclose(float((weights[ray] * colors[ray]).sum()), color, rel_tol=1e-12)
        assert math.isclose(float(weights[ray].sum()), opacity, rel_tol=1e-12)


def test_compositing_is_the_same_for_intervals_cut_in_two() -> None:
    density, lengths = torch.tensor([[2.0, 0.0, 7.0]]), torch.tensor([[0.3, 0.2, 0.1]])
    halves = compositing_weights(density.repeat_interleave(2, -1), lengths.repeat_interleave(2, -1) / 2)
    torch.testing.assert_close(halves.view(1, 3, 2).sum(-1), compositing_weights(density, lengths))


def test_compositing_gradients_stay_finite_in_opaque_matter() -> None:
    density = torch.tensor([[0.0, 1e6, 1e6, 0.0]], requires_grad=True)
    weights = compositing_weights(density, torch.ones(1, 4))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1, 0, 0]]))
    weights[0, 3].backward()
    assert density.grad is not None and density.grad.isfinite().all()


def test_cube_interval_of_rays_with_known_entry() -> None:
    origins = torch.tensor([[3.0, 0, 0], [3, 0, 0], [3, 5, 0], [0, 0, 0], [3, 3, 3], [-3, 0, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [-1, -1, -1], [1, 0, 0]])
    directions = torch.nn.functional.normalize(directions, dim=-1)
    enter, leave, meets = cube_interval(origins, directions, 1.0, 0.1, 3.4)
    assert meets.tolist() == [True, False, False, True, False, True]  # the diagonal enters beyond far
    torch.testing.assert_close(enter[[0, 3, 5]], torch.tensor([2.0, 0.1, 2.0]))
    torch.testing.assert_close(leave[[0, 3, 5]], torch.tensor([3.4, 1.0, 3.4]))  # cut off by far
    assert torch.equal(enter[[1, 2]], leave[[1, 2]])


def test_rays_within_a_face_have_finite_depths() -> None:
    """There a distance of 0 is divided by a component of 0, of either sign."""
    origins = torch.tensor([[3.0, 1, 0], [3, -1, 0], [3, 0, 1]])
    for zero in (0.0, -0.0):
        directions = torch.tensor([[-1.0, zero, zero]]).expand(3, -1)
        enter, leave, _ = cube_interval(origins, directions, 1.0, 0.1, 6.0)
        assert bool((enter.isfinite() & leave.isfinite() & (enter <= leave)).all())


def test_cube_interval_equals_marching() -> None:
    """Oracle: the first and the last of many points along the ray that lie in the cube."""
    origins = 2.6 * torch.nn.functional.normalize(torch.randn(200, 3, generator=generator()), dim=-1)
    aim = 1.5 * torch.rand(200, 3, generator=generator(1)) - 0.75
    directions = torch.nn.functional.normalize(aim - origins, dim=-1)
    enter, leave, meets = cube_interval(origins, directions, 1.0, 0.0, 6.0)
    depths = torch.linspace(0, 6, 6001)
    inside = ((origins[:, None] + depths[:, None] * directions[:, None]).abs() <= 1).all(-1)
    assert torch.equal(meets, inside.any(1))
    first = depths[inside.to(torch.uint8).argmax(1)]
    torch.testing.assert_close(enter, first, atol=2e-3, rtol=0)
    torch.testing.assert_close(leave - enter, inside.sum(1) * 1e-3, atol=3e-3, rtol=0)


def naive_union(proposals: list[float], weights: list[float], num_resampled: int) -> list[float]:
    """ScaleDreamer's sampling of one ray by loops, without its jitter: the distribution function is one minus
    the light that is left, and reaches 1 at the last edge.
    """
    reached = [0.0]
    for weight in weights[:-1]:
        reached.append(reached[-1] + weight)
    reached.append(1.0)
    samples = []
    for number in range(num_resampled):
        u, place = (number + 0.5) / num_resampled, 0
        while reached[place + 1] <= u:
            place += 1
        inside = (u - reached[place]) / (reached[place + 1] - reached[place])
        samples.append(proposals[place] + inside * (proposals[place + 1] - proposals[place]))
    edges = [max(samples[0] - (samples[1] - samples[0]) / 2, proposals[0])]
    edges += [(a + b) / 2 for a, b in zip(samples[:-1], samples[1:], strict=True)]
    edges.append(min(samples[-1] + (samples[-1] - samples[-2]) / 2, proposals[-1]))
    return sorted(proposals + edges)


def test_union_edges_are_those_of_a_loop_over_the_published_sampling() -> None:
    """Rays that stop the light, that let it through, and that meet nothing."""
    density = torch.rand(6, 128, generator=generator(), dtype=torch.float64)
    density *= torch.tensor([200.0, 30, 5, 1, 0.01, 0])[:, None] * (torch.arange(128) % 17 == 3)
    proposals = torch.linspace(0.05, 2, 129, dtype=torch.float64).expand(6, -1)
    weights = compositing_weights(density, proposals.diff(dim=-1))
    edges = union_edges(proposals, weights, 64)
    assert edges.shape == (6, 129 + 65) and bool((edges.diff(dim=-1) >= 0).all())
    expected = [naive_union(p, w, 64) for p, w in zip(proposals.tolist(), weights.tolist(), strict=True)]
    torch.testing.assert_close(edges, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.equal(edges[:, [0, -1]], proposals[:, [0, -1]])


def test_union_edges_of_one_resampled_interval_are_the_proposals_ends() -> None:
    edges = union_edges(torch.linspace(0, 1, 5), torch.tensor([0.0, 0.5, 0.0, 0.0]), 1)
    torch.testing.assert_close(edges, torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1]))
