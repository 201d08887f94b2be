"""One training step, from prompts to updated parameters. Start reading at `Trainer.step`.

Letters: `t` times as fractions of the prior's schedule, `x_t = alpha x + sigma eps` noised latents, `g_z`
distillation's gradient at the latents, `g_x` at the prior's input image. Axes: `batch` prompts of this rank,
`view` cameras of a prompt, `image` both as one, prompts first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.cameras import Cameras, sample_cameras
from scaledreamer.contracts import GeneratorText, PriorText, Renderer
from scaledreamer.distillation import (
    ClipStats,
    asd_gradient,
    clip_gradient,
    csd_gradient,
    guided_noise,
    perp_neg,
    rescale_guidance,
    sample_timestep_shift,
    sample_timesteps,
    sds_gradient,
    weight_of,
)
from scaledreamer.launch.engine import Engine, Update
from scaledreamer.prompts.stream import BatchRandom, PromptStream, rank_indices
from scaledreamer.prompts.view_words import view_index, with_view
from scaledreamer.rendering.background import augmented_background
from scaledreamer.schedules import Constant, Schedule
from scaledreamer.training.conditioning import Conditioning, Judge, encode_views
from scaledreamer.training.metrics import Averages, PartTimer
from scaledreamer.training.optimizers import AveragedWeights, LearningRates, set_learning_rates
from scaledreamer.training.prefetch import Pending, PrefetchThread
from scaledreamer.training.regularizers import Regularizers


@dataclass(frozen=True)
class Distillation:
    """How predictions become a gradient. `clip_mode` "none" switches pixel clipping off."""

    method: str = "asd"
    t_min: Schedule = field(kw_only=True)
    t_max: Schedule = field(kw_only=True)
    shift_steps: int | None = None
    sample_latents: bool = False
    clip_mode: str = "pgc_n"
    clip_threshold: float = 0.1
    clip_norm: str = "l2"


@dataclass(frozen=True)
class CameraSampler:
    """Which cameras look at a scene, and how many pixels they see."""

    elevation_deg: tuple[float, float]
    azimuth_deg: tuple[float, float]
    distance: tuple[float, float]
    fov_deg: tuple[float, float]
    elevation_on_sphere: float = 0.0
    num_views: int = 1
    image_size: Schedule = Constant(32)
    random_background: float = 0.5

    def size_at(self, step: int) -> int:
        """Pixels a side at a step; of a schedule the nearest multiple of 4."""
        size = self.image_size.value_at(step)
        return round(size) if isinstance(self.image_size, Constant) else 4 * round(size / 4)

    def cameras(self, uniforms: Float[Tensor, "batch view 4"]) -> Cameras:
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
    """What this rank draws in one accumulation step, with the random numbers that belong to it.

    `conditionings` holds the texts of all images, one for each prior; `image_size` is pixels a side at this
    step; `num_replaced` counts damaged records.
    """

    indices: range
    prompts: list[str]
    random: BatchRandom
    condition: GeneratorText
    cameras: Cameras
    conditionings: tuple[Conditioning, ...]
    image_size: int
    num_replaced: int = 0

    @property
    def view_prompts(self) -> list[str]:
        """Prompts of all images with their view words, as priors read them."""
        views = view_index(self.cameras.elevation, self.cameras.azimuth).tolist()
        return [with_view(prompt, i) for prompt, row in zip(self.prompts, views, strict=True) for i in row]


class RenderedGenerator(nn.Module):
    """Generator, renderer and regularizers: the one module that DeepSpeed wraps. Priors are no part of it."""

    generator: Any

    def __init__(
        self, generator: nn.Module, renderer: Renderer, regularizers: Regularizers, views: CameraSampler
    ) -> None:
        super().__init__()
        self.generator = generator
        self.renderer = renderer
        self.regularizers = regularizers
        self.views = views

    def forward(self, batch: Batch, terms: frozenset[str]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Images "image 3 h w", their opacity, and the regularizers' unreduced terms of these names."""
        random, views, cameras = batch.random, self.views, batch.cameras
        size = batch.image_size
        z = random.normal("z", self.generator.noise_dim) if self.generator.has_noise else None
        scene = self.generator(batch.condition, z)
        _, directions = cameras.rays(size, size)
        behind = scene.background(directions.flatten(1, 3)).unflatten(1, directions.shape[1:4]).movedim(-1, 2)
        uniforms = random.uniform("background", views.num_views, 4)
        rendering = self.renderer(
            scene,
            cameras,
            size,
            size,
            jitter=random.uniform("jitter", views.num_views, size, size),
            background=augmented_background(behind, uniforms, views.random_background),
            with_normal="orientation" in terms,
        )
        points = random.uniform("points", self.regularizers.num_points, 4)
        values = self.regularizers.terms(terms, scene, cameras, rendering, points)
        return rendering.rgb.flatten(0, 1), rendering.opacity, values


# --- the priors' opinion -----------------------------------------------------------------------------------


def upsample(images: Float[Tensor, "image 3 h w"], size: int) -> Float[Tensor, "image 3 size size"]:
    """Images at the prior's size, bilinear; differentiable."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


@torch.no_grad()
def distill(
    term: Judge,
    method: str,
    latents: Float[Tensor, "image c h w"],
    conditioning: Conditioning,
    noise: Float[Tensor, "image c h w"],
    t: Float[Tensor, " image"],
    shift: Float[Tensor, " image"],
) -> Float[Tensor, "image c h w"]:
    """The gradient `g_z` of one method at clean latents, from one batched call of the prior.

    Args:
        method: "asd", "sds" or "csd".
        conditioning: the texts of each image.
        noise: the same in all branches.
        t: time of the first branch.
        shift: dt of ASD's second branch; other methods have none.
    """
    prior, n = term.prior, len(latents)

    def noised(at: Tensor) -> Tensor:
        alpha, sigma = prior.alpha(at)[:, None, None, None], prior.sigma(at)[:, None, None, None]
        return alpha * latents + sigma * noise

    text, x_t = conditioning.text, noised(t)
    branches = [(x_t, t, text), (x_t, t, conditioning.uncond)]
    if method != "csd":  # which has no guidance scale to apply Perp-Neg with
        branches += [(x_t, t, negative) for negative in conditioning.negatives]
    if method == "asd":
        branches.append((noised(t + shift), t + shift, text))
    x, times, texts = zip(*branches, strict=True)
    eps = prior.predict_noise(torch.cat(x), torch.cat(times), PriorText.cat(texts)).split(n)
    eps_text, eps_uncond = eps[:2]

    weight = weight_of(prior.sigma(t))
    if method == "csd":
        return csd_gradient(eps_text, eps_uncond, weight)
    if conditioning.negative_weights is None:
        eps_guided = guided_noise(eps_text, eps_uncond, term.guidance_scale)
    else:
        eps_negatives = torch.stack(eps[2 : 2 + len(conditioning.negatives)], dim=1)
        eps_guided = perp_neg(
            eps_text, eps_uncond, eps_negatives, conditioning.negative_weights, term.guidance_scale
        )
    if term.guidance_rescale > 0:
        eps_guided = rescale_guidance(eps_guided, eps_text, term.guidance_rescale)
    match method:
        case "asd":
            return asd_gradient(eps_guided, eps[-1], weight)
        case "sds":
            return sds_gradient(eps_guided, noise, weight)
    raise ValueError(f"distillation.method: got {method!r}; accepted are 'asd', 'sds' and 'csd'.")


# --- the step ----------------------------------------------------------------------------------------------


@dataclass
class Trainer:
    """Everything that a step needs, apart from its number."""

    engine: Engine
    averaged: AveragedWeights
    stream: PromptStream
    conditioner: Callable[[Sequence[str]], GeneratorText]
    priors: Sequence[Judge]
    views: CameraSampler
    distillation: Distillation
    regularizers: Regularizers
    learning_rates: LearningRates
    accumulation_steps: int = 1
    on_draw: Callable[[int, Batch], None] = lambda step, batch: None
    averages: Averages = field(default_factory=Averages)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        device = self.engine.process.device
        self.timer, self._background = PartTimer(device), PrefetchThread(device)
        self._begun: tuple[tuple[int, int], Pending[Batch]] | None = None

    def step(self, step: int, *, wants_stop: bool = False) -> Update:
        """Optimizer step number `step`, a function of it and of the state of parameters and optimizer.

        Args:
            step: from 0.
            wants_stop: passed to the other ranks with the step's own exchange.
        """
        set_learning_rates(self.engine.optimizer, self.learning_rates.at(step))
        weights = self.regularizers.weights_at(step)
        is_finite = torch.ones((), dtype=torch.bool, device=self.engine.process.device)
        seen: list[tuple[Batch, ClipStats, dict[str, Tensor]]] = []
        for micro_step in range(self.accumulation_steps):
            # ---- what to draw and from where: a pure function of (seed, step, sample index)
            with self.timer.part("draw"):
                batch = self.draw(step, micro_step)
                self.begin_next(step, micro_step)
                self.on_draw(step, batch)

            # ---- one forward pass for all prompts, and their images
            with self.timer.part("render"):
                images, opacity, terms = self.engine(batch, frozenset(weights))
                num_images = len(images)

            # ---- each prior's gradient at its input image, clipped per pixel of each image (PGC)
            loss = torch.zeros((), device=images.device)
            for number, term in enumerate(self.priors):
                with self.timer.part("prior"):
                    upsampled = upsample(images, term.prior.image_size)
                    g_x, stats = self.image_gradient(step, batch, number, upsampled)
                loss = loss + term.weight * (g_x * upsampled).sum() / num_images
                is_finite = is_finite & stats.is_finite
                seen.append((batch, stats, {name: value.detach() for name, value in terms.items()}))

            # ---- regularizers: the one place where terms are reduced and summed
            for name, weight in weights.items():
                loss = loss + weight * terms[name].mean()
                self.averages.add(f"loss/{name}", terms[name])
            is_finite = is_finite & loss.detach().isfinite()

            # ---- back through renderer and generator; the VAE's graph is gone by now
            with self.timer.part("backward"):
                self.engine.backward(loss, is_last=micro_step == self.accumulation_steps - 1)
            self.averages.add("render/opacity", opacity)
            if self.stream.order.num_shards > 1:
                self.averages.add("prompts/damaged", torch.tensor(batch.num_replaced / len(batch.prompts)))

        # ---- the same decision on all ranks: update, or skip what is not finite
        with self.timer.part("update"):
            update = self.engine.step(is_finite, wants_stop=wants_stop)
            if update.is_applied:
                self.averaged.update(self.engine.trained, step)
        if not update.is_applied:
            reasons = [term.prior.why_not_finite() for term in self.priors]
            self.problems = [reason for reason in reasons if reason is not None]
            self.problems += [problem for entry in seen for problem in nonfinite(*entry)]
        return update

    def draw(self, step: int, micro_step: int = 0) -> Batch:
        """This rank's part of a step's global batch, its texts encoded."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != (step, micro_step):
            return self._background.run(self._draw, step, micro_step)
        return begun[1].result()

    def begin_next(self, step: int, micro_step: int) -> None:
        """Begins to draw what follows, in the background."""
        following = (micro_step + 1) % self.accumulation_steps
        key = (step + (following == 0), following)
        self._begun = (key, self._background.begin(self._draw, *key))

    def encode(self, prompts: Sequence[str]) -> GeneratorText:
        """The conditioner's output; in the background too, where alone the encoders are ever run."""
        return self._background.run(self.conditioner, prompts)

    def _draw(self, step: int, micro_step: int) -> Batch:
        process, indices, num_views = self.engine.process, self.indices(micro_step), self.views.num_views
        drawn = self.stream.samples(step, indices, process.device)
        condition = self.conditioner(drawn.prompts) if drawn.condition is None else drawn.condition
        cameras = self.views.cameras(drawn.random.uniform("cameras", num_views, 4))
        elevation, azimuth = cameras.elevation.flatten(), cameras.azimuth.flatten()
        prompts = [prompt for prompt in drawn.prompts for _ in range(num_views)]
        conditionings = tuple(encode_views(term, prompts, elevation, azimuth) for term in self.priors)
        return Batch(
            indices,
            drawn.prompts,
            drawn.random,
            condition,
            cameras,
            conditionings,
            self.views.size_at(step),
            drawn.num_replaced,
        )

    def indices(self, micro_step: int) -> range:
        """Which samples of every step's global batch this rank computes in one accumulation step."""
        return rank_indices(
            self.stream.batch_size,
            rank=self.engine.process.rank,
            world_size=self.engine.process.world_size,
            micro_step=micro_step,
            accumulation_steps=self.accumulation_steps,
        )

    def timesteps(self, step: int, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Times t and ASD's shifts dt of all images of a batch, for prior `number`."""
        views, settings = self.views.num_views, self.distillation
        t_min, t_max = settings.t_min.value_at(step), settings.t_max.value_at(step)
        t = sample_timesteps(batch.random.uniform(f"timestep {number}", views).flatten(), t_min, t_max)
        uniform = batch.random.uniform(f"shift {number}", views).flatten()
        eta = self.priors[number].eta
        return t, sample_timestep_shift(t, t_min, eta, uniform, num_steps=settings.shift_steps)

    def image_gradient(
        self, step: int, batch: Batch, number: int, images: Float[Tensor, "image 3 h w"]
    ) -> tuple[Float[Tensor, "image 3 h w"], ClipStats]:
        """Clipped gradient `g_x` of each image's own loss, at the input of prior `number`."""
        term, settings = self.priors[number], self.distillation
        shape = (self.views.num_views, *term.prior.latent_shape)
        noise = batch.random.normal(f"noise {number}", *shape).flatten(0, 1)
        vae_noise = None
        if settings.sample_latents:
            vae_noise = batch.random.normal(f"vae_noise {number}", *shape).flatten(0, 1)
        t, shift = self.timesteps(step, batch, number)

        x = images.detach().requires_grad_()
        with torch.enable_grad():
            latents = term.prior.encode_image(x, vae_noise)
        g_z = distill(term, settings.method, latents.detach(), batch.conditionings[number], noise, t, shift)
        (g_x,) = torch.autograd.grad(latents, x, g_z)
        is_clipped = settings.clip_mode != "none"
        threshold = settings.clip_threshold if is_clipped else float("inf")
        mode = settings.clip_mode if is_clipped else "pgc_n"
        g_x, stats = clip_gradient(g_x, threshold, mode, settings.clip_norm)

        prior = f"prior{number}"
        self.averages.add(f"{prior}/latent_gradient", g_z.square().sum((1, 2, 3)).sqrt())
        self.averages.add(f"{prior}/pixel_gradient", stats.norm_mean)
        self.averages.add(f"{prior}/pixel_gradient_max", stats.norm_max)
        self.averages.add(f"{prior}/pixel_gradient_clipped", stats.clipped_norm_mean)
        self.averages.add(f"{prior}/clipped_fraction", stats.clipped_fraction)
        self.averages.add(f"{prior}/timestep", t)
        self.averages.add(f"{prior}/timestep_shift", shift)
        return g_x, stats


def nonfinite(batch: Batch, stats: ClipStats, terms: dict[str, Tensor]) -> list[str]:
    """What was not finite in a skipped step: loss terms and pixel gradients, each with its prompts."""
    problems = []
    bad = {name: ~term.isfinite().flatten(1).all(1) for name, term in terms.items()}
    bad["pixel gradient"] = (stats.num_nonfinite > 0).view(len(batch.prompts), -1).any(1)
    for name, is_bad in bad.items():
        for i in is_bad.nonzero().flatten().tolist():
            problems.append(f"{name} of sample {batch.indices[i]} ({batch.prompts[i]!r})")
    return problems or ["gradients of the parameters"]
