"""Small stand-ins with which a whole training step runs in milliseconds: prior, generator, text encoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledreamer.config import OptimizerSettings
from scaledreamer.contracts import (
    Conditions,
    Generator,
    GeneratorText,
    Observation,
    PriorInputs,
    PriorText,
    Renderer,
)
from scaledreamer.launch.engine import Engine
from scaledreamer.launch.process import Process, start_process
from scaledreamer.methods.base import Timesteps
from scaledreamer.prompts.source import PromptList
from scaledreamer.prompts.stream import PromptStream
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.schedules import Constant, Linear
from scaledreamer.training.batch import BatchSampler, CameraSampler
from scaledreamer.training.judge import Judge
from scaledreamer.training.optimizers import AveragedWeights, LearningRates, make_optimizer
from scaledreamer.training.regularizers import Regularizers
from scaledreamer.training.rendered import RenderedGenerator
from scaledreamer.training.step import Trainer
from tests.support.judges import make_judge

PROMPTS = [
    f"a {color} {thing}" for color in ("red", "green", "blue") for thing in ("cat", "car", "cube", "cone")
]
SIZE = 16


def random_tensor(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the name alone."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class RandomPrior:
    """A `Prior` of random convolutions: nonlinear, smooth, and different for each text."""

    image_size = SIZE
    num_views = 1
    needs: frozenset[str] = frozenset()
    latent_shape: tuple[int, int, int] = (2, 4, 4)

    def __init__(self) -> None:
        self.encoder = random_tensor("encoder", 2, 3, 4, 4) / 6
        self.mixer = random_tensor("mixer", 2, 2, 3, 3) / 4
        self.calls: list[int] = []

    def encode_text(self, prompts: list[str]) -> PriorText:
        return PriorText(torch.stack([random_tensor(prompt, 3, 2) for prompt in prompts]))

    def condition(self, observation: Observation) -> Conditions:
        return observation.texts

    def encode_image(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        mean = torch.tanh(F.conv2d(2 * images - 1, self.encoder, stride=4))
        return mean if noise is None else mean + 0.1 * noise

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def why_not_finite(self) -> None:
        return None

    def predict_noise(self, x_t: Tensor, t: Tensor, inputs: PriorInputs) -> Tensor:
        self.calls.append(len(x_t))
        text = inputs.text.tokens.mean(1)[:, :, None, None]
        return torch.tanh(F.conv2d(x_t, self.mixer, padding=1) * (1 + t[:, None, None, None]) + text)


class FakeConditioner:
    """Random vectors for texts."""

    condition_dim = 6

    def __call__(self, prompts: Sequence[str]) -> GeneratorText:
        pooled = torch.stack([random_tensor(f"pooled {prompt}", 6) for prompt in prompts])
        return GeneratorText(pooled, pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool))


class FakeScene:
    def __init__(self, points_to_values: Tensor, color: Tensor) -> None:
        self.weights, self.color = points_to_values, color

    def sdf(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - 0.5 + 0.2 * torch.tanh(points @ self.weights)[..., 0]

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.sdf(points), torch.sigmoid(points @ self.weights[..., 1:])

    def background(self, directions: Tensor) -> Tensor:
        return torch.sigmoid(self.color)[:, None].expand_as(directions)


class FakeGenerator(Generator):
    """A linear map from text to a linear field around a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(0.3 * torch.randn(3, 4))
        self.body = nn.Linear(6, 12)
        self.background = nn.Linear(6, 3)

    def forward(self, text: GeneratorText, z: Tensor | None = None) -> FakeScene:
        weights = self.table + self.body(text.pooled).view(-1, 3, 4)
        return FakeScene(weights, self.background(text.pooled))


def make_trainer(
    process: Process | None = None,
    *,
    seed: int = 0,
    batch_size: int = 4,
    num_views: int = 2,
    accumulation_steps: int = 1,
    zero_stage: int = 0,
    optimizer: str = "adam",
    lr: float = 1e-2,
    betas: tuple[float, float] = (0.5, 0.99),
    max_norm: float | None = None,
    method: str = "asd",
    regularizers: Regularizers | None = None,
    judges: Sequence[Judge] | None = None,
    conditioner: FakeConditioner | None = None,
    renderer: Renderer | None = None,
    **of_judge: Any,
) -> Trainer:
    """A trainer of the stand-ins; the same settings give the same initial weights."""
    process = process or start_process("cpu")
    torch.manual_seed(seed)
    generator = FakeGenerator()
    averaged = AveragedWeights[Generator](generator, 0.9)
    regularizers = regularizers or Regularizers(
        eikonal=Linear(1.0, 0.1, 0, 10), sparsity=Constant(0.5), opaque=Constant(0.1), num_points=16
    )
    cameras = CameraSampler(
        (-10.0, 45.0), (-180.0, 180.0), (2.5, 2.7), (38.0, 44.0), num_views=num_views, image_size=Constant(8)
    )
    renderer = renderer or VolumeRenderer(num_proposals=8, num_resampled=6, lattice_resolution=8)
    momentum = 0.5 if optimizer == "sgd" else 0.0
    settings = OptimizerSettings.model_validate({"name": optimizer, "betas": [*betas], "momentum": momentum})
    engine = Engine(
        RenderedGenerator(generator, renderer, regularizers),
        generator,
        make_optimizer(generator, settings),
        process,
        micro_batch_size=batch_size // process.world_size // accumulation_steps,
        accumulation_steps=accumulation_steps,
        zero_stage=zero_stage,
        max_norm=max_norm,
    )
    timesteps = Timesteps(Linear(0.5, 0.02, 0, 20), Linear(0.98, 0.5, 0, 20))
    judges = judges or [make_judge(RandomPrior(), method, timesteps=timesteps, **of_judge)]
    batches = BatchSampler(
        PromptStream(PromptList(PROMPTS), seed=seed, batch_size=batch_size),
        conditioner or FakeConditioner(),
        cameras,
        judges,
        accumulation_steps=accumulation_steps,
        rank=process.rank,
        world_size=process.world_size,
    )
    rates = LearningRates(Constant(lr), Constant(lr))
    return Trainer(engine, averaged, batches, judges, regularizers, rates)


def parameters_of(trainer: Trainer) -> Tensor:
    """All trained parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in trainer.engine.trained.parameters()]).clone()


def gradients_of(trainer: Trainer, step: int = 0) -> Tensor:
    """Reduced gradients of one step at ZeRO 0, as one vector; the parameters stay."""
    kept: list[Tensor] = []
    original = trainer.engine.step

    def look(is_finite: Tensor, *, wants_stop: bool = False) -> Any:
        kept.append(torch.cat([g.flatten().clone() for g in trainer.engine.reduced_gradients()]))
        return original(torch.zeros_like(is_finite), wants_stop=wants_stop)

    trainer.engine.step = look  # type: ignore[method-assign]
    try:
        trainer.step(step)
    finally:
        trainer.engine.step = original  # type: ignore[method-assign]
    return kept[0]
