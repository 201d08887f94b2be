"""What each prior's opinion of the images becomes in a training step: guidance, methods, clipping, weights.

Steps are compared with the reference of `support/reference_step.py`, and with closed forms where they exist.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.exact_prior import ExactPrior, Mixture, linear_encoder, random_tensor
from tests.support.reference_step import (
    assert_steps_match_reference,
    judged,
    pixel_gradient,
    relative,
    times_of,
)
from tests.support.trainers import JudgeSettings, StepSettings, make_rig

METHODS = ["asd", "sds", "csd"]


def settings_of(name: str = "prior", **judge: Any) -> StepSettings:
    """One prior, two images."""
    return StepSettings((JudgeSettings(ExactPrior(name), **judge),))


def with_judge(settings: StepSettings, **changes: Any) -> StepSettings:
    """The settings with changes of its only judge."""
    (judge,) = settings.judges
    return replace(settings, judges=(replace(judge, **changes),))


# --- methods in closed form --------------------------------------------------------------------------------


WORDS = ("front", "side", "back", "overhead")
FROG, NOTHING = random_tensor("frog", 3, 4, 4), random_tensor("nothing", 3, 4, 4)


def certain_prior() -> ExactPrior:
    """Certain of one image for "frog", whatever its view, and of another one for the empty prompt."""
    texts = {f"frog, {word} view": (1.0, 0.0) for word in WORDS} | {"": (0.0, 1.0)}
    mixture = Mixture(torch.stack([FROG, NOTHING]), torch.full((2,), 1e-6).double())
    return ExactPrior(mixture=mixture, texts=texts)


@pytest.mark.parametrize(
    ("method", "guidance_scale"), [("asd", 1.0), ("asd", 4.0), ("sds", 1.0), ("csd", 9.0)]
)
def test_gradient_of_a_certain_prior_is_a_pull_between_its_images(method: str, guidance_scale: float) -> None:
    """Certain of mu it predicts `noise + cot(pi t / 2) (x - mu)`, and the noise cancels in every method."""
    prior = certain_prior()
    judge = JudgeSettings(prior, method=method, guidance_scale=guidance_scale, eta=0.5)
    settings = StepSettings((judge,), prompts=("frog",), batch_size=1)
    rig = make_rig(settings)
    x = 2 * rig.parameters()["pixels"][0, 0] - 1
    change, _ = rig.change(2)
    t, dt = times_of(settings, 2, 0, 0, 0)
    pull, later = 1 / math.tan(math.pi / 2 * t), 1 / math.tan(math.pi / 2 * (t + dt))
    guided = pull * (x - NOTHING + guidance_scale * (NOTHING - FROG))
    match method:
        case "asd":
            difference = guided - later * (x - FROG)
        case "sds":
            difference = guided
        case _:
            difference = pull * (NOTHING - FROG)
    wanted = -2 * math.sin(math.pi / 2 * t) ** 2 * difference  # 2 x - 1 is the encoder
    assert relative(change["pixels"][0, 0], wanted) < 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("perp_neg", [0.0, 1.0])
def test_methods_are_their_formulas_with_an_exact_prior(method: str, perp_neg: float) -> None:
    settings = replace(
        settings_of(method=method, perp_neg=perp_neg, negative_prompt="ugly"), num_views=2, batch_size=3
    )
    others = [with_judge(settings, method=other) for other in METHODS if other != method]
    if perp_neg and method != "csd":
        others.append(with_judge(settings, perp_neg=0.5))
    assert_steps_match_reference(settings, (0, 3), unlike=others)


def test_asd_without_shift_is_s_minus_one_times_csd() -> None:
    asd, csd = settings_of(method="asd", eta=0.0, guidance_scale=7.5), settings_of(method="csd")
    changes = [make_rig(settings).change(0)[0]["pixels"] for settings in (asd, csd)]
    assert relative(changes[0], 6.5 * changes[1]) < 1e-4


@pytest.mark.parametrize("method", ["asd", "sds"])
def test_an_unguided_certain_prior_leaves_its_own_image_alone(method: str) -> None:
    judge = JudgeSettings(certain_prior(), method=method, guidance_scale=1.0)
    rig = make_rig(StepSettings((judge,), prompts=("frog",), batch_size=1))
    with torch.no_grad():
        rig.generator.pixels.copy_((FROG.float() + 1) / 2)
    assert rig.change(0)[0]["pixels"].norm() < 1e-3


# --- guidance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change", [{"guidance_scale": 1.0}, {"guidance_rescale": 0.0}, {"negative_prompt": ""}, {"eta": 0.1}]
)
def test_each_setting_of_a_judge_decides_its_own_part(method: str, change: dict[str, Any]) -> None:
    settings = settings_of(
        method=method, guidance_scale=5.0, guidance_rescale=0.7, negative_prompt="ugly", eta=0.5
    )
    is_used = (
        method == "asd"
        or "negative_prompt" in change
        or (method == "sds" and ("guidance_scale" in change or "guidance_rescale" in change))
    )
    other = with_judge(settings, **change)
    assert_steps_match_reference(settings, unlike=[other] if is_used else [])
    if not is_used:
        assert_steps_match_reference(other)


# --- through the encoder to the pixels ---------------------------------------------------------------------


def test_gradients_go_back_through_encoder_and_upsampling() -> None:
    shape = (2, 3, 3)
    prior = ExactPrior(image_size=6, encoder=linear_encoder(shape, 6), latent_shape=shape, posterior_std=0.2)
    settings = StepSettings((JudgeSettings(prior),), num_views=2, sample_latents=True)
    assert_steps_match_reference(settings, (0, 3), unlike=[replace(settings, sample_latents=False)])
    assert prior.encoded_images[0][0].shape == (4, 3, 6, 6)


@pytest.mark.parametrize("mode", ["pgc_n", "pgc_v", "pngd"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pixels_are_clipped_by_mode_norm_and_threshold(mode: str, norm: str) -> None:
    settings = replace(settings_of(), clip_mode=mode, clip_threshold=0.2, clip_norm=norm, num_views=2)
    others = [
        replace(settings, clip_mode="none"),
        replace(settings, clip_threshold=0.1),
        *(replace(settings, clip_mode=other) for other in ("pgc_n", "pgc_v", "pngd") if other != mode),
    ]
    if mode != "pgc_v":  # which clips each value for itself
        others.append(replace(settings, clip_norm="linf" if norm == "l2" else "l2"))
    assert_steps_match_reference(settings, unlike=others)


def test_pixels_are_clipped_at_the_priors_size_and_before_the_weight() -> None:
    """As the reference does; clipping after the weight would leave a tenth of the threshold."""
    prior = ExactPrior(image_size=8)
    settings = StepSettings(
        (JudgeSettings(prior, weight=10.0),), clip_mode="pgc_n", clip_threshold=0.05, batch_size=1
    )
    rig = assert_steps_match_reference(settings, (0,))
    rig = make_rig(settings)
    change, _ = rig.change(1)
    assert change["pixels"].norm(dim=2).max() > 10 * 0.05


# --- sums over judges, views and batches -------------------------------------------------------------------


def test_judges_add_up_each_with_its_weight() -> None:
    judges = tuple(
        JudgeSettings(
            ExactPrior(name, image_size=size), weight=weight, guidance_scale=scale, perp_neg=perp_neg
        )
        for name, size, weight, scale, perp_neg in [
            ("one", 4, 1.0, 2.0, 0.0),
            ("two", 6, 0.25, 5.0, 1.0),
            ("three", 4, 0.0, 1.0, 0.0),
        ]
    )
    settings = StepSettings(judges, num_views=2, clip_mode="pgc_n", clip_threshold=0.3)
    first, second, third = judges
    others = [
        replace(settings, judges=(replace(first, weight=0.25), replace(second, weight=1.0), third)),
        replace(settings, judges=(first, replace(second, guidance_scale=2.0), third)),
        replace(settings, judges=(first, second, replace(third, weight=1.0))),
        replace(settings, judges=(replace(first, perp_neg=1.0), second, third)),
    ]
    assert_steps_match_reference(settings, (0, 3), unlike=others)


@pytest.mark.parametrize(("batch_size", "num_views"), [(1, 1), (1, 4), (4, 1), (4, 3)])
def test_a_step_is_the_mean_over_its_images(batch_size: int, num_views: int) -> None:
    settings = replace(settings_of(), batch_size=batch_size, num_views=num_views)
    assert_steps_match_reference(settings, (0, 1))


@pytest.mark.parametrize("accumulation_steps", [2, 4])
@pytest.mark.parametrize("zero_stage", [0, 1])
def test_accumulation_only_divides_the_batch(accumulation_steps: int, zero_stage: int) -> None:
    """The reference knows one batch of four. Clipped, since the threshold must not be divided."""
    settings = replace(
        settings_of(), batch_size=4, num_views=2, clip_mode="pgc_n", clip_threshold=0.2, zero_stage=zero_stage
    )
    assert_steps_match_reference(replace(settings, accumulation_steps=accumulation_steps), (0, 1))


def test_prompts_that_are_not_in_the_batch_are_left_alone() -> None:
    settings = settings_of()
    rig = make_rig(settings)
    prompts = rig.trainer.batches.stream.prompts_at(0, range(2))
    change, _ = rig.change(0)
    is_moved = change["pixels"].flatten(1).any(1)
    assert {settings.prompts[i] for i in is_moved.nonzero().flatten().tolist()} == set(prompts)


# --- what is logged ----------------------------------------------------------------------------------------


def test_statistics_are_means_over_images_of_each_judge() -> None:
    judges = (JudgeSettings(ExactPrior("one")), JudgeSettings(ExactPrior("two", image_size=6), eta=0.4))
    settings = StepSettings(judges, num_views=2, clip_mode="pgc_n", clip_threshold=0.5)
    rig = make_rig(settings)
    pixels, prompts = rig.parameters()["pixels"], rig.trainer.batches.stream.prompts_at(3, range(2))
    rig.trainer.step(3)
    values = rig.trainer.averages.collect(rig.trainer.engine.process)
    for number in range(2):
        opinions = [
            judged(settings, 3, number, pixels[settings.prompts.index(prompt), view], prompt, (sample, view))
            for sample, prompt in enumerate(prompts)
            for view in range(2)
        ]
        norms = torch.stack([opinion.g_x.norm(dim=0) for opinion in opinions])
        wanted = {
            "latent_gradient": torch.stack([opinion.g_z.norm() for opinion in opinions]).mean(),
            "pixel_gradient": norms.mean(),
            "pixel_gradient_max": norms.flatten(1).amax(1).mean(),
            "pixel_gradient_clipped": norms.clamp(max=0.5).mean(),
            "clipped_fraction": (norms > 0.5).double().mean(),
            "timestep": sum(opinion.times.t for opinion in opinions) / 4,
            "timestep_shift": sum(opinion.times.shift for opinion in opinions) / 4,
        }
        assert 0 < wanted["clipped_fraction"] < 1
        for name, value in wanted.items():
            assert values[f"prior{number}/{name}"] == pytest.approx(float(value), rel=1e-3), name
    assert values["render/opacity"] == pytest.approx(1.0)


def test_a_step_depends_on_the_pixels_alone() -> None:
    """Guards the reference itself: other images, other gradients."""
    settings = settings_of()
    rig = make_rig(settings)
    prompts, pixels = rig.trainer.batches.stream.prompts_at(0, range(2)), rig.parameters()["pixels"]
    gradient, other = (pixel_gradient(settings, 0, images, prompts) for images in (pixels, 0.9 * pixels))
    assert relative(other, gradient) > 0.01
