"""Distillation gradients: what is subtracted from what, Perp-Neg's geometry, pairing in a batch."""

import jaxtyping
import pytest
import torch

from scaledreamer.distillation import (
    asd_gradient,
    csd_gradient,
    guided_noise,
    perp_neg,
    sds_gradient,
    vsd_gradient,
)

DIFFERENCES = (asd_gradient, sds_gradient, csd_gradient, vsd_gradient)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def without_shape_checks():
    """What a user meets, who runs without the shape checker of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def predictions():
    eps_text, eps_uncond, other = draw(3, 2, 4, 5, 6).unbind()
    return eps_text, eps_uncond, other, draw(2, seed=1).abs()


def test_guided_noise_interpolates_and_extrapolates(predictions):
    eps_text, eps_uncond, _, _ = predictions
    torch.testing.assert_close(guided_noise(eps_text, eps_uncond, 0), eps_uncond)
    torch.testing.assert_close(guided_noise(eps_text, eps_uncond, 1), eps_text)
    torch.testing.assert_close(guided_noise(eps_text, eps_uncond, 7.5), 7.5 * eps_text - 6.5 * eps_uncond)


def test_guided_noise_at_s_plus_one_is_the_convention_of_pgc_at_s(predictions):
    eps_text, eps_uncond, _, _ = predictions
    torch.testing.assert_close(
        guided_noise(eps_text, eps_uncond, 101), eps_text + 100 * (eps_text - eps_uncond)
    )


@pytest.mark.parametrize("gradient", DIFFERENCES)
def test_every_gradient_is_a_weighted_difference_per_element(gradient, predictions):
    first, _, second, weight = predictions
    result = gradient(first, second, weight)
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (1, 3, 4, 5)]:
        assert result[index].item() == pytest.approx(
            (weight[index[0]] * (first[index] - second[index])).item()
        )


@pytest.mark.parametrize("gradient", DIFFERENCES)
def test_every_gradient_of_two_samples_is_that_of_each_alone(gradient, predictions):
    first, _, second, weight = predictions
    alone = [gradient(first[i : i + 1], second[i : i + 1], weight[i : i + 1]) for i in range(2)]
    assert torch.equal(gradient(first, second, weight), torch.cat(alone))


@pytest.mark.parametrize(
    ("gradient", "names"),
    [
        (asd_gradient, ("eps_guided", "eps_shifted")),
        (sds_gradient, ("eps_guided", "noise")),
        (csd_gradient, ("eps_text", "eps_uncond")),
        (vsd_gradient, ("eps_guided", "eps_finetuned")),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_gradients_refuse_to_broadcast(gradient, names):
    with pytest.raises(ValueError, match=rf"{names[0]} has shape \(2, .*{names[1]} has \(1, "):
        gradient(draw(2, 4, 3, 3), draw(1, 4, 3, 3), draw(2))
    with pytest.raises(ValueError, match=r"weight has shape \(1,\), expected one per sample: \(2,\)"):
        gradient(draw(2, 4, 3, 3), draw(2, 4, 3, 3), draw(1))


@pytest.mark.usefixtures("without_shape_checks")
def test_guidance_refuses_to_broadcast():
    one, two = draw(1, 4, 3, 3), draw(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"eps_text has shape \(2, .*eps_uncond has \(1, "):
        guided_noise(two, one, 7.5)
    with pytest.raises(ValueError, match=r"eps_text has shape \(2, .*eps_uncond has \(1, "):
        perp_neg(two, one, draw(2, 2, 4, 3, 3), draw(2, 2), 7.5)
    for negatives, weights in [
        ((4, 1, 4, 3, 3), (2, 2)),
        ((2, 2, 4, 3, 3), (2, 1)),
        ((1, 2, 4, 3, 3), (1, 2)),
    ]:
        with pytest.raises(ValueError, match=r"eps_negatives has shape .*\(batch, negative\)"):
            perp_neg(two, two, draw(*negatives), draw(*weights), 7.5)


def naive_perp_neg(eps_text, eps_uncond, eps_negatives, weights, scale):
    """One sample, flat vectors, textbook projection."""
    positive = (eps_text - eps_uncond).flatten()
    direction = positive / positive.norm()
    total = positive.clone()
    for eps_negative, weight in zip(eps_negatives, weights, strict=True):
        negative = (eps_negative - eps_uncond).flatten()
        total -= weight * (negative - (negative @ direction) * direction)
    return eps_uncond + scale * total.view_as(eps_uncond)


@pytest.fixture
def negatives():
    return draw(3, 2, 4, 5, 6, seed=2), draw(3, 2, seed=3).abs()


def test_perp_neg_pairs_each_sample_with_its_own_negatives(negatives):
    """Against a loop over samples and negative prompts."""
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    eps_negatives, weights = negatives
    result = perp_neg(eps_text, eps_uncond, eps_negatives, weights, 7.5)
    for i in range(3):
        expected = naive_perp_neg(eps_text[i], eps_uncond[i], eps_negatives[i], weights[i], 7.5)
        torch.testing.assert_close(result[i], expected)


def test_perp_neg_of_a_batch_is_that_of_its_samples(negatives):
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    whole = perp_neg(eps_text, eps_uncond, *negatives, scale=7.5)
    for i in range(3):
        one = [tensor[i : i + 1] for tensor in (eps_text, eps_uncond, *negatives)]
        torch.testing.assert_close(whole[i : i + 1], perp_neg(*one, scale=7.5), rtol=1e-12, atol=1e-12)


def test_perp_neg_changes_guidance_only_perpendicular_to_the_positive_direction(negatives):
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    plain = guided_noise(eps_text, eps_uncond, 7.5)
    change = perp_neg(eps_text, eps_uncond, *negatives, scale=7.5) - plain
    along = (change * (eps_text - eps_uncond)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-10)
    assert (change.flatten(1).norm(dim=1) > 1).all()


def test_perp_neg_moves_away_from_the_negative(negatives):
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    eps_negative = negatives[0][:, :1]
    change = perp_neg(eps_text, eps_uncond, eps_negative, torch.ones(3, 1).double(), 7.5)
    change = change - guided_noise(eps_text, eps_uncond, 7.5)
    assert ((change * (eps_negative[:, 0] - eps_uncond)).sum(dim=(1, 2, 3)) < 0).all()


def test_perp_neg_without_weights_or_without_negatives_is_plain_guidance(negatives):
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    plain = guided_noise(eps_text, eps_uncond, 7.5)
    eps_negatives, weights = negatives
    torch.testing.assert_close(perp_neg(eps_text, eps_uncond, eps_negatives, 0 * weights, 7.5), plain)
    torch.testing.assert_close(
        perp_neg(eps_text, eps_uncond, eps_negatives[:, :0], weights[:, :0], 7.5), plain
    )


@pytest.mark.parametrize("factor", [1.0, -0.5, 3.0])
def test_perp_neg_ignores_a_negative_along_the_positive_direction(factor):
    """Even the positive prompt itself given as a negative one, whatever its weight."""
    eps_text, eps_uncond = draw(2, 3, 4, 5, 6).unbind()
    parallel = (eps_uncond + factor * (eps_text - eps_uncond))[:, None]
    result = perp_neg(eps_text, eps_uncond, parallel, torch.full((3, 1), 9.0).double(), 7.5)
    torch.testing.assert_close(result, guided_noise(eps_text, eps_uncond, 7.5))


def test_perp_neg_without_positive_direction_removes_the_whole_negative():
    eps_uncond, eps_negative = draw(2, 1, 4, 5, 6).unbind()
    result = perp_neg(eps_uncond, eps_uncond, eps_negative[:, None], torch.full((1, 1), 0.5).double(), 2)
    torch.testing.assert_close(result, eps_uncond - (eps_negative - eps_uncond))


def test_perp_neg_survives_half_precision():
    """The squared norm of this latent, 4 x 64 x 64 x 9^2, exceeds 65504."""
    eps_text, eps_uncond = (9 * draw(2, 1, 4, 64, 64, dtype=torch.float32)).half().unbind()
    eps_negatives = (9 * draw(1, 1, 4, 64, 64, seed=5, dtype=torch.float32)).half()
    weights = torch.ones(1, 1)
    result = perp_neg(eps_text, eps_uncond, eps_negatives, weights, 7.5)
    expected = perp_neg(eps_text.double(), eps_uncond.double(), eps_negatives.double(), weights.double(), 7.5)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-3)
