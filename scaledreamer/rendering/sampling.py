"""Sampling along rays. Pure functions; random numbers are passed in as uniforms in [0, 1).

Depths are distances along unit directions. `edge` are the boundaries of the intervals `bin` (one more than
bins); all depths increase along the last axis. Interval weights need not sum to one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cube_interval(
    origins: Float[Tensor, "*ray 3"],
    directions: Float[Tensor, "*ray 3"],
    radius: float,
    near: float,
    far: float,
) -> tuple[Float[Tensor, "*ray"], Float[Tensor, "*ray"], Bool[Tensor, "*ray"]]:
    """Depths at which rays enter and leave the cube [-radius, radius]^3 within [near, far], and whether they
    hit it.

    Rays that miss get an empty interval, enter = leave.
    """
    # Otherwise a ray within a face would divide zero by zero.
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (-radius - origins) / safe, (radius - origins) / safe
    enter = torch.minimum(first, second).amax(-1).clamp(near, far)
    leave = torch.maximum(first, second).amin(-1).clamp(near, far)
    return enter, torch.maximum(enter, leave), leave > enter


def stratified_depths(
    near: Float[Tensor, "*ray"],
    far: Float[Tensor, "*ray"],
    num_samples: int,
    uniforms: Float[Tensor, "*#ray #sample"] | None = None,
) -> Float[Tensor, "*ray sample"]:
    """One depth in each of `num_samples` equal intervals of [near, far]; interval centres without uniforms.

    With a single uniform per ray, all samples of the ray are shifted by the same amount.
    """
    steps = torch.arange(num_samples, dtype=near.dtype, device=near.device)
    fraction = (steps + (0.5 if uniforms is None else uniforms)) / num_samples
    return near[..., None] + (far - near)[..., None] * fraction


def importance_depths(
    edges: Float[Tensor, "*ray edge"],
    weights: Float[Tensor, "*ray bin"],
    uniforms: Float[Tensor, "*#ray sample"],
) -> Float[Tensor, "*ray sample"]:
    """Inverse of the cumulative distribution with a piecewise constant density: one weight per bin.

    Uniforms in [0, 1] that increase along the last axis give increasing depths; 0 and 1 give the first and
    the last edge (bins of weight zero at the ends are skipped only for uniforms in between). If all weights
    are zero, all bins count equally.
    """
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights, torch.ones_like(weights))
    cumulative = running_sum(weights)
    cumulative = torch.nn.functional.pad(cumulative / cumulative[..., -1:], (1, 0))
    uniforms = uniforms.expand(*edges.shape[:-1], -1).contiguous()
    bins = (torch.searchsorted(cumulative, uniforms, right=True) - 1).clamp(0, weights.shape[-1] - 1)
    low, high = cumulative.gather(-1, bins), cumulative.gather(-1, bins + 1)
    fraction = ((uniforms - low) / (high - low).clamp_min(torch.finfo(low.dtype).tiny)).clamp(0, 1)
    start, end = edges.gather(-1, bins), edges.gather(-1, bins + 1)
    return start + (end - start) * fraction


def union_edges(
    proposals: Float[Tensor, "*ray edge"], weights: Float[Tensor, "*ray bin"], num_resampled: int
) -> Float[Tensor, "*ray all"]:
    """Sorted edges of the proposed intervals and of `num_resampled` more, placed by the proposals' weights.

    As in ScaleDreamer (theEricMa/ScaleDreamer:threestudio/models/estimators.py, after nerfacc's
    `importance_sampling`): samples that divide the weight evenly, with interval edges halfway between them.
    128 and 64 intervals have 129 and 65 edges, which give 193 intervals.

    Args:
        weights: compositing weights with a sum of at most 1; the remaining transmittance counts for the last
            bin.
    """
    passed = 1 - weights[..., :-1].sum(-1, keepdim=True)
    weights = torch.cat([weights[..., :-1], passed.clamp_min(0)], -1)
    steps = torch.arange(num_resampled, dtype=weights.dtype, device=weights.device)
    samples = importance_depths(proposals, weights, (steps + 0.5) / num_resampled)
    middle = (samples[..., 1:] + samples[..., :-1]) / 2
    if num_resampled > 1:
        first, last = 2 * samples[..., :1] - middle[..., :1], 2 * samples[..., -1:] - middle[..., -1:]
    else:
        first, last = proposals[..., :1], proposals[..., -1:]
    first, last = torch.maximum(first, proposals[..., :1]), torch.minimum(last, proposals[..., -1:])
    return torch.cat([proposals, first, middle, last], -1).sort(-1).values


def running_sum(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Cumulative sum along the last axis.

    On a GPU, `cumsum` is not deterministic in its last bits and raises under
    `torch.use_deterministic_algorithms`; shifted copies are added instead, with doubling shifts (Hillis and
    Steele 1986).
    """
    if not (values.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return values.cumsum(-1)
    return _doubling_sum(values)


def _doubling_sum(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    shift = 1
    while shift < values.shape[-1]:
        values = values + torch.nn.functional.pad(values[..., :-shift], (shift, 0))
        shift *= 2
    return values


def compositing_weights(
    density: Float[Tensor, "*ray sample"], lengths: Float[Tensor, "*ray sample"]
) -> Float[Tensor, "*ray sample"]:
    """Weight of each interval, `exp(-sum_{j<i} d_j l_j) (1 - exp(-d_i l_i))` (NeRF, Eq. 3).

    The weights sum to the opacity, `1 - exp(-sum_i d_i l_i)`.
    """
    optical = density * lengths
    before = running_sum(optical) - optical
    return torch.exp(-before) * -torch.expm1(-optical)
