"""The exact toy prior against independent computations, and generators trained with it by the real step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scaledreamer.contracts import PriorInputs
from scaledreamer.distillation import sds_gradient, vsd_gradient
from tests.support.exact_prior import ExactPrior, Mixture
from tests.support.trainers import JudgeSettings, StepSettings, make_rig

FROG, CAT, EMPTY = [1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 1.5, 1.5]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


@pytest.fixture
def prior() -> ExactPrior:
    """Two texts of two unequal components each, of 3 x 2 x 2 latents; near enough to overlap when noised."""
    mixture = Mixture(0.5 * normal(4, 3, 2, 2, seed=0), torch.tensor([0.1, 0.2, 0.3, 0.15]).double())
    return ExactPrior(image_size=2, mixture=mixture, texts={"frog": FROG, "cat": CAT, "": EMPTY})


def noised(prior: ExactPrior, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    return prior.alpha(t)[:, None, None, None] * latents + prior.sigma(t)[:, None, None, None] * noise


def predict(prior: ExactPrior, x_t: Tensor, t: Tensor, *prompts: str) -> Tensor:
    """Noise predictions with a prompt for each image."""
    return prior.predict_noise(x_t, t, PriorInputs(prior.encode_text(list(prompts))))


TIMES = torch.tensor([0.15, 0.4, 0.6, 0.85]).double()


@pytest.mark.parametrize("text", ["frog", "cat", "", "any other text"])
def test_noise_prediction_is_minus_sigma_times_the_score(prior: ExactPrior, text: str) -> None:
    """Against autograd of the log density."""
    x_t = noised(prior, 0.5 * normal(4, 3, 2, 2, seed=1), TIMES, normal(4, 3, 2, 2, seed=2)).requires_grad_()
    texts = prior.encode_text([text] * 4)
    density = prior.mixture.log_density(x_t, TIMES, texts.tokens[:, 0])
    (score,) = torch.autograd.grad(density.sum(), x_t)
    eps = predict(prior, x_t.detach(), TIMES, *[text] * 4)
    torch.testing.assert_close(eps, -prior.sigma(TIMES)[:, None, None, None] * score)


@pytest.mark.parametrize("text", ["frog", ""])
def test_noise_prediction_is_the_posterior_mean_of_the_noise(prior: ExactPrior, text: str) -> None:
    """Against Monte Carlo: clean samples weighted by how likely they lead to x_t."""
    texts, t = prior.encode_text([text]), torch.tensor([0.6]).double()
    alpha, sigma = float(prior.alpha(t)), float(prior.sigma(t))
    clean = prior.mixture.sample(texts.tokens[:, 0].expand(200_000, -1), rng(3))
    x_t = noised(prior, clean[:1], t, normal(1, 3, 2, 2, seed=4))
    noise = (x_t - alpha * clean) / sigma
    likelihood = (-0.5 * noise.square().sum(dim=(1, 2, 3))).softmax(dim=0)
    expected = (likelihood[:, None, None, None] * noise).sum(dim=0)
    torch.testing.assert_close(predict(prior, x_t, t, text)[0], expected, rtol=0, atol=0.02)


def test_the_density_is_that_of_normal_distributions(prior: ExactPrior) -> None:
    """Against torch's, without noise and with."""
    x, weights = 0.3 * normal(1, 3, 2, 2, seed=5), prior.encode_text(["frog"]).tokens[:, 0]
    for time in (0.0, 0.5):
        alpha, sigma = math.cos(time * math.pi / 2), math.sin(time * math.pi / 2)
        parts = []
        for share, mean, std in zip((1 / 3, 2 / 3), prior.mixture.means, prior.mixture.stds, strict=False):
            spread = ((alpha * std) ** 2 + sigma**2) ** 0.5
            parts.append(
                math.log(share) + torch.distributions.Normal(alpha * mean, spread).log_prob(x[0]).sum()
            )
        got = prior.mixture.log_density(x, torch.tensor([time]).double(), weights)
        torch.testing.assert_close(got[0], torch.stack(parts).logsumexp(0))


def test_the_schedule_keeps_variance_and_ends_in_pure_noise(prior: ExactPrior) -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(prior.alpha(t).square() + prior.sigma(t).square(), torch.ones_like(t))
    noise = normal(1, 3, 2, 2, seed=5)
    torch.testing.assert_close(predict(prior, noise, t[-1:], "cat"), noise)


def test_a_text_between_two_is_the_mixture_of_both(prior: ExactPrior) -> None:
    """Probabilities add, so it is their densities that are between."""
    frog, cat = prior.encode_text(["frog"]), prior.encode_text(["cat"])
    between = frog.lerp(cat, torch.tensor([0.3]).double())
    x, t = 0.3 * normal(1, 3, 2, 2, seed=6), torch.tensor([0.5]).double()
    density = [prior.mixture.log_density(x, t, text.tokens[:, 0]).exp() for text in (frog, cat, between)]
    torch.testing.assert_close(density[2], 0.7 * density[0] + 0.3 * density[1])


def test_the_prior_treats_a_batch_as_its_samples(prior: ExactPrior) -> None:
    x_t, texts = normal(4, 3, 2, 2, seed=7), ["frog", "cat", "", "frog"]
    alone = [predict(prior, x_t[[i]], TIMES[[i]], text) for i, text in enumerate(texts)]
    together = predict(prior, x_t, TIMES, *texts)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_predictions_become_more_accurate_with_time(prior: ExactPrior) -> None:
    """The observation that ASD rests on, for images that the prior does not know."""
    latents, noise = 0.5 * normal(2000, 3, 2, 2, seed=11), normal(2000, 3, 2, 2, seed=12)
    errors = []
    for time in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full((2000,), time, dtype=torch.float64)
        eps = predict(prior, noised(prior, latents, t, noise), t, *["frog"] * 2000)
        errors.append((eps - noise).square().mean().item())
    assert errors == sorted(errors, reverse=True)


def test_vsd_vanishes_where_the_renders_are_what_the_prior_believes(prior: ExactPrior) -> None:
    """Unlike SDS, whose gradient there is the noise's sampling error."""
    texts, noise = prior.encode_text(["frog"] * 4), normal(4, 3, 2, 2, seed=13)
    x_t = noised(prior, prior.mixture.sample(texts.tokens[:, 0], rng(6)), TIMES, noise)
    renders = Mixture(prior.mixture.means[:2], prior.mixture.stds[:2])
    eps_finetuned = renders.noise(x_t, TIMES, torch.tensor([[1 / 3, 2 / 3]]).double().expand(4, -1))
    eps, weight = predict(prior, x_t, TIMES, *["frog"] * 4), prior.sigma(TIMES).square()
    assert vsd_gradient(eps, eps_finetuned, weight).norm() < 1e-9
    assert sds_gradient(eps, noise, weight).norm() > 0.1


# --- generators trained by the step ------------------------------------------------------------------------

WORDS = ("front", "side", "back", "overhead")


def distances_after_training(eta: float, guidance_scale: float, clip_threshold: float) -> Tensor:
    """Trains a picture for each of two prompts, of which the prior knows two pictures each.

    Returns: root mean square distance in latents of each prompt's picture to each known one.
    """
    num_steps = 120
    means = 2 * torch.rand(4, 3, 4, 4, generator=rng(0), dtype=torch.float64) - 1
    texts = {f"frog, {word} view": (1, 1, 0, 0) for word in WORDS}
    texts |= {f"cat, {word} view": (0, 0, 1, 1) for word in WORDS} | {"": (1, 1, 1, 1)}
    prior = ExactPrior(mixture=Mixture(means, torch.full((4,), 0.1).double()), texts=texts)
    settings = StepSettings(
        (JudgeSettings(prior, guidance_scale=guidance_scale, eta=eta),),
        prompts=("frog", "cat"),
        t_min=(0.5, 0.02, 0, num_steps),
        t_max=(0.98, 0.5, 0, num_steps),
        shift_steps=1000,
        clip_mode="pgc_n",
        clip_threshold=clip_threshold,
        learning_rate=(12.0, 1.0, 0, num_steps),
        text_cache=100,
    )
    rig = make_rig(settings)
    for step in range(num_steps):
        assert rig.trainer.step(step).is_applied
    made = 2 * rig.parameters()["pixels"].flatten(1) - 1
    return torch.cdist(made, means.flatten(1)) / means[0].numel() ** 0.5


@pytest.mark.parametrize("clip_threshold", [math.inf, 0.05])
def test_asd_with_guidance_brings_each_prompt_to_a_picture_of_its_own(clip_threshold: float) -> None:
    """With and without PGC. Pictures lie 0.75 to 0.92 apart."""
    distances = distances_after_training(0.1, 7.5, clip_threshold)
    assert distances[0, :2].min() < 0.06
    assert distances[1, 2:].min() < 0.06


def test_guidance_without_shift_runs_past_every_picture() -> None:
    """At eta = 0 nothing holds a picture once its prompt is told from the others."""
    distances = distances_after_training(0.0, 7.5, math.inf)
    assert distances.min() > 2
    assert distances[0, :2].min() < distances[0, 2:].min()
    assert distances[1, 2:].min() < distances[1, :2].min()
