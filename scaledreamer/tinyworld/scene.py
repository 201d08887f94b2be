"""Signed distances and colours of the tinyworld's objects: ground truth as a `Scene`.

Every object is a union of instances of one general primitive (`primitives.py`), so that a batch of different
objects is a single tensor expression. Axes: z up, front +x, lengths in units of the scene cube [-1, 1]^3. The
zero set is exact. Distances are exact outside unscaled round primitives, lower bounds next to edges of square
ones, and correct to first order around non-uniformly scaled ones: suitable for sphere tracing, and for
densities derived from distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.materials import MATERIALS, paint_material, palette, pattern_index
from scaledreamer.tinyworld.objects import primitives_of
from scaledreamer.tinyworld.primitives import Primitive, Vec

_FAR = 10.0
_PADDING = [0.0] * 14 + [1.0, 0.0, -_FAR, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
_ROWS: dict[Primitive, list[float]] = {}


def _rotation(turn: Vec) -> Tensor:
    a, b, c = (math.radians(v) for v in turn)
    ca, sa, cb, sb, cc, sc = math.cos(a), math.sin(a), math.cos(b), math.sin(b), math.cos(c), math.sin(c)
    about_x = torch.tensor([[1, 0, 0], [0, ca, -sa], [0, sa, ca]], dtype=torch.float64)
    about_y = torch.tensor([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]], dtype=torch.float64)
    about_z = torch.tensor([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]], dtype=torch.float64)
    return about_z @ about_y @ about_x


def _row(p: Primitive) -> list[float]:
    """The primitive as 24 numbers: world-to-local matrix (9), offset (3), then its twelve scalars."""
    to_local = _rotation(p.turn).T / torch.tensor(p.scale, dtype=torch.float64)[:, None]
    offset = -to_local @ torch.tensor(p.at, dtype=torch.float64)
    slope = (p.top - p.bottom) / (2 * p.half) if p.half > 0 else 0.0
    cosine = 1 / math.sqrt(1 + slope * slope)
    middle = (p.bottom + p.top) / 2
    scalars = [middle * cosine, slope * cosine, cosine, p.half, p.rounding, p.ring, float(p.square), *p.long]
    scalars += [1 / axis**2 for axis in p.scale]
    return [*to_local.flatten().tolist(), *offset.tolist(), *scalars]


COLORED = 0.3
"""Colours are computed up to this distance, beyond which a volume's density, e^(-30 d), is negligible."""


class WorldScene:
    """Ground truth of a batch of meanings as a `Scene`: distance, lit colour, plain background.

    Colours include a fixed light from above, `0.82 + 0.18 n_z`, so that a point looks the same from all
    directions and a radiance field can reproduce it exactly.

    Args:
        meanings: one object each; lengths and axes as described at the top of this module.
        background_color: rgb in [0, 1] for all directions, one for all objects or one per object.
        parts: makes the union of primitives: `primitives_of`, `without_face` or `two_faced`.
    """

    def __init__(
        self,
        meanings: Sequence[Meaning],
        device: torch.device | str = "cpu",
        background_color: Float[Tensor, "*batch 3"] | Vec = (1.0, 1.0, 1.0),
        *,
        parts: Callable[[Meaning], list[Primitive]] = primitives_of,
    ) -> None:
        unions = [sorted(parts(meaning), key=lambda p: p.scale == (1, 1, 1)) for meaning in meanings]
        self._num_scaled = max(sum(p.scale != (1, 1, 1) for p in union) for union in unions)
        most = max(len(union) for union in unions)
        rows, materials = [], []
        for union in unions:
            for p in union:
                if p not in _ROWS:
                    _ROWS[p] = _row(p)
            missing = most - len(union)
            rows.append([_ROWS[p] for p in union] + [_PADDING] * missing)
            materials.append([MATERIALS.index(p.paint) for p in union] + [0] * missing)
        self.meanings = list(meanings)
        table = torch.tensor(rows, device=device)
        self._matrix, self._offset = table[..., :9].unflatten(-1, (3, 3)), table[..., 9:12]
        self._scalars = table[..., 12:].movedim(-1, 0)[..., None]
        self._materials = torch.tensor(materials, device=device)
        self._palette = palette(meanings, device)
        self._patterns = pattern_index(meanings, device)
        background = torch.as_tensor(background_color, dtype=torch.float32, device=device)
        self.background_color = background.expand(len(unions), 3)

    def _distances(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch primitive n"]:
        flat = points.transpose(1, 2)
        x, y, z = (
            torch.baddbmm(self._offset[..., axis : axis + 1], self._matrix[..., axis, :], flat)
            for axis in range(3)
        )
        middle, slope, cosine, half, rounding, ring, is_square, long_x, long_y, *_ = self._scalars
        round_radius = (x * x).addcmul_(y, y).sqrt_()
        square_radius = torch.maximum(x.abs().sub_(long_x), y.abs().sub_(long_y)).clamp_(min=0.0)
        radius = round_radius.lerp(square_radius, is_square).sub_(ring).abs_()
        within = torch.minimum(torch.maximum(z, -half), half)
        side = radius.mul_(cosine).sub_(middle).sub_(within.mul_(slope))
        cap = z.abs().sub_(half)
        inside = torch.maximum(side, cap).clamp_(max=0.0)
        side_out, cap_out = side.clamp(min=0.0), cap.clamp(min=0.0)
        outside = (side_out * side_out).addcmul_(cap_out, cap_out).sqrt_()
        distances = (outside + inside).sub_(rounding)
        if self._num_scaled:
            # Non-uniform scale: to first order, the distance is the function's value divided by its slope.
            few = (slice(None), slice(self._num_scaled))
            parts = [v[few] for v in (x, y, z, round_radius, side, cap, side_out, cap_out, outside)]
            distances[few] /= self._slope(*parts)
        return distances

    def _slope(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        round_radius: Tensor,
        side: Tensor,
        cap: Tensor,
        side_out: Tensor,
        cap_out: Tensor,
        outside: Tensor,
    ) -> Float[Tensor, "batch primitive n"]:
        """Gradient norm, in world units, of the scaled primitives' functions; at least 1, since scales are
        below 1."""
        scalars = self._scalars[:, :, : self._num_scaled]
        _, slope, cosine, _, _, _, is_square, _, _, stretch_x, stretch_y, stretch_z = scalars
        is_corner, is_side = outside > 0, side > cap
        of_side = torch.where(is_corner, side_out / outside, is_side.float())
        of_cap = torch.where(is_corner, cap_out / outside, (~is_side).float())
        along_radius, along_axis = of_side * cosine, of_cap * z.sign() - of_side * slope
        x_share = (x / round_radius.clamp(min=1e-9)).square()
        x_share = torch.where(is_square > 0, (x.abs() > y.abs()).float(), x_share)
        of_radius = x_share * stretch_x + (1 - x_share) * stretch_y
        return (along_radius.square() * of_radius + along_axis.square() * stretch_z).sqrt().clamp(min=1.0)

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance, positive outside; see the top of this module."""
        return self._distances(points).amin(dim=1)

    def normal(self, points: Float[Tensor, "batch n 3"], eps: float = 2e-3) -> Float[Tensor, "batch n 3"]:
        """Outward unit normals by four finite differences on a tetrahedron."""
        corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        stacked = (points[:, :, None] + eps * corners).flatten(1, 2)
        values = self.sdf(stacked).unflatten(1, (-1, 4))
        return torch.nn.functional.normalize(values @ corners, dim=-1)

    def surface(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Int[Tensor, "batch n"], Int[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """Material, pattern marks (see `paint_material`) and light in [0, 1] of points near the surface."""
        nearest = self._distances(points).argmin(dim=1)
        material = self._materials.gather(1, nearest)
        x, y, z = points.unbind(-1)
        stripes = ((z + 1.0) % 0.25) < 0.11
        cells = [(v + 0.125) % 0.25 - 0.125 for v in (x, y, z)]
        spots = cells[0] ** 2 + cells[1] ** 2 + cells[2] ** 2 < 0.1**2
        light = 0.82 + 0.18 * self.normal(points)[..., 2]
        return material, stripes.int() + 2 * spots.int(), light

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n feature"]]:
        """Distance and lit rgb in [0, 1], black if farther than `COLORED` from the surface."""
        distance = self.sdf(points)
        is_near = distance.abs() < COLORED
        most = max(int(is_near.sum(1).max()), 1)
        index = is_near.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most, None]
        index = index.expand(-1, -1, 3)
        material, marks, light = self.surface(points.gather(1, index))
        albedo = paint_material(material, marks, self._palette, self._patterns)
        colors = torch.zeros_like(points).scatter(1, index, albedo * light[..., None])
        return distance, colors * is_near[..., None]

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """The plain background colour of every direction."""
        return self.background_color[:, None].expand(directions.shape)
