"""One training step: its gradient against plain autograd, invariance to how it is divided, skipped steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scaledreamer.contracts import PriorInputs
from scaledreamer.distillation import clip_gradient
from scaledreamer.schedules import Constant, Linear
from scaledreamer.training.judge import Judge, upsample
from scaledreamer.training.regularizers import Regularizers
from scaledreamer.training.step import Trainer
from tests.support.judges import distill, make_judge
from tests.support.training_fakes import RandomPrior, gradients_of, make_trainer, parameters_of

NONE = Regularizers(num_points=8)


def with_sizes(trainer, schedule):
    """The trainer, rendering at other sizes."""
    trainer.batches = replace(trainer.batches, cameras=replace(trainer.batches.cameras, image_size=schedule))
    return replace(trainer)  # with a prefetch of these batches


def test_image_size_follows_its_schedule_by_the_step_alone() -> None:
    """Steps in any order, drawn ahead or not: the sizes, and the images of a step, are the same."""
    growing = Linear(8, 16, 2, 6)
    trainer = with_sizes(make_trainer(regularizers=NONE), growing)
    sizes = [trainer.batches.cameras.size_at(step) for step in range(9)]
    assert sizes == [8, 8, 8, 8, 12, 16, 16, 16, 16]
    seen: dict[int, Tensor] = {}
    for step in (0, 4, 7, 4, 0):
        batch = trainer.prefetch.draw(step)
        rendering, _ = trainer.engine.module(batch, frozenset(), frozenset())
        images = rendering.rgb
        assert images.shape[-2:] == rendering.opacity.shape[-2:] == (sizes[step], sizes[step])
        if step in seen:
            assert torch.equal(images, seen[step])
        seen[step] = images.detach()
    constant = with_sizes(make_trainer(regularizers=NONE), Constant(12))
    rendering, _ = constant.engine.module(constant.prefetch.draw(4), frozenset(), frozenset())
    assert torch.equal(rendering.rgb, seen[4])


def test_a_training_step_takes_a_growing_image() -> None:
    trainer = with_sizes(make_trainer(), Linear(8, 12, 0, 1))
    assert trainer.step(0).is_applied and trainer.step(1).is_applied


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("method", ["asd", "sds", "csd"])
def test_gradient_equals_one_backward_pass_through_everything(method: str) -> None:
    """Without clipping, the gradient is that of `sum(g_z * encode(upsample(render)))` by plain autograd."""
    trainer = make_trainer(method=method, regularizers=NONE, clip_mode="none")
    got = gradients_of(trainer)
    batch = trainer.prefetch.draw(0)
    generator, judge = trainer.engine.trained, trainer.judges[0]
    rendering, _ = trainer.engine.module(batch, frozenset(), frozenset())
    renders = rendering.rgb.flatten(0, 1)
    images = F.interpolate(renders, size=(16, 16), mode="bilinear", align_corners=False)
    latents = judge.prior.encode_image(images)
    noise = batch.draws.normal("noise 0", 2, 2, 4, 4).flatten(0, 1)
    times = judge.method.times(batch.draws_for(0, judge), 0)
    given: Any = (judge.prior, latents.detach(), batch.prior_texts[0], noise, *times.values())
    g_z = judge.method.estimate(*given)  # type: ignore[attr-defined]
    wanted = torch.autograd.grad((g_z * latents).sum() / len(images), list(generator.parameters()))
    assert relative(got, torch.cat([g.flatten() for g in wanted])) < 1e-5


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        ("asd", lambda s, text, null, late, noise: null + s * (text - null) - late),
        ("sds", lambda s, text, null, late, noise: null + s * (text - null) - noise),
        ("csd", lambda s, text, null, late, noise: text - null),
    ],
)
def test_distill_is_its_formula_in_one_call(method: str, formula: object) -> None:
    prior = RandomPrior()
    judge = make_judge(prior, guidance_scale=3.0)
    latents, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    t, shift = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.01, 0.0, 0.05])
    got = distill(judge, method, latents, judge.texts.plain(["a", "b", "a"]), noise, t, shift)
    assert len(prior.calls) == 1

    def predict(at: Tensor, texts: list[str]) -> Tensor:
        x = torch.stack([prior.alpha(at)[i] * latents[i] + prior.sigma(at)[i] * noise[i] for i in range(3)])
        return prior.predict_noise(x, at, PriorInputs(prior.encode_text(texts)))

    text, null, late = predict(t, ["a", "b", "a"]), predict(t, [""] * 3), predict(t + shift, ["a", "b", "a"])
    wanted = formula(3.0, text, null, late, noise)  # type: ignore[operator]
    assert torch.allclose(got, prior.sigma(t).square()[:, None, None, None] * wanted, atol=1e-5)


def test_pixels_are_clipped_per_image_at_the_priors_input() -> None:
    trainer = make_trainer(regularizers=NONE, clip_mode="none")
    batch = trainer.prefetch.draw(0)
    images = torch.rand(8, 3, 16, 16)
    rendering, _ = trainer.engine.module(batch, frozenset(), frozenset())

    def gradient(trainer: Trainer) -> Any:
        judge = trainer.judges[0]
        observation, draws = batch.observation(0, rendering.detach()), batch.draws_for(0, judge)
        return judge.image_gradient(images.clone(), observation, draws, 0)

    free, *_ = gradient(trainer)
    threshold = float(free.norm(dim=1).median())
    clipping = make_trainer(regularizers=NONE, clip_threshold=threshold)
    clipped, stats, _ = gradient(clipping)
    assert torch.allclose(clipped, clip_gradient(free, threshold)[0])
    assert clipped.norm(dim=1).max() <= threshold * (1 + 1e-5)
    assert 0.4 < stats.clipped_fraction.mean() < 0.6


@pytest.mark.parametrize(("batch_size", "accumulation_steps"), [(4, 2), (4, 4)])
def test_accumulation_only_divides_the_step(batch_size: int, accumulation_steps: int) -> None:
    settings: Any = {"batch_size": batch_size, "clip_threshold": 0.02}
    whole = gradients_of(make_trainer(**settings))
    parts = gradients_of(make_trainer(**settings, accumulation_steps=accumulation_steps))
    assert whole.norm() > 1e-3
    assert relative(parts, whole) < 1e-5


@pytest.mark.parametrize("zero_stage", [1, 2])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_zero_stages_compute_the_same_steps(zero_stage: int, accumulation_steps: int) -> None:
    settings: Any = {"optimizer": "sgd", "max_norm": 0.05, "accumulation_steps": accumulation_steps}
    plain, staged = make_trainer(**settings), make_trainer(**settings, zero_stage=zero_stage)
    for step in range(4):
        a, b = plain.step(step), staged.step(step)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-5)
        assert a.clipped_norm == pytest.approx(b.clipped_norm, rel=1e-5)
    assert a.clipped_norm <= 0.05 < a.gradient_norm
    assert relative(parameters_of(staged), parameters_of(plain)) < 1e-6


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("where", ["pixels", "gradients"])
def test_step_that_is_not_finite_leaves_no_trace(
    zero_stage: int, accumulation_steps: int, where: str
) -> None:
    settings: Any = {"zero_stage": zero_stage, "accumulation_steps": accumulation_steps}
    undisturbed, disturbed = make_trainer(**settings), make_trainer(**settings)
    undisturbed.step(0)
    disturbed.step(0)
    before, averaged = parameters_of(disturbed), next(disturbed.averaged.module.parameters()).clone()
    prior: Any = disturbed.judges[0].prior
    if where == "pixels":
        encode = prior.encode_image
        prior.encode_image = lambda images, noise=None: encode(images, noise) * torch.tensor(float("nan"))
    else:
        handle = disturbed.engine.trained.get_parameter("table").register_hook(
            lambda grad: grad * float("inf")
        )
    update = disturbed.step(1)
    assert not update.is_applied
    assert torch.equal(parameters_of(disturbed), before)
    assert torch.equal(next(disturbed.averaged.module.parameters()), averaged)
    expected = "pixel gradient of sample 0" if where == "pixels" else "gradients of the parameters"
    assert any(problem.startswith(expected) for problem in disturbed.problems)
    if where == "pixels":
        prior.encode_image = encode
    else:
        handle.remove()
    for step in (2, 3):
        assert undisturbed.step(step).is_applied and disturbed.step(step).is_applied
    assert torch.equal(parameters_of(disturbed), parameters_of(undisturbed))


def test_loss_term_that_is_not_finite_is_named() -> None:
    trainer = make_trainer(
        regularizers=Regularizers(sparsity=Constant(1.0), opaque=Constant(1.0), num_points=8)
    )
    original = trainer.regularizers.terms

    def broken(*arguments: object) -> dict[str, Tensor]:
        terms = original(*arguments)  # type: ignore[arg-type]
        terms["sparsity"] = terms["sparsity"] * torch.tensor([1.0, 1.0, float("nan"), 1.0]).view(
            -1, 1, 1, 1, 1
        )
        return terms

    object.__setattr__(trainer.regularizers, "terms", broken)
    assert not trainer.step(0).is_applied
    named = [problem for problem in trainer.problems if problem.startswith("sparsity")]
    assert named == [f"sparsity of sample 2 ({trainer.prefetch.draw(0).prompts[2]!r})"]


def test_same_seed_same_steps_and_other_seed_other_steps() -> None:
    first, second, other = make_trainer(), make_trainer(), make_trainer(seed=1)
    for trainer in (first, second, other):
        for step in range(3):
            trainer.step(step)
    assert torch.equal(parameters_of(first), parameters_of(second))
    assert not torch.equal(parameters_of(first), parameters_of(other))


def test_global_random_state_does_not_matter() -> None:
    first, second = make_trainer(), make_trainer()
    first.step(0)
    torch.manual_seed(123)
    torch.rand(7)
    second.step(0)
    assert torch.equal(parameters_of(first), parameters_of(second))


def test_autoencoder_is_done_before_the_renderers_backward() -> None:
    trainer = make_trainer(regularizers=NONE)
    events: list[str] = []
    prior = trainer.judges[0].prior
    encode = prior.encode_image

    def encode_image(images: Tensor, noise: Tensor | None = None) -> Tensor:
        assert images.is_leaf
        images.register_hook(lambda _: events.append("autoencoder"))
        return encode(images, noise)

    prior.encode_image = encode_image
    trainer.engine.trained.get_parameter("table").register_hook(lambda _: events.append("generator"))
    trainer.step(0)
    assert events == ["autoencoder", "generator"]


def test_prior_is_no_part_of_the_trained_module() -> None:
    trainer = make_trainer()
    names = [name for name, _ in trainer.engine.module.named_modules()]
    assert not any("prior" in name for name in names)


def test_several_priors_add_up_with_their_weights() -> None:
    def judges(*weights: float) -> list[Judge]:
        return [make_judge(RandomPrior(), weight=weight) for weight in weights]

    first = gradients_of(make_trainer(regularizers=NONE, judges=judges(1.0)))
    none_and_half = gradients_of(make_trainer(regularizers=NONE, judges=judges(0.5, 0.0)))
    assert relative(none_and_half, 0.5 * first) < 1e-5


def test_everything_is_logged() -> None:
    trainer = make_trainer()
    trainer.step(0)
    values = trainer.averages.collect(trainer.engine.process)
    assert {"loss/eikonal", "loss/sparsity", "loss/opaque", "render/opacity"} <= set(values)
    for name in (
        "pixel_gradient",
        "pixel_gradient_clipped",
        "clipped_fraction",
        "timestep",
        "timestep_shift",
    ):
        assert f"prior0/{name}" in values
    assert 0.5 <= values["prior0/timestep"] <= 0.98
    assert set(trainer.timer.collect()) == {"draw", "render", "prior", "backward", "update"}
    assert trainer.averages.collect(trainer.engine.process) == {}


def test_upsample_leaves_images_of_the_right_size() -> None:
    images = torch.rand(1, 3, 8, 8)
    assert upsample(images, 8) is images
    assert upsample(images, 16).shape == (1, 3, 16, 16)
