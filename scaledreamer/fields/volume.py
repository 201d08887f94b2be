"""Features of points, interpolated from a feature volume; axes and cube as in `scaledreamer.contracts`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FeatureVolume:
    """Features of a batch of scenes on a lattice over the cube [-1, 1]^3, interpolated trilinearly.

    Lattice point i of r along an axis is at the centre of the i-th of r equal cells, at (2 i + 1) / r - 1
    (`align_corners=False` in `grid_sample`). Outside the lattice everything is zero: in the half cell between
    the outermost points and a face of the cube, features fall to half their value, and half a cell outside to
    zero. A point that is not finite has meaningless features, but does not affect other points.

    Attributes:
        values: the axes are z, y, x of the world, in this order.
    """

    values: Float[Tensor, "batch c z y x"]

    def __call__(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n c"]:
        """Features at points, in their dtype; differentiable in both.

        Points that are expanded along `batch` (stride 0) are located once for all scenes.
        """
        batch, channels = self.values.shape[:2]
        values, num_points = self.values.to(points.dtype), points.shape[1]
        if num_points == 0:
            return values.new_zeros(batch, 0, channels)
        if points.stride(0) == 0:  # scenes are then just additional channels
            values, points = values.flatten(0, 1)[None], points[:1]
        found = F.grid_sample(
            values, points[:, None, None], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        return found.view(batch, channels, num_points).transpose(1, 2)

    def row(self, index: int) -> FeatureVolume:
        """The volume of one scene, as a batch of one."""
        return FeatureVolume(self.values[index : index + 1])
