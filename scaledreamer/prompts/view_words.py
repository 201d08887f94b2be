"""View words ("front view", ...), which tell the prior from where the camera sees the object.

The generator's conditioner never sees them, since an asset does not depend on the camera.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

VIEW_WORDS = ("front view", "side view", "back view", "overhead view")
FRONT, SIDE, BACK, OVERHEAD = range(4)


def view_index(
    elevation: Float[Tensor, "*batch"],
    azimuth: Float[Tensor, "*batch"],
    *,
    front_deg: float = 30.0,
    back_deg: float = 30.0,
    overhead_deg: float = 60.0,
) -> Int[Tensor, "*batch"]:
    """Index into `VIEW_WORDS` of each camera.

    Args:
        elevation, azimuth: radians; azimuth 0 is the front, any number of turns.
        front_deg, back_deg: half-widths in azimuth of the front and the back.
        overhead_deg: elevation above which the view is from overhead, at any azimuth.
    """
    wrapped = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    index = torch.full_like(wrapped, SIDE, dtype=torch.long)
    index = torch.where(wrapped.abs() < math.radians(front_deg), FRONT, index)
    index = torch.where(wrapped.abs() > math.pi - math.radians(back_deg), BACK, index)
    return torch.where(elevation > math.radians(overhead_deg), OVERHEAD, index)


def with_view(prompt: str, index: int) -> str:
    """The prompt as the prior reads it, with its view word."""
    return f"{prompt}, {VIEW_WORDS[index]}"


class ViewMix(NamedTuple):
    """For each camera the two views it is between, and the two views to push away from.

    Attributes:
        first, second: the views it is between; both overhead from above.
        share_of_second: 0 is the first view alone.
        negatives: negative views.
        negative_weights: their weights, at least 0.
    """

    first: Int[Tensor, " batch"]
    second: Int[Tensor, " batch"]
    share_of_second: Float[Tensor, " batch"]
    negatives: Int[Tensor, "batch 2"]
    negative_weights: Float[Tensor, "batch 2"]


def neighbouring_views(
    elevation: Float[Tensor, " batch"], azimuth: Float[Tensor, " batch"], *, overhead_deg: float = 60.0
) -> ViewMix:
    """Perp-Neg's interpolation of view words (arXiv 2304.04968, section 5).

    Between front and side, both are negatives, each the stronger the farther away it is. Between side and
    back, the negatives are side and, more strongly, front. Views from above have none.

    Args:
        elevation, azimuth: radians; azimuth 0 is the front, any number of turns.
        overhead_deg: elevation above which the view is from overhead.
    """
    turned = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    quarters = turned.abs() / (math.pi / 2)  # 0 front, 1 side, 2 back
    is_front = quarters < 1
    share = torch.where(is_front, quarters, quarters - 1).clamp(0, 1)
    is_overhead = elevation > math.radians(overhead_deg)

    def choose(before_side: int, behind_side: int, above: int) -> Int[Tensor, " batch"]:
        views = torch.where(is_front, before_side, behind_side)
        return torch.where(is_overhead, above, views)

    weights = torch.where(
        is_front[:, None],
        torch.stack([_decay(4, 0.5, -2.426, 1 - share), _decay(4, 0.5, -2.426, share)], dim=1),
        torch.stack([_decay(1, 0.5, -0.606, 1 - share), _decay(1, 0.5, 0.967, 1 - share)], dim=1),
    )
    return ViewMix(
        choose(FRONT, SIDE, OVERHEAD),
        choose(SIDE, BACK, OVERHEAD),
        torch.where(is_overhead, 0.0, share),
        torch.stack([choose(FRONT, SIDE, OVERHEAD), choose(SIDE, FRONT, OVERHEAD)], dim=1),
        torch.where(is_overhead[:, None], 0.0, weights.clamp(min=0)),
    )


def _decay(a: float, b: float, c: float, x: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return a * torch.exp(-b * x) + c
