"""The order function: bijections at any size, balanced, the same for any ranks, in constant memory."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.prompts.order import EpochOrder, Permutation
from scaledreamer.prompts.stream import rank_indices

BILLION = 10**9


def places(order: EpochOrder, samples: np.ndarray) -> list[tuple[int, int]]:
    """Shard and row of each sample, in the order asked for."""
    found: list[tuple[int, int]] = [(-1, -1)] * len(samples)
    for place in order.locate(samples):
        for sample, row in zip(place.samples.tolist(), place.rows.tolist(), strict=True):
            found[sample] = (place.shard, row)
    return found


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_permutation_is_a_bijection_with_its_inverse(size: int, seed: int) -> None:
    permutation = Permutation(size, seed)
    found = permutation(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))
    assert permutation.inverse(found).tolist() == list(range(size))


@given(size=st.integers(1, 2**48), data=st.data())
def test_inverse_at_any_size(size: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    permutation = Permutation(size, "key")
    found = permutation(numbers)
    assert ((found >= 0) & (found < size)).all()
    assert permutation.inverse(found).tolist() == numbers


def test_order_is_a_known_constant() -> None:
    # Pinned: a change here silently changes what a resumed run is shown.
    assert Permutation(10, 0, "shards", 0)(np.arange(10)).tolist() == PINNED_SMALL
    assert Permutation(BILLION, 0, "shards", 0)(np.arange(3)).tolist() == PINNED_BILLION


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_permutation_of_a_few_is_as_likely(size: int) -> None:
    count = 300 * math.factorial(size)
    seen = Counter(tuple(Permutation(size, seed)(np.arange(size)).tolist()) for seed in range(count))
    assert len(seen) == math.factorial(size)
    assert max(abs(times - 300) for times in seen.values()) < 5 * 300**0.5


def test_neighbours_are_thrown_far_apart() -> None:
    found = Permutation(BILLION, 0)(np.arange(20_000)).astype(float) / BILLION
    correlation = np.corrcoef(found[:-1], found[1:])[0, 1]
    assert abs(correlation) < 5 / 20_000**0.5
    histogram, _ = np.histogram(found, bins=20, range=(0, 1))
    assert abs(histogram - 1000).max() < 5 * 1000**0.5


@settings(deadline=None)
@given(
    num_prompts=st.integers(1, 400),
    shard_size=st.integers(1, 450),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 5),
)
def test_an_epoch_is_every_row_of_every_shard_once(
    num_prompts: int, shard_size: int, seed: int, epoch: int
) -> None:
    order = EpochOrder(num_prompts, shard_size, seed)
    found = places(order, np.arange(epoch * num_prompts, (epoch + 1) * num_prompts))
    sizes = [min(shard_size, num_prompts - first) for first in range(0, num_prompts, shard_size)]
    assert sorted(found) == [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    visits = [shard for shard, _ in itertools.groupby(shard for shard, _ in found)]
    assert len(visits) == len(set(visits)) == order.num_shards  # one after the other
    for sample, (shard, after) in enumerate(itertools.pairwise(visits)):
        inside = next(i for i, (found_shard, _) in enumerate(found) if found_shard == shard)
        assert order.shard_after(epoch * num_prompts + inside) == after, sample


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(places(EpochOrder(40, 8, seed), np.arange(40 * epoch, 40 * epoch + 40)))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    # Within a shard as well, and not only the order of the shards.
    rows = {tuple(row for shard, row in order if shard == 2) for order in orders}
    assert len(rows) > 6


@settings(max_examples=20, deadline=None)
@given(
    num_prompts=st.integers(5000, BILLION),
    shard_size=st.sampled_from([1000, 9973, 10_000, 2**20]),
    step=st.integers(0, 10**7),
    world_size=st.sampled_from([1, 2, 7, 64, 1024]),
    accumulation_steps=st.sampled_from([1, 2]),
)
def test_ranks_share_a_step_without_changing_it(
    num_prompts: int, shard_size: int, step: int, world_size: int, accumulation_steps: int
) -> None:
    batch_size = 14 * 1024
    order = EpochOrder(num_prompts, shard_size, seed=1)
    whole = places(order, step * batch_size + np.arange(batch_size))
    shared = {}
    for rank in {0, 1 % world_size, world_size // 2, world_size - 1}:
        for micro_step in range(accumulation_steps):
            indices = rank_indices(
                batch_size,
                rank=rank,
                world_size=world_size,
                micro_step=micro_step,
                accumulation_steps=accumulation_steps,
            )
            found = places(
                EpochOrder(num_prompts, shard_size, seed=1), step * batch_size + np.asarray(indices)
            )
            shared |= dict(zip(indices, found, strict=True))
    assert all(whole[index] == place for index, place in shared.items())
    if num_prompts >= 2 * batch_size:
        first, count = step * batch_size % num_prompts, min(batch_size, num_prompts)
        if first + count <= num_prompts:
            assert len(set(whole)) == count


def test_a_billion_prompts_cost_no_memory_and_no_time_to_seek() -> None:
    order = EpochOrder(BILLION, 10_000, seed=0)
    tracemalloc.start()
    for step in (0, 10**5, 10**8, 3 * 10**8):
        assert len({*places(order, step * 1024 + np.arange(1024))}) == 1024
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_shards_are_visited_evenly() -> None:
    order = EpochOrder(BILLION, 10_000, seed=0)
    first = [places(order, np.array([epoch * BILLION]))[0][0] for epoch in range(400)]
    histogram, _ = np.histogram(first, bins=4, range=(0, order.num_shards))
    assert abs(histogram - 100).max() < 5 * 10


PINNED_SMALL = [7, 2, 3, 4, 8, 5, 6, 9, 1, 0]
PINNED_BILLION = [106568988, 278081845, 394672078]
