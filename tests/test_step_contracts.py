"""What a training step tells renderers, priors and methods, and what it does with their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scaledreamer.contracts import Conditions, Estimate, Method, Observation, Prior
from scaledreamer.draws import ImageDraws
from tests.support.exact_prior import ExactPrior
from tests.support.reference_step import assert_steps_match_reference
from tests.support.trainers import JudgeSettings, Rig, StepSettings, make_rig


class CropPrior(ExactPrior):
    """Reads the middle depth and colour of each render too, by names of its own."""

    needs = frozenset({"depth"})

    def condition(self, observation: Observation) -> Conditions:
        conditions, rendering = super().condition(observation), observation.rendering
        assert rendering.depth is not None
        depth = rendering.depth.flatten(0, 1)[:, 0, 2, 2]
        return conditions.with_extra({"depth": depth, "color": rendering.rgb.flatten(0, 1)[:, :, 2, 2]})


# --- conditions are made after rendering -------------------------------------------------------------------


def test_a_prior_is_told_of_the_images_it_judges() -> None:
    """As they were rendered, before upsampling, and without gradients."""
    judges = (JudgeSettings(ExactPrior("one")), JudgeSettings(ExactPrior("two", image_size=8)))
    settings = StepSettings(judges, num_views=2)
    rig = make_rig(settings)
    pixels = rig.parameters()["pixels"].float()
    prompts = rig.trainer.batches.stream.prompts_at(3, range(2))
    rig.trainer.step(3)
    for judge in judges:
        (observation,) = judge.prior.observations
        assert observation.prompts == [prompt for prompt in prompts for _ in range(2)]
        assert torch.equal(observation.cameras.azimuth, rig.renderer.calls[0].cameras.azimuth)
        rows = [settings.prompts.index(prompt) for prompt in prompts]
        assert torch.equal(observation.rendering.rgb, pixels[rows])
        assert not observation.rendering.rgb.requires_grad
        texts = torch.stack([judge.prior.weights_of(text) for text in rig.trainer.batches(3, 0).view_prompts])
        torch.testing.assert_close(observation.texts.text.text.tokens[:, 0], texts)


@pytest.mark.parametrize("method", ["asd", "sds", "csd"])
@pytest.mark.parametrize("perp_neg", [0.0, 1.0])
def test_what_a_prior_reads_of_a_render_reaches_every_branch(method: str, perp_neg: float) -> None:
    prior = CropPrior()
    settings = StepSettings((JudgeSettings(prior, method=method, perp_neg=perp_neg),), num_views=2)
    rig = make_rig(settings)
    pixels = rig.parameters()["pixels"].float()
    rows = [settings.prompts.index(p) for p in rig.trainer.batches.stream.prompts_at(0, range(2))]
    rig.trainer.step(0)
    (call,) = prior.predictions
    num_branches = {"asd": 3, "sds": 2, "csd": 2}[method] + (2 if perp_neg and method != "csd" else 0)
    wanted = pixels[rows].flatten(0, 1)[:, :, 2, 2]
    assert torch.equal(call.extra["color"], wanted.repeat(num_branches, 1))
    assert torch.equal(call.extra["depth"], torch.full((4 * num_branches,), 2.0))


def test_renderers_are_asked_for_what_some_prior_or_term_needs() -> None:
    judges = (JudgeSettings(ExactPrior()), JudgeSettings(CropPrior("crop")))
    for settings, needs in [
        (StepSettings(judges[:1]), set()),
        (StepSettings(judges), {"depth"}),
        (StepSettings(judges[:1], orientation=1.0), {"normal"}),
        (StepSettings(judges[:1], eikonal=1.0), {"depth"}),
        (StepSettings(judges, orientation=1.0), {"depth", "normal"}),
        (StepSettings(judges[:1], sparsity=1.0, opaque=1.0), set()),
    ]:
        rig = make_rig(settings)
        rig.trainer.step(0)
        assert rig.renderer.calls[0].needs == needs


# --- views that are judged together ------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 4])
def test_views_judged_together_share_their_time_and_nothing_else(group: int) -> None:
    """Beside another prior, which judges each view alone."""
    judges = (JudgeSettings(ExactPrior("views", num_views=group), eta=0.5), JudgeSettings(ExactPrior("one")))
    settings = StepSettings(judges, num_views=4)
    assert_steps_match_reference(settings, (0, 3))
    together, alone = (judge.prior.predictions[0] for judge in judges)
    for times in together.t.view(3, 2, 4 // group, group):
        assert torch.equal(times, times[..., :1].expand_as(times))
        assert len(times.unique()) == 8 // group
    assert len(alone.t[:8].unique()) == 8
    assert len({float(x) for x in together.x_t[:8, 0, 0, 0]}) == 8


# --- methods -----------------------------------------------------------------------------------------------


def test_each_judge_has_a_method_of_its_own() -> None:
    judges = tuple(JudgeSettings(ExactPrior(name), method=name) for name in ("asd", "sds", "csd"))
    settings = StepSettings(judges, num_views=2)
    first, second, third = judges
    others = [
        replace(settings, judges=(replace(first, method="sds"), replace(second, method="asd"), third)),
        replace(settings, judges=(first, replace(second, method="csd"), replace(third, method="sds"))),
    ]
    assert_steps_match_reference(settings, (0, 3), unlike=others)
    assert [len(judge.prior.predictions[0].t) // 4 for judge in judges] == [3, 2, 2]


class RecordingMethod:
    """Another method's gradients; says how often it was updated, and keeps what with."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.updates: list[tuple[int, list[Estimate]]] = []

    def times(self, draws: ImageDraws, step: int) -> dict[str, Tensor]:
        return self.method.times(draws, step)

    def gradient(
        self, prior: Prior, latents: Tensor, conditions: Conditions, draws: ImageDraws, step: int
    ) -> Estimate:
        return self.method.gradient(prior, latents, conditions, draws, step)

    def update(self, estimates: Sequence[Estimate], step: int) -> Mapping[str, Tensor]:
        self.updates.append((step, list(estimates)))
        return {"updates": torch.tensor(float(len(self.updates)))}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state


def with_recording(rig: Rig) -> list[RecordingMethod]:
    """Puts recording methods into the place of the trainer's."""
    trainer = rig.trainer
    methods = [RecordingMethod(judge.method) for judge in trainer.judges]
    trainer.judges = [
        replace(judge, method=method) for judge, method in zip(trainer.judges, methods, strict=True)
    ]
    return methods


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_methods_are_updated_with_what_they_estimated_in_the_step(accumulation_steps: int) -> None:
    judges = (JudgeSettings(ExactPrior("one")), JudgeSettings(ExactPrior("two", image_size=6)))
    settings = StepSettings(judges, batch_size=4, accumulation_steps=accumulation_steps)
    rig = make_rig(settings)
    methods = with_recording(rig)
    for step in (0, 3):
        pixels = rig.parameters()["pixels"].float()
        rows = [settings.prompts.index(p) for p in rig.trainer.batches.stream.prompts_at(step, range(4))]
        rig.trainer.step(step)
        for number, method in enumerate(methods):
            at, estimates = method.updates[-1]
            assert at == step and len(estimates) == accumulation_steps
            latents = torch.cat([estimate.latents for estimate in estimates])
            assert latents.shape[1:] == judges[number].prior.latent_shape and not latents.requires_grad
            if number == 0:
                torch.testing.assert_close(latents, 2 * pixels[rows, 0] - 1)
    values = rig.trainer.averages.collect(rig.trainer.engine.process)
    assert values["prior0/updates"] == values["prior1/updates"] == pytest.approx(1.5)


def test_methods_are_updated_after_the_generator_and_not_where_that_is_skipped() -> None:
    settings = StepSettings((JudgeSettings(ExactPrior()),))
    rig = make_rig(settings)
    (method,) = with_recording(rig)
    seen: list[Tensor] = []
    update = method.update

    def look(estimates: Sequence[Estimate], step: int) -> Mapping[str, Tensor]:
        seen.append(rig.parameters()["pixels"])
        return update(estimates, step)

    method.update = look
    rig.trainer.step(0)
    assert torch.equal(seen[0], rig.parameters()["pixels"])
    encode = settings.judges[0].prior.encode_image
    infinite = lambda images, noise=None: encode(images, noise) * float("inf")  # noqa: E731
    settings.judges[0].prior.encode_image = infinite  # pyright: ignore[reportAttributeAccessIssue]
    assert not rig.trainer.step(1).is_applied
    assert [step for step, _ in method.updates] == [0]
