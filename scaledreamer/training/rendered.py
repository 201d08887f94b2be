"""The module that DeepSpeed wraps: generator, renderer and regularizers, but no priors."""

from __future__ import annotations

from torch import Tensor, nn

from scaledreamer.contracts import Generator, Renderer, Rendering, SceneBatch
from scaledreamer.rendering.background import augmented_background
from scaledreamer.training.batch import Batch
from scaledreamer.training.regularizers import Regularizers


class RenderedGenerator(nn.Module):
    """Maps a batch to its images and the regularizers' unreduced terms.

    Args:
        random_background: share of images with a random colour instead of the scene's background.
    """

    def __init__(
        self,
        generator: Generator,
        renderer: Renderer,
        regularizers: Regularizers,
        random_background: float = 0.5,
    ) -> None:
        super().__init__()
        self.generator: Generator = generator
        self.renderer = renderer
        self.regularizers = regularizers
        self.random_background = random_background

    def forward(
        self, batch: Batch, terms: frozenset[str], needs: frozenset[str]
    ) -> tuple[Rendering, dict[str, Tensor]]:
        """Images of all prompts from all their cameras.

        Args:
            terms: names of the regularizers' terms to compute.
            needs: what the judges need in the rendering besides rgb; see `contracts.Renderer`.
        """
        draws, cameras, size, num_views = batch.draws, batch.cameras, batch.image_size, batch.num_views
        z = draws.normal("z", self.generator.noise_dim) if self.generator.has_noise else None
        scene: SceneBatch = self.generator(batch.text, z)
        _, directions = cameras.rays(size, size)
        behind = scene.background(directions.flatten(1, 3)).unflatten(1, directions.shape[1:4]).movedim(-1, 2)
        uniforms = draws.uniform("background", num_views, 4)
        rendering = self.renderer(
            scene,
            cameras,
            size,
            size,
            draws=draws,
            background=augmented_background(behind, uniforms, self.random_background),
            needs=needs | self.regularizers.needs(terms),
        )
        points = draws.uniform("points", self.regularizers.num_points, 4)
        return rendering, self.regularizers.terms(terms, scene, cameras, rendering, points)
