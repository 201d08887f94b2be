"""Times of the prior: uniform, capped before the random factor, the official integers where asked."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.distillation import sample_timestep_shift, sample_timesteps, weight_of

numeric = settings(deadline=None, derandomize=True)  # a busy machine is no failure
FLOAT32_ULP = 1.2e-7


def even_uniforms(count: int) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count


def official_shift(step: int, min_step: int, eta: Fraction, uniform: Fraction) -> int:
    """The official rule on integer steps of 1000, in exact arithmetic."""
    return math.floor(min(eta * (step - min_step), Fraction(1000 - step - 1)) * uniform)


def test_sample_timesteps_fills_the_range_evenly():
    t = sample_timesteps(even_uniforms(1000), 0.02, 0.5)
    torch.testing.assert_close(t, torch.linspace(0.02 + 0.00024, 0.5 - 0.00024, 1000))


@numeric
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True, width=32))
def test_sample_timesteps_stays_inside_its_range(one, other, uniform):
    t_min, t_max = sorted((one, other))
    t = sample_timesteps(torch.tensor([uniform]), t_min, t_max)
    assert t_min - FLOAT32_ULP <= t.item() <= t_max + FLOAT32_ULP


@pytest.mark.parametrize("bounds", [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_sample_timesteps_refuses_impossible_ranges(bounds):
    with pytest.raises(ValueError, match=f"t_min={bounds[0]} and t_max={bounds[1]}"):
        sample_timesteps(torch.zeros(1), *bounds)


def test_shift_is_uniform_between_zero_and_eta_times_the_distance_to_t_min():
    uniforms = even_uniforms(1000)
    dt = sample_timestep_shift(torch.full((1000,), 0.42), 0.02, 0.1, uniforms)
    torch.testing.assert_close(dt, 0.04 * uniforms)


def test_shift_without_uniform_is_the_largest_one():
    t = torch.tensor([0.02, 0.12, 0.52, 0.92])
    torch.testing.assert_close(sample_timestep_shift(t, 0.02, 0.1), torch.tensor([0.0, 0.01, 0.05, 0.08]))


def test_shift_is_capped_before_the_random_factor():
    """Capping after it would pile up shifts at the cap; the mean would no longer be half of it."""
    uniforms = even_uniforms(1000)
    dt = sample_timestep_shift(torch.full((1000,), 0.95), 0.0, 0.5, uniforms, t_max=0.999)
    torch.testing.assert_close(dt, 0.049 * uniforms)
    assert (dt < 0.9 * 0.049).float().mean() == pytest.approx(0.9, abs=2e-3)


def test_shift_uses_the_annealed_lower_end():
    t = torch.tensor([0.6])
    assert sample_timestep_shift(t, 0.5, 0.1).item() == pytest.approx(0.01)
    assert sample_timestep_shift(t, 0.02, 0.1).item() == pytest.approx(0.058)


def test_shift_is_zero_at_eta_zero_below_t_min_and_above_t_max():
    assert sample_timestep_shift(torch.tensor([0.1, 0.5, 0.9]), 0.02, 0.0).tolist() == [0, 0, 0]
    assert sample_timestep_shift(torch.tensor([0.1]), 0.2, 0.1).item() == 0
    assert sample_timestep_shift(torch.tensor([0.9995]), 0.02, 0.1, t_max=0.999).item() == 0


@numeric
@given(
    st.floats(0, 1, width=32),
    st.floats(0, 1),
    st.floats(0, 4),
    st.floats(0, 1, exclude_max=True, width=32),
    st.sampled_from([None, 1000, 7]),
)
def test_shift_obeys_both_bounds(t, t_min, eta, uniform, num_steps):
    dt = sample_timestep_shift(
        torch.tensor([t]), t_min, eta, torch.tensor([uniform]), t_max=0.999, num_steps=num_steps
    ).item()
    rounding = FLOAT32_ULP if num_steps is None else FLOAT32_ULP + 5e-5 / num_steps
    assert 0 <= dt <= max(0.0, min(eta * (t - t_min), 0.999 - t)) + rounding
    if num_steps is not None:
        assert dt * num_steps == pytest.approx(round(dt * num_steps), abs=1e-4)


@numeric
@given(st.integers(20, 999), st.integers(20, 500), st.floats(0, 1, exclude_max=True, width=32))
def test_shift_with_num_steps_is_the_official_integer_shift(step, min_step, uniform):
    step = max(step, min_step)
    for eta in (Fraction(0), Fraction(1, 10), Fraction(1, 5), Fraction(1)):
        t = torch.tensor([step / 1000])
        arguments = {"t_min": min_step / 1000, "eta": float(eta), "t_max": 0.999, "num_steps": 1000}
        fixed = sample_timestep_shift(t, **arguments)
        assert round(fixed.item() * 1000) == official_shift(step, min_step, eta, Fraction(1))
        drawn = sample_timestep_shift(t, uniform=torch.tensor([uniform]), **arguments)
        assert round(drawn.item() * 1000) == official_shift(step, min_step, eta, Fraction(uniform))


def test_shift_with_num_steps_agrees_with_the_official_one_at_every_step():
    """Not even where a product comes close to a whole step."""
    steps = torch.arange(20, 1000).repeat_interleave(37)
    uniforms = torch.rand(37, generator=torch.Generator().manual_seed(0)).repeat(980)
    dt = sample_timestep_shift(steps / 1000, 0.02, 0.1, uniforms, t_max=0.999, num_steps=1000)
    expected = [
        official_shift(step, 20, Fraction(1, 10), Fraction(uniform))
        for step, uniform in zip(steps.tolist(), uniforms.tolist(), strict=True)
    ]
    assert (dt * 1000).round().long().tolist() == expected


def test_shift_of_a_batch_is_the_shift_of_its_samples():
    t, uniforms = even_uniforms(5), even_uniforms(5).flip(0)
    whole = sample_timestep_shift(t, 0.02, 0.1, uniforms, num_steps=1000)
    parts = [
        sample_timestep_shift(t[i : i + 1], 0.02, 0.1, uniforms[i : i + 1], num_steps=1000) for i in range(5)
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"eta": -0.1}, "eta=-0.1"), ({"eta": 0.1, "num_steps": 0}, "num_steps=0")]
)
def test_shift_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_timestep_shift(torch.tensor([0.5]), 0.02, **arguments)


def test_weight_is_one_minus_alpha_bar_on_a_variance_preserving_schedule():
    """On the `scaled_linear` betas of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(dim=0)
    torch.testing.assert_close(weight_of((1 - alpha_bar).sqrt()), 1 - alpha_bar)
