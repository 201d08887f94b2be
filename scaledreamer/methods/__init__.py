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


def make(settings: PriorSettings, timesteps: Timesteps) -> Method:
    """The method of one prior of a run.

    Args:
        settings: of the prior: the method's name and settings, and the guidance.
        timesteps: from where t is drawn.
    """
    guidance = Guidance(settings.guidance_scale, settings.guidance_rescale)
    match settings.method:
        case "asd":
            return ASD(timesteps, guidance, settings.asd.eta, settings.asd.shift_steps)
        case "sds":
            return SDS(timesteps, guidance)
        case "csd":
            return CSD(timesteps)
