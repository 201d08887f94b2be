"""Score distillation as pure functions of tensors: what a prior's predictions say about rendered images.

`guidance` combines noise predictions, `gradients` turns them into a gradient at the latents, `timesteps`
draws the times of the predictions, and `pixel_clip` bounds the gradient that arrives at the prior's image.
"""

from scaledreamer.distillation.gradients import (
    asd_gradient,
    csd_gradient,
    sds_gradient,
    vsd_gradient,
)
from scaledreamer.distillation.guidance import guided_noise, perp_neg, rescale_guidance
from scaledreamer.distillation.pixel_clip import ClipStats, clip_gradient, clip_pixel_gradient
from scaledreamer.distillation.timesteps import sample_timestep_shift, sample_timesteps, weight_of

__all__ = [
    "ClipStats",
    "asd_gradient",
    "clip_gradient",
    "clip_pixel_gradient",
    "csd_gradient",
    "guided_noise",
    "perp_neg",
    "rescale_guidance",
    "sample_timestep_shift",
    "sample_timesteps",
    "sds_gradient",
    "vsd_gradient",
    "weight_of",
]
