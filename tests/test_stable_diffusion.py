"""Latent diffusion priors of the diffusers layout, on small random models and the shipped one."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers declares the types of its constructors and loaders too narrowly)

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scaledreamer.contracts import PriorInputs, PriorText
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from tests.support.random_models import save_stable_diffusion


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_stable_diffusion(path, request.param)
    return path


@pytest.fixture(scope="module")
def prior(folder: Path) -> StableDiffusionPrior:
    return StableDiffusionPrior.from_pretrained(folder)


def test_sizes_are_read_from_the_networks(prior: StableDiffusionPrior):
    assert (prior.image_size, prior.latent_shape, prior.num_views) == (16, (4, 8, 8), 1)


def test_encode_image_scales_and_shifts_like_diffusers(prior: StableDiffusionPrior, folder: Path):
    from diffusers import AutoencoderKL

    images = torch.rand(2, 3, 16, 16)
    autoencoder = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    posterior = autoencoder.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(prior.encode_image(images), (posterior.mean - 0.25) * 0.5)
    noise = torch.randn(2, 4, 8, 8)
    sample = (posterior.mean + posterior.std * noise - 0.25) * 0.5
    torch.testing.assert_close(prior.encode_image(images, noise), sample)


def test_gradient_to_the_image_is_right_by_finite_differences(prior: StableDiffusionPrior):
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    direction = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(prior.encode_image(images).sin().sum(), images)
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (prior.encode_image(images + s * step * direction).sin().sum() for s in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(
        ((ahead - behind) / (2 * step)).item(), rel=2e-2
    )


def test_predicted_noise_is_what_diffusers_scheduler_makes_of_the_network(
    prior: StableDiffusionPrior, folder: Path
):
    from diffusers import DDIMScheduler, UNet2DConditionModel

    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(1000)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    text, x_t = prior.encode_text(["a cat"]), torch.randn(1, 4, 8, 8)
    for step in (10, 500, 990):
        with torch.no_grad():
            output = unet(x_t, step, text.tokens).sample
            clean = scheduler.step(output, step, x_t).pred_original_sample
        clean = _unclipped(
            output, x_t, scheduler.alphas_cumprod[step], scheduler.config["prediction_type"], clean
        )
        t = torch.tensor([step / 1000])
        eps = prior.predict_noise(x_t, t, PriorInputs(text))
        alpha, sigma = prior.alpha(t), prior.sigma(t)
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(1))
        torch.testing.assert_close(alpha * clean + sigma * eps, x_t, atol=1e-4, rtol=1e-4)


def _unclipped(output: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction_type: str, clean: Tensor) -> Tensor:
    """diffusers clips the clean sample to [-1, 1]; the same without the clip, checked where the clip did
    nothing."""
    if prediction_type == "epsilon":
        free = (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    else:
        free = alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
    inside = free.abs() < 1
    assert inside.any()
    torch.testing.assert_close(free[inside], clean[inside], atol=1e-5, rtol=1e-5)
    return free


def test_a_batch_of_two_equals_two_batches_of_one(prior: StableDiffusionPrior):
    text, x_t, t = (
        prior.encode_text(["a cat", "a red ball"]),
        torch.randn(2, 4, 8, 8),
        torch.tensor([0.3, 0.8]),
    )
    together = prior.predict_noise(x_t, t, PriorInputs(text))
    for i in range(2):
        alone = prior.predict_noise(x_t[i : i + 1], t[i : i + 1], PriorInputs(text[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
    joined = PriorText.cat([text[:1], text[1:]])
    assert torch.equal(joined.tokens, text.tokens) and len(joined) == 2
    assert torch.equal(text[torch.tensor([1, 0])].tokens[0], text.tokens[1])


def test_a_folder_without_a_pipeline_says_what_to_give(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"no unet/ in this folder; give a pipeline folder of the diffusers layout"
    ):
        StableDiffusionPrior.from_pretrained(tmp_path)
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match="its weights cannot be loaded"):
        StableDiffusionPrior.from_pretrained(tmp_path)
