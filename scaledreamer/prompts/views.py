"""View words: which part of an object a camera sees, said in the prior's prompt (FACTS, section 3).

The conditioner of a generator never sees them: an asset is the same from everywhere.
"""

from __future__ import annotations

import math

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
        elevation, azimuth: radians, azimuth 0 before the front, any number of turns.
        front_deg, back_deg: half-widths in azimuth of the front and the back.
        overhead_deg: elevation from which the view is from above, whatever the azimuth.
    """
    wrapped = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    index = torch.full_like(wrapped, SIDE, dtype=torch.long)
    index = torch.where(wrapped.abs() < math.radians(front_deg), FRONT, index)
    index = torch.where(wrapped.abs() > math.pi - math.radians(back_deg), BACK, index)
    return torch.where(elevation > math.radians(overhead_deg), OVERHEAD, index)


def with_view(prompt: str, index: int) -> str:
    """The prompt as the prior reads it, with its view word."""
    return f"{prompt}, {VIEW_WORDS[index]}"
