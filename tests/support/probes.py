"""Probes of a training step: a generator whose parameters are pixels, and a renderer that shows them as such.
Under plain SGD with rate 1 a parameter then changes by minus the gradient that reached its pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scaledreamer.cameras import Cameras
from scaledreamer.contracts import Generator, GeneratorText, Rendering, Scene
from scaledreamer.draws import Draws
from tests.support.exact_prior import random_tensor


class NumberConditioner:
    """Gives each prompt its number in a list as its one-dimensional vector."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __call__(self, prompts: Sequence[str]) -> GeneratorText:
        pooled = torch.tensor([[float(self.prompts.index(prompt))] for prompt in prompts])
        return GeneratorText(pooled, pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool))


class PixelScene:
    """Images of a batch of prompts, "batch view 3 h w", with `sdf = slope x` and one background colour."""

    def __init__(
        self, images: Tensor, opacity: Tensor, normal: Tensor, slope: Tensor, color: Tensor, z: Tensor | None
    ) -> None:
        self.images, self.opacity, self.normal = images, opacity, normal
        self.slope, self.color, self.z = slope, color, z

    def sdf(self, points: Tensor) -> Tensor:
        return self.slope[:, None] * points[..., 0]

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.sdf(points), torch.full_like(points, 0.5)

    def background(self, directions: Tensor) -> Tensor:
        return self.color.expand_as(directions)

    def row(self, index: int) -> PixelScene:
        tables = (self.images, self.opacity, self.normal, self.slope)
        images, opacity, normal, slope = (table[index : index + 1] for table in tables)
        z = None if self.z is None else self.z[index : index + 1]
        return PixelScene(images, opacity, normal, slope, self.color, z)


class PixelGenerator(Generator):
    """A table of images by prompt and view.

    Args:
        trained: names of the trained parameters, among `pixels` (prompt, view, 3, h, w), `opacity` (prompt,
            view, 1, h, w), `normal` (prompt, view, 3), `slope` (prompt) and `background` (3).
        opacity: of all pixels at first.
    """

    def __init__(
        self,
        num_prompts: int,
        num_views: int,
        size: int,
        *,
        trained: Sequence[str] = ("pixels",),
        opacity: float = 1.0,
        noise_dim: int = 0,
    ) -> None:
        super().__init__()
        self.has_noise, self.noise_dim = noise_dim > 0, noise_dim
        images = 0.5 + 0.2 * random_tensor("images", num_prompts, num_views, 3, size, size).float()
        self.pixels = nn.Parameter(images)
        self.opacity = nn.Parameter(torch.full((num_prompts, num_views, 1, size, size), opacity))
        self.normal = nn.Parameter(random_tensor("normals", num_prompts, num_views, 3).float())
        self.slope = nn.Parameter(1 + torch.linspace(0.5, 1.0, num_prompts))
        self.background = nn.Parameter(torch.tensor([0.3, 0.5, 0.7]))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)

    def forward(self, text: GeneratorText, z: Tensor | None = None) -> PixelScene:
        row = text.pooled[:, 0].long()
        slope, normal = self.slope[row], self.normal[row]
        return PixelScene(self.pixels[row], self.opacity[row], normal, slope, self.background, z)


class RenderCall(NamedTuple):
    """What a renderer was called with; `jitter` is what it would draw for its rays."""

    scene: PixelScene
    cameras: Cameras
    size: tuple[int, int]
    jitter: Tensor | None
    background: Tensor
    needs: frozenset[str]


@dataclass(frozen=True)
class ProbeRenderer:
    """Shows a `PixelScene`: the top left part of its images, over the background as opaque as they are."""

    calls: list[RenderCall] = field(default_factory=list)

    def __call__(
        self,
        scene: Scene,
        cameras: Cameras,
        height: int,
        width: int,
        *,
        draws: Draws | None = None,
        background: Tensor | None = None,
        needs: frozenset[str] = frozenset(),
        chunk_size: int | None = None,
    ) -> Rendering:
        assert isinstance(scene, PixelScene) and background is not None
        jitter = draws.uniform("jitter", cameras.azimuth.shape[1], height, width) if draws else None
        self.calls.append(RenderCall(scene, cameras, (height, width), jitter, background, needs))
        opacity = scene.opacity[..., :height, :width]
        rgb = opacity * scene.images[..., :height, :width] + (1 - opacity) * background
        depth = torch.full_like(opacity, 2.0) if "depth" in needs else None
        normal = scene.normal[..., None, None].expand_as(rgb) if "normal" in needs else None
        return Rendering(rgb, opacity, depth, normal)

    @property
    def num_samples(self) -> int:
        return 1

    def settings(self) -> dict[str, Any]:
        return {}

    def for_display(self) -> ProbeRenderer:
        return self

    def for_scores(self) -> ProbeRenderer:
        return self

    def surface_offsets(self) -> tuple[float, ...]:
        return (0.0,)

    def frames(self, scene: Scene, cameras: Cameras, size: int, distances: Tensor) -> Tensor:
        raise AssertionError("a training step renders no frames")
