"""The methods that only use predictions of the frozen prior: SDS, CSD and ASD.

Each has its branches and one equation from `distillation.gradients`, in `estimate`, a function of given times
and noise. `gradient`, which all share, draws them first: "timestep" and, in ASD, "shift" per group of views,
"noise" per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Conditions, Prior
from scaledreamer.distillation import (
    asd_gradient,
    csd_gradient,
    sample_timestep_shift,
    sds_gradient,
    weight_of,
)
from scaledreamer.draws import ImageDraws
from scaledreamer.methods.base import Guidance, StatelessMethod, add_noise, predict

Latents = Float[Tensor, "image c h w"]
Times = Float[Tensor, " image"]


@dataclass(frozen=True)
class SDS(StatelessMethod):
    """Score distillation sampling (DreamFusion, arXiv 2209.14988)."""

    guidance: Guidance = Guidance()

    @torch.no_grad()
    def estimate(
        self, prior: Prior, latents: Latents, conditions: Conditions, noise: Latents, t: Times
    ) -> Latents:
        """`w(t) (guided - eps)`."""
        x_t = add_noise(prior, latents, noise, t)
        eps = predict(prior, [(x_t, t, inputs) for inputs in self.guidance.branches(conditions)])
        return sds_gradient(self.guidance.guide(eps, conditions), noise, weight_of(prior.sigma(t)))


@dataclass(frozen=True)
class CSD(StatelessMethod):
    """Classifier score distillation (arXiv 2310.19415): the guidance direction alone, without a scale."""

    @torch.no_grad()
    def estimate(
        self, prior: Prior, latents: Latents, conditions: Conditions, noise: Latents, t: Times
    ) -> Latents:
        """`w(t) (eps_text - eps_uncond)`. Negatives are ignored: there is no scale to weight them with."""
        x_t = add_noise(prior, latents, noise, t)
        eps_text, eps_uncond = predict(prior, [(x_t, t, conditions.text), (x_t, t, conditions.uncond)])
        return csd_gradient(eps_text, eps_uncond, weight_of(prior.sigma(t)))


@dataclass(frozen=True)
class ASD(StatelessMethod):
    """Asynchronous score distillation (ScaleDreamer, arXiv 2407.02040, Algorithm 1).

    Attributes:
        eta: growth of the shift dt with t - t_min.
        shift_steps: floors dt to whole multiples of 1 / shift_steps; None leaves it continuous.
    """

    guidance: Guidance = Guidance()
    eta: float = 0.1
    shift_steps: int | None = None

    def times(self, draws: ImageDraws, step: int) -> dict[str, Times]:
        """The t and the shift dt of each image; dt is relative to the annealed t_min."""
        t, t_min = self.timesteps.draw(draws, step), self.timesteps.t_min.value_at(step)
        uniform = draws.uniform("shift")
        shift = sample_timestep_shift(t, t_min, self.eta, uniform, num_steps=self.shift_steps)
        return {"timestep": t, "timestep_shift": shift}

    @torch.no_grad()
    def estimate(
        self,
        prior: Prior,
        latents: Latents,
        conditions: Conditions,
        noise: Latents,
        t: Times,
        shift: Times,
    ) -> Latents:
        """`w(t) (guided - eps(x_{t+dt}; t + dt, text))`, the same noise in both."""
        x_t, t_shifted = add_noise(prior, latents, noise, t), t + shift
        branches = [(x_t, t, inputs) for inputs in self.guidance.branches(conditions)]
        shifted = (add_noise(prior, latents, noise, t_shifted), t_shifted, conditions.text)
        *eps, eps_shifted = predict(prior, [*branches, shifted])
        return asd_gradient(self.guidance.guide(eps, conditions), eps_shifted, weight_of(prior.sigma(t)))
