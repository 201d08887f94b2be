"""Timesteps at which the prior is evaluated: t, ASD's shift dt, and the weight w(t).

Times are fractions in [0, 1] of the prior's noise schedule, 0 clean and 1 noise, one per sample; only a
prior's adapter knows its network's steps. Random numbers are passed in as uniforms, so that a step can be
repeated.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sample_timesteps(
    uniforms: Float[Tensor, " batch"], t_min: float, t_max: float
) -> Float[Tensor, " batch"]:
    """`t ~ U[t_min, t_max]` from given uniforms (ScaleDreamer, Algorithm 1).

    Args:
        uniforms: one number in [0, 1) per sample.
        t_min: lower end, after annealing.
        t_max: upper end, after annealing; may equal `t_min`.
    Raises: ValueError unless `0 <= t_min <= t_max <= 1`.
    """
    if not 0 <= t_min <= t_max <= 1:
        raise ValueError(f"t_min={t_min} and t_max={t_max}: expected 0 <= t_min <= t_max <= 1")
    return torch.lerp(torch.full_like(uniforms, t_min), torch.full_like(uniforms, t_max), uniforms)


def sample_timestep_shift(
    t: Float[Tensor, " batch"],
    t_min: float,
    eta: float,
    uniform: Float[Tensor, " batch"] | None = None,
    t_max: float = 1.0,
    num_steps: int | None = None,
) -> Float[Tensor, " batch"]:
    """ASD's timestep shift `dt ~ U[0, min(eta (t - t_min), t_max - t)]` (ScaleDreamer, Algorithm 1).

    The cap is applied before the random factor, so the shift stays uniform near `t_max`.
    `num_steps=1000, t_max=0.999` gives the integer shifts of the official code.

    Args:
        t: times of the first branch.
        t_min: the *annealed* lower end of t; the shift is zero for t below it.
        eta: growth of the shift with t, at least 0; 0.1 in the paper.
        uniform: one number in [0, 1) per sample; None gives the fixed (largest) shift.
        t_max: the largest time that `t + dt` may reach.
        num_steps: floor the shift to whole multiples of `1 / num_steps`; None leaves it continuous.
    Returns: dt >= 0, to be added to t.
    Raises: ValueError for a negative `eta` or a `num_steps` below 1.
    """
    if not eta >= 0:
        raise ValueError(f"eta={eta}: expected a number of at least 0; 0 means no shift, the paper uses 0.1")
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: expected at least 1, or None for a continuous shift")
    exact_t = t.double()
    largest = torch.minimum(eta * (exact_t - t_min), t_max - exact_t).clamp(min=0)
    if num_steps is not None:
        # Rounding: a float32 time may be off by 3e-5 steps of 1000, which must not floor to the step below.
        largest = (largest * num_steps).round(decimals=4)
    shift = largest if uniform is None else largest * uniform
    if num_steps is not None:
        shift = shift.floor() / num_steps
    return shift.to(t.dtype)


def weight_of(sigma: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """`w(t) = sigma(t)^2`, the weight of DreamFusion, PGC and ScaleDreamer; taken at t, never at t + dt.

    If `alpha^2 + sigma^2 = 1`, this is `1 - alpha_bar(t)`.

    Args:
        sigma: the prior's noise level at each sample's t.
    """
    return sigma.square()
