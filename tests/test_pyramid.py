"""The constants of a hash grid: all indices of all settings fit the integers that the backends use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledreamer.fields.pyramid import make_pyramid


@given(
    num_levels=st.integers(1, 32),
    log2_table_size=st.integers(3, 24),
    base_resolution=st.integers(2, 512),
    growth=st.floats(1, 4),
)
def test_indices_fit_32_bits(num_levels: int, log2_table_size: int, base_resolution: int, growth: float):
    settings = {"log2_table_size": log2_table_size, "base_resolution": base_resolution, "growth": growth}
    try:
        pyramid = make_pyramid(num_levels=num_levels, **settings)
    except ValueError as error:
        assert base_resolution * growth ** (num_levels - 1) > 2**16, error
        return
    assert pyramid.num_entries == pyramid.starts[-1] + pyramid.entries[-1] < 2**31
    for level, (scale, resolution, size) in enumerate(
        zip(pyramid.scales, pyramid.resolutions, pyramid.entries, strict=True)
    ):
        # At x = 1 a cell begins at the scale plus one half, rounded down, and ends one further.
        last = int(scale + 0.5) + 1
        assert last <= 2**16 + 2
        if level < pyramid.num_dense:
            assert size >= resolution**3
            assert last * (1 + resolution + resolution**2) < 2 * size <= 2**31
        else:
            assert size == 2**log2_table_size and resolution**3 > size


def test_levels_beyond_65536_points_are_refused():
    with pytest.raises(ValueError, match="level 9 more than 65536 grid points"):
        make_pyramid(num_levels=10, log2_table_size=19, base_resolution=512, growth=2.0)
