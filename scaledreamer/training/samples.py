"""Images of a few prompts, to be looked at while a run trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import orbit_cameras
from scaledreamer.contracts import Renderer, Scene
from scaledreamer.training.batch import CameraSampler

NUM_VIEWS, ELEVATION_DEG = 4, 15.0
RAYS_AT_ONCE = 2**14
"""Rays of one prompt that are rendered at once, to bound memory."""


@torch.no_grad()
def sample_turntables(
    renderer: Renderer, scenes: Iterable[Scene], sampler: CameraSampler, size: int, device: torch.device
) -> Float[Tensor, "row view 3 {size} {size}"]:
    """Views around scenes of one prompt each, from the middle of the training's distances and fields of view.

    Args:
        scenes: made one after the other, as they are needed.
    """
    distance, fov_deg = sum(sampler.distance) / 2, sum(sampler.fov_deg) / 2
    cameras = orbit_cameras(NUM_VIEWS, elevation_deg=ELEVATION_DEG, distance=distance, fov_deg=fov_deg)
    cameras = cameras.to(device)
    images = [renderer(scene, cameras, size, size, chunk_size=RAYS_AT_ONCE).rgb for scene in scenes]
    return torch.cat(images)
