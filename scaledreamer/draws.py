"""Random numbers by name: a step's draws are a function of names, without state.

Axes: `batch` prompts, `image` all cameras of all prompts, prompts first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Draws(Protocol):
    """Random numbers of a step's prompts, by name; the same name always gives the same numbers."""

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        """In [0, 1)."""
        ...

    def normal(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Standard normal."""
        ...


@dataclass(frozen=True)
class GivenDraws:
    """`Draws` with given values, for rendering outside a training step."""

    values: Mapping[str, Float[Tensor, "batch ..."]]

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        """The given numbers of that name."""
        return self.values[name]

    def normal(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        """The given numbers of that name."""
        return self.values[name]


@dataclass(frozen=True)
class ImageDraws:
    """Random numbers for the images of one prior in a step.

    Attributes:
        draws: of the step's prompts.
        prior: index of the prior in the run: each has its own random numbers.
        num_views: cameras per prompt.
        group: views that the prior processes together, a divisor of `num_views`.
    """

    draws: Draws
    prior: int
    num_views: int
    group: int = 1

    def uniform(self, name: str) -> Float[Tensor, " image"]:
        """One number in [0, 1) per group of views, repeated for each view of the group."""
        uniforms = self.draws.uniform(f"{name} {self.prior}", self.num_views // self.group)
        return uniforms.repeat_interleave(self.group, dim=1).flatten()

    def normal(self, name: str, *shape: int) -> Float[Tensor, "image *shape"]:
        """Standard normal numbers, different for each image."""
        return self.draws.normal(f"{name} {self.prior}", self.num_views, *shape).flatten(0, 1)
