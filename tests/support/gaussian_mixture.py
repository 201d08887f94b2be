"""An exact toy prior: a Gaussian mixture per label, whose noise prediction is known in closed form.

It has the contract of a diffusion prior with labels for prompts; its latents are images mapped to [-1, 1].
The schedule is the cosine one, `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`. Noised components
`w_j N(mu_j, s_j^2 I)` are a mixture again, `w_j N(alpha mu_j, v_j I)` with `v_j = alpha^2 s_j^2 + sigma^2`,
and the prediction that a perfectly trained network would make is

    eps(x_t, t) = E[eps | x_t] = -sigma score(x_t) = sigma sum_j r_j(x_t) (x_t - alpha mu_j) / v_j

with r_j the posterior probabilities of the components. Without a prompt all labels are mixed.
"""

import math

import torch
from torch import Tensor

from scaledreamer.distillation import asd_gradient, guided_noise, weight_of


class GaussianMixturePrior:
    """`words` name labels; `means` is (label, component, c, h, w), `stds`, `weights` (label, component)."""

    num_views = 1

    def __init__(self, words: list[str], means: Tensor, stds: Tensor, weights: Tensor | None = None):
        self.words = words
        num_labels, num_components = stds.shape
        self.latent_shape = tuple(means.shape[2:])
        self.image_size = means.shape[-1]
        self.means = means.flatten(0, 1)
        self.variances = stds.flatten().square()
        weights = torch.ones_like(stds) if weights is None else weights
        conditional = weights / weights.sum(dim=1, keepdim=True)
        self.log_conditional = torch.full((num_labels + 1, num_labels * num_components), -math.inf).to(stds)
        for label in range(num_labels):
            block = slice(label * num_components, (label + 1) * num_components)
            self.log_conditional[label, block] = conditional[label].log()
        self.log_conditional[-1] = (conditional / num_labels).flatten().log()

    def encode_text(self, prompts: list[str]) -> Tensor:
        """A prompt's label; the empty prompt is the last row of `log_conditional`."""
        return torch.tensor([self.words.index(prompt) if prompt else len(self.words) for prompt in prompts])

    def encode_image(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return 2 * images - 1

    def alpha(self, t: Tensor) -> Tensor:
        return (t * math.pi / 2).cos()

    def sigma(self, t: Tensor) -> Tensor:
        return (t * math.pi / 2).sin()

    def add_noise(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return per_sample(self.alpha(t)) * latents + per_sample(self.sigma(t)) * noise

    def log_density(self, x_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Of noised latents, per sample."""
        return self._log_joint(x_t, t, conditioning).logsumexp(dim=1)

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        posterior = self._log_joint(x_t, t, conditioning).softmax(dim=1)
        pull = self._residual(x_t, t) / per_sample(self._noised_variances(t), 5)
        return per_sample(self.sigma(t)) * (per_sample(posterior, 5) * pull).sum(dim=1)

    def sample(self, conditioning: Tensor, generator: torch.Generator) -> Tensor:
        """Clean latents, one per label given."""
        probabilities = self.log_conditional[conditioning].exp()
        component = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        noise = torch.randn(len(component), *self.latent_shape, generator=generator, dtype=self.means.dtype)
        return self.means[component] + per_sample(self.variances[component].sqrt()) * noise

    def _residual(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t[:, None] - per_sample(self.alpha(t), 5) * self.means

    def _noised_variances(self, t: Tensor) -> Tensor:
        return self.alpha(t).square()[:, None] * self.variances + self.sigma(t).square()[:, None]

    def _log_joint(self, x_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        variances = self._noised_variances(t)
        squared_distance = self._residual(x_t, t).square().flatten(2).sum(dim=2)
        log_normal = -0.5 * (
            squared_distance / variances + self.means[0].numel() * (2 * math.pi * variances).log()
        )
        return self.log_conditional[conditioning] + log_normal


def per_sample(values: Tensor, num_axes: int = 4) -> Tensor:
    """Appends axes of length one."""
    return values.reshape(*values.shape, *[1] * (num_axes - values.ndim))


def asd_latent_gradient(
    prior: GaussianMixturePrior,
    latents: Tensor,
    conditioning: Tensor,
    t: Tensor,
    dt: Tensor,
    noise: Tensor,
    guidance_scale: float,
) -> Tensor:
    """An ASD gradient as a training step forms it: one noise for both, guidance in the first branch only."""
    null = prior.encode_text([""]).expand(len(latents))
    x_t, x_shifted = prior.add_noise(latents, t, noise), prior.add_noise(latents, t + dt, noise)
    eps_text, eps_uncond, eps_shifted = prior.predict_noise(
        torch.cat([x_t, x_t, x_shifted]),
        torch.cat([t, t, t + dt]),
        torch.cat([conditioning, null, conditioning]),
    ).chunk(3)
    return asd_gradient(
        guided_noise(eps_text, eps_uncond, guidance_scale), eps_shifted, weight_of(prior.sigma(t))
    )
