"""Shared by the methods of score distillation: times, guidance, and one batched call of the prior.

Letters as in `scaledreamer.contracts`; `s` is the guidance scale.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Conditions, Estimate, Prior, PriorInputs
from scaledreamer.distillation import guided_noise, perp_neg, rescale_guidance, sample_timesteps
from scaledreamer.draws import ImageDraws
from scaledreamer.schedules import Schedule


@dataclass(frozen=True)
class Timesteps:
    """The annealed range of timesteps, `t ~ U[t_min, t_max]`."""

    t_min: Schedule
    t_max: Schedule

    def draw(self, draws: ImageDraws, step: int) -> Float[Tensor, " image"]:
        """One t per group of views that the prior processes together."""
        low, high = self.t_min.value_at(step), self.t_max.value_at(step)
        return sample_timesteps(draws.uniform("timestep"), low, high)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, with Perp-Neg if the conditions have negatives.

    Attributes:
        scale: `s`; 1 is no guidance.
        rescale: see `distillation.rescale_guidance`; 0 is none.
    """

    scale: float = 7.5
    rescale: float = 0.0

    def branches(self, conditions: Conditions) -> list[PriorInputs]:
        """Inputs of the predictions at t that `guide` combines, in the same order."""
        return [conditions.text, conditions.uncond, *conditions.negatives]

    def guide(
        self, predictions: Sequence[Float[Tensor, "image c h w"]], conditions: Conditions
    ) -> Float[Tensor, "image c h w"]:
        """Combines the predictions of all branches to a guided one."""
        eps_text, eps_uncond, *eps_negatives = predictions
        if conditions.negative_weights is None:
            eps_guided = guided_noise(eps_text, eps_uncond, self.scale)
        else:
            negatives = torch.stack(eps_negatives, dim=1)
            eps_guided = perp_neg(eps_text, eps_uncond, negatives, conditions.negative_weights, self.scale)
        return rescale_guidance(eps_guided, eps_text, self.rescale) if self.rescale > 0 else eps_guided


def add_noise(
    prior: Prior,
    latents: Float[Tensor, "image c h w"],
    noise: Float[Tensor, "image c h w"],
    t: Float[Tensor, " image"],
) -> Float[Tensor, "image c h w"]:
    """`x_t = alpha(t) x + sigma(t) eps`."""
    alpha, sigma = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
    return alpha * latents + sigma * noise


Branch = tuple[Float[Tensor, "image c h w"], Float[Tensor, " image"], PriorInputs]
"""One prediction to be made: noised latents, their times, and the prior's inputs."""


def predict(prior: Prior, branches: Sequence[Branch]) -> list[Float[Tensor, "image c h w"]]:
    """Noise predictions for several branches of the same images, in one call of the prior."""
    x, times, inputs = zip(*branches, strict=True)
    eps = prior.predict_noise(torch.cat(x), torch.cat(times), PriorInputs.cat(inputs))
    return list(eps.split(len(x[0])))


@dataclass(frozen=True)
class StatelessMethod(abc.ABC):
    """A method without networks of its own, which holds settings only.

    Attributes:
        timesteps: the range of t.
    """

    timesteps: Timesteps

    def times(self, draws: ImageDraws, step: int) -> dict[str, Float[Tensor, " image"]]:
        """The t of each image; see `contracts.Method.times`."""
        return {"timestep": self.timesteps.draw(draws, step)}

    @abc.abstractmethod
    def estimate(
        self,
        prior: Prior,
        latents: Float[Tensor, "image c h w"],
        conditions: Conditions,
        noise: Float[Tensor, "image c h w"],
        *times: Float[Tensor, " image"],
    ) -> Float[Tensor, "image c h w"]:
        """The gradient `g_z` at given times, those of `times` in its order, and given noise."""

    def gradient(
        self,
        prior: Prior,
        latents: Float[Tensor, "image c h w"],
        conditions: Conditions,
        draws: ImageDraws,
        step: int,
    ) -> Estimate:
        """See `contracts.Method.gradient`."""
        times, noise = self.times(draws, step), draws.normal("noise", *prior.latent_shape)
        g_z = self.estimate(prior, latents, conditions, noise, *times.values())
        return Estimate(g_z, latents, conditions, times)

    def update(self, estimates: Sequence[Estimate], step: int) -> Mapping[str, Tensor]:
        """Nothing to train."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a state, which belongs to another method."""
        if state:
            raise ValueError(f"{type(self).__name__} holds no state, and was given {', '.join(state)}")
