"""Priors of each family against diffusers' own pipelines, to 1e-5, and their gradients in float64.

Small random models in the real layouts: Stable Diffusion 1 (epsilon), 2 (v) and XL.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer.distillation import guided_noise
from scaledreamer.priors.sdxl import SDXLPrior
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from tests.support.judges import distill, make_judge
from tests.support.random_models import save_sdxl, save_stable_diffusion

PROMPTS = ["a red cat, front view", "a blue car, side view"]
Prior = StableDiffusionPrior | SDXLPrior


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "sdxl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sdxl":
        save_sdxl(folder)
        return SDXLPrior, folder
    save_stable_diffusion(folder, request.param)
    return StableDiffusionPrior, folder


@pytest.fixture(scope="module")
def prior(family: tuple[type, Path]) -> Prior:
    kind, folder = family
    return kind.from_pretrained(folder)


@pytest.fixture(scope="module")
def pipeline(family: tuple[type, Path]) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(family[1])


@torch.no_grad()
def test_guidance_is_that_of_diffusers_pipeline(prior: Prior, pipeline: Any) -> None:
    """Text, network and classifier-free guidance as the pipeline's own call computes them, at one step."""
    size, scale, t = prior.image_size, 5.0, torch.tensor([0.4, 0.4])
    x_t = torch.randn(2, *prior.latent_shape)
    step = torch.tensor(400)
    encoded = pipeline.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    added: dict[str, Tensor] = {}
    if isinstance(prior, SDXLPrior):
        text, null, pooled, null_pooled = encoded
        time_ids = torch.tensor([[size, size, 0, 0, size, size]]).float().repeat(4, 1)
        added = {"text_embeds": torch.cat([null_pooled, pooled]), "time_ids": time_ids}
    else:
        text, null = encoded
    output = pipeline.unet(
        torch.cat([x_t, x_t]), step, torch.cat([null, text]), added_cond_kwargs=added or None
    ).sample
    eps_uncond, eps_text = output.chunk(2)
    guided = eps_uncond + scale * (eps_text - eps_uncond)  # linear: v and epsilon are guided alike
    alpha_bar = pipeline.scheduler.alphas_cumprod[400]
    if pipeline.scheduler.config["prediction_type"] == "v_prediction":
        guided = alpha_bar.sqrt() * guided + (1 - alpha_bar).sqrt() * x_t

    conditions = make_judge(prior).texts.plain(PROMPTS)
    torch.testing.assert_close(conditions.text.text.tokens, text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(conditions.uncond.text.tokens, null, atol=1e-5, rtol=1e-5)
    mine = guided_noise(
        prior.predict_noise(x_t, t, conditions.text),
        prior.predict_noise(x_t, t, conditions.uncond),
        scale,
    )
    torch.testing.assert_close(mine, guided, atol=1e-5, rtol=1e-5)
    assert guided.std() > 0.1


def test_gradient_to_the_image_by_finite_differences_in_float64(family: tuple[type, Path]) -> None:
    kind, folder = family
    prior = kind.from_pretrained(folder, dtype=torch.float64)
    images = torch.rand(1, 3, prior.image_size, prior.image_size, dtype=torch.float64, requires_grad=True)
    latents = prior.encode_image(images)
    assert latents.dtype == torch.float64
    weights = torch.randn_like(latents)
    (gradient,) = torch.autograd.grad((latents * weights).sum(), images)
    step = 1e-5
    for _ in range(5):
        direction = torch.randn_like(images)
        with torch.no_grad():
            ahead, behind = (
                (prior.encode_image(images + sign * step * direction) * weights).sum() for sign in (1, -1)
            )
        slope = (ahead - behind) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("perp_neg", [0.0, 0.5])
def test_two_prompts_together_are_each_alone(prior: Prior, perp_neg: float) -> None:
    """With view words and with Perp-Neg: pairs of texts, cameras and latents are never mixed up."""
    judge = make_judge(prior, perp_neg=perp_neg)
    prompts, elevation, azimuth = (
        ["a red cat", "a blue car"],
        torch.tensor([0.1, 0.3]),
        torch.tensor([0.9, 2.5]),
    )
    latents, noise = torch.randn(2, *prior.latent_shape), torch.randn(2, *prior.latent_shape)
    t, shift = torch.tensor([0.3, 0.7]), torch.tensor([0.02, 0.05])

    def gradient(rows: slice) -> Tensor:
        conditions = judge.texts.of_views(prompts[rows], elevation[rows], azimuth[rows])
        return distill(judge, "asd", latents[rows], conditions, noise[rows], t[rows], shift[rows])

    together = gradient(slice(0, 2))
    assert together.norm() > 0.01
    for row in range(2):
        one = slice(row, row + 1)
        torch.testing.assert_close(together[one], gradient(one), atol=1e-5, rtol=1e-5)
