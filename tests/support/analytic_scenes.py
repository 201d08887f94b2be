"""Scenes with closed-form distance and colour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import Cameras, orbit_cameras


class AnalyticScene:
    """A scene from two functions of points (..., 3): signed distance, and rgb (None is grey)."""

    def __init__(
        self,
        distance: Callable[[Tensor], Tensor],
        color: Callable[[Tensor], Tensor] | None = None,
        behind: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.distance, self.behind = distance, behind
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
        return torch.tensor(self.behind, dtype=directions.dtype).expand_as(directions)


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


def bumpy(points: Tensor) -> Tensor:
    """A ball with bumps, whose distances are not exact."""
    x, y, z = points.unbind(-1)
    return points.norm(dim=-1) - 0.5 + 0.08 * torch.sin(7 * x) * torch.sin(6 * y + 5 * z)


def colorful(distance: Callable[[Tensor], Tensor]) -> AnalyticScene:
    """Colours that vary in space, before a blue background."""
    return AnalyticScene(distance, lambda points: 0.5 + 0.45 * torch.sin(2 * points), (0.2, 0.5, 0.9))


def recorded(distance: Callable[[Tensor], Tensor]) -> tuple[AnalyticScene, list[Tensor]]:
    """A colourful scene, and the points of each of its queries so far (`sdf` is not recorded)."""
    scene, queries = colorful(distance), list[Tensor]()
    query = scene.query

    def recording(points: Tensor) -> tuple[Tensor, Tensor]:
        queries.append(points)
        return query(points)

    scene.query = recording  # type: ignore[method-assign]
    return scene, queries


def front(batch: int = 1, fov_deg: float = 40.0, elevation_deg: float = 0.0, num_views: int = 1) -> Cameras:
    """Cameras around a scene, the first before its front."""
    return orbit_cameras(num_views, elevation_deg=elevation_deg, distance=2.6, fov_deg=fov_deg, batch=batch)
