"""The noise schedule of latent diffusion networks, and sampling with it.

Letters and axes as in `contracts.py`; `v` is the output of a network that predicts v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.contracts import PriorInputs, PriorText

if TYPE_CHECKING:
    from scaledreamer.contracts import Prior


@dataclass(frozen=True)
class NoiseSchedule:
    """The discrete steps of a network, and the meaning of its output.

    Times are rounded to the nearest step, for `alpha` and `sigma` as well, so that the noise level always
    agrees with the network's time.

    Attributes:
        alpha_bar: cumulative product of the scheduler, one value per step, on the network's device.
        prediction_type: "epsilon" or "v_prediction".
    """

    alpha_bar: Float[Tensor, " step"]
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"the scheduler's prediction_type is {self.prediction_type!r}; accepted are "
                "'epsilon' and 'v_prediction'."
            )

    def steps(self, t: Float[Tensor, " image"]) -> Int[Tensor, " image"]:
        """The network's nearest step."""
        last = len(self.alpha_bar) - 1
        return (t * len(self.alpha_bar)).round().long().clamp(0, last)

    def alpha(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of alpha_bar at the nearest step."""
        return self.alpha_bar[self.steps(t)].sqrt()

    def sigma(self, t: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Square root of 1 - alpha_bar at the nearest step."""
        return (1 - self.alpha_bar[self.steps(t)]).sqrt()

    def epsilon(
        self,
        output: Float[Tensor, "image c h w"],
        x_t: Float[Tensor, "image c h w"],
        t: Float[Tensor, " image"],
    ) -> Float[Tensor, "image c h w"]:
        """Epsilon from the network's output; `eps = alpha v + sigma x_t` if it predicts v (Salimans and Ho
        2022, appendix D)."""
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
        return alpha * output + sigma * x_t


@torch.no_grad()
def ddim(
    prior: Prior,
    prompts: list[str],
    noise: Float[Tensor, "image c h w"],
    *,
    guidance_scale: float,
    num_steps: int,
) -> Float[Tensor, "image c h w"]:
    """Latents of prompts by DDIM (Song et al. 2021) with classifier-free guidance."""
    text, null = prior.encode_text(prompts), prior.encode_text([""])
    null = null[torch.zeros(len(prompts), dtype=torch.long)]
    inputs = PriorInputs(PriorText.cat([text, null]))
    times = torch.linspace(1, 0, num_steps + 1, device=noise.device)
    x = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        t = now.expand(len(x))
        eps_text, eps_uncond = prior.predict_noise(torch.cat([x, x]), t.repeat(2), inputs).chunk(2)
        eps = eps_uncond + guidance_scale * (eps_text - eps_uncond)
        alpha, sigma = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
        clean = (x - sigma * eps) / alpha
        last = then == 0
        t_next = then.expand(len(x))
        alpha_next, sigma_next = (
            prior.alpha(t_next)[:, None, None, None],
            prior.sigma(t_next)[:, None, None, None],
        )
        x = clean if last else alpha_next * clean + sigma_next * eps
    return x
