"""The texts of a step's branches, and guidance with all of them, in batches and alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from scaledreamer.contracts import PriorInputs, PriorText
from scaledreamer.distillation import guided_noise, perp_neg, rescale_guidance, weight_of
from scaledreamer.training.judge import Judge
from tests.support.judges import distill, make_judge
from tests.support.training_fakes import RandomPrior

PROMPTS = ["a red cat", "a blue car", "a red cat", "a cone"]
ELEVATION = torch.tensor([0.1, -0.1, 1.3, 0.4])
AZIMUTH = torch.tensor([0.2, 2.0, 1.0, -2.9])


class PooledPrior(RandomPrior):
    """As SDXL: a vector of the whole text beside its tokens, which the prediction depends on."""

    def encode_text(self, prompts: list[str]) -> PriorText:
        tokens = super().encode_text(prompts).tokens
        return PriorText(tokens, tokens.sum(1))

    def predict_noise(self, x_t: Tensor, t: Tensor, inputs: PriorInputs) -> Tensor:
        assert inputs.text.pooled is not None
        return super().predict_noise(x_t, t, inputs) * inputs.text.pooled[:, :, None, None].cos()


def draws(number: int) -> tuple[Tensor, ...]:
    torch.manual_seed(number)
    t = torch.rand(len(PROMPTS)) * 0.7 + 0.1
    return torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4), t, torch.rand(len(PROMPTS)) * 0.1


def gradient(judge: Judge, method: str, rows: Sequence[int]) -> Tensor:
    latents, noise, t, shift = (value[list(rows)] for value in draws(0))
    rows = list(rows)
    conditions = judge.texts.of_views([PROMPTS[i] for i in rows], ELEVATION[rows], AZIMUTH[rows])
    return distill(judge, method, latents, conditions, noise, t, shift)


@pytest.mark.parametrize("prior", [RandomPrior, PooledPrior])
@pytest.mark.parametrize("method", ["asd", "sds", "csd"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"perp_neg": 0.5}, {"perp_neg": 1.0, "negative_prompt": "ugly", "guidance_rescale": 0.7}],
)
def test_a_batch_is_its_samples_alone(prior: type[RandomPrior], method: str, settings: dict[str, object]):
    judge = make_judge(prior(), **settings)  # pyright: ignore[reportArgumentType]
    together = gradient(judge, method, range(4))
    for row in range(4):
        torch.testing.assert_close(together[row : row + 1], gradient(judge, method, [row]))
    assert together.norm() > 0.1


def test_perp_neg_is_its_formula_with_each_images_own_texts():
    prior = RandomPrior()
    judge = make_judge(prior, perp_neg=0.5, guidance_scale=5.0)
    latents, noise, t, shift = draws(0)
    got = gradient(judge, "asd", range(4))
    assert prior.calls == [5 * 4]  # text, uncond, two negatives, and ASD's second branch, in one call

    def embed(text: str) -> Tensor:
        return prior.encode_text([text]).tokens[0]

    def predict(row: int, tokens: Tensor, late: float = 0.0) -> Tensor:
        at = t[row : row + 1] + late
        x_t = prior.alpha(at) * latents[row : row + 1] + prior.sigma(at) * noise[row : row + 1]
        return prior.predict_noise(x_t, at, PriorInputs(PriorText(tokens[None])))

    for row, prompt in enumerate(PROMPTS):
        quarters = abs(float(AZIMUTH[row])) / (math.pi / 2)
        front, side, back = (embed(f"{prompt}, {word} view") for word in ("front", "side", "back"))
        null = embed("")
        if row == 2:
            positive, negatives, weights = embed(f"{prompt}, overhead view"), [null, null], [0.0, 0.0]
        elif quarters < 1:
            r = 1 - quarters
            positive, negatives = r * front + (1 - r) * side, [front, side]
            weights = [4 * math.exp(-0.5 * r) - 2.426, 4 * math.exp(-0.5 * (1 - r)) - 2.426]
        else:
            r = 2 - quarters
            positive, negatives = r * side + (1 - r) * back, [side, front]
            weights = [math.exp(-0.5 * r) - 0.606, math.exp(-0.5 * r) + 0.967]
        eps_guided = perp_neg(
            predict(row, positive),
            predict(row, null),
            torch.stack([predict(row, negative) for negative in negatives], dim=1),
            0.5 * torch.tensor([weights]),
            5.0,
        )
        weight = weight_of(prior.sigma(t[row : row + 1]))
        wanted = weight[:, None, None, None] * (eps_guided - predict(row, positive, float(shift[row])))
        torch.testing.assert_close(got[row : row + 1], wanted, atol=1e-5, rtol=1e-4)


def test_a_negative_prompt_takes_the_place_of_the_empty_one():
    prior = RandomPrior()
    latents, noise, t, shift = draws(0)
    conditions = make_judge(prior, negative_prompt="ugly").texts.of_views(PROMPTS, ELEVATION, AZIMUTH)
    assert torch.equal(conditions.uncond.text.tokens, prior.encode_text(["ugly"] * 4).tokens)
    plain = make_judge(prior).texts.of_views(PROMPTS, ELEVATION, AZIMUTH)
    assert torch.equal(plain.uncond.text.tokens, prior.encode_text([""] * 4).tokens)
    assert torch.equal(plain.text.text.tokens, conditions.text.text.tokens)


def test_guidance_rescale_is_what_diffusers_does():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    eps_text, eps_uncond = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    eps_guided = guided_noise(eps_text, eps_uncond, 7.5)
    for share in (0.0, 0.3, 1.0):
        wanted = rescale_noise_cfg(eps_guided, eps_text, guidance_rescale=share)
        torch.testing.assert_close(rescale_guidance(eps_guided, eps_text, share), wanted)
    assert torch.equal(rescale_guidance(0 * eps_text, eps_text, 0.5), 0 * eps_text)
