"""Distillation against an exact prior: closed forms, the claims about ASD, generators trained by it."""

import math

import pytest
import torch

from scaledreamer.distillation import (
    asd_gradient,
    clip_gradient,
    guided_noise,
    perp_neg,
    sample_timestep_shift,
    sample_timesteps,
    sds_gradient,
    vsd_gradient,
    weight_of,
)
from scaledreamer.schedules import parse_schedule
from tests.support.gaussian_mixture import GaussianMixturePrior, asd_latent_gradient, per_sample

WORDS = ["frog", "cat"]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


@pytest.fixture
def prior() -> GaussianMixturePrior:
    """Two labels of two unequal components each, of 3 x 2 x 2 latents; near enough to overlap when noised."""
    stds = torch.tensor([[0.1, 0.2], [0.3, 0.15]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    return GaussianMixturePrior(WORDS, 0.5 * normal(2, 2, 3, 2, 2, seed=0), stds, weights)


@pytest.fixture
def sample(prior):
    """Latents that the prior does not know, their labels, times and noise."""
    t = torch.tensor([0.15, 0.4, 0.6, 0.85], dtype=torch.float64)
    labels = prior.encode_text(["frog", "cat", "cat", "frog"])
    return 0.5 * normal(4, 3, 2, 2, seed=1), labels, t, normal(4, 3, 2, 2, seed=2)


def null_of(prior: GaussianMixturePrior, latents: torch.Tensor) -> torch.Tensor:
    return prior.encode_text([""]).expand(len(latents))


def predictions_at(prior, latents, labels, t, noise):
    x_t = prior.add_noise(latents, t, noise)
    return prior.predict_noise(x_t, t, labels), prior.predict_noise(x_t, t, null_of(prior, latents))


# The prior itself


@pytest.mark.parametrize("prompt", ["frog", "cat", ""])
def test_noise_prediction_is_minus_sigma_times_the_score(prior, sample, prompt):
    """Against autograd of the log density."""
    latents, _, t, noise = sample
    labels = prior.encode_text([prompt]).expand(4)
    x_t = prior.add_noise(latents, t, noise).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_density(x_t, t, labels).sum(), x_t)
    eps = prior.predict_noise(x_t.detach(), t, labels)
    torch.testing.assert_close(eps, -per_sample(prior.sigma(t)) * score)


@pytest.mark.parametrize("prompt", ["frog", ""])
def test_noise_prediction_is_the_posterior_mean_of_the_noise(prior, prompt):
    """Against Monte Carlo: clean samples weighted by how likely they lead to x_t."""
    labels = prior.encode_text([prompt])
    t = torch.tensor([0.6], dtype=torch.float64)
    alpha, sigma = prior.alpha(t).item(), prior.sigma(t).item()
    clean = prior.sample(labels.expand(200_000), rng(3))
    x_t = prior.add_noise(clean[:1], t, normal(1, 3, 2, 2, seed=4))
    noise = (x_t - alpha * clean) / sigma
    likelihood = (-0.5 * noise.square().sum(dim=(1, 2, 3))).softmax(dim=0)
    expected = (per_sample(likelihood) * noise).sum(dim=0)
    torch.testing.assert_close(prior.predict_noise(x_t, t, labels)[0], expected, rtol=0, atol=0.02)


def test_the_schedule_keeps_variance_and_ends_in_pure_noise(prior):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(prior.alpha(t).square() + prior.sigma(t).square(), torch.ones_like(t))
    noise = normal(1, 3, 2, 2, seed=5)
    torch.testing.assert_close(prior.predict_noise(noise, t[-1:], prior.encode_text(["cat"])), noise)


def test_the_prior_treats_a_batch_as_its_samples(prior, sample):
    latents, labels, t, noise = sample
    x_t = prior.add_noise(latents, t, noise)
    alone = [prior.predict_noise(x_t[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(prior.predict_noise(x_t, t, labels), torch.cat(alone), rtol=1e-12, atol=1e-12)


# The claims about ASD


def test_asd_tends_to_s_minus_one_times_the_classifier_direction_as_eta_vanishes(prior, sample):
    """And linearly in eta, so halving eta halves what is left."""
    latents, labels, t, noise = sample
    eps_text, eps_uncond = predictions_at(prior, *sample)
    limit = per_sample(weight_of(prior.sigma(t))) * 6.5 * (eps_text - eps_uncond)

    def distance(eta: float) -> float:
        dt = sample_timestep_shift(t, 0.02, eta)
        return (asd_latent_gradient(prior, latents, labels, t, dt, noise, 7.5) - limit).norm().item()

    assert limit.norm() > 0.1
    assert distance(0.0) == pytest.approx(0, abs=1e-12)
    assert distance(1e-4) / distance(5e-5) == pytest.approx(2, rel=1e-2)
    assert distance(1e-4) < 1e-3 * limit.norm()


def test_asd_shifted_to_pure_noise_is_sds(prior, sample):
    """At t + dt = 1 the exact prediction *is* the noise, so too large an eta degrades ASD to SDS."""
    latents, labels, t, noise = sample
    eps_text, eps_uncond = predictions_at(prior, *sample)
    expected = sds_gradient(guided_noise(eps_text, eps_uncond, 7.5), noise, weight_of(prior.sigma(t)))
    largest = sample_timestep_shift(t, 0.02, eta=100.0, t_max=1.0)
    result = asd_latent_gradient(prior, latents, labels, t, largest, noise, 7.5)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_vsd_vanishes_where_the_renders_already_are_what_the_prior_believes(prior, sample):
    """Unlike SDS, whose gradient there is pure noise."""
    _, labels, t, noise = sample
    x_t, weight = prior.add_noise(prior.sample(labels, rng(6)), t, noise), weight_of(prior.sigma(t))
    stds = prior.variances[None, :2].sqrt()
    weights = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    frogs = GaussianMixturePrior(["frog"], prior.means[None, :2], stds, weights)
    of_frogs = prior.predict_noise(x_t, t, torch.zeros(4, dtype=torch.long))
    eps_finetuned = frogs.predict_noise(x_t, t, torch.zeros(4, dtype=torch.long))
    assert vsd_gradient(of_frogs, eps_finetuned, weight).norm() < 1e-12
    assert sds_gradient(of_frogs, noise, weight).norm() > 0.1


def test_the_same_noise_cancels_between_asds_branches():
    """A prior certain of one image predicts `noise + (alpha / sigma) (x - mu)`. So unguided ASD is free of
    noise, and descends to mu: `w(t) (cot(pi t / 2) - cot(pi (t + dt) / 2)) (x - mu)`."""
    mode = normal(1, 1, 3, 2, 2, seed=7)
    certain = GaussianMixturePrior(["frog"], mode, torch.full((1, 1), 1e-6, dtype=torch.float64))
    latents = normal(1, 3, 2, 2, seed=8).expand(5, 3, 2, 2)
    t, dt = torch.full((5,), 0.4, dtype=torch.float64), torch.full((5,), 0.03, dtype=torch.float64)
    labels = certain.encode_text(["frog"] * 5)
    result = asd_latent_gradient(certain, latents, labels, t, dt, normal(5, 3, 2, 2, seed=9), 1.0)
    factor = 1 / math.tan(math.pi * 0.2) - 1 / math.tan(math.pi * 0.215)
    expected = math.sin(math.pi * 0.2) ** 2 * factor * (latents - mode[0])
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9)
    other_noise = asd_gradient(
        certain.predict_noise(certain.add_noise(latents, t, normal(5, 3, 2, 2, seed=9)), t, labels),
        certain.predict_noise(
            certain.add_noise(latents, t + dt, normal(5, 3, 2, 2, seed=10)), t + dt, labels
        ),
        weight_of(certain.sigma(t)),
    )
    assert (other_noise - expected).norm() > 1


def test_predictions_become_more_accurate_with_time(prior):
    """The observation that ASD rests on, for images that the prior does not know."""
    latents, noise = 0.5 * normal(2000, 3, 2, 2, seed=11), normal(2000, 3, 2, 2, seed=12)
    labels = prior.encode_text(["frog"] * 2000)
    errors = []
    for time in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full((2000,), time, dtype=torch.float64)
        eps = prior.predict_noise(prior.add_noise(latents, t, noise), t, labels)
        errors.append((eps - noise).square().mean().item())
    assert errors == sorted(errors, reverse=True)


def test_a_batch_of_two_prompts_is_two_batches_of_one(prior, sample):
    """Guidance, perp-neg, shift, weight, clipping: no part mixes samples."""

    def gradient(latents, labels, t, noise):
        dt = sample_timestep_shift(t, 0.02, 0.1, 0.7 * t, num_steps=1000)
        eps_text, eps_uncond = predictions_at(prior, latents, labels, t, noise)
        x_t = prior.add_noise(latents, t, noise)
        eps_negatives = torch.stack([prior.predict_noise(x_t, t, 0 * labels + i) for i in (0, 1)], dim=1)
        eps_guided = perp_neg(eps_text, eps_uncond, eps_negatives, torch.stack([t, 1 - t], dim=1), 7.5)
        eps_shifted = prior.predict_noise(prior.add_noise(latents, t + dt, noise), t + dt, labels)
        return clip_gradient(asd_gradient(eps_guided, eps_shifted, weight_of(prior.sigma(t))), 0.5)[0]

    whole = gradient(*sample)
    parts = [gradient(*(tensor[i : i + 1] for tensor in sample)) for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-10, atol=1e-12)


# Generators trained by it


@pytest.fixture(scope="module")
def pictures() -> GaussianMixturePrior:
    """Two labels with two well separated 4 x 4 pictures each, in float32 as in training."""
    means = 2 * torch.rand(2, 2, 3, 4, 4, generator=rng(0)) - 1
    return GaussianMixturePrior(WORDS, means, torch.full((2, 2), 0.1))


def distances_after_training(
    prior: GaussianMixturePrior, eta: float, guidance_scale: float, threshold: float, seed: int = 0
) -> torch.Tensor:
    """Trains a linear generator, prompt to image, as a training step does: gradient at the latents, through
    the encoder to the image, clipped there, into the generator. Returns the root mean square distance, in
    latents, of what it makes of each label to each picture: (label, picture)."""
    num_steps, num_copies = 800, 2
    bounds = [parse_schedule(ends, key="t").over(num_steps) for ends in ([0.5, 0.02], [0.98, 0.5])]
    generator = torch.nn.Linear(len(prior.words), 3 * 4 * 4)
    torch.nn.init.normal_(generator.weight, std=0.05, generator=rng(seed))
    torch.nn.init.constant_(generator.bias, 0.5)
    optimizer = torch.optim.SGD([generator.weight], lr=1.0)
    labels = torch.arange(len(prior.words)).repeat(num_copies)
    random = rng(seed + 1)
    for step in range(num_steps):
        t_min, t_max = (bound.value_at(step) for bound in bounds)
        uniforms = torch.rand(2, len(labels), generator=random)
        t = sample_timesteps(uniforms[0], t_min, t_max)
        dt = sample_timestep_shift(t, t_min, eta, uniforms[1], t_max=0.999, num_steps=1000)
        rendered = generator(torch.eye(len(prior.words))[labels]).view(-1, 3, 4, 4)
        images = rendered.detach().requires_grad_()
        latents = prior.encode_image(images)
        noise = torch.randn(latents.shape, generator=random)
        g_z = asd_latent_gradient(prior, latents.detach(), labels, t, dt, noise, guidance_scale)
        (g_x,) = torch.autograd.grad(latents, images, g_z)
        g_x, stats = clip_gradient(g_x, threshold)
        assert stats.is_finite
        optimizer.zero_grad()
        (g_x * rendered).sum().div(num_copies).backward()
        optimizer.step()
    made = prior.encode_image(generator(torch.eye(len(prior.words))).detach().view(-1, 3, 4, 4)).flatten(1)
    return torch.cdist(made, prior.means.flatten(1)) / prior.means[0].numel() ** 0.5


@pytest.mark.parametrize("threshold", [math.inf, 0.05])
def test_asd_with_guidance_brings_each_prompt_to_a_picture_of_its_own_label(pictures, threshold):
    """With and without PGC. Pictures lie 0.75 to 0.92 apart."""
    distances = distances_after_training(pictures, eta=0.1, guidance_scale=7.5, threshold=threshold)
    of_frog, of_cat = distances[0, :2], distances[1, 2:]
    assert of_frog.min() < 0.06
    assert of_cat.min() < 0.06


def test_guidance_without_shift_runs_past_every_picture(pictures):
    """At eta = 0 nothing holds a generator once its prompt is told from the others."""
    distances = distances_after_training(pictures, eta=0.0, guidance_scale=7.5, threshold=math.inf)
    assert distances.min() > 2
    assert distances[0, :2].min() < distances[0, 2:].min()
    assert distances[1, 2:].min() < distances[1, :2].min()
