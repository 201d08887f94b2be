"""Comparison of generated and true scenes, with the same renderer, cameras, background and lattice for both.

Axes: `prompt` objects, `view` cameras, `x y z` cells of the scene cube [-1, 1]^3. Images are composited over
`BACKGROUND`; a cell is occupied if its signed distance is negative; a pixel is covered if its opacity exceeds
one half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.contracts import Renderer, Scene
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.scene import WorldScene

IMAGE_SIZE = 64
ELEVATION_DEG, DISTANCE, FOV_DEG = 15.0, 2.6, 41.0
BACKGROUND = (0.5, 0.5, 0.5)
"""Plain grey, on which white, black and every colour of the world stand out."""
LATTICE = 64
"""Cells per side for the comparison of volumes; fewer would lose thin parts when a volume is scaled."""
FAR = 0.25
"""Distances are clamped here: only their sign and the position of the zero crossing are used."""

MakeScene = Callable[[list[str]], Scene]
"""Makes the scenes of a batch of prompts."""


@dataclass(frozen=True)
class Observation:
    """Images and volumes of scenes.

    Attributes:
        images: over `BACKGROUND`, in [0, 1].
        covered: silhouettes.
        distance: signed distance at the cells' centres, clamped at `FAR`, in half precision.
    """

    images: Float[Tensor, "prompt view 3 h w"]
    covered: Bool[Tensor, "prompt view h w"]
    distance: Float[Tensor, "prompt x y z"]

    def rows(self, index: Sequence[int]) -> Observation:
        """The observations of some prompts, in the given order."""
        chosen = torch.as_tensor(index, device=self.images.device)
        return Observation(self.images[chosen], self.covered[chosen], self.distance[chosen])


@dataclass(frozen=True)
class Observer:
    """Renders and samples generated and true scenes in the same way.

    Attributes:
        renderer: renderer of the images, from `Renderer.for_scores`.
        device: device of the scenes.
        num_views: cameras around each object.
        lattice: cells per side for volumes.
        image_size: image size in pixels.
        batch_size: scenes that are processed at once; None is the fastest in measurements (on a CPU, what
            fits into its cache: `generated_batch` and `true_batch`).
    """

    renderer: Renderer
    device: torch.device | str = "cpu"
    num_views: int = 4
    lattice: int = LATTICE
    image_size: int = IMAGE_SIZE
    batch_size: int | None = None

    @property
    def _is_on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def generated_batch(self) -> int:
        """Number of generated scenes that are processed at once."""
        return self.batch_size or (4 if self._is_on_cpu else 32)

    @property
    def true_batch(self) -> int:
        """Number of true scenes that are processed at once: on a CPU, four take as long as twelve one by
        one."""
        return self.batch_size or (1 if self._is_on_cpu else 32)

    def cameras_around(self, start_azimuth_deg: float, batch: int) -> Cameras:
        """Cameras evenly around the object, the same for every prompt."""
        return orbit_cameras(
            self.num_views,
            elevation_deg=ELEVATION_DEG,
            distance=DISTANCE,
            fov_deg=FOV_DEG,
            start_azimuth_deg=start_azimuth_deg,
            batch=batch,
        ).to(self.device)

    @torch.no_grad()
    def render(
        self, scene: Scene, cameras: Cameras
    ) -> tuple[Float[Tensor, "prompt view 3 h w"], Float[Tensor, "prompt view 1 h w"]]:
        """Images over `BACKGROUND`, and opacity."""
        background = torch.tensor(BACKGROUND, device=self.device).expand(*cameras.azimuth.shape, 3)
        chunk_size = 1024 if self._is_on_cpu else None
        size = self.image_size
        rendering = self.renderer(scene, cameras, size, size, background=background, chunk_size=chunk_size)
        return rendering.rgb.float().clamp(0, 1), rendering.opacity

    @torch.no_grad()
    def distance(self, scene: Scene, batch: int) -> Float[Tensor, "{batch} x y z"]:
        """Signed distances at the cells' centres; NaN counts as outside."""
        size = self.lattice
        centre = (torch.arange(size, device=self.device) + 0.5) * (2 / size) - 1
        points = torch.cartesian_prod(centre, centre, centre)
        chunks = [scene.sdf(part.expand(batch, -1, 3)) for part in points.split(1 << 14)]
        values = torch.cat(chunks, 1).nan_to_num(nan=FAR).clamp(-FAR, FAR)
        return values.half().unflatten(1, (size, size, size))

    def observe(
        self, make_scene: MakeScene, prompts: Sequence[str], *, start_azimuth_deg: float
    ) -> Observation:
        """Images and volumes of generated scenes."""
        size = self.generated_batch
        parts = [list(prompts[first : first + size]) for first in range(0, len(prompts), size)]
        return _joined([self._observe(make_scene(part), len(part), start_azimuth_deg) for part in parts])

    def images(
        self, make_scene: MakeScene, prompts: Sequence[str], *, start_azimuth_deg: float
    ) -> Float[Tensor, "prompt view 3 h w"]:
        """Images of generated scenes."""
        size = self.generated_batch
        parts = [list(prompts[first : first + size]) for first in range(0, len(prompts), size)]
        views = [
            self.render(make_scene(part), self.cameras_around(start_azimuth_deg, len(part)))[0]
            for part in parts
        ]
        return torch.cat(views)

    def observe_truth(self, meanings: Sequence[Meaning], *, start_azimuth_deg: float) -> Observation:
        """Images and volumes of the true objects."""
        size = self.true_batch
        parts = [meanings[first : first + size] for first in range(0, len(meanings), size)]
        scenes = ((WorldScene(part, self.device), len(part)) for part in parts)
        return _joined([self._observe(scene, batch, start_azimuth_deg) for scene, batch in scenes])

    def _observe(self, scene: Scene, batch: int, start_azimuth_deg: float) -> Observation:
        images, opacity = self.render(scene, self.cameras_around(start_azimuth_deg, batch))
        return Observation(images, opacity[:, :, 0] > 0.5, self.distance(scene, batch))


def _joined(parts: list[Observation]) -> Observation:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Observation(*(torch.cat(values) for values in columns))


def intersection_over_union(
    one: Bool[Tensor, "prompt *shape"], other: Bool[Tensor, "prompt *shape"]
) -> Float[Tensor, " prompt"]:
    """IoU of two sets of cells or pixels; 0 if both are empty."""
    one, other = one.flatten(1), other.flatten(1)
    both, either = (one & other).sum(1), (one | other).sum(1)
    return both / either.clamp(min=1)


def volume_iou(one: Observation, other: Observation) -> Float[Tensor, " prompt"]:
    """IoU of volumes without alignment."""
    return intersection_over_union(one.distance < 0, other.distance < 0)


def silhouette_iou(one: Observation, other: Observation) -> Float[Tensor, " prompt"]:
    """IoU of silhouettes, averaged over views."""
    batch = one.covered.shape[:2]
    each = intersection_over_union(one.covered.flatten(0, 1), other.covered.flatten(0, 1))
    return each.unflatten(0, batch).mean(1)


def image_error(one: Observation, other: Observation) -> Float[Tensor, " prompt"]:
    """Mean absolute difference of images in [0, 1], over views, pixels and channels."""
    return (one.images - other.images).abs().flatten(1).mean(1)
