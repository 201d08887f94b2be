"""The judges of a run: each is a prior, the method that turns its predictions into a gradient, and a weight.

Letters: `g_z` is the method's gradient at the latents, `g_x` the gradient at the prior's input image. Axes:
`image` all cameras of all prompts, prompts first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Estimate, Method, Observation, Prior
from scaledreamer.distillation import ClipStats, clip_gradient
from scaledreamer.draws import ImageDraws
from scaledreamer.priors.conditioning import Texts


@dataclass(frozen=True)
class PixelClip:
    """Pixel-wise gradient clipping, see `distillation.clip_gradient`; mode "none" only collects
    statistics."""

    mode: str = "pgc_n"
    threshold: float = 0.1
    norm: str = "l2"

    def __call__(self, gradient: Float[Tensor, "image 3 h w"]) -> tuple[Tensor, ClipStats]:
        """The clipped gradient of each image's own loss, always finite, and statistics."""
        if self.mode == "none":
            return clip_gradient(gradient, float("inf"), norm=self.norm)
        return clip_gradient(gradient, self.threshold, self.mode, self.norm)


@dataclass(frozen=True)
class Judge:
    """A prior of a run with its method and weight.

    Attributes:
        texts: makes and encodes its texts.
        weight: factor of its gradient, after pixel clipping.
        samples_latents: whether to sample the autoencoder's posterior instead of taking its mean.
        clip: pixel-wise clipping of its gradient.
    """

    prior: Prior
    method: Method
    texts: Texts
    weight: float = 1.0
    samples_latents: bool = False
    clip: PixelClip = PixelClip()

    def image_gradient(
        self, images: Float[Tensor, "image 3 h w"], observation: Observation, draws: ImageDraws, step: int
    ) -> tuple[Float[Tensor, "image 3 h w"], ClipStats, Estimate]:
        """Clipped gradient `g_x` of each image's own loss, at images of the prior's size.

        The autoencoder's graph is built and freed here; nothing is differentiated through predictions.
        """
        noise = draws.normal("vae_noise", *self.prior.latent_shape) if self.samples_latents else None
        x = images.detach().requires_grad_()
        with torch.enable_grad():
            latents = self.prior.encode_image(x, noise)
        conditions = self.prior.condition(observation)
        estimate = self.method.gradient(self.prior, latents.detach(), conditions, draws, step)
        (g_x,) = torch.autograd.grad(latents, x, estimate.gradient)
        return *self.clip(g_x), estimate


def upsample(images: Float[Tensor, "image 3 h w"], size: int) -> Float[Tensor, "image 3 size size"]:
    """Images at a prior's size, bilinear; differentiable."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
