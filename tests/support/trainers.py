"""Trainers of the probes, all made here from one record of settings, which `reference_step` reads as well."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scaledreamer.config import OptimizerSettings
from scaledreamer.contracts import Generator, Method, PriorText
from scaledreamer.launch.engine import Engine, Update
from scaledreamer.launch.process import start_process
from scaledreamer.methods import ASD, CSD, SDS, Guidance, Timesteps
from scaledreamer.priors.conditioning import Texts
from scaledreamer.prompts.encodings import EncodingCache
from scaledreamer.prompts.source import PromptList
from scaledreamer.prompts.stream import PromptStream
from scaledreamer.schedules import Constant, Linear, Schedule
from scaledreamer.training.batch import BatchSampler, CameraSampler
from scaledreamer.training.judge import Judge, PixelClip
from scaledreamer.training.optimizers import AveragedWeights, LearningRates, make_optimizer
from scaledreamer.training.regularizers import Regularizers
from scaledreamer.training.rendered import RenderedGenerator
from scaledreamer.training.step import Trainer
from tests.support.exact_prior import ExactPrior
from tests.support.probes import NumberConditioner, PixelGenerator, ProbeRenderer

Annealed = float | tuple[float, float, int, int]
"""A value, or one that goes from the first to the second between two steps."""
PROMPTS = tuple(f"a {color} {thing}" for color in ("red", "blue") for thing in ("cat", "car", "cube", "cone"))


def schedule(value: Annealed) -> Schedule:
    return Linear(*value) if isinstance(value, tuple) else Constant(value)


@dataclass(frozen=True)
class JudgeSettings:
    """One prior of a run with its method."""

    prior: ExactPrior
    method: str = "asd"
    guidance_scale: float = 3.0
    eta: float = 0.1
    weight: float = 1.0
    guidance_rescale: float = 0.0
    negative_prompt: str = ""
    perp_neg: float = 0.0


@dataclass(frozen=True)
class StepSettings:
    """What a step of the probes depends on."""

    judges: tuple[JudgeSettings, ...]
    seed: int = 0
    batch_size: int = 2
    num_views: int = 1
    accumulation_steps: int = 1
    image_size: Annealed = 4.0
    elevation_deg: tuple[float, float] = (-10.0, 45.0)
    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    on_sphere: float = 0.0
    random_background: float = 0.5
    t_min: Annealed = 0.3
    t_max: Annealed = 0.8
    shift_steps: int | None = None
    sample_latents: bool = False
    clip_mode: str = "none"
    clip_threshold: float = 0.1
    clip_norm: str = "l2"
    learning_rate: Annealed = 1.0
    background_learning_rate: Annealed = 1.0
    warmup_steps: int = 0
    max_norm: float | None = None
    zero_stage: int = 0
    ema_decay: float = 0.9
    eikonal: Annealed = 0.0
    sparsity: Annealed = 0.0
    opaque: Annealed = 0.0
    orientation: Annealed = 0.0
    trained: tuple[str, ...] = ("pixels",)
    opacity: float = 1.0
    noise_dim: int = 0
    text_cache: int = 0
    prompts: tuple[str, ...] = PROMPTS
    optimizer: str = "sgd"


@dataclass(frozen=True)
class Rig:
    """A trainer of the probes with its parts in hand."""

    trainer: Trainer
    generator: PixelGenerator
    renderer: ProbeRenderer

    def parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters, in float64."""
        return {name: p.detach().double().clone() for name, p in self.generator.named_parameters()}

    def averages(self) -> dict[str, Tensor]:
        """The moving averages of all parameters, in float64."""
        averaged = self.trainer.averaged.module
        return {name: p.detach().double().clone() for name, p in averaged.named_parameters()}

    def change(self, step: int) -> tuple[dict[str, Tensor], Update]:
        """Makes one step: by how much each parameter changes, and what became of the step."""
        before = self.parameters()
        update = self.trainer.step(step)
        return {name: after - before[name] for name, after in self.parameters().items()}, update


def make_rig(settings: StepSettings) -> Rig:
    """A trainer of these settings; the same settings give the same initial parameters."""
    process = start_process("cpu")
    size = settings.image_size
    largest = int(max(size[:2]) if isinstance(size, tuple) else size)
    generator = PixelGenerator(
        len(settings.prompts),
        settings.num_views,
        largest,
        trained=settings.trained,
        opacity=settings.opacity,
        noise_dim=settings.noise_dim,
    )
    renderer = ProbeRenderer()
    averaged: AveragedWeights[Generator] = AveragedWeights(generator, settings.ema_decay)
    regularizers = Regularizers(
        eikonal=schedule(settings.eikonal),
        sparsity=schedule(settings.sparsity),
        opaque=schedule(settings.opaque),
        orientation=schedule(settings.orientation),
        num_points=8,
    )
    engine = Engine(
        RenderedGenerator(generator, renderer, regularizers, settings.random_background),
        generator,
        make_optimizer(generator, OptimizerSettings.model_validate({"name": settings.optimizer})),
        process,
        micro_batch_size=settings.batch_size // settings.accumulation_steps,
        accumulation_steps=settings.accumulation_steps,
        zero_stage=settings.zero_stage,
        max_norm=settings.max_norm,
    )
    batches = make_batches(settings)
    learning_rates = LearningRates(
        schedule(settings.learning_rate),
        schedule(settings.background_learning_rate),
        settings.warmup_steps,
    )
    trainer = Trainer(engine, averaged, batches, batches.judges, regularizers, learning_rates)
    return Rig(trainer, generator, renderer)


def make_batches(settings: StepSettings, *, rank: int = 0, world_size: int = 1) -> BatchSampler:
    """What draws the batches of one rank."""
    return BatchSampler(
        stream=PromptStream(
            PromptList(list(settings.prompts)), seed=settings.seed, batch_size=settings.batch_size
        ),
        conditioner=NumberConditioner(settings.prompts),
        cameras=CameraSampler(
            elevation_deg=settings.elevation_deg,
            azimuth_deg=settings.azimuth_deg,
            distance=(2.0, 3.0),
            fov_deg=(40.0, 50.0),
            elevation_on_sphere=settings.on_sphere,
            num_views=settings.num_views,
            image_size=schedule(settings.image_size),
        ),
        judges=[make_judge(settings, judge) for judge in settings.judges],
        accumulation_steps=settings.accumulation_steps,
        rank=rank,
        world_size=world_size,
    )


def make_judge(settings: StepSettings, judge: JudgeSettings) -> Judge:
    """A prior with its method and its texts, which are remembered up to a number."""
    encode = EncodingCache(judge.prior.encode_text, PriorText.cat, capacity=settings.text_cache)
    return Judge(
        judge.prior,
        make_method(settings, judge),
        Texts(encode, judge.negative_prompt, judge.perp_neg),
        judge.weight,
        settings.sample_latents,
        PixelClip(settings.clip_mode, settings.clip_threshold, settings.clip_norm),
    )


def make_method(settings: StepSettings, judge: JudgeSettings) -> Method:
    timesteps = Timesteps(schedule(settings.t_min), schedule(settings.t_max))
    guidance = Guidance(judge.guidance_scale, judge.guidance_rescale)
    match judge.method:
        case "asd":
            return ASD(timesteps, guidance, judge.eta, settings.shift_steps)
        case "sds":
            return SDS(timesteps, guidance)
        case "csd":
            return CSD(timesteps)
    raise AssertionError(judge.method)
