"""Signed distances on a coarse lattice: an estimate of what rays hit, from few queries of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Scene
from scaledreamer.fields.sdf import volsdf_density
from scaledreamer.rendering.sampling import compositing_weights


@dataclass(frozen=True)
class CoarseLattice:
    """Signed distances of a batch of scenes, with edges of equal length along each axis.

    Attributes:
        values: at the lattice's points, which the batch shares.
        radius: half an edge of the cube that they span.
    """

    values: Float[Tensor, "batch 1 z y x"]
    radius: float

    @classmethod
    @torch.no_grad()
    def sample(
        cls, scene: Scene, resolution: int, radius: float, like: Float[Tensor, "batch n 3"], at_once: int
    ) -> CoarseLattice:
        """The lattice of scenes, `resolution` points a side.

        Args:
            like: points of the batch, for its size, type and device.
            at_once: points of a scene in one query.
        """
        axis = torch.linspace(-radius, radius, resolution, dtype=like.dtype, device=like.device)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        points = torch.stack([x, y, z], -1).view(1, -1, 3).expand(len(like), -1, -1)
        sdf = torch.cat([scene.sdf(piece) for piece in points.split(at_once, 1)], 1)
        return cls(sdf.view(-1, 1, resolution, resolution, resolution), radius)

    def weights_at(
        self,
        beta: float,
        origins: Float[Tensor, "batch ray 3"],
        directions: Float[Tensor, "batch ray 3"],
        depths: Float[Tensor, "batch ray sample"],
        lengths: Float[Tensor, "batch ray sample"],
    ) -> Float[Tensor, "batch ray sample"]:
        """Compositing weights from the lattice's distances, with a density no sharper than it resolves."""
        points = torch.addcmul(
            (origins / self.radius)[:, :, None], (directions / self.radius)[:, :, None], depths[..., None]
        )
        sdf = F.grid_sample(self.values, points[:, None], align_corners=True, padding_mode="border")
        spacing = 2 * self.radius / (self.values.shape[-1] - 1)
        density = volsdf_density(sdf[:, 0, 0], max(beta, spacing / 4))
        return compositing_weights(density, lengths)
