"""Our scenes rendered by nerfacc's functions in pure torch, for `python -m tools.benchmark render`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from scaledreamer.contracts import Scene
    from scaledreamer.rendering.volume import VolumeRenderer

BACKGROUND = 0.35
"""Of all images that are compared."""


def to_image(rays: Tensor, size: int) -> Tensor:
    """ "batch ray 3" to "batch view 3 h w" of one view."""
    return rays.unflatten(1, (1, size, size)).movedim(-1, 2)


def import_nerfacc() -> Any:
    """The module, or None."""
    try:
        import nerfacc  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return nerfacc


def _render(
    nerfacc: Any, scene: Scene, beta: float, rays: Sequence[Tensor], starts: Tensor, ends: Tensor
) -> Tensor:
    """Colours "batch ray 3" from intervals "batch ray sample", by nerfacc's batched torch functions."""
    from scaledreamer.fields.sdf import volsdf_density

    origins, directions = rays
    batch, num_rays, num_samples = starts.shape

    def rgb_and_density(t_starts: Tensor, t_ends: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        middle = ((t_starts + t_ends) / 2).view(batch, num_rays, num_samples, 1)
        points = origins[:, :, None] + directions[:, :, None] * middle
        sdf, features = scene.query(points.flatten(1, 2))
        density = volsdf_density(sdf, beta)
        return features[..., :3].reshape(-1, num_samples, 3), density.reshape(-1, num_samples)

    colors, *_ = nerfacc.rendering(
        starts.flatten(0, 1), ends.flatten(0, 1), rgb_sigma_fn=rgb_and_density, render_bkgd=BACKGROUND
    )
    return colors.view(batch, num_rays, 3)


def render_even(
    nerfacc: Any,
    scene: Scene,
    renderer: VolumeRenderer,
    rays: tuple[Tensor, Tensor],
    num_samples: int,
    size: int,
) -> Tensor:
    """Of all rays, even intervals between where they enter the cube and leave it."""
    import torch

    from scaledreamer.rendering.sampling import cube_interval

    enter, leave, _ = cube_interval(*rays, renderer.radius, renderer.near, renderer.far)
    edges = enter[..., None] + (leave - enter)[..., None] * torch.linspace(0, 1, num_samples + 1)
    colors = _render(nerfacc, scene, renderer.beta, rays, edges[..., :-1].clone(), edges[..., 1:].clone())
    return to_image(colors, size)


def render_chosen(
    nerfacc: Any, scene: Scene, renderer: VolumeRenderer, rays: tuple[Tensor, Tensor], size: int
) -> Tensor:
    """Of the rays and intervals that our renderer chooses, by its own coarse pass."""
    import torch

    origins, directions = rays
    middle = torch.full_like(origins[..., 0], 0.5)
    kept, depths, lengths, _ = renderer._plan(scene, origins, directions, middle, None, None)
    index = kept[..., None].expand(-1, -1, 3)
    chosen = [values.gather(1, index) for values in rays]
    starts, ends = depths - lengths / 2, depths + lengths / 2
    colors = _render(nerfacc, scene, renderer.beta, chosen, starts, ends)
    return to_image(torch.full_like(origins, BACKGROUND).scatter(1, index, colors), size)
