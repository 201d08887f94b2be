"""The general primitive of the tinyworld's objects, and the shapes that are special cases of it.

In its own frame the primitive is a solid of revolution around z (or has a square cross-section): a frustum of
half-height `half` whose radius goes from `bottom` to `top`, swept around a ring of radius `ring`, and dilated
by `rounding`; a square one may be elongated by `long` along x or y. Ball, ellipsoid, capsule, cylinder, cone,
box, pyramid and torus are special cases. Axes: z up, front +x, lengths in units of the scene cube [-1, 1]^3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Vec = tuple[float, float, float]


@dataclass(frozen=True)
class Primitive:
    """One primitive; `paint` is a role (body, part, wear, support) or the name of a fixed colour.

    `is_face` marks the parts that distinguish a kind's front from its back: eyes, nose, mouth and the like.
    """

    paint: str
    at: Vec
    bottom: float = 0.0
    top: float = 0.0
    half: float = 0.0
    rounding: float = 0.0
    ring: float = 0.0
    square: bool = False
    long: tuple[float, float] = (0.0, 0.0)
    scale: Vec = (1.0, 1.0, 1.0)
    turn: Vec = (0.0, 0.0, 0.0)  # degrees about x, then y, then z
    is_face: bool = False


def ball(paint: str, at: Vec, radius: float | Vec, turn: Vec = (0, 0, 0)) -> Primitive:
    """A ball, or an ellipsoid if three half-axes are given."""
    axes = (radius,) * 3 if isinstance(radius, (int, float)) else radius
    biggest = max(axes)
    x, y, z = (axis / biggest for axis in axes)
    return Primitive(paint, at, rounding=biggest, scale=(x, y, z), turn=turn)


def box(paint: str, at: Vec, half: Vec, rounding: float = 0.02, turn: Vec = (0, 0, 0)) -> Primitive:
    """A box of the given half-lengths with slightly rounded edges."""
    x, y, z = half
    narrow = min(x, y)
    core, long = narrow - rounding, (x - narrow, y - narrow)
    return Primitive(paint, at, core, core, z - rounding, rounding, square=True, long=long, turn=turn)


def rod(paint: str, start: Vec, end: Vec, radius: float) -> Primitive:
    """A capsule from `start` to `end`."""
    dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    tilt, heading = math.degrees(math.acos(dz / length)), math.degrees(math.atan2(dy, dx))
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2)
    return Primitive(paint, middle, half=length / 2, rounding=radius, turn=(0, tilt, heading))


def frustum(
    paint: str, at: Vec, bottom: float, top: float, half: float, rounding: float = 0.02, turn: Vec = (0, 0, 0)
) -> Primitive:
    """A cylinder, cone or truncated cone with the given outer radii and half-height."""
    grow = rounding
    return Primitive(paint, at, max(bottom - grow, 0.0), max(top - grow, 0.0), half - grow, grow, turn=turn)


def torus(
    paint: str, at: Vec, ring: float, tube: float, turn: Vec = (0, 0, 0), flat: float = 1.0
) -> Primitive:
    """A torus around z before its rotation; `flat` scales it along its axis."""
    return Primitive(paint, at, rounding=tube, ring=ring, scale=(1.0, 1.0, flat), turn=turn)


def both_sides(*primitives: Primitive) -> list[Primitive]:
    """The primitives and their mirror images in the plane y = 0."""
    mirrored = []
    for p in primitives:
        (x, y, z), (a, b, c) = p.at, p.turn
        mirrored += [p, replace(p, at=(x, -y, z), turn=(-a, b, -c))]
    return mirrored


def face(*primitives: Primitive) -> list[Primitive]:
    """The primitives, marked as parts of the kind's face."""
    return [replace(p, is_face=True) for p in primitives]
