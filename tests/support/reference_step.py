"""A training step of the probes computed again, slowly: one image at a time, in float64, from the papers'
equations. It calls nothing of the package but `SampleRandom`, whose names are a contract.

Its noise predictions are `-sigma` times the log density's gradient by autograd, not the prior's closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scaledreamer.prompts.stream import SampleRandom
from tests.support.exact_prior import ExactPrior
from tests.support.trainers import Annealed, JudgeSettings, Rig, StepSettings, make_rig


def at(value: Annealed, step: int) -> float:
    """An annealed value at a step."""
    if not isinstance(value, tuple):
        return value
    start, end, first, last = value
    return float(np.interp(step, [first, last], [start, end]))


class Camera(NamedTuple):
    """Angles in degrees."""

    elevation: float
    azimuth: float

    @property
    def from_front(self) -> float:
        """Azimuth's distance from the front, in [0, 180]."""
        return abs((self.azimuth + 180) % 360 - 180)


def camera_of(settings: StepSettings, step: int, sample: int, view: int) -> Camera:
    """Where a view is taken from; the views of a prompt are spread evenly in azimuth.

    A share of the elevations is even over the sphere's area, the others over degrees.
    """
    u = SampleRandom(settings.seed, step, sample).uniform("cameras", (settings.num_views, 4)).double()
    (low, high), (left, right) = settings.elevation_deg, settings.azimuth_deg
    turn, height, share = (
        (float(u[0, 1]) + view / settings.num_views) % 1,
        float(u[view, 0]),
        settings.on_sphere,
    )
    if height < share:
        bottom, top = math.sin(math.radians(low)), math.sin(math.radians(high))
        elevation = math.degrees(math.asin(bottom + (top - bottom) * height / share))
    else:
        elevation = low + (high - low) * (height - share) / (1 - share)
    return Camera(elevation, left + (right - left) * turn)


def view_word(camera: Camera) -> str:
    if camera.elevation > 60:
        return "overhead view"
    if camera.from_front < 30:
        return "front view"
    return "back view" if camera.from_front > 150 else "side view"


class Texts(NamedTuple):
    """Mixing weights of a judge's branches; Perp-Neg's negatives with their weights `w_i`."""

    text: Tensor
    uncond: Tensor
    negatives: list[tuple[Tensor, float]]


def texts_of(judge: JudgeSettings, prompt: str, camera: Camera) -> Texts:
    """What a prior reads of a prompt seen by a camera (view words; Perp-Neg, arXiv 2304.04968)."""

    def encode(word: str) -> Tensor:
        return judge.prior.weights_of(f"{prompt}, {word} view")

    uncond = judge.prior.weights_of(judge.negative_prompt)
    if judge.perp_neg == 0:
        return Texts(judge.prior.weights_of(f"{prompt}, {view_word(camera)}"), uncond, [])
    front, side, back = encode("front"), encode("side"), encode("back")
    if camera.elevation > 60:
        return Texts(encode("overhead"), uncond, [])
    if camera.from_front < 90:
        r = 1 - camera.from_front / 90
        text = r * front + (1 - r) * side
        raw = [(front, 4 * math.exp(-r / 2) - 2.426), (side, 4 * math.exp(-(1 - r) / 2) - 2.426)]
    else:
        r = 2 - camera.from_front / 90
        text = r * side + (1 - r) * back
        raw = [(side, math.exp(-r / 2) - 0.606), (front, math.exp(-r / 2) + 0.967)]
    return Texts(text, uncond, [(negative, judge.perp_neg * max(w, 0)) for negative, w in raw])


class Times(NamedTuple):
    t: float
    shift: float


def times_of(settings: StepSettings, step: int, number: int, sample: int, view: int) -> Times:
    """Time and ASD's shift of an image for judge `number` (ScaleDreamer, Algorithm 1)."""
    random, group = SampleRandom(settings.seed, step, sample), settings.judges[number].prior.num_views
    shape, row = (settings.num_views // group,), view // group  # views judged together share both
    t_min, t_max = at(settings.t_min, step), at(settings.t_max, step)
    t = t_min + (t_max - t_min) * float(random.uniform(f"timestep {number}", shape)[row])
    largest = max(min(settings.judges[number].eta * (t - t_min), 1 - t), 0)
    shift = largest * float(random.uniform(f"shift {number}", shape)[row])
    if settings.shift_steps is not None:
        shift = math.floor(shift * settings.shift_steps) / settings.shift_steps
    return Times(t, shift)


def noise_by_score(prior: ExactPrior, x_t: Tensor, t: float, weights: Tensor) -> Tensor:
    """`-sigma grad log p(x_t)` of one image "c h w", by autograd."""
    x = x_t[None].clone().requires_grad_()
    density = prior.mixture.log_density(x, torch.tensor([t], dtype=torch.float64), weights[None])
    (score,) = torch.autograd.grad(density.sum(), x)
    return -math.sin(math.pi / 2 * t) * score[0]


def latent_gradient(
    judge: JudgeSettings, latents: Tensor, texts: Texts, times: Times, noise: Tensor
) -> Tensor:
    """`g_z` of one image's latents "c h w"."""

    def predict(t: float, weights: Tensor) -> Tensor:
        x_t = math.cos(math.pi / 2 * t) * latents + math.sin(math.pi / 2 * t) * noise
        return noise_by_score(judge.prior, x_t, t, weights)

    t, shift = times
    w = math.sin(math.pi / 2 * t) ** 2
    eps_text, eps_uncond = predict(t, texts.text), predict(t, texts.uncond)
    if judge.method == "csd":
        return w * (eps_text - eps_uncond)
    direction = eps_text - eps_uncond
    total = direction.clone()
    for negative, strength in texts.negatives:
        away = predict(t, negative) - eps_uncond
        total -= strength * (away - (away * direction).sum() / (direction * direction).sum() * direction)
    eps_guided = eps_uncond + judge.guidance_scale * total
    share = judge.guidance_rescale
    eps_guided = share * eps_guided * eps_text.std() / eps_guided.std() + (1 - share) * eps_guided
    return w * (eps_guided - (noise if judge.method == "sds" else predict(t + shift, texts.text)))


def bilinear_matrix(size: int, new_size: int) -> Tensor:
    """Rows are new pixels, columns old ones, along one axis; pixel centres, edges repeated."""
    matrix = torch.zeros(new_size, size, dtype=torch.float64)
    for i in range(new_size):
        place = min(max((i + 0.5) * size / new_size - 0.5, 0), size - 1)
        low = min(int(place), size - 1)
        high = min(low + 1, size - 1)
        matrix[i, low] += 1 - (place - low)
        matrix[i, high] += place - low
    return matrix


def clipped(gradient: Tensor, settings: StepSettings) -> Tensor:
    """Pixel-wise clipping (PGC, arXiv 2310.12474) of one image's gradient "3 h w"."""
    c = settings.clip_threshold
    norm = gradient.norm(dim=0) if settings.clip_norm == "l2" else gradient.abs().amax(0)
    match settings.clip_mode:
        case "none":
            return gradient
        case "pgc_n":
            return gradient * torch.minimum(torch.ones_like(norm), c / norm)
        case "pgc_v":
            return gradient.maximum(torch.tensor(-c)).minimum(torch.tensor(c))
        case "pngd":
            return gradient * c / (norm + c)
    raise AssertionError(settings.clip_mode)


class Judged(NamedTuple):
    """What one judge says of one image, without its weight: `g_z`, `g_x` before and after clipping, and the
    gradient at the render."""

    times: Times
    g_z: Tensor
    g_x: Tensor
    g_clipped: Tensor
    g_image: Tensor


def judged(
    settings: StepSettings, step: int, number: int, image: Tensor, prompt: str, place: tuple[int, int]
) -> Judged:
    """What judge `number` says of one rendered image "3 h w".

    Args:
        place: sample and view.
    """
    judge, (sample, view) = settings.judges[number], place
    prior, random = judge.prior, SampleRandom(settings.seed, step, sample)
    shape = (settings.num_views, *prior.latent_shape)
    up = bilinear_matrix(image.shape[-1], prior.image_size)
    x = up @ image @ up.T
    identity = 2 * torch.eye(x.numel(), dtype=torch.float64)
    matrix, offset = (identity, -1.0) if prior.encoder is None else (prior.encoder, 0.0)
    latents = (matrix @ x.flatten() + offset).view(prior.latent_shape)
    if settings.sample_latents:
        latents = latents + prior.posterior_std * random.normal(f"vae_noise {number}", shape)[view].double()
    times = times_of(settings, step, number, sample, view)
    texts = texts_of(judge, prompt, camera_of(settings, step, sample, view))
    noise = random.normal(f"noise {number}", shape)[view].double()
    g_z = latent_gradient(judge, latents, texts, times, noise)
    g_x = (matrix.T @ g_z.flatten()).view(x.shape)
    g_clipped = clipped(g_x, settings)
    return Judged(times, g_z, g_x, g_clipped, up.T @ g_clipped @ up)


def pixel_gradient(settings: StepSettings, step: int, pixels: Tensor, prompts: list[str]) -> Tensor:
    """Gradient of a whole step at the generator's table of images, all judges together.

    Args:
        pixels: the table before the step, "prompt view 3 h w".
        prompts: of the step's samples, in order.
    """
    result = torch.zeros_like(pixels)
    size, num_images = image_size_at(settings, step), settings.batch_size * settings.num_views
    for sample, prompt in enumerate(prompts):
        row = settings.prompts.index(prompt)
        for view in range(settings.num_views):
            image = pixels[row, view, :, :size, :size]
            for number, judge in enumerate(settings.judges):
                opinion = judged(settings, step, number, image, prompt, (sample, view))
                result[row, view, :, :size, :size] += judge.weight * opinion.g_image / num_images
    return result


def image_size_at(settings: StepSettings, step: int) -> int:
    """Pixels a side; while it grows the nearest multiple of 4."""
    size = at(settings.image_size, step)
    return 4 * math.floor(size / 4 + 0.5) if isinstance(settings.image_size, tuple) else int(size)


def assert_steps_match_reference(
    settings: StepSettings, steps: Sequence[int] = (3,), *, unlike: Sequence[StepSettings] = ()
) -> Rig:
    """Every step changes the pixels as the reference says, and not as it says for other settings.

    Args:
        steps: made one after the other with the same trainer.
        unlike: settings whose steps have to differ by a hundredth, so that each change is known to matter.
    Returns: the trainer with its parts, after the steps.
    """
    rig = make_rig(settings)
    for step in steps:
        prompts = rig.trainer.batches.stream.prompts_at(step, range(settings.batch_size))
        pixels = rig.parameters()["pixels"]
        change, update = rig.change(step)
        wanted = -at(settings.learning_rate, step) * pixel_gradient(settings, step, pixels, prompts)
        assert update.is_applied and wanted.norm() > 1e-3
        assert relative(change["pixels"], wanted) < 5e-4, f"step {step}"
        for other in unlike:
            differing = -at(other.learning_rate, step) * pixel_gradient(other, step, pixels, prompts)
            assert relative(differing, wanted) > 0.01, f"step {step} is the same for other settings"
    return rig


def relative(value: Tensor, wanted: Tensor) -> float:
    """Distance in proportion to the wanted vector's length."""
    return float((value - wanted).norm() / wanted.norm())
