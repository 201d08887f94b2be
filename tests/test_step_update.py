"""What a training step does with its gradient: regularizers, norms, learning rates, averages, skipped steps.

Gradients of the regularizers are closed forms on the probes' scene, whose opacity, normals and slope of the
signed distance are parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.prompts.stream import SampleRandom
from tests.support.exact_prior import ExactPrior
from tests.support.reference_step import at, camera_of, pixel_gradient, relative
from tests.support.trainers import Annealed, JudgeSettings, Rig, StepSettings, make_rig


def settings_of(**changes: Any) -> StepSettings:
    settings = StepSettings((JudgeSettings(ExactPrior()),))
    return replace(settings, **changes)


def unjudged(**changes: Any) -> StepSettings:
    """A step of its regularizers alone."""
    settings = StepSettings((JudgeSettings(ExactPrior(), weight=0.0),))
    return replace(settings, **changes)


def rows_of(settings: StepSettings, rig: Rig, step: int) -> list[int]:
    prompts = rig.trainer.batches.stream.prompts_at(step, range(settings.batch_size))
    return [settings.prompts.index(prompt) for prompt in prompts]


# --- regularizers ------------------------------------------------------------------------------------------

WEIGHTS: list[Annealed] = [0.7, (2.0, 0.5, 1, 5)]


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_eikonal_straightens_the_slope_by_its_weight_at_the_step(
    weight: Annealed, accumulation_steps: int
) -> None:
    """Of `sdf = k x` it is `(|k| - 1)^2`, and k changes by minus `w 2 (k - 1) / batch`."""
    settings = unjudged(eikonal=weight, trained=("pixels", "slope"), accumulation_steps=accumulation_steps)
    rig = make_rig(settings)
    for step in (0, 3, 6):
        rows, slope = rows_of(settings, rig, step), rig.parameters()["slope"]
        change, _ = rig.change(step)
        wanted = torch.zeros_like(slope)
        wanted[rows] = -at(weight, step) * 2 * (slope[rows] - 1) / settings.batch_size
        assert relative(change["slope"], wanted) < 1e-3


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", ["sparsity", "opaque"])
def test_opacity_is_lowered_or_decided_by_its_weight_at_the_step(name: str, weight: Annealed) -> None:
    """`o / sqrt(o^2 + 0.01)` of sparsity, `log((1 - o) / o)` of opaque, meant over all pixels."""
    settings = unjudged(**{name: weight}, trained=("pixels", "opacity"), opacity=0.3, num_views=2)
    rig = make_rig(settings)
    for step in (0, 3, 6):
        rows, o = rows_of(settings, rig, step), rig.parameters()["opacity"]
        change, _ = rig.change(step)
        slope = o / (o.square() + 0.01).sqrt() if name == "sparsity" else ((1 - o) / o).log()
        wanted = torch.zeros_like(o)
        wanted[rows] = -at(weight, step) * slope[rows] / o[rows].numel()
        assert relative(change["opacity"], wanted) < 1e-3


def test_orientation_turns_normals_that_face_away() -> None:
    """`max(n . d, 0)^2` with the directions of the pixels' rays, from the cameras' angles alone."""
    weight: Annealed = (2.0, 0.5, 1, 5)
    settings = unjudged(orientation=weight, trained=("pixels", "normal"), num_views=2, batch_size=4)
    rig = make_rig(settings)
    for step in (0, 3):
        normal = rig.parameters()["normal"]
        rows = rows_of(settings, rig, step)
        change, _ = rig.change(step)
        wanted = torch.zeros_like(normal)
        for sample, row in enumerate(rows):
            for view in range(2):
                d = ray_directions(settings, step, sample, view)
                facing = (d @ normal[row, view]).clamp(min=0)
                wanted[row, view] = -at(weight, step) * 2 * (facing[..., None] * d).sum((0, 1)) / (4 * 2 * 16)
        assert relative(change["normal"], wanted) < 1e-3


def ray_directions(settings: StepSettings, step: int, sample: int, view: int) -> Tensor:
    """Unit directions "row column 3" through the centres of 4 x 4 pixels."""
    camera = camera_of(settings, step, sample, view)
    u = SampleRandom(settings.seed, step, sample).uniform("cameras", (settings.num_views, 4)).double()[view]
    e, a, fov = torch.tensor([camera.elevation, camera.azimuth, 40 + 10 * float(u[3])]).double().deg2rad()
    forward = -torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()])
    right = torch.stack([-a.sin(), a.cos(), torch.zeros(()).double()])
    up = torch.linalg.cross(right, forward)
    place = torch.tensor([-0.75, -0.25, 0.25, 0.75]).double() * (fov / 2).tan()
    d = forward + place[None, :, None] * right - place[:, None, None] * up
    return d / d.norm(dim=-1, keepdim=True)


def test_regularizers_add_to_what_the_priors_say() -> None:
    settings = settings_of(sparsity=0.5, opaque=0.25, eikonal=0.1, opacity=0.3, trained=("pixels", "opacity"))
    alone = [make_rig(replace(settings, **{name: 0.0 for name in names})) for names in (
        ("opaque", "eikonal"), ("sparsity", "eikonal"), ("sparsity", "opaque", "eikonal")
    )]  # fmt: skip
    sparse, opaque, none = (rig.change(0)[0]["opacity"] for rig in alone)
    together = make_rig(settings).change(0)[0]["opacity"]
    assert relative(together, sparse + opaque - none) < 1e-4
    assert relative(sparse, none) > 0.01 < relative(opaque, none)


def test_regularizers_are_logged_without_their_weights() -> None:
    settings = unjudged(eikonal=0.1, sparsity=(3.0, 1.0, 0, 4), opaque=0.2, opacity=0.3)
    rig = make_rig(settings)
    slope = rig.parameters()["slope"][rows_of(settings, rig, 1)]
    rig.trainer.step(1)
    values = rig.trainer.averages.collect(rig.trainer.engine.process)
    entropy = -0.3 * torch.tensor(0.3).log() - 0.7 * torch.tensor(0.7).log()
    assert values["loss/eikonal"] == pytest.approx(float((slope - 1).square().mean()), rel=1e-3)
    assert values["loss/sparsity"] == pytest.approx(0.1**0.5, rel=1e-4)
    assert values["loss/opaque"] == pytest.approx(float(entropy), rel=1e-4)
    assert values["render/opacity"] == pytest.approx(0.3, rel=1e-4)


# --- the optimizer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_each_group_moves_by_its_rate_at_the_step(warmup_steps: int) -> None:
    """Half-transparent images show half the background, whose gradient is the sum of what theirs leaves."""
    settings = settings_of(
        opacity=0.5,
        random_background=0.0,
        trained=("pixels", "background"),
        learning_rate=(0.5, 0.1, 1, 5),
        background_learning_rate=(0.01, 0.3, 0, 6),
        warmup_steps=warmup_steps,
        num_views=2,
    )
    rig = make_rig(settings)
    for step in (0, 2, 4, 9):
        before = rig.parameters()
        shown = 0.5 * before["pixels"] + 0.5 * before["background"][:, None, None]
        prompts = rig.trainer.batches.stream.prompts_at(step, range(2))
        gradient = 0.5 * pixel_gradient(settings, step, shown, prompts)
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        change, _ = rig.change(step)
        pixels = -warmup * at(settings.learning_rate, step) * gradient
        background = -warmup * at(settings.background_learning_rate, step) * gradient.sum((0, 1, 3, 4))
        assert relative(change["pixels"], pixels) < 1e-3
        assert relative(change["background"], background) < 1e-3


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("share", [0.25, 4.0])
def test_gradients_are_shortened_to_the_largest_norm_as_one_vector(
    share: float, accumulation_steps: int, zero_stage: int
) -> None:
    free = settings_of(num_views=2, accumulation_steps=accumulation_steps, zero_stage=zero_stage)
    rig = make_rig(free)
    pixels, prompts = rig.parameters()["pixels"], rig.trainer.batches.stream.prompts_at(0, range(2))
    gradient = pixel_gradient(free, 0, pixels, prompts)
    norm = float(gradient.norm())
    change, update = make_rig(replace(free, max_norm=share * norm)).change(0)
    assert update.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert update.clipped_norm == pytest.approx(min(1, share) * norm, rel=1e-4)
    assert relative(change["pixels"], -min(1, share) * gradient) < 1e-3


def test_averages_follow_the_parameters_after_every_step() -> None:
    """Step s keeps `min(decay, (1 + s) / (10 + s))` of them."""
    settings = settings_of(ema_decay=0.6)
    rig = make_rig(settings)
    wanted = rig.averages()["pixels"]
    for step in (0, 1, 2, 30):
        rig.change(step)
        kept = min(0.6, (1 + step) / (10 + step))
        wanted = kept * wanted + (1 - kept) * rig.parameters()["pixels"]
        assert relative(rig.averages()["pixels"], wanted) < 1e-6
    assert relative(wanted, rig.parameters()["pixels"]) > 1e-3


# --- skipped steps -----------------------------------------------------------------------------------------


class Overflowing:
    """An encoder that makes infinities of chosen calls' last image."""

    def __init__(self, prior: ExactPrior, calls: set[int]) -> None:
        self.encode, self.calls, self.count = prior.encode_image, calls, 0

    def __call__(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        latents = self.encode(images, noise)
        self.count += 1
        if self.count - 1 in self.calls:
            latents = torch.cat([latents[:-1], latents[-1:] * float("inf")])
        return latents


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_forgotten(
    accumulation_steps: int, which: int, optimizer: str
) -> None:
    """Whichever of two judges overflows, on the last image of its first accumulation step."""
    judges = (JudgeSettings(ExactPrior("one")), JudgeSettings(ExactPrior("two")))
    settings = StepSettings(
        judges, accumulation_steps=accumulation_steps, optimizer=optimizer, learning_rate=0.01, sparsity=0.1
    )
    rig, undisturbed = make_rig(settings), make_rig(settings)
    for each in (rig, undisturbed):
        each.trainer.step(0)
    before, averages = rig.parameters(), rig.averages()
    prior = judges[which].prior
    prior.encode_image = Overflowing(prior, {0})  # pyright: ignore[reportAttributeAccessIssue]
    change, update = rig.change(1)
    assert not update.is_applied
    assert not any(value.any() for value in change.values())
    assert all(torch.equal(value, averages[name]) for name, value in rig.averages().items())
    sample = 0 if accumulation_steps == 2 else 1
    prompt = rig.trainer.batches.stream.prompts_at(1, [sample])[0]
    assert f"pixel gradient of sample {sample} ({prompt!r})" in rig.trainer.problems
    del prior.encode_image
    for step in (2, 3):
        for each in (rig, undisturbed):
            each.trainer.step(step)
    assert torch.equal(rig.parameters()["pixels"], undisturbed.parameters()["pixels"])
    assert not torch.equal(rig.parameters()["pixels"], before["pixels"])


def test_a_loss_term_that_is_not_finite_skips_the_step() -> None:
    """Also where its gradient is finite, so that nothing else would tell."""
    settings = unjudged(sparsity=0.1, trained=("pixels", "opacity"), opacity=0.3)
    rig = make_rig(settings)
    terms = rig.trainer.regularizers.terms

    def infinite(*arguments: Any) -> dict[str, Tensor]:
        infinity = torch.tensor([0.0, float("inf")]).view(2, 1, 1, 1, 1)
        return {name: value + infinity for name, value in terms(*arguments).items()}

    object.__setattr__(rig.trainer.regularizers, "terms", infinite)
    change, update = rig.change(0)
    assert not update.is_applied and update.gradient_norm < 1 and not change["opacity"].any()
    assert [p for p in rig.trainer.problems if p.startswith("sparsity of sample 1")]
    assert not [p for p in rig.trainer.problems if p.startswith("sparsity of sample 0")]


def test_a_prior_says_why_it_was_not_finite() -> None:
    settings = settings_of()
    rig, prior = make_rig(settings), settings.judges[0].prior
    prior.why_not_finite = lambda: "beyond float16's range"  # pyright: ignore[reportAttributeAccessIssue]
    assert rig.trainer.step(0).is_applied and not rig.trainer.problems
    prior.encode_image = Overflowing(prior, {0})  # pyright: ignore[reportAttributeAccessIssue]
    rig.trainer.step(1)
    assert rig.trainer.problems[0] == "beyond float16's range" and len(rig.trainer.problems) == 2


def test_a_wish_to_stop_is_passed_on_and_the_step_made() -> None:
    rig = make_rig(settings_of())
    change, update = rig.change(0)
    assert not update.wants_stop and change["pixels"].any()
    stopping = rig.trainer.step(1, wants_stop=True)
    assert stopping.wants_stop and stopping.is_applied


def test_every_drawn_batch_is_shown_to_who_asks() -> None:
    rig = make_rig(settings_of(batch_size=4, accumulation_steps=2))
    seen: list[tuple[int, range]] = []
    rig.trainer.on_draw = lambda step, batch: seen.append((step, batch.indices))
    for step in (0, 1):
        rig.trainer.step(step)
    assert seen == [(0, range(0, 2)), (0, range(2, 4)), (1, range(0, 2)), (1, range(2, 4))]
