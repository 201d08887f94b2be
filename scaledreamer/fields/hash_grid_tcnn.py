"""The hash grid's tiny-cuda-nn backend, if installed: see `hash_grid_backend.Encode`.

Its parameters are one flat vector (grid.h, `GridEncodingTemplated`):
- level after level, entry after entry, feature after feature;
- a level has resolution^3 entries rounded up to a multiple of 8, at most 2^log2_hashmap_size;
- corners map to entries as in `scaledreamer.fields.pyramid`, which follows its conventions.
So that vector is our flattened table "entry feature", without gaps between the levels. The bindings pad
batches to a multiple of their own and cut the features to `n_output_dims`, levels times features.

It computes scales in float32. If a scale is an integer up to rounding, its resolution may differ by one, and
so may the size of the level; the sizes are compared, and such a grid is refused.

On a machine without a GPU, `import tinycudann` raises EnvironmentError rather than ImportError, and so does
this module.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tinycudann  # pyright: ignore[reportMissingImports]
import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.fields.once import once
from scaledreamer.fields.pyramid import Pyramid, make_pyramid

VERSION = getattr(tinycudann, "__version__", "of unknown version")
_DTYPES = (torch.float32, torch.float16)
_FEATURES = (1, 2, 4, 8)  # per level, for which it has kernels


def runs_on(device: str) -> bool:
    """Whether its kernels are for a type of device."""
    return device == "cuda"


@torch.no_grad()
def try_on(device: str) -> None:
    """Raises if it does not work, for example because it was built for another GPU."""
    pyramid = make_pyramid(num_levels=1, log2_table_size=3, base_resolution=2, growth=1.0)
    encode(torch.zeros(8, 2, device=device), torch.zeros(1, 3, device=device), pyramid)


def to_tcnn(table: Float[Tensor, "entry level_feature"], pyramid: Pyramid) -> Float[Tensor, " parameter"]:
    """A table as tiny-cuda-nn's parameters (a view; differentiable).

    Raises: ValueError if the table is not of this pyramid.
    """
    if len(table) != pyramid.num_entries:
        raise ValueError(f"the table has {len(table)} entries, its levels have {pyramid.num_entries}.")
    return table.contiguous().flatten()


def from_tcnn(
    parameters: Float[Tensor, " parameter"], pyramid: Pyramid
) -> Float[Tensor, "entry level_feature"]:
    """tiny-cuda-nn's parameters as a table (a view; differentiable).

    Raises: ValueError if there are not as many for each entry of this pyramid.
    """
    num_features, rest = divmod(len(parameters), pyramid.num_entries)
    if rest or not num_features:
        raise ValueError(
            f"{len(parameters)} parameters do not belong to a grid of {pyramid.num_entries} entries: its "
            "levels, table size, base resolution or growth are others."
        )
    return parameters.view(-1, num_features)


def encoding_config(pyramid: Pyramid, features_per_level: int) -> dict[str, Any]:
    """The grid's settings under tiny-cuda-nn's names."""
    return {
        "otype": "HashGrid",
        "n_levels": pyramid.num_levels,
        "n_features_per_level": features_per_level,
        "log2_hashmap_size": pyramid.log2_table_size,
        "base_resolution": pyramid.base_resolution,
        "per_level_scale": pyramid.growth,
        "interpolation": "Linear",
    }


def encode(
    table: Float[Tensor, "entry level_feature"],
    points: Float[Tensor, "n 3"],
    pyramid: Pyramid,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n feature"]:
    """tiny-cuda-nn's encoding: see `hash_grid_backend.Encode`. In float16 it sums gradients in float16.

    Raises: ValueError for dtypes, features or sizes that it does not support.
    """
    dtype = dtype or points.dtype
    if points.dtype != torch.float32 or dtype not in _DTYPES:
        raise ValueError(
            "tinycudann takes points in float32 and gives features in float32 or float16, got "
            f"{points.dtype} and {dtype}: choose backend 'torch' or 'auto'."
        )
    encoding = _encoding(pyramid, table.shape[1], dtype, points.device)
    return _Interpolate.apply(table, points, pyramid, encoding)


@lru_cache(maxsize=8)
def _encoding(
    pyramid: Pyramid, features_per_level: int, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """An encoding without its own parameters; they are passed with each call."""
    if features_per_level not in _FEATURES:
        raise ValueError(
            f"features_per_level is {features_per_level}: tinycudann takes {', '.join(map(str, _FEATURES))}; "
            "choose backend 'torch' or 'auto' for others."
        )
    with torch.inference_mode(False):
        encoding = tinycudann.Encoding(
            n_input_dims=3, encoding_config=encoding_config(pyramid, features_per_level), dtype=dtype
        )
        expected, found = pyramid.num_entries * features_per_level, encoding.params.numel()
        if found != expected:
            raise ValueError(
                f"tinycudann gives this grid {found} parameters instead of {expected}: a level's resolution "
                "is a whole number up to rounding. Change growth slightly, or choose backend 'torch' or "
                "'auto'."
            )
        encoding.params = torch.nn.Parameter(torch.empty(0, device=device), requires_grad=False)
    return encoding


class _Interpolate(torch.autograd.Function):
    """Hides tiny-cuda-nn's own graph, in which some second derivatives are silently missing."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, pyramid: Pyramid, encoding: Any) -> Tensor:
        needs = ctx.needs_input_grad
        own = [table.detach().requires_grad_(needs[0]), points.detach().requires_grad_(needs[1])]
        ctx.save_for_backward(table, points)
        with torch.enable_grad():
            unit = (own[1].clamp(-1, 1) + 1) * 0.5
            features = torch.func.functional_call(encoding, {"params": to_tcnn(own[0], pyramid)}, (unit,))
        ctx.graph = (own, features)
        return features.detach()

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        own, features = ctx.graph
        inputs = [value for value in own if value.requires_grad]
        found = iter(torch.autograd.grad(features, inputs, grads[0], retain_graph=True))
        results = [next(found) if value.requires_grad else None for value in own]
        return results[0], results[1], None, None
