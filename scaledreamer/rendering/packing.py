"""Masked scene queries, and ray chunking within a memory limit.

Axes: `batch` prompts, `ray` rays of a prompt, `sample` samples of a ray. Prompts need different numbers of
samples, but a scene is queried with the same number for all of them. On CPUs, where small calls are cheap,
the prompts are queried one by one if the scene has `row`; otherwise together, padded to the largest number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scaledreamer.accounting import Cost, count
from scaledreamer.contracts import Scene
from scaledreamer.fields.sdf import finite_difference_gradient, volsdf_density
from scaledreamer.rendering.sampling import running_sum

COMPOSITING_BYTES = 160
"""Bytes per sample, masked or not, in addition to the scene's: about 20 numbers, and as many gradients."""

_PROBE_POINTS, _MANY_PROBE_POINTS = 2**8, 2**17
"""Points over all prompts."""


def query_values(
    scene: Scene, points: Float[Tensor, "batch n 3"], beta: float, normal_epsilon: float | None
) -> Float[Tensor, "batch n value"]:
    """VolSDF density, rgb and, given a step for finite differences, the unit normal of points: 4 or 7
    values."""
    sdf, features = scene.query(points)
    values = [volsdf_density(sdf, beta)[..., None], features[..., :3]]
    if normal_epsilon is not None:
        values.append(F.normalize(finite_difference_gradient(scene.sdf, points, normal_epsilon), dim=-1))
    return torch.cat(values, -1)


def query_where(
    scene: Scene,
    points: Float[Tensor, "batch n 3"],
    mask: Bool[Tensor, "batch n"],
    beta: float,
    normal_epsilon: float | None,
) -> Float[Tensor, "batch n value"]:
    """As `query_values`, zero outside the mask, which contains at least one point of each prompt."""
    row = row_of(scene, points)
    if row is not None:
        index = mask.flatten().nonzero()[:, 0]
        parts = points.flatten(0, 1).index_select(0, index).split(mask.sum(1).tolist())
        parts = [query_values(row(i), part[None], beta, normal_epsilon)[0] for i, part in enumerate(parts)]
        packed = torch.cat(parts)
        values = packed.new_zeros(mask.numel(), packed.shape[-1]).index_copy(0, index, packed)
        return values.unflatten(0, mask.shape)
    order = first_of(mask)
    padded = query_values(scene, points.gather(1, order[..., None].expand(-1, -1, 3)), beta, normal_epsilon)
    padded = padded * mask.gather(1, order)[..., None]
    index = order[..., None].expand_as(padded)
    return padded.new_zeros(*mask.shape, padded.shape[-1]).scatter(1, index, padded)


def row_of(scene: Scene, like: Tensor) -> Callable[[int], Scene] | None:
    """`scene.row` if querying prompts one by one is faster; otherwise None."""
    return getattr(scene, "row", None) if like.device.type == "cpu" else None


def first_of(mask: Bool[Tensor, "batch n"]) -> Int[Tensor, "batch most"]:
    """Indices of the mask's points in order, padded to the largest number with other points of the prompt."""
    most = int(mask.sum(1).max())
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]


def bytes_per_sample(
    scene: Scene,
    like: Float[Tensor, "batch n 3"],
    beta: float,
    normal_epsilon: float | None,
    memory_bytes: float = math.inf,
) -> float:
    """Bytes that `query_values` keeps per sample of one prompt for the backward pass; without gradients, its
    peak memory per sample.

    Counted with a few points, or as many as fit into `memory_bytes`. The graph of the scene is not affected.
    """
    batch = len(like)

    def spread(num_points: int) -> Float[Tensor, "batch n 3"]:
        per_prompt = -(-num_points // batch)
        numbers = torch.linspace(-1, 1, 3 * batch * per_prompt, dtype=like.dtype, device=like.device)
        return numbers.view(batch, per_prompt, 3)

    def cost(points: Tensor) -> Cost:
        return count(lambda: query_values(scene, points, beta, normal_epsilon))

    few = spread(_PROBE_POINTS)
    keeps = query_values(scene, few[:, :1], beta, normal_epsilon).requires_grad
    cost_of_few, num_few = cost(few), few[..., 0].numel()
    if keeps:
        return cost_of_few.kept_bytes / num_few
    # The growth, without the constant part that a scene takes for any number of points.
    room = num_few * memory_bytes / cost_of_few.peak_bytes
    many = spread(int(min(max(room, 2 * _PROBE_POINTS), _MANY_PROBE_POINTS)))
    half = many[:, : many.shape[1] // 2]
    growth = cost(many).peak_bytes - cost(half).peak_bytes
    return growth / (many[..., 0].numel() - half[..., 0].numel())


def chunks_within(
    memory_bytes: float,
    mask: Bool[Tensor, "batch ray sample"],
    sample_bytes: float,
    *,
    is_one_by_one: bool,
) -> list[int]:
    """Sizes of chunks of neighbouring rays per prompt that fit into memory; at least one ray each.

    With gradients enabled, a chunk takes what all its samples keep, plus half as much for the gradients of
    those that are queried together (measured for hash grids with MLPs: 0.4 to 0.7); otherwise only the memory
    of those that are queried together.

    Args:
        sample_bytes: bytes per sample, from `bytes_per_sample`.
        is_one_by_one: prompts are queried one after the other, not together with padding.
    """
    batch, num_rays, num_samples = mask.shape
    counts, keeps = mask.sum(2), torch.is_grad_enabled()
    together = counts.amax(0) * (1 if is_one_by_one else batch)
    samples = (counts.sum(0) if is_one_by_one else together) + together / 2 if keeps else together
    per_ray = samples * sample_bytes + batch * num_samples * COMPOSITING_BYTES / (1 if keeps else 2)
    # A chunk starts where the running sum exceeds a multiple of what leaves room for one more ray.
    room = max(memory_bytes - float(per_ray.max()), 1.0)
    chunk = ((running_sum(per_ray) - per_ray) / room).long()
    return chunk.unique_consecutive(return_counts=True)[1].tolist()
