"""Scenes that decode the features of points with two MLPs that all prompts share.

Used by the 3DConv-net, the Triplane-Transformer and the plain field, which differ in where the features come
from. World and axes are those of `scaledreamer.contracts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.fields.sdf import sphere_bias


@runtime_checkable
class PointFeatures(Protocol):
    """Features of points of a batch of scenes."""

    def __call__(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n feature"]:
        """Features at points; points that are expanded along `batch` may be processed once."""
        ...

    def row(self, index: int) -> PointFeatures:
        """Those of one scene of the batch, as a batch of one."""
        ...


def check_settings(config: Mapping[str, Any], sizes: Iterable[str]) -> None:
    """Checks settings that all generators share.

    Raises: ValueError naming a size below 1, a sphere that is not inside the cube, or a background that is
        neither "learned" nor "none".
    """
    for name in sizes:
        if config[name] < 1:
            raise ValueError(f"{name} is {config[name]}: it must be at least 1.")
    if not 0 < config["sphere_radius"] < 1:
        raise ValueError(
            f"sphere_radius is {config['sphere_radius']}: it must lie between 0 and 1, inside the scene cube."
        )
    if config["background"] not in ("learned", "none"):
        raise ValueError(f"background is {config['background']!r}: choose 'learned' or 'none'.")


class Decoder(nn.Module):
    """Decodes features to signed distance and rgb, and directions to the background's rgb.

    The initial surface is nearly a sphere: the last layers start at a hundredth of their usual scale.

    Args:
        num_features: features of a point.
        width: width of the hidden layers.
        depth: number of hidden layers.
        sphere_radius: radius of the initial surface.
        background: "learned", a network of the direction that all prompts share, or "none", white.
    """

    def __init__(
        self, num_features: int, width: int, depth: int, sphere_radius: float, background: str
    ) -> None:
        super().__init__()
        self.sphere_radius = sphere_radius
        self.sdf, self.rgb = _mlp(num_features, width, depth, 1), _mlp(num_features, width, depth, 3)
        self.background = _mlp(3, 16, 1, 3) if background == "learned" else None


@dataclass(frozen=True)
class DecodedScene:
    """Scenes of a batch of prompts (a `contracts.SceneBatch`), differentiable in the generator."""

    features: PointFeatures
    decoder: Decoder

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance: a sphere plus the network's output."""
        return self._sdf(points, self.features(points))

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n 3"]]:
        """Signed distance and rgb in [0, 1]."""
        features = self.features(points)
        return self._sdf(points, features), torch.sigmoid(self.decoder.rgb(features))

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Rgb of the background: learned by direction, or white."""
        if self.decoder.background is None:
            return torch.ones_like(directions)
        return torch.sigmoid(self.decoder.background(directions))

    def row(self, index: int) -> DecodedScene:
        """The scene of one prompt, as a batch of one."""
        return DecodedScene(self.features.row(index), self.decoder)

    def _sdf(self, points: Tensor, features: Tensor) -> Tensor:
        return sphere_bias(points, self.decoder.sphere_radius) + self.decoder.sdf(features)[..., 0]


def _mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """ReLU between layers, He initialization (2015), the last layer scaled by 1/100, biases zero."""
    widths = [inputs] + [width] * depth + [outputs]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layer = nn.Linear(before, after)
        nn.init.normal_(layer.weight, 0, math.sqrt(2 / before) * (0.01 if number == depth else 1.0))
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()] if number < depth else [layer]
    return nn.Sequential(*layers)
