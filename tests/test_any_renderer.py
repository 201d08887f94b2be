"""A renderer of a user's own, in one class, drives training, turntables, textures and validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.asset import Asset
from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.contracts import Renderer, Rendering, Scene
from scaledreamer.draws import Draws
from scaledreamer.evaluation.validation import ValidationScore
from scaledreamer.rendering.turntable import render_frames
from scaledreamer.rendering.volume import VolumeRenderer
from tests.support.analytic_scenes import AnalyticScene, ball, position_color
from tests.support.evaluation_fakes import perfect_scenes, text_vector
from tests.support.training_fakes import make_trainer, parameters_of


@dataclass(frozen=True)
class ClosestPoints:
    """Shows of each ray the point that is closest to a surface, as opaque as it is deep."""

    num_samples: int = 24
    softness: float = 0.05
    tint: float = 0.0

    def __call__(
        self,
        scene: Scene,
        cameras: Cameras,
        height: int,
        width: int,
        *,
        draws: Draws | None = None,
        background: Float[Tensor, "batch view 3 *hw"] | None = None,
        needs: frozenset[str] = frozenset(),
        chunk_size: int | None = None,
    ) -> Rendering:
        origins, directions = (rays.flatten(1, 3) for rays in cameras.rays(height, width))
        num_views = cameras.azimuth.shape[1]
        shift = torch.full_like(origins[..., 0], 0.5)
        if draws is not None:
            shift = draws.uniform("shift", num_views, height, width).flatten(1)
        steps = torch.arange(self.num_samples) + shift[..., None]
        depths = cameras.distance.mean() - 1 + steps * (2 / self.num_samples)
        points = origins[..., None, :] + depths[..., None] * directions[..., None, :]
        sdf, features = scene.query(points.flatten(1, 2))
        sdf, nearest = sdf.unflatten(1, depths.shape[1:]).min(-1, keepdim=True)
        colors = features[..., :3].unflatten(1, depths.shape[1:])
        rgb = colors.gather(2, nearest[..., None].expand(-1, -1, -1, 3))[:, :, 0]

        def image(values: Tensor) -> Tensor:
            return values.unflatten(1, (num_views, height, width)).movedim(-1, 2)

        opacity = torch.sigmoid(-sdf / self.softness)
        behind = image(scene.background(directions)) if background is None else background
        behind = behind[..., None, None] if behind.ndim == 3 else behind
        maps = {"depth": image(depths.gather(2, nearest))} if "depth" in needs else {}
        return Rendering(
            image((rgb + self.tint) * opacity) + (1 - image(opacity)) * behind, image(opacity), **maps
        )

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def for_display(self) -> ClosestPoints:
        return self

    def for_scores(self) -> ClosestPoints:
        return replace(self, softness=0.01)

    def surface_offsets(self) -> tuple[float, ...]:
        return (0.1, 0.3)

    def frames(self, scene: Scene, cameras: Cameras, size: int, distances: Tensor) -> Tensor:
        return render_frames(self, scene, cameras, size)


BALL = AnalyticScene(ball((0, 0, 0), 0.5), position_color)


def test_it_keeps_the_contract():
    assert isinstance(ClosestPoints(), Renderer) and isinstance(VolumeRenderer(), Renderer)


def test_two_training_steps_go_through_it():
    moved = []
    for renderer in (ClosestPoints(), ClosestPoints(tint=0.5)):
        trainer = make_trainer(renderer=renderer)
        before = parameters_of(trainer)
        for step in range(2):
            trainer.step(step)
        moved.append(parameters_of(trainer) - before)
        assert moved[-1].isfinite().all() and moved[-1].norm() > 0
    assert not torch.equal(*moved), "colours reach the prior through the renderer that was given"


def test_a_turntable_shows_what_it_renders():
    asset = Asset("a ball", None, BALL, renderer=ClosestPoints(softness=0.01))
    frames = asset.turntable(3, 32, renderer="volume", background="transparent")
    assert (frames[:, 16, 16, 3] == 255).all() and (frames[:, 0, 0, 3] == 0).all()
    paler = Asset("a ball", None, BALL, renderer=ClosestPoints(softness=0.01, tint=0.2))
    shown = paler.turntable(3, 32, renderer="volume", background="transparent")
    assert shown[:, 16, 16, :3].mean() > frames[:, 16, 16, :3].mean() + 10


def test_textures_have_the_colours_at_its_offsets():
    """Colours are (position + 1) / 2; the mean offset is 0.2 outside of the ball of radius 0.5."""
    asset = Asset("a ball", None, BALL, renderer=ClosestPoints())
    vertices = asset._lit_mesh().painted
    expected = (vertices.mesh.vertices * (0.7 / 0.5) + 1) / 2
    assert np.abs(vertices.colors - expected).max() < 0.02


def test_a_validation_scores_images_that_it_renders():
    class Reader:
        """Remembers the images; every text is as near."""

        def embed_images(self, images: Tensor) -> Tensor:
            self.images = images
            return torch.stack([text_vector(str(i)) for i in range(len(images))])

        def embed_texts(self, texts: Any) -> Tensor:
            return torch.stack([text_vector(text) for text in texts])

    images = []
    for tint in (0.0, 0.5):
        reader = Reader()
        renderer = ClosestPoints(tint=tint).for_scores()
        score = ValidationScore(num_prompts=2, encoder=reader, renderer=renderer)
        assert score(perfect_scenes, 0)["iou"] == pytest.approx(1)
        images.append(reader.images)
    assert (images[1] - images[0]).amax() > 0.2


def test_frames_of_any_renderer_are_those_of_the_fast_one():
    """The volume renderer's own frames march through a lattice; `render_frames` calls it as it is."""
    renderer = VolumeRenderer(num_proposals=128, num_resampled=64, lattice_resolution=64)
    cameras = orbit_cameras(2, elevation_deg=15, distance=2.6, fov_deg=41)
    asset = Asset("a ball", None, BALL, renderer=renderer)
    fast = renderer.frames(BALL, cameras, 32, asset._lattice(128).values)
    assert (render_frames(renderer, BALL, cameras, 32) - fast).abs().mean() < 0.005
