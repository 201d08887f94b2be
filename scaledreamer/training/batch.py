"""The batch of a step: prompts, cameras, encoded texts, and random numbers by name.

A batch is a pure function of (seed, step, sample index). Axes: `batch` prompts of this rank, `view` cameras
of a prompt, `image` both flattened, prompts first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import Cameras, sample_cameras
from scaledreamer.contracts import Conditions, GeneratorText, Observation, Rendering
from scaledreamer.draws import ImageDraws
from scaledreamer.prompts.stream import BatchRandom, PromptStream, rank_indices
from scaledreamer.prompts.view_words import view_index, with_view
from scaledreamer.schedules import Constant, Schedule
from scaledreamer.training.judge import Judge


@dataclass(frozen=True)
class CameraSampler:
    """Samples the cameras of a step, and determines the image size."""

    elevation_deg: tuple[float, float]
    azimuth_deg: tuple[float, float]
    distance: tuple[float, float]
    fov_deg: tuple[float, float]
    elevation_on_sphere: float = 0.0
    num_views: int = 1
    image_size: Schedule = Constant(32)

    def size_at(self, step: int) -> int:
        """Image size in pixels at a step; a schedule is rounded to the nearest multiple of 4."""
        size = self.image_size.value_at(step)
        return round(size) if isinstance(self.image_size, Constant) else 4 * round(size / 4)

    def sample(self, uniforms: Float[Tensor, "batch view 4"]) -> Cameras:
        """Cameras from uniforms in [0, 1), see `cameras.sample_cameras`."""
        return sample_cameras(
            uniforms,
            elevation_deg=self.elevation_deg,
            azimuth_deg=self.azimuth_deg,
            distance=self.distance,
            fov_deg=self.fov_deg,
            elevation_on_sphere=self.elevation_on_sphere,
        )


@dataclass(frozen=True)
class Batch:
    """This rank's part of one accumulation step.

    Attributes:
        indices: of its samples in the step's global batch.
        draws: the random numbers of its prompts.
        text: the generator's text features.
        prior_texts: for each judge, the encoded texts of all images, with view words.
        image_size: in pixels.
        num_replaced: number of damaged records that were replaced by other prompts.
    """

    indices: range
    prompts: list[str]
    draws: BatchRandom
    text: GeneratorText
    cameras: Cameras
    prior_texts: tuple[Conditions, ...]
    image_size: int
    num_replaced: int = 0

    @property
    def num_views(self) -> int:
        """Cameras per prompt."""
        return self.cameras.azimuth.shape[1]

    @property
    def image_prompts(self) -> list[str]:
        """Prompts of all images, without view words."""
        return [prompt for prompt in self.prompts for _ in range(self.num_views)]

    @property
    def view_prompts(self) -> list[str]:
        """Prompts of all images with their view words, as priors read them."""
        views = view_index(self.cameras.elevation, self.cameras.azimuth).flatten().tolist()
        return [with_view(prompt, view) for prompt, view in zip(self.image_prompts, views, strict=True)]

    def draws_for(self, number: int, judge: Judge) -> ImageDraws:
        """The random numbers of judge `number` of the run."""
        return ImageDraws(self.draws, number, self.num_views, judge.prior.num_views)

    def observation(self, number: int, rendering: Rendering) -> Observation:
        """The observation of the batch's rendered images for judge `number`."""
        return Observation(self.image_prompts, self.cameras, rendering, self.prior_texts[number])


@dataclass(frozen=True)
class BatchSampler:
    """Draws this rank's part of every step's global batch.

    Attributes:
        conditioner: encodes prompts for the generator.
    """

    stream: PromptStream
    conditioner: Callable[[Sequence[str]], GeneratorText]
    cameras: CameraSampler
    judges: Sequence[Judge]
    accumulation_steps: int = 1
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    def indices(self, micro_step: int) -> range:
        """The samples of a step's global batch that this rank computes in one accumulation step."""
        return rank_indices(
            self.stream.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            micro_step=micro_step,
            accumulation_steps=self.accumulation_steps,
        )

    def __call__(self, step: int, micro_step: int) -> Batch:
        """The batch of one accumulation step, with encoded texts."""
        indices, num_views = self.indices(micro_step), self.cameras.num_views
        drawn = self.stream.samples(step, indices, self.device)
        text = self.conditioner(drawn.prompts) if drawn.condition is None else drawn.condition
        cameras = self.cameras.sample(drawn.random.uniform("cameras", num_views, 4))
        elevation, azimuth = cameras.elevation.flatten(), cameras.azimuth.flatten()
        prompts = [prompt for prompt in drawn.prompts for _ in range(num_views)]
        texts = tuple(judge.texts.of_views(prompts, elevation, azimuth) for judge in self.judges)
        size = self.cameras.size_at(step)
        return Batch(indices, drawn.prompts, drawn.random, text, cameras, texts, size, drawn.num_replaced)
