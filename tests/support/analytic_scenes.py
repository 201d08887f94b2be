"""Scenes with closed-form distance and colour, for the tests of meshing and of the pipeline."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


class AnalyticScene:
    """One prompt's scene from two functions of points (..., 3); white background."""

    def __init__(
        self, distance: Callable[[Tensor], Tensor], color: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.distance = distance
        self.color = color or (lambda points: torch.full_like(points, 0.5))
        self.num_sdf_points = 0

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        self.num_sdf_points += points.shape[1]
        return self.distance(points)

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n feature"]]:
        return self.distance(points), self.color(points)

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        return torch.ones_like(directions)


def ball(
    center: tuple[float, float, float] = (0.0, 0.0, 0.0), radius: float = 0.5
) -> Callable[[Tensor], Tensor]:
    return lambda points: (points - points.new_tensor(center)).norm(dim=-1) - radius


def box(center: tuple[float, float, float], half: tuple[float, float, float]) -> Callable[[Tensor], Tensor]:
    def distance(points: Tensor) -> Tensor:
        q = (points - points.new_tensor(center)).abs() - points.new_tensor(half)
        return q.clamp(min=0).norm(dim=-1) + q.amax(dim=-1).clamp(max=0)

    return distance


def union(*distances: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda points: torch.stack([distance(points) for distance in distances]).amin(dim=0)


def position_color(points: Tensor) -> Tensor:
    """Rgb = (point + 1) / 2, so a colour tells where it was taken."""
    return (points + 1) / 2
