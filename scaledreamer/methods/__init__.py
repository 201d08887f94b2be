"""Methods of score distillation: each draws times and noise, calls a prior and returns a gradient.

The equations are pure functions in `scaledreamer.distillation`; the methods apply them to a prior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaledreamer.contracts import Method
from scaledreamer.methods.base import Guidance, Timesteps
from scaledreamer.methods.score import ASD, CSD, SDS

if TYPE_CHECKING:
    from scaledreamer.config import PriorSettings


def make(name: str, timesteps: Timesteps, settings: PriorSettings, shift_steps: int | None) -> Method:
    """The method of one prior of a run.

    Raises: ValueError for an unknown name.
    """
    guidance = Guidance(settings.guidance_scale, settings.guidance_rescale)
    match name:
        case "asd":
            return ASD(timesteps, guidance, settings.eta, shift_steps)
        case "sds":
            return SDS(timesteps, guidance)
        case "csd":
            return CSD(timesteps)
    raise ValueError(f"distillation.method: got {name!r}; accepted are 'asd', 'sds' and 'csd'.")
