"""Masked queries of a scene against queries everywhere; memory budgets against counted memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaledreamer.accounting import count
from scaledreamer.cameras import orbit_cameras
from scaledreamer.contracts import GeneratorText
from scaledreamer.generators.hyper_ingp import HyperINGP
from scaledreamer.rendering.packing import (
    COMPOSITING_BYTES,
    bytes_per_sample,
    chunks_within,
    first_of,
    query_values,
    query_where,
)
from scaledreamer.rendering.volume import VolumeRenderer


def default_scene(batch: int = 2, **config: Any):
    torch.manual_seed(0)
    pooled = torch.randn(batch, 8)
    generator = HyperINGP(condition_dim=8, **config)
    return generator, GeneratorText(pooled, torch.zeros(batch, 1, 8), torch.ones(batch, 1, dtype=torch.bool))


class Together:
    """A scene without `row`."""

    def __init__(self, scene) -> None:
        self.sdf, self.query, self.background = scene.sdf, scene.query, scene.background


@pytest.mark.parametrize("is_one_by_one", [True, False])
@pytest.mark.parametrize("epsilon", [None, 0.01])
def test_ask_where_is_ask_times_the_mask_with_its_gradient(is_one_by_one: bool, epsilon: float | None):
    generator, condition = default_scene(3, num_levels=2, log2_table_size=8)
    points = torch.rand(3, 40, 3) * 1.6 - 0.8
    is_wanted = torch.rand(3, 40) < torch.tensor([[0.9], [0.3], [0.05]])
    is_wanted[:, 7] = True
    results = []
    for where in (True, False):
        scene = generator(condition)
        scene = scene if is_one_by_one else Together(scene)
        if where:
            values = query_where(scene, points, is_wanted, 1 / 30, epsilon)
        else:
            values = query_values(scene, points, 1 / 30, epsilon) * is_wanted[..., None]
        generator.zero_grad()
        (values * torch.linspace(-1, 1, values.numel()).view(values.shape)).sum().backward()
        assert generator.grid.table.grad is not None
        results.append((values.detach(), generator.grid.table.grad.clone()))
    assert results[0][0].shape == (3, 40, 4 if epsilon is None else 7)
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)


def test_first_of_lists_what_is_wanted_in_order():
    is_wanted = torch.tensor([[False, True, False, True], [True, False, False, False]])
    order = first_of(is_wanted)
    assert order[0].tolist() == [1, 3] and order[1, 0] == 0 and order.shape == (2, 2)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 40), st.floats(1.0, 1e5), st.booleans(), st.booleans())
def test_chunks_tile_the_rays_and_stay_within_the_budget(
    seed: int, num_rays: int, budget: float, is_one_by_one: bool, keeps: bool
):
    """Oracle: a loop over the chunks. A chunk of one ray may take more."""
    is_wanted = torch.rand(3, num_rays, 5, generator=torch.Generator().manual_seed(seed)) < 0.4
    with torch.set_grad_enabled(keeps):
        sizes = chunks_within(budget, is_wanted, 100.0, is_one_by_one=is_one_by_one)
    assert sum(sizes) == num_rays and min(sizes) > 0
    for part in is_wanted.split(sizes, 1):
        counts = part.sum((1, 2))
        together = int(counts.max()) * (1 if is_one_by_one else 3)
        kept = int(counts.sum()) if is_one_by_one else together
        taken = 100 * (kept + together / 2 if keeps else together) + part.numel() * COMPOSITING_BYTES / (
            1 if keeps else 2
        )
        assert taken <= budget + 1 or part.shape[1] == 1
    with torch.set_grad_enabled(keeps):
        assert chunks_within(1e9, is_wanted, 100.0, is_one_by_one=is_one_by_one) == [num_rays]


@pytest.mark.parametrize("keeps", [True, False])
def test_bytes_per_sample_are_those_of_many_samples(keeps: bool):
    """Oracle: the growth of the counted bytes from one larger call to another."""
    generator, condition = default_scene()
    scene = generator(condition)

    def taken(num_points: int) -> int:
        points = torch.rand(2, num_points, 3) * 2 - 1
        cost = count(lambda: query_values(scene, points, 1 / 30, None))
        return cost.kept_bytes if keeps else cost.peak_bytes

    with torch.set_grad_enabled(keeps):
        each = bytes_per_sample(scene, torch.zeros(2, 1, 3), 1 / 30, None)
        measured = (taken(40000) - taken(20000)) / 40000
    assert each == pytest.approx(measured, rel=0.02 if keeps else 0.4)


def test_counting_bytes_leaves_the_graph_of_the_scene():
    generator, condition = default_scene(num_levels=2, log2_table_size=8)
    scene = generator(condition)
    bytes_per_sample(scene, torch.zeros(2, 1, 3), 1 / 30, None)
    scene.sdf(torch.zeros(2, 1, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in generator.heads["sdf"].parameters())


@pytest.mark.parametrize("budget_mib", [16, 24])
def test_a_render_with_gradients_stays_within_its_memory_and_uses_it(budget_mib: int):
    generator, condition = default_scene(num_levels=4, mlp_depth=2)
    cameras = orbit_cameras(1, elevation_deg=10, distance=2.6, fov_deg=26, batch=2)

    def peak(memory_gib: float | None) -> int:
        renderer = VolumeRenderer(memory_gib=memory_gib)

        def whole() -> Tensor:
            rgb = renderer(generator(condition), cameras, 48, 48).rgb
            rgb.square().sum().backward()
            return rgb

        whole()  # afterwards the gradients are there
        return count(whole).peak_bytes

    unlimited, limited = peak(None), peak(budget_mib / 1024)
    assert unlimited > 1.2 * budget_mib * 2**20
    assert 0.6 * budget_mib * 2**20 < limited < 1.05 * budget_mib * 2**20
