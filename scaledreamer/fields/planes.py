"""Three planes of features (EG3D, Chan et al. 2022, section 4): a point's features are those of its shadows.

Points lie in the cube [-1, 1]^3. Axis `plane` and what runs along w and h of each:

    plane 0: x along w, y along h        plane 1: x along w, z along h        plane 2: z along w, y along h

A plane of r pixels a side covers [-1, 1]^2; pixel i has its centre at (2 i + 1) / r - 1. Between centres
features are bilinear. Beyond the outermost centres they fade, to zero one pixel further on. Order, last axis
and fading are those of ScaleDreamer's and OpenLRM's lookup, so their weights mean the same here.

Measured on one core (4 prompts, planes 3 x 16 x 32 x 32, 20,000 points each): 12 ms forward and 25 ms
backward. One lookup for all prompts, where they share the points, takes as long: what costs is to gather.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_ALONG_W_AND_H = ([0, 1], [0, 2], [2, 1])
"""Of each plane: the points' coordinates along w and h."""


@dataclass(frozen=True)
class FeaturePlanes:
    """Features of points of a batch of scenes, looked up on the scenes' own planes.

    Attributes:
        values: of pixels.
        has_coordinates: the points' own coordinates follow their features.
    """

    values: Float[Tensor, "batch 3 c h w"]
    has_coordinates: bool = False

    def __call__(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n feature"]:
        """Features of points, plane by plane (axis feature = plane * c + feature of the plane), and x, y, z
        if they are asked for.

        Differentiable in values and points.
        """
        places = torch.stack([points[..., axes] for axes in _ALONG_W_AND_H], 1).flatten(0, 1)
        found = F.grid_sample(self.values.flatten(0, 1), places[:, None], align_corners=False)
        features = found[:, :, 0].unflatten(0, (-1, 3)).permute(0, 3, 1, 2).flatten(2)
        return torch.cat([features, points], -1) if self.has_coordinates else features

    def row(self, index: int) -> FeaturePlanes:
        """Those of one scene, as a batch of one."""
        return FeaturePlanes(self.values[index : index + 1], self.has_coordinates)
