"""What a training step draws: cameras and the texts they choose, times, noise, and what renderers are given.

Every step is compared with the reference of `support/reference_step.py`, which computes it again from the
papers' equations; `unlike` names a mistake that would have to show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.cameras import orbit_cameras
from scaledreamer.draws import GivenDraws
from scaledreamer.prompts.stream import SampleRandom
from scaledreamer.rendering.volume import VolumeRenderer
from tests.support.exact_prior import ExactPrior, linear_encoder
from tests.support.reference_step import (
    assert_steps_match_reference,
    camera_of,
    image_size_at,
    view_word,
)
from tests.support.trainers import JudgeSettings, StepSettings, make_batches, make_rig

ANNEALED: Any = {"t_min": (0.5, 0.02, 0, 20), "t_max": (0.98, 0.5, 0, 20)}


def judge(name: str = "prior", **settings: Any) -> JudgeSettings:
    return JudgeSettings(ExactPrior(name), **settings)


def drawn(name: str, settings: StepSettings, step: int, *shape: int, is_normal: bool = False) -> Tensor:
    """Numbers of all samples of a step."""
    samples = [SampleRandom(settings.seed, step, i) for i in range(settings.batch_size)]
    return torch.stack([(s.normal if is_normal else s.uniform)(name, shape) for s in samples])


# --- times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["t_min", "t_max"])
def test_times_lie_between_the_annealed_ends(end: str) -> None:
    settings = StepSettings((judge(),), **ANNEALED)
    final = {end: settings.t_min[1] if end == "t_min" else settings.t_max[1]}  # type: ignore[index]
    assert_steps_match_reference(settings, (0, 7, 13), unlike=[replace(settings, **final)])


def test_the_shift_grows_from_the_annealed_t_min() -> None:
    settings = StepSettings((judge(eta=0.5, guidance_scale=1.5),), t_min=(0.5, 0.1, 0, 20), t_max=0.8)
    assert_steps_match_reference(settings, (5,))
    t, _, t_shifted = settings.judges[0].prior.predictions[0].t.double().chunk(3)
    uniform = drawn("shift 0", settings, 5, 1).flatten().double()
    torch.testing.assert_close(t_shifted - t, uniform * 0.5 * (t - 0.4), rtol=1e-4, atol=1e-6)


def test_the_shift_never_leaves_the_schedule() -> None:
    settings = StepSettings((judge(eta=50.0),), t_min=0.5, t_max=0.9, batch_size=4)
    assert_steps_match_reference(settings, (0, 1), unlike=[replace(settings, judges=(judge(eta=0.1),))])
    assert max(float(call.t.max()) for call in settings.judges[0].prior.predictions) < 1


def test_the_shift_is_drawn_apart_from_the_time() -> None:
    settings = StepSettings((judge(eta=0.5),), batch_size=8)
    assert_steps_match_reference(settings)
    t, _, t_shifted = settings.judges[0].prior.predictions[0].t.double().chunk(3)
    share_of_time = (t - 0.3) / 0.5
    share_of_shift = (t_shifted - t) / (0.5 * (t - 0.3))
    assert (share_of_time - share_of_shift).abs().min() > 1e-3


def test_shifts_are_whole_steps_where_the_prior_has_steps() -> None:
    settings = StepSettings((judge(eta=0.5),), shift_steps=10, batch_size=4)
    assert_steps_match_reference(settings, (0, 1), unlike=[replace(settings, shift_steps=None)])


def test_every_prior_has_times_shifts_noise_and_eta_of_its_own() -> None:
    priors = [judge("one", eta=0.05), judge("two", eta=0.4)]
    settings = StepSettings(tuple(priors), batch_size=4)
    swapped = (replace(priors[0], eta=0.4), replace(priors[1], eta=0.05))
    assert_steps_match_reference(settings, (0, 3), unlike=[replace(settings, judges=swapped)])
    first, second = (p.prior.predictions[0] for p in priors)
    assert (first.t - second.t).abs().min() > 1e-4
    assert (first.x_t - second.x_t).abs().min() > 1e-6
    eta_times_uniform = [(c.t[-4:] - c.t[:4]) / (c.t[:4] - 0.3) for c in (first, second)]
    uniforms = [ratio / p.eta for ratio, p in zip(eta_times_uniform, priors, strict=True)]
    assert (uniforms[0] - uniforms[1]).abs().min() > 1e-4


# --- noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_latents", [True, False])
def test_latents_are_sampled_with_noise_of_their_own_where_asked(sample_latents: bool) -> None:
    shape = (2, 2, 2)
    encoder = linear_encoder(shape, 4)
    priors = [
        ExactPrior(name, encoder=encoder, latent_shape=shape, posterior_std=0.5) for name in ("one", "two")
    ]
    settings = StepSettings(tuple(map(JudgeSettings, priors)), num_views=2, sample_latents=sample_latents)
    other = replace(settings, sample_latents=not sample_latents)
    assert_steps_match_reference(settings, (0, 3), unlike=[other])
    for number, prior in enumerate(priors):
        (_, given), *_ = prior.encoded_images
        if not sample_latents:
            assert given is None
            continue
        own = drawn(f"vae_noise {number}", settings, 0, 2, *shape, is_normal=True).flatten(0, 1)
        diffusion = drawn(f"noise {number}", settings, 0, 2, *shape, is_normal=True).flatten(0, 1)
        assert given is not None and torch.equal(given, own) and not torch.equal(given, diffusion)


def test_all_branches_of_an_image_share_its_noise() -> None:
    """The noise that each branch was given, from its latents and time."""
    settings = StepSettings((judge(perp_neg=1.0),), num_views=2)
    rig = make_rig(settings)
    images = 2 * rig.parameters()["pixels"] - 1
    rows = [settings.prompts.index(prompt) for prompt in rig.trainer.batches.stream.prompts_at(3, range(2))]
    rig.trainer.step(3)
    (call,) = settings.judges[0].prior.predictions
    t = call.t.double().view(5, 4, 1, 1, 1) * torch.pi / 2
    noise = (call.x_t.double().unflatten(0, (5, 4)) - t.cos() * images[rows].flatten(0, 1)) / t.sin()
    wanted = drawn("noise 0", settings, 3, 2, 3, 4, 4, is_normal=True).flatten(0, 1).double()
    torch.testing.assert_close(noise, wanted.expand(5, 4, 3, 4, 4), rtol=1e-5, atol=1e-5)


# --- cameras and texts -------------------------------------------------------------------------------------

PLACES = [
    ((-10, 45), (-180, 180)),
    ((50, 70), (-30, 30)),
    ((0, 10), (100, 260)),
    ((-80, -61), (-180, 180)),
    ((10, 29), (31, 59)),
]


@pytest.mark.parametrize(("elevation_deg", "azimuth_deg"), PLACES)
@pytest.mark.parametrize("perp_neg", [0.0, 0.8])
def test_texts_follow_from_where_the_camera_stands(
    elevation_deg: tuple[float, float], azimuth_deg: tuple[float, float], perp_neg: float
) -> None:
    """In the last place, elevations would be fronts as azimuths, and azimuths overhead as elevations."""
    settings = StepSettings(
        (judge(perp_neg=perp_neg, negative_prompt="ugly"),),
        elevation_deg=elevation_deg,
        azimuth_deg=azimuth_deg,
        num_views=3,
    )
    assert_steps_match_reference(settings, (0, 1, 2))


@pytest.mark.parametrize("on_sphere", [0.0, 0.5])
def test_cameras_that_tell_texts_are_the_ones_that_render(on_sphere: float) -> None:
    settings = StepSettings((judge(),), num_views=3, elevation_deg=(0, 90), on_sphere=on_sphere)
    rig = make_rig(settings)
    rig.trainer.step(4)
    cameras = rig.renderer.calls[0].cameras
    wanted = [[camera_of(settings, 4, sample, view) for view in range(3)] for sample in range(2)]
    for name in ("elevation", "azimuth"):
        angles = torch.tensor([[getattr(camera, name) for camera in row] for row in wanted])
        torch.testing.assert_close(getattr(cameras, name).rad2deg(), angles, rtol=1e-5, atol=1e-4)
    uniforms = drawn("cameras", settings, 4, 3, 4)
    torch.testing.assert_close(cameras.distance, 2 + uniforms[..., 2])
    torch.testing.assert_close(cameras.fov.rad2deg(), 40 + 10 * uniforms[..., 3])
    prompts = rig.trainer.batches.stream.prompts_at(4, range(2))
    texts = [f"{p}, {view_word(c)}" for p, row in zip(prompts, wanted, strict=True) for c in row]
    assert rig.trainer.batches(4, 0).view_prompts == texts
    text = settings.judges[0].prior.predictions[0].weights[: len(texts)]
    for row, name in zip(text, texts, strict=True):
        torch.testing.assert_close(row, settings.judges[0].prior.weights_of(name))


@pytest.mark.parametrize("text_cache", [0, 3, 1000])
@pytest.mark.parametrize("perp_neg", [0.0, 1.0])
def test_remembered_texts_are_those_of_the_image(text_cache: int, perp_neg: float) -> None:
    """Two priors read each text in their own way; every prompt comes up more than once."""
    judges = tuple(judge(name, perp_neg=perp_neg, negative_prompt=name) for name in ("blurred", "ugly"))
    settings = StepSettings(judges, text_cache=text_cache, prompts=("a cat", "a car", "a cone"))
    assert_steps_match_reference(settings, range(4))
    if text_cache == 1000:
        encoded = [text for call in judges[0].prior.encoded_texts for text in call]
        assert len(encoded) == len(set(encoded))


# --- what the renderer is given ----------------------------------------------------------------------------


def test_rays_are_jittered_anew_for_every_image_and_step() -> None:
    settings = StepSettings((judge(),), num_views=2)
    rig = make_rig(settings)
    for step in (0, 3):
        rig.trainer.step(step)
        jitter = rig.renderer.calls[-1].jitter
        assert jitter is not None and torch.equal(jitter, drawn("jitter", settings, step, 2, 4, 4))


class Fog:
    """The same density everywhere; remembers where it was queried."""

    def __init__(self) -> None:
        self.points: list[Tensor] = []

    def sdf(self, points: Tensor) -> Tensor:
        return torch.full_like(points[..., 0], 0.1)

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        self.points.append(points)
        return self.sdf(points), torch.full_like(points, 0.5)

    def background(self, directions: Tensor) -> Tensor:
        return torch.zeros_like(directions)


def test_the_volume_renderer_places_samples_by_jitter() -> None:
    """Within its interval a sample moves in proportion to its jitter; without draws it is in the middle."""

    def points_at(jitter: float | None) -> Tensor:
        scene, cameras = Fog(), orbit_cameras(2, elevation_deg=10, distance=2.5, fov_deg=30)
        draws = None if jitter is None else GivenDraws({"jitter": torch.full((1, 2, 3, 3), jitter)})
        VolumeRenderer(min_opacity=0.0)(scene, cameras, 3, 3, draws=draws)
        return torch.cat(scene.points, 1)

    early, late, middle = points_at(0.25), points_at(0.75), points_at(0.5)
    assert (late - early).norm(dim=-1).min() > 1e-3
    torch.testing.assert_close(middle, (early + late) / 2, rtol=0, atol=1e-5)
    assert torch.equal(points_at(None), middle)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_backgrounds_are_replaced_at_random(probability: float) -> None:
    settings = StepSettings((judge(),), batch_size=8, num_views=2, random_background=probability, opacity=0.5)
    rig = make_rig(settings)
    color = rig.parameters()["background"].float()
    rig.trainer.step(0)
    background = rig.renderer.calls[0].background
    assert background is not None
    uniforms = drawn("background", settings, 0, 2, 4)
    is_replaced = uniforms[..., :1] < probability
    wanted = torch.where(is_replaced, uniforms[..., 1:], color)
    torch.testing.assert_close(background, wanted[..., None, None].expand_as(background))
    assert 0 < is_replaced.float().mean() < 1 or probability in (0, 1)


def test_the_generator_is_given_its_noise() -> None:
    settings = StepSettings((judge(),), noise_dim=5)
    rig = make_rig(settings)
    for step in (0, 3):
        rig.trainer.step(step)
        z = rig.renderer.calls[-1].scene.z
        assert z is not None and torch.equal(z, drawn("z", settings, step, 5, is_normal=True))
    without = make_rig(replace(settings, noise_dim=0))
    without.trainer.step(0)
    assert without.renderer.calls[0].scene.z is None


def test_images_grow_with_the_step() -> None:
    settings = StepSettings((judge(),), image_size=(4, 12, 2, 10))
    steps = (0, 3, 4, 7, 12)
    rig = assert_steps_match_reference(settings, steps)
    assert [call.size[0] for call in rig.renderer.calls] == [4, 4, 8, 8, 12]
    assert [image_size_at(settings, step) for step in steps] == [4, 4, 8, 8, 12]


def test_normals_are_rendered_only_where_a_term_needs_them() -> None:
    settings = StepSettings((judge(),), orientation=(1.0, 0.0, 0, 4), trained=("pixels", "normal"))
    rig = make_rig(settings)
    for step in range(6):
        rig.trainer.step(step)
    needs = [call.needs for call in rig.renderer.calls]
    assert needs == [frozenset({"normal"})] * 4 + [frozenset()] * 2


# --- whose draws, and when ---------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_steps_may_follow_in_any_order(accumulation_steps: int) -> None:
    """What is drawn ahead is used for its own step alone."""
    settings = StepSettings(
        (judge(),), batch_size=4, num_views=2, accumulation_steps=accumulation_steps, **ANNEALED
    )
    assert_steps_match_reference(settings, (0, 1, 2, 7, 3, 3, 4))


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_steps_in_order_are_drawn_once(accumulation_steps: int) -> None:
    """What was drawn ahead is what the next step takes; one more is on its way at the end."""
    settings = StepSettings((judge(),), batch_size=4, accumulation_steps=accumulation_steps)
    rig = make_rig(settings)
    for step in range(3):
        rig.trainer.step(step)
    rig.trainer.encode(["a red cat"])  # after all that was begun
    assert len(settings.judges[0].prior.encoded_texts) == 3 * accumulation_steps + 1


def test_each_rank_draws_its_own_part_of_the_batch() -> None:
    settings = StepSettings((judge(),), batch_size=8, accumulation_steps=2)
    prompts = make_rig(settings).trainer.batches.stream.prompts_at(2, range(8))
    seen: list[str] = []
    for micro_step in range(2):
        for rank in range(2):
            batch = make_batches(settings, rank=rank, world_size=2)(2, micro_step)
            assert batch.prompts == prompts[batch.indices.start : batch.indices.stop]
            wanted = drawn("noise 0", settings, 2, 3, is_normal=True)[list(batch.indices)]
            assert torch.equal(batch.draws.normal("noise 0", 3), wanted)
            seen += batch.prompts
    assert sorted(seen) == sorted(prompts)


def test_another_seed_is_another_step() -> None:
    settings = StepSettings((judge(),))
    assert_steps_match_reference(replace(settings, seed=1), unlike=[settings])
