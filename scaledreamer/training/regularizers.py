"""Regularizers of scenes: unreduced terms, each a pure function of tensors.

Each term has the axis `batch` first and the same number of entries for every prompt, so that its mean over a
rank's prompts, averaged over ranks, is the mean over all prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.config import RegularizerSettings
from scaledreamer.contracts import Rendering, Scene
from scaledreamer.fields.sdf import finite_difference_gradient
from scaledreamer.rendering.sampling import running_sum
from scaledreamer.schedules import Constant, Schedule

NAMES = ("eikonal", "sparsity", "opaque", "orientation")
NEEDS = {"eikonal": "depth", "orientation": "normal"}


def eikonal(gradient: Float[Tensor, "batch point 3"]) -> Float[Tensor, "batch point"]:
    """`(|grad sdf| - 1)^2`, which is zero for a true distance (IGR, arXiv 2002.10099)."""
    return (gradient.square().sum(-1).clamp(min=1e-12).sqrt() - 1).square()


def sparsity(opacity: Float[Tensor, "batch view 1 h w"]) -> Float[Tensor, "batch view 1 h w"]:
    """`sqrt(o^2 + 0.01)`, close to the opacity itself and smooth at zero (ScaleDreamer)."""
    return (opacity.square() + 0.01).sqrt()


def opaque(opacity: Float[Tensor, "batch view 1 h w"]) -> Float[Tensor, "batch view 1 h w"]:
    """Entropy of the opacity as a probability, in nats: zero if it is 0 or 1 (ScaleDreamer)."""
    opacity = opacity.clamp(1e-3, 1 - 1e-3)
    return -(opacity * opacity.log() + (1 - opacity) * (1 - opacity).log())


def orientation(
    normal: Float[Tensor, "batch view 3 h w"], directions: Float[Tensor, "batch view h w 3"]
) -> Float[Tensor, "batch view h w"]:
    """`max(n . d, 0)^2` (after Ref-NeRF, arXiv 2112.03907): visible surface should not face away.

    Args:
        normal: mean normal of each pixel, times its opacity.
        directions: unit directions of the pixels' rays.
    """
    return F.relu((normal * directions.movedim(-1, 2)).sum(2)).square()


def eikonal_points(
    uniforms: Float[Tensor, "batch point 4"], cameras: Cameras, rendering: Rendering, spread: float = 0.1
) -> Float[Tensor, "batch point 3"]:
    """Points for the eikonal term: half anywhere in the scene cube, half near the visible surface.

    Args:
        uniforms: in [0, 1); the last one selects a pixel for the second half.
        spread: maximum distance along each axis of the second half from the surface.
    """
    num_points = uniforms.shape[1]
    anywhere, near = uniforms.split([num_points - num_points // 2, num_points // 2], dim=1)
    assert rendering.depth is not None
    height, width = rendering.depth.shape[-2:]
    with torch.no_grad():
        origins, directions = cameras.rays(height, width)
        hits = (origins + rendering.depth.movedim(2, -1) * directions).flatten(1, 3)
        covered = running_sum(rendering.opacity.flatten(1) + 1e-6)  # draws pixels in proportion to opacity
        pixel = torch.searchsorted(covered, near[..., 3] * covered[:, -1:]).clamp(max=hits.shape[1] - 1)
        hits = hits.gather(1, pixel[..., None].expand(-1, -1, 3))
        near_surface = (hits + spread * (2 * near[..., :3] - 1)).clamp(-1, 1)
        return torch.cat([2 * anywhere[..., :3] - 1, near_surface], dim=1)


@dataclass(frozen=True)
class Regularizers:
    """Schedules of all regularizers' factors; a term with a factor of zero is not computed."""

    eikonal: Schedule = Constant(0.0)
    sparsity: Schedule = Constant(0.0)
    opaque: Schedule = Constant(0.0)
    orientation: Schedule = Constant(0.0)
    num_points: int = 512
    epsilon: float = 0.01

    def factors_at(self, step: int) -> dict[str, float]:
        """Factors above zero by name."""
        schedules = (self.eikonal, self.sparsity, self.opaque, self.orientation)
        factors = {name: line.value_at(step) for name, line in zip(NAMES, schedules, strict=True)}
        return {name: factor for name, factor in factors.items() if factor > 0}

    def needs(self, names: frozenset[str]) -> frozenset[str]:
        """What the named terms need in a rendering besides rgb and opacity, see `contracts.Renderer`."""
        return frozenset(need for name, need in NEEDS.items() if name in names)

    def terms(
        self,
        names: frozenset[str],
        scene: Scene,
        cameras: Cameras,
        rendering: Rendering,
        uniforms: Float[Tensor, "batch point 4"],
    ) -> dict[str, Float[Tensor, "batch ..."]]:
        """The named terms of a rendered scene, unreduced and without factors."""
        terms: dict[str, Tensor] = {}
        if "eikonal" in names:
            points = eikonal_points(uniforms, cameras, rendering)
            terms["eikonal"] = eikonal(finite_difference_gradient(scene.sdf, points, self.epsilon))
        if "sparsity" in names:
            terms["sparsity"] = sparsity(rendering.opacity)
        if "opaque" in names:
            terms["opaque"] = opaque(rendering.opacity)
        if "orientation" in names:
            assert rendering.normal is not None
            _, directions = cameras.rays(*rendering.normal.shape[-2:])
            terms["orientation"] = orientation(rendering.normal, directions)
        return terms


def make_regularizers(settings: RegularizerSettings, max_steps: int) -> Regularizers:
    """All regularizers with their schedules over a training of `max_steps` steps."""
    return Regularizers(
        eikonal=settings.eikonal.weight.over(max_steps),
        sparsity=settings.sparsity.weight.over(max_steps),
        opaque=settings.opaque.weight.over(max_steps),
        orientation=settings.orientation.weight.over(max_steps),
        num_points=settings.eikonal.num_points,
        epsilon=settings.eikonal.epsilon,
    )
