"""Whitening of the text features, so that rare attributes have as much influence as the kind of object.

Text features vary most with whatever differs between most prompts: over the tinyworld's captions, 46 % of the
variance is the kind of object and 1 % is its support. Gradient descent learns directions of large variance
first. After whitening, all directions have about the same variance (LeCun et al., "Efficient BackProp", 1998,
section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.contracts import GeneratorText

MIN_DEVIATION = 0.1
"""Directions below this share of the largest standard deviation are not amplified further: they are noise, or
do not occur in the corpus."""


class TextWhitening(nn.Module):
    """An affine map of the pooled text features, the identity until it is fitted.

    Args:
        dim: number of features.
        strength: 0 leaves the standard deviations of all directions unchanged, 1 makes them equal.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    @torch.no_grad()
    def fit(self, pooled: Float[Tensor, "prompt dim"]) -> None:
        """Estimates mean and covariance from the texts of a corpus; the total variance is preserved.

        The matrix is symmetric (ZCA), so it does not depend on the choice of eigenvectors.
        """
        pooled = pooled.detach().double().cpu()
        mean = pooled.mean(0)
        centered = pooled - mean
        variance, directions = torch.linalg.eigh(centered.T @ centered / len(pooled))
        deviation = variance.clamp(min=0).sqrt()
        if not deviation[-1] > 0:  # a single prompt: there is nothing to whiten
            return
        gain = (deviation / deviation[-1]).clamp(min=MIN_DEVIATION) ** -self.strength
        gain = gain * (variance.sum() / (variance * gain.square()).sum()).sqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(directions * gain @ directions.T)

    def forward(self, pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The whitened texts."""
        return (pooled - self.mean) @ self.matrix


def fit_whitening(
    generator: nn.Module, encode: Callable[[list[str]], GeneratorText], prompts: Sequence[str]
) -> None:
    """Fits a generator's text whitening, if it has one, to prompts of its corpus; the same on every rank."""
    chunks = [list(prompts[first : first + 256]) for first in range(0, len(prompts), 256)]
    for module in generator.modules():
        if isinstance(module, TextWhitening):
            module.fit(torch.cat([encode(chunk).pooled for chunk in chunks]))
