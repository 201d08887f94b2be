"""IoU of volumes after the best uniform scale and shift.

A point q of the generated object moves to `p = s q + t`. The share of the true object's cells that it then
covers is found by interpolating the generated distance at `(p - t) / s`; the transformed volume is `s^3`
times the original. Axes: `prompt` pairs, `candidate` transforms (log s, t), `point` cells of the true object.
"""

from __future__ import annotations

import math
from copy import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scaledreamer.evaluation.ground_truth import intersection_over_union

MAX_SCALE = 3.0
SEARCH_POINTS = 512
FIRST_STEP, LAST_STEP = 0.12, 0.004


@torch.no_grad()
def aligned_iou(
    generated: Float[Tensor, "prompt x y z"], true: Float[Tensor, "prompt x y z"], *, batch_size: int = 32
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "prompt 4"]]:
    """Best IoU over uniform scale and shift, and the transform (log s, t) that achieves it.

    Coordinate search with shrinking steps, started from the identity, from aligned bounding boxes and from
    aligned second moments. Never below the IoU without alignment.

    Args:
        generated, true: signed distances at the centres of the same cells of the cube [-1, 1]^3.
    """
    batches = zip(generated.float().split(batch_size), true.float().split(batch_size), strict=True)
    found = [_align(*batch) for batch in batches]
    iou, transform = (torch.cat(values) for values in zip(*found, strict=True))
    return iou, transform


class _Pairs:
    """Volumes to be compared under many transforms."""

    def __init__(self, generated: Tensor, true: Tensor) -> None:
        size = generated.shape[-1]
        self._generated = generated[:, None]
        self.volume, self.true_volume = _volume(generated), _volume(true)
        flat = (true < 0).flatten(1)
        self._num_true = flat.sum(1)
        most = max(int(self._num_true.max()), 1)
        index = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        cells = torch.stack([index // (size * size), index // size % size, index % size], -1)
        self._points = (cells + 0.5) * (2 / size) - 1
        self._is_point = flat.gather(1, index)

    def thinned(self, count: int) -> _Pairs:
        """The same pairs with `count` evenly spaced points of each true object."""
        thin = copy(self)
        place = (torch.arange(count, device=self.volume.device) + 0.5) / count * self._num_true[:, None]
        place = place.long().clamp(max=self._points.shape[1] - 1)
        thin._points = self._points.gather(1, place[..., None].expand(-1, -1, 3))
        thin._is_point = self._is_point.gather(1, place)
        return thin

    def iou(self, transforms: Float[Tensor, "prompt candidate 4"]) -> Float[Tensor, "prompt candidate"]:
        scale, shift = transforms[..., :1].exp(), transforms[..., 1:]
        points = (self._points[:, None] - shift[:, :, None]) / scale[:, :, None]
        size = self._generated.shape[-1]
        # grid_sample's coordinates are in the order z, y, x, with the outer cells' centres at -1 and 1.
        lookup = points.flip(-1)[:, :, :, None] * (size / (size - 1))
        distance = F.grid_sample(self._generated, lookup, align_corners=True, padding_mode="border")
        is_inside = (distance[:, 0, :, :, 0] < 0) & (points.abs().amax(-1) <= 1) & self._is_point[:, None]
        share = is_inside.sum(-1) / self._is_point.sum(1, keepdim=True).clamp(min=1)
        at_rest, moved = self.true_volume[:, None], scale[..., 0] ** 3 * self.volume[:, None]
        both = torch.minimum(share * at_rest, moved)
        return both / (at_rest + moved - both).clamp(min=1e-6)


def _align(generated: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    pairs = _Pairs(generated, true)
    few = pairs.thinned(SEARCH_POINTS)
    identity = torch.zeros(len(true), 4, device=true.device)
    starts = torch.stack([identity, *_guesses(generated < 0, true < 0)], 1)
    moves = torch.cat([torch.eye(4), -torch.eye(4)]).to(true.device)
    current, step = starts, torch.full(starts.shape[:2], FIRST_STEP, device=true.device)
    best = few.iou(current)
    while bool((step > LAST_STEP).any()):
        around = current[:, :, None] + step[..., None, None] * moves
        around[..., 0].clamp_(-math.log(MAX_SCALE), math.log(MAX_SCALE))
        values = few.iou(around.flatten(1, 2)).unflatten(1, around.shape[1:3])
        top, which = values.max(-1)
        is_better = top > best
        chosen = around.gather(2, which[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        current = torch.where(is_better[..., None], chosen, current)
        best = torch.where(is_better, top, best)
        step = torch.where(is_better, step, step / 2)
    top, which = pairs.iou(current).max(1)
    transform = current.gather(1, which[:, None, None].expand(-1, 1, 4)).squeeze(1)
    raw = intersection_over_union(generated < 0, true < 0)
    transform = torch.where((raw > top)[:, None], identity, transform)
    return torch.maximum(raw, top), transform


def _volume(distance: Float[Tensor, "prompt x y z"]) -> Float[Tensor, " prompt"]:
    """Volume in (fractional) cells; unbiased for flat surfaces, for any slope of the distance."""
    size = distance.shape[-1]
    return (0.5 - distance * (size / 2)).clamp(0, 1).flatten(1).sum(1)


def _guesses(generated: Bool[Tensor, "prompt x y z"], true: Bool[Tensor, "prompt x y z"]) -> list[Tensor]:
    """Transforms that align bounding boxes, and centres of mass and second moments."""
    guesses = []
    for (size_g, centre_g), (size_t, centre_t) in zip(_sizes(generated), _sizes(true), strict=True):
        log_scale = (size_t / size_g).log().clamp(-math.log(MAX_SCALE), math.log(MAX_SCALE))
        guesses.append(torch.cat([log_scale[:, None], centre_t - log_scale.exp()[:, None] * centre_g], 1))
    return guesses


def _sizes(inside: Bool[Tensor, "prompt x y z"]) -> list[tuple[Tensor, Tensor]]:
    """Size " prompt" and centre "prompt 3" of bounding boxes, then of masses; of the cube if empty."""
    size = inside.shape[-1]
    centre = (torch.arange(size, device=inside.device) + 0.5) * (2 / size) - 1
    weight = inside.float()
    is_empty = ~inside.flatten(1).any(1)
    weight[is_empty] = 1.0
    low, high, mean, square = [], [], [], []
    for axis in (1, 2, 3):
        others = tuple({1, 2, 3} - {axis})
        line = weight.sum(others)
        low.append(torch.where(line > 0, centre, torch.inf).amin(1) - 1 / size)
        high.append(torch.where(line > 0, centre, -torch.inf).amax(1) + 1 / size)
        share = line / line.sum(1, keepdim=True)
        mean.append(share @ centre)
        square.append(share @ centre.square() - mean[-1].square())
    spread = torch.stack(square, 1).sum(1).clamp(min=1e-6).sqrt()
    low, high = torch.stack(low, 1), torch.stack(high, 1)
    return [((high - low).log().mean(1).exp(), (low + high) / 2), (spread, torch.stack(mean, 1))]
