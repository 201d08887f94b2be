"""An exact toy prior: a Gaussian mixture per text, whose noise prediction is known in closed form.

Letters: `x_t = alpha x + sigma eps`, `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`. All texts share the
components `N(mu_j, s_j^2 I)`. A text is a distribution `w_j` over them, which is also its encoding, so a text
between two encodings is exactly the mixture of both. Noised components are Gaussian again,
`N(alpha mu_j, v_j I)` with `v_j = alpha^2 s_j^2 + sigma^2`. A perfectly trained network predicts

    eps(x_t, t) = E[eps | x_t] = -sigma score(x_t) = sigma sum_j r_j(x_t) (x_t - alpha mu_j) / v_j

with `r_j` the posterior probabilities of the components.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scaledreamer.contracts import Conditions, Observation, PriorInputs, PriorText


def random_tensor(name: str, *shape: int) -> Tensor:
    """Standard normal numbers in float64 that depend on the name alone."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Mixture:
    """Components "component c h w" with their standard deviations; float64."""

    means: Tensor
    stds: Tensor

    def log_density(self, x_t: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """Of noised latents "image c h w" under mixing weights "image component", one an image."""
        return self._log_joint(x_t, t, weights).logsumexp(1)

    def noise(self, x_t: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """`E[eps | x_t]`."""
        alpha, variance = (math.pi / 2 * t).cos(), self._variances(t)
        residual = x_t[:, None] - alpha.view(-1, 1, 1, 1, 1) * self.means
        pull = residual / variance[:, :, None, None, None]
        posterior = self._log_joint(x_t, t, weights).softmax(1)[:, :, None, None, None]
        return (math.pi / 2 * t).sin().view(-1, 1, 1, 1) * (posterior * pull).sum(1)

    def sample(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Clean latents, one for each row of mixing weights."""
        chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]
        noise = torch.randn(self.means[chosen].shape, generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + self.stds[chosen][:, None, None, None] * noise

    def _variances(self, t: Tensor) -> Tensor:
        angle = math.pi / 2 * t[:, None]
        return (angle.cos() * self.stds).square() + angle.sin().square()

    def _log_joint(self, x_t: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        residual = x_t[:, None] - (math.pi / 2 * t).cos().view(-1, 1, 1, 1, 1) * self.means
        variance, count = self._variances(t), self.means[0].numel()
        squared = residual.square().flatten(2).sum(2)
        return weights.log() - 0.5 * (squared / variance + count * (2 * math.pi * variance).log())


class Prediction(NamedTuple):
    """What one call of `predict_noise` was given; `weights` is the texts' encoding."""

    x_t: Tensor
    t: Tensor
    weights: Tensor
    extra: Mapping[str, Tensor]


class ExactPrior:
    """A `Prior` that knows its score, and records its calls.

    Args:
        mixture: its components; by default some that overlap, different for each `name`.
        texts: mixing weights of texts. Any other text, the empty one too, has random weights of its own.
        num_views: how many views it judges together: they share t, and are otherwise judged one by one.
        encoder: dense matrix "latent pixel" in the place of `2 x - 1`.
        latent_shape: of the encoder's output.
        posterior_std: spread of the encoder's posterior.

    Attributes:
        encoded_texts: texts that were encoded, a list for each call.
        encoded_images: images and noise of each call of `encode_image`.
        observations: calls of `condition`.
        predictions: calls of `predict_noise`.
    """

    needs: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str = "prior",
        *,
        image_size: int = 4,
        num_views: int = 1,
        mixture: Mixture | None = None,
        texts: Mapping[str, Sequence[float]] | None = None,
        encoder: Tensor | None = None,
        latent_shape: tuple[int, int, int] | None = None,
        posterior_std: float = 0.0,
    ) -> None:
        self.name, self.image_size, self.num_views, self.encoder = name, image_size, num_views, encoder
        self.latent_shape = latent_shape or (3, image_size, image_size)
        self.posterior_std = posterior_std
        if mixture is None:
            means = 0.5 * random_tensor(f"{name} means", 5, *self.latent_shape)
            mixture = Mixture(means, 0.3 + 0.3 * random_tensor(f"{name} stds", 5).sigmoid())
        self.mixture, self.texts = mixture, texts or {}
        self.encoded_texts: list[list[str]] = []
        self.encoded_images: list[tuple[Tensor, Tensor | None]] = []
        self.observations: list[Observation] = []
        self.predictions: list[Prediction] = []

    def weights_of(self, text: str) -> Tensor:
        """The distribution over components that a text is; "component"."""
        if text in self.texts:
            weights = torch.tensor(self.texts[text], dtype=torch.float64)
            return weights / weights.sum()
        return (3 * random_tensor(f"{self.name} text {text}", len(self.mixture.stds))).softmax(0)

    def encode_text(self, prompts: list[str]) -> PriorText:
        self.encoded_texts.append(list(prompts))
        return PriorText(torch.stack([self.weights_of(prompt) for prompt in prompts])[:, None])

    def condition(self, observation: Observation) -> Conditions:
        self.observations.append(observation)
        return observation.texts

    def encode_image(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        self.encoded_images.append((images.detach().clone(), noise))
        if self.encoder is None:
            mean = 2 * images - 1
        else:
            mean = (images.flatten(1) @ self.encoder.to(images.dtype).T).view(-1, *self.latent_shape)
        return mean if noise is None else mean + self.posterior_std * noise

    def alpha(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).cos()

    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).sin()

    def predict_noise(self, x_t: Tensor, t: Tensor, inputs: PriorInputs) -> Tensor:
        weights = inputs.text.tokens[:, 0]
        self.predictions.append(Prediction(x_t.clone(), t.clone(), weights, inputs.extra))
        return self.mixture.noise(x_t.double(), t.double(), weights).to(x_t.dtype)

    def why_not_finite(self) -> None:
        return None


def linear_encoder(latent_shape: tuple[int, int, int], image_size: int) -> Tensor:
    """A dense encoder matrix that mixes all pixels; "latent pixel"."""
    num_latents, num_pixels = math.prod(latent_shape), 3 * image_size**2
    return random_tensor("encoder", num_latents, num_pixels) / num_pixels**0.5
