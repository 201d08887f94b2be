"""Methods as a step uses them: groups of views, what a prior is told of the images, methods with a state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.contracts import Conditions, Observation, PriorInputs
from scaledreamer.draws import ImageDraws
from scaledreamer.methods.score import ASD, CSD, SDS
from scaledreamer.priors.running import split
from scaledreamer.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from scaledreamer.training.step import Trainer
from tests.support.judges import WHENEVER, Student, make_judge
from tests.support.training_fakes import RandomPrior, make_trainer, parameters_of


class Recorder(RandomPrior):
    """Keeps what it is called with."""

    def __init__(self, num_views: int = 1, needs: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.num_views, self.needs = num_views, needs
        self.times: list[Tensor] = []
        self.inputs: list[PriorInputs] = []
        self.observations: list[Observation] = []

    def condition(self, observation: Observation) -> Conditions:
        self.observations.append(observation)
        depth = observation.rendering.depth
        if depth is None:
            return observation.texts
        return observation.texts.with_extra({"depth": depth.flatten(0, 1).mean((2, 3))})

    def predict_noise(self, x_t: Tensor, t: Tensor, inputs: PriorInputs) -> Tensor:
        self.times.append(t)
        self.inputs.append(inputs)
        return super().predict_noise(x_t, t, inputs)


# --- groups of views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["asd", "sds", "csd"])
def test_views_that_a_prior_judges_together_have_one_t(method: str) -> None:
    prior = Recorder(num_views=2)
    trainer = make_trainer(num_views=4, judges=[make_judge(prior, method)])
    trainer.step(0)
    (t,) = prior.times
    for branch in t.split(16):  # 4 prompts of 4 views
        groups = branch.view(8, 2)
        assert torch.equal(groups[:, 0], groups[:, 1])
        assert len(groups[:, 0].unique()) == 8


def test_a_group_of_one_view_draws_what_it_always_drew() -> None:
    draws = make_trainer().prefetch.draw(0).draws
    alone = ImageDraws(draws, 0, num_views=4, group=1).uniform("timestep")
    assert torch.equal(alone, draws.uniform("timestep 0", 4).flatten()) and len(alone.unique()) == 16


@pytest.mark.parametrize("group", [1, 2, 4])
def test_parts_of_a_call_never_cut_a_group(group: int) -> None:
    for total in range(group, 41, group):
        for most in range(1, 42):
            parts = split(total, most, group)
            assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
            assert parts[0].start == 0 and parts[-1].stop == total
            sizes = [part.stop - part.start for part in parts]
            assert all(size % group == 0 and size <= max(most, group) for size in sizes)


# --- conditions are made after rendering -------------------------------------------------------------------


def test_a_prior_is_told_of_the_images_that_it_judges() -> None:
    """Rgb, and the depth and normals that it needs, as rendered; no gradient flows through them."""
    needs = frozenset({"depth", "normal"})  # normals are needed by nothing else
    prior = Recorder(needs=needs)
    trainer = make_trainer(judges=[make_judge(prior)])
    batch = trainer.prefetch.draw(0)
    with torch.no_grad():
        expected, _ = trainer.engine.module(batch, frozenset(), needs)
    trainer.step(0)
    (seen,) = prior.observations
    assert torch.equal(seen.rendering.rgb, expected.rgb) and not seen.rendering.rgb.requires_grad
    assert seen.rendering.depth is not None and torch.equal(seen.rendering.depth, expected.depth)
    assert seen.rendering.normal is not None and torch.equal(seen.rendering.normal, expected.normal)
    assert not seen.rendering.depth.requires_grad and not seen.rendering.normal.requires_grad
    assert list(seen.prompts) == [prompt for prompt in batch.prompts for _ in range(2)]
    assert torch.equal(seen.cameras.azimuth, batch.cameras.azimuth)


def test_every_branch_of_guidance_gets_the_further_inputs_of_its_own_image() -> None:
    prior = Recorder(needs=frozenset({"depth"}))
    make_trainer(judges=[make_judge(prior, perp_neg=0.5)]).step(0)
    depth = prior.observations[0].rendering.depth
    assert depth is not None
    rows = depth.flatten(0, 1).mean((2, 3))
    assert len(rows.unique()) == len(rows) == 8
    extra = prior.inputs[0].extra["depth"]
    assert len(extra) == 5 * 8 == len(prior.inputs[0])  # text, uncond, two negatives, ASD's second branch
    assert all(torch.equal(part, rows) for part in extra.split(8))


def test_what_no_one_needs_is_not_rendered() -> None:
    prior = Recorder()
    trainer = make_trainer(judges=[make_judge(prior)])  # whose eikonal term needs depth
    trainer.regularizers = replace(trainer.regularizers, eikonal=trainer.regularizers.orientation)
    trainer.step(0)
    assert prior.observations[0].rendering.depth is None and prior.observations[0].rendering.normal is None


# --- methods with a state ----------------------------------------------------------------------------------


def with_student(**settings: Any) -> tuple[Trainer, Student]:
    student = Student()
    judges = [make_judge(RandomPrior()), replace(make_judge(RandomPrior()), method=student)]
    return make_trainer(judges=judges, **settings), student


def test_a_method_is_updated_once_after_each_step_with_all_its_estimates() -> None:
    trainer, student = with_student(accumulation_steps=2)
    for step in range(3):
        trainer.step(step)
    assert student.updates == [(0, 2), (1, 2), (2, 2)]
    values = trainer.averages.collect(trainer.engine.process)
    assert "prior1/student" in values and "prior0/student" not in values


def test_a_skipped_step_updates_no_method() -> None:
    trainer, student = with_student()
    prior: Any = trainer.judges[0].prior
    encode = prior.encode_image
    prior.encode_image = lambda images, noise=None: encode(images, noise) * float("nan")
    assert not trainer.step(0).is_applied
    assert student.updates == [] and not student.memory.any()


def test_a_run_with_a_student_resumes_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    straight, _ = with_student()
    first, student = with_student()
    for step in range(4):
        straight.step(step)
    for step in range(2):
        first.step(step)
    assert student.memory.any()
    checkpoint = Checkpoint(
        step=2,
        parameters=first.engine.trained.state_dict(),
        averaged=first.averaged.module.state_dict(),
        optimizer=first.engine.optimizer_state(),
        config={},
        methods=[judge.method.state_dict() for judge in first.judges],
    )
    loaded = load_checkpoint(save_checkpoint(tmp_path, checkpoint, keep=1))
    second, _ = with_student(seed=0)
    second.engine.load_parameters(loaded.parameters)
    second.engine.load_optimizer_state(loaded.optimizer)
    for number, judge in enumerate(second.judges):
        judge.method.load_state_dict(loaded.method(number))
    for step in range(2, 4):
        second.step(step)
    assert torch.equal(parameters_of(second), parameters_of(straight))


def test_a_method_without_state_refuses_anothers() -> None:
    for method in (ASD(WHENEVER), SDS(WHENEVER), CSD(WHENEVER)):
        assert method.state_dict() == {}
        method.load_state_dict({})
        with pytest.raises(ValueError, match=f"{type(method).__name__} holds no state, and was given memory"):
            method.load_state_dict({"memory": torch.zeros(1)})
