"""Multiresolution hash grid (Müller et al. 2022, section 3) with interchangeable backends.

Levels, cells and the table follow the conventions of `scaledreamer.fields.pyramid`; the contract of all
backends is `hash_grid_backend.Encode`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.fields.hash_grid_backend import check_name, choose_backend
from scaledreamer.fields.pyramid import make_pyramid
from scaledreamer.memory import memory_bytes


class HashGrid(nn.Module):
    """Learned features of points, interpolated from a pyramid of grids.

    The only state is the table, which is the same for all backends.

    Args:
        num_levels: grids in the pyramid.
        features_per_level: features of an entry.
        log2_table_size: log2 of the maximum number of entries of a level.
        base_resolution: grid points per edge at level 0.
        growth: ratio of the resolutions of neighbouring levels, at least 1.
        init_scale: initial entries are uniform in [-init_scale, init_scale].
        backend: "auto", "torch", "triton" or "tinycudann", see `hash_grid_backend`; "auto" depends on the
            device of the points.

    Raises: ValueError naming the argument that is out of range, or if the table does not fit into memory.
    """

    def __init__(
        self,
        *,
        num_levels: int = 8,
        features_per_level: int = 4,
        log2_table_size: int = 14,
        base_resolution: int = 8,
        growth: float = 1.4,
        init_scale: float = 1e-4,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not 1 <= features_per_level <= 16:
            raise ValueError(f"features_per_level is {features_per_level}: a hash grid takes 1 to 16.")
        check_name(backend)
        self.pyramid = make_pyramid(
            num_levels=num_levels,
            log2_table_size=log2_table_size,
            base_resolution=base_resolution,
            growth=growth,
        )
        self.backend = backend
        self.num_features = num_levels * features_per_level
        size = (self.pyramid.num_entries, features_per_level)
        _check_memory(4 * size[0] * size[1], num_levels, features_per_level, log2_table_size)
        self.table = nn.Parameter(torch.empty(size).uniform_(-init_scale, init_scale))

    def forward(
        self, points: Float[Tensor, "*n 3"], *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n feature"]:
        """Features of points, level by level (axis feature = level * features_per_level + feature of the
        level).

        Differentiable in the table, and in the points if they require gradients. Points outside the cube are
        clamped to its faces; features of a point with a NaN are NaN.

        Args:
            dtype: of the features, and of the entries as they are read. None is the dtype of the points.

        Raises: ValueError if the backend does not work on the points' device or dtype.
        """
        chosen = choose_backend(self.backend, points.device)
        if self.backend == "auto" and points.dtype != torch.float32:
            chosen = choose_backend("torch", points.device)  # the others only accept points in float32
        features = chosen.encode(self.table, points.reshape(-1, 3), self.pyramid, dtype)
        return features.view(*points.shape[:-1], self.num_features)


def _check_memory(num_bytes: int, num_levels: int, features_per_level: int, log2_table_size: int) -> None:
    """Raises ValueError before allocating a table that does not fit into memory."""
    device = torch.get_default_device()
    if device.type == "cuda":
        free, where = torch.cuda.mem_get_info(device)[0], "the GPU's memory"
    elif device.type == "cpu":
        free, where = memory_bytes()[0], "memory"
    else:
        return
    if num_bytes > free:
        raise ValueError(
            f"num_levels {num_levels}, features_per_level {features_per_level} and log2_table_size "
            f"{log2_table_size} make a hash table of {num_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            f"of {where} are free: lower one of them. (Training takes about five times the table.)"
        )
