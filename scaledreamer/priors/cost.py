"""The cost of a latent diffusion prior in an ASD step, counted or measured on synthetic inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from scaledreamer.accounting import Cost, count, parameter_bytes
from scaledreamer.contracts import PriorInputs


@runtime_checkable
class CountedPrior(Protocol):
    """The interface of a latent diffusion prior that its cost depends on; see `LatentDiffusionPrior`."""

    image_size: int
    latent_shape: tuple[int, int, int]

    @property
    def device(self) -> torch.device: ...

    def networks(self) -> dict[str, nn.Module]: ...

    def blank_inputs(self, num_images: int) -> PriorInputs: ...

    def encode_image(self, images: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def predict_noise(self, x_t: Tensor, t: Tensor, inputs: PriorInputs) -> Tensor: ...


@dataclass(frozen=True)
class PriorCost:
    """The cost of a prior in one ASD step.

    Attributes:
        encode: images to latents, and the gradient back to the images.
        predict: noise of all branches, in one call.
        step: both as in a step: encode, predict while the encoder's graph is kept, gradient.
        parameter_bytes: of each network, in its dtype.
    """

    encode: Cost
    predict: Cost
    step: Cost
    parameter_bytes: dict[str, int]


def prior_cost(prior: CountedPrior, images: int, *, branches: int = 3) -> PriorCost:
    """Counts a prior's part of one ASD step; on the meta device this is free (`full_size.assemble`).

    Args:
        images: number of images.
        branches: predictions per image: 3, or 5 with Perp-Neg.
    """
    step = StepInputs(prior, images, branches=branches)
    return PriorCost(
        count(step.encode_with_gradient),
        count(step.predict_noise),
        count(step.step),
        {name: parameter_bytes(network) for name, network in prior.networks().items()},
    )


class StepInputs:
    """Synthetic inputs for a prior's part of an ASD step, and its parts as functions without arguments.

    Args:
        images: number of images.
        branches: predictions per image.
    """

    def __init__(self, prior: CountedPrior, images: int, *, branches: int = 3) -> None:
        device, size = prior.device, prior.image_size
        self._prior, self._branches = prior, branches
        self._images = torch.rand(images, 3, size, size, device=device)
        self._x_t = torch.randn(branches * images, *prior.latent_shape, device=device)
        self._t = torch.full((branches * images,), 0.5, device=device)
        self._inputs = prior.blank_inputs(branches * images)

    @torch.no_grad()
    def encode(self) -> Tensor:
        """Latents without a graph."""
        return self._prior.encode_image(self._images)

    def encode_with_graph(self) -> Tensor:
        """Latents that can be differentiated."""
        with torch.enable_grad():
            return self._prior.encode_image(self._images.detach().requires_grad_())

    def encode_with_gradient(self) -> Tensor:
        """Gradient at the images."""
        return self._gradient(lambda latents: torch.ones_like(latents))

    def predict_noise(self) -> Tensor:
        """Noise of all branches."""
        return self._prior.predict_noise(self._x_t, self._t, self._inputs)

    def step(self) -> Tensor:
        """Gradient at the images, with predictions made while the encoder's graph is kept."""

        def distilled(latents: Tensor) -> Tensor:
            x_t = latents.detach().repeat(self._branches, 1, 1, 1)
            eps = self._prior.predict_noise(x_t, self._t, self._inputs)
            return eps.chunk(self._branches)[0]

        return self._gradient(distilled)

    def _gradient(self, latents_gradient: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            x = self._images.detach().requires_grad_()
            latents = self._prior.encode_image(x)
            return torch.autograd.grad(latents, x, latents_gradient(latents))[0]
