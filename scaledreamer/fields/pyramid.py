"""The constants of a multiresolution grid, level by level, with tiny-cuda-nn's conventions (its grid.h).

With x = (point + 1) / 2 for points in [-1, 1]^3, level l has

    scale      = base_resolution * growth^l - 1
    position   = x * scale + 0.5
    resolution = ceil(scale) + 1
    entries    = min(resolution^3 rounded up to a multiple of 8, 2^log2_table_size)

Levels with resolution^3 <= 2^log2_table_size are dense (x fastest, then y, then z), higher ones are hashed
(Müller et al. 2022, Eq. 4). As in tiny-cuda-nn a dense index is taken modulo the entries: the last half cell
before x = 1 shares entries with the far side.

All indices fit into 32 bits for any settings: a dense index is below 2 * 2^24, a row of the whole table below
2^29, a cell at most 2^16 (products with the primes of Eq. 4 wrap, as intended). Indices of features instead
of rows do not fit, and have 64 bits.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

PRIMES = (1, 2654435761, 805459861)
"""The primes of Eq. 4, one per axis."""


class Pyramid(NamedTuple):
    """Hashable, so that derived objects can be cached. Created by `make_pyramid`.

    Attributes:
        num_dense: number of dense levels, which come first.
        scales, resolutions, entries: one per level, see above.
        log2_table_size, base_resolution, growth: the settings.
    """

    num_dense: int
    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    entries: tuple[int, ...]
    log2_table_size: int
    base_resolution: int
    growth: float

    @property
    def num_levels(self) -> int:
        """Grids in the pyramid."""
        return len(self.scales)

    @property
    def starts(self) -> tuple[int, ...]:
        """First row of each level in the table."""
        return tuple(accumulate(self.entries, initial=0))[:-1]

    @property
    def num_entries(self) -> int:
        """Rows of the table."""
        return sum(self.entries)


def make_pyramid(*, num_levels: int, log2_table_size: int, base_resolution: int, growth: float) -> Pyramid:
    """The constants for settings, see `scaledreamer.fields.hash_grid.HashGrid`.

    Raises: ValueError naming the argument that is out of range.
    """
    for name, value, low, high in (
        ("num_levels", num_levels, 1, 32),
        ("log2_table_size", log2_table_size, 3, 24),
        ("base_resolution", base_resolution, 2, 512),
        ("growth", growth, 1.0, 4.0),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: a hash grid takes {low} to {high}.")
    if base_resolution * growth ** (num_levels - 1) > 2**16:
        raise ValueError(
            f"base_resolution {base_resolution} and growth {growth} give level {num_levels - 1} more than "
            "65536 grid points along an edge: lower growth or num_levels."
        )
    scales = tuple(base_resolution * growth**level - 1 for level in range(num_levels))
    resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
    return Pyramid(
        num_dense=sum(r**3 <= 2**log2_table_size for r in resolutions),
        scales=scales,
        resolutions=resolutions,
        entries=tuple(min(-(-(r**3) // 8) * 8, 2**log2_table_size) for r in resolutions),
        log2_table_size=log2_table_size,
        base_resolution=base_resolution,
        growth=growth,
    )
