"""Signed distances and colours of the tinyworld's objects.

Every object is a union of instances of one general primitive, so that a batch of different objects is a
single tensor expression. In its own frame the primitive is a body of revolution around z (or has a square
cross-section): a frustum of half-height `half` whose radius goes from `bottom` to `top`, swept around a ring
of radius `ring`, and dilated by `rounding`; a square one may be elongated by `long` along x or y. Ball,
ellipsoid, capsule, cylinder, cone, box, pyramid and torus are special cases.

Axes: z up, front +x, lengths in units of the scene cube [-1, 1]^3. The zero set is exact. Distances are exact
outside unscaled round primitives, lower bounds next to edges of square ones, and correct to first order
around non-uniformly scaled ones: suitable for sphere tracing, and for densities derived from distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.tinyworld.grammar import KINDS, Meaning

RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.09, 0.09),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (0.98, 0.90, 0.12),
    "green": (0.13, 0.60, 0.18),
    "cyan": (0.20, 0.85, 0.88),
    "blue": (0.12, 0.22, 0.86),
    "purple": (0.50, 0.14, 0.66),
    "pink": (1.00, 0.55, 0.75),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
    "gray": (0.50, 0.50, 0.52),
    "brown": (0.42, 0.24, 0.10),
    "beige": (0.93, 0.80, 0.62),
}
_LIGHT_COLORS = ("white", "yellow", "pink", "cyan", "orange")

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


# --- kinds: heights run from about z = -0.5 to z = 0.5 -----------------------------------------------------


def _frog() -> list[Primitive]:
    return [
        ball("body", (0.0, 0, -0.18), (0.48, 0.44, 0.31)),
        ball("body", (0.24, 0, 0.06), (0.33, 0.37, 0.23)),
        *both_sides(
            *face(ball("part", (0.30, 0.22, 0.30), 0.16), ball("black", (0.42, 0.27, 0.34), 0.065)),
            ball("body", (-0.18, 0.42, -0.27), (0.30, 0.16, 0.22)),
            ball("body", (0.10, 0.52, -0.45), (0.27, 0.12, 0.055)),
            rod("body", (0.30, 0.28, -0.20), (0.42, 0.32, -0.44), 0.075),
        ),
        *face(ball("black", (0.50, 0, 0.00), (0.09, 0.22, 0.025))),
    ]


def _tree_frog() -> list[Primitive]:
    return [
        ball("body", (-0.04, 0, -0.04), (0.23, 0.22, 0.38), (0, 25, 0)),
        ball("body", (0.17, 0, 0.26), (0.26, 0.27, 0.17)),
        *both_sides(
            *face(ball("part", (0.20, 0.24, 0.40), 0.165), ball("black", (0.29, 0.31, 0.44), 0.065)),
            rod("body", (-0.10, 0.16, -0.15), (-0.02, 0.52, 0.06), 0.07),
            rod("body", (-0.02, 0.52, 0.06), (-0.02, 0.56, -0.42), 0.055),
            ball("orange", (0.05, 0.58, -0.45), (0.15, 0.11, 0.05)),
            rod("body", (0.14, 0.17, 0.08), (0.34, 0.24, -0.42), 0.055),
            ball("orange", (0.40, 0.25, -0.45), (0.15, 0.11, 0.05)),
        ),
    ]


def _cat() -> list[Primitive]:
    return [
        ball("body", (-0.08, 0, -0.22), (0.30, 0.24, 0.29)),
        ball("body", (0.12, 0, 0.17), (0.25, 0.29, 0.24)),
        *both_sides(
            frustum("body", (0.12, 0.19, 0.44), 0.13, 0.0, 0.15, 0.015, (-12, 0, 0)),
            *face(ball("part", (0.31, 0.135, 0.23), 0.115), ball("black", (0.40, 0.15, 0.24), 0.045)),
            rod("body", (0.16, 0.14, -0.15), (0.20, 0.15, -0.43), 0.075),
            ball("body", (-0.12, 0.24, -0.38), (0.21, 0.12, 0.13)),
        ),
        *face(ball("pink", (0.37, 0, 0.12), (0.05, 0.06, 0.04))),
        rod("body", (-0.34, 0, -0.38), (-0.56, 0, -0.10), 0.06),
        rod("body", (-0.56, 0, -0.10), (-0.50, 0, 0.24), 0.06),
    ]


def _rabbit() -> list[Primitive]:
    return [
        ball("body", (-0.05, 0, -0.24), (0.29, 0.26, 0.27)),
        ball("body", (0.12, 0, 0.06), (0.22, 0.22, 0.20)),
        *both_sides(
            ball("body", (0.02, 0.13, 0.38), (0.06, 0.085, 0.27), (-12, -8, 0)),
            *face(ball("part", (0.26, 0.13, 0.11), 0.115), ball("black", (0.35, 0.155, 0.12), 0.045)),
            ball("body", (0.12, 0.17, -0.45), (0.25, 0.09, 0.06)),
        ),
        *face(ball("beige", (0.33, 0, 0.02), 0.045)),
        ball("beige", (-0.36, 0, -0.28), 0.12),
    ]


def _bird() -> list[Primitive]:
    return [
        ball("body", (0.0, 0, -0.08), (0.36, 0.26, 0.27), (0, -22, 0)),
        ball("body", (0.27, 0, 0.22), 0.20),
        *face(frustum("yellow", (0.53, 0, 0.20), 0.09, 0.0, 0.13, 0.01, (0, 95, 0))),
        box("body", (-0.44, 0, -0.10), (0.22, 0.16, 0.035), 0.02, (0, 20, 0)),
        *both_sides(
            ball("part", (-0.06, 0.42, 0.04), (0.22, 0.34, 0.06), (28, 0, 0)),
            *face(ball("black", (0.38, 0.13, 0.29), 0.06)),
            rod("yellow", (0.05, 0.10, -0.30), (0.09, 0.12, -0.47), 0.035),
            ball("yellow", (0.14, 0.12, -0.48), (0.12, 0.07, 0.03)),
        ),
    ]


def _turtle() -> list[Primitive]:
    return [
        ball("part", (-0.05, 0, -0.16), (0.45, 0.40, 0.34)),
        ball("body", (-0.05, 0, -0.30), (0.49, 0.44, 0.12)),
        *face(
            rod("body", (0.30, 0, -0.24), (0.50, 0, -0.06), 0.10),
            ball("body", (0.55, 0, 0.02), (0.18, 0.15, 0.15)),
        ),
        *both_sides(
            *face(ball("black", (0.65, 0.10, 0.09), 0.05)),
            ball("body", (0.30, 0.36, -0.38), (0.15, 0.13, 0.13)),
            ball("body", (-0.36, 0.34, -0.38), (0.15, 0.13, 0.13)),
        ),
        frustum("body", (-0.56, 0, -0.32), 0.09, 0.0, 0.12, 0.01, (0, -100, 0)),
    ]


def _elephant() -> list[Primitive]:
    return [
        ball("body", (-0.14, 0, -0.04), (0.38, 0.31, 0.31)),
        ball("body", (0.26, 0, 0.16), 0.24),
        *face(
            rod("body", (0.46, 0, 0.10), (0.55, 0, -0.20), 0.085),
            rod("body", (0.55, 0, -0.20), (0.60, 0, -0.36), 0.065),
        ),
        *both_sides(
            ball("part", (0.17, 0.35, 0.19), (0.07, 0.25, 0.27), (0, 0, 18)),
            *face(
                ball("black", (0.45, 0.13, 0.25), 0.05),
                rod("white", (0.44, 0.13, 0.02), (0.60, 0.16, -0.06), 0.035),
            ),
            rod("body", (0.10, 0.17, -0.20), (0.10, 0.17, -0.40), 0.105),
            rod("body", (-0.36, 0.17, -0.20), (-0.36, 0.17, -0.40), 0.105),
        ),
    ]


def _snowman() -> list[Primitive]:
    return [
        ball("body", (0, 0, -0.22), 0.31),
        ball("body", (0, 0, 0.12), 0.235),
        ball("body", (0, 0, 0.40), 0.175),
        *face(
            frustum("orange", (0.25, 0, 0.40), 0.06, 0.0, 0.14, 0.01, (0, 90, 0)),
            ball("part", (0.29, 0, -0.16), 0.095),
            ball("part", (0.25, 0, 0.03), 0.09),
            ball("part", (0.205, 0, 0.20), 0.08),
        ),
        *both_sides(
            *face(ball("black", (0.145, 0.075, 0.47), 0.04)),
            rod("brown", (0.0, 0.20, 0.14), (0.04, 0.52, 0.28), 0.035),
        ),
    ]


def _robot() -> list[Primitive]:
    return [
        box("body", (0, 0, -0.10), (0.21, 0.27, 0.24)),
        box("body", (0, 0, 0.32), (0.19, 0.23, 0.17)),
        rod("gray", (0, 0, 0.08), (0, 0, 0.22), 0.08),
        rod("gray", (0, 0, 0.48), (0, 0, 0.60), 0.025),
        *face(
            box("gray", (0.20, 0, 0.22), (0.02, 0.13, 0.03), 0.005),
            box("gray", (0.205, 0, -0.10), (0.02, 0.14, 0.12), 0.005),
        ),
        *both_sides(
            *face(ball("part", (0.19, 0.115, 0.36), 0.11)),
            rod("gray", (0.0, 0.32, 0.06), (0.06, 0.40, -0.24), 0.06),
            ball("body", (0.07, 0.41, -0.28), 0.09),
            box("gray", (0, 0.14, -0.38), (0.09, 0.085, 0.10)),
            box("body", (0.04, 0.14, -0.47), (0.15, 0.11, 0.04)),
        ),
    ]


def _car() -> list[Primitive]:
    return [
        box("body", (0, 0, -0.14), (0.58, 0.30, 0.14), 0.06),
        box("body", (-0.08, 0, 0.10), (0.30, 0.26, 0.15), 0.06),
        *face(box("cyan", (0.215, 0, 0.10), (0.025, 0.21, 0.09), 0.01)),
        box("cyan", (-0.08, 0, 0.11), (0.20, 0.275, 0.08), 0.01),
        *both_sides(
            frustum("part", (0.34, 0.29, -0.27), 0.17, 0.17, 0.07, 0.02, (90, 0, 0)),
            frustum("part", (-0.34, 0.29, -0.27), 0.17, 0.17, 0.07, 0.02, (90, 0, 0)),
            *face(ball("yellow", (0.57, 0.19, -0.12), 0.065)),
        ),
    ]


def _house() -> list[Primitive]:
    roof = Primitive("part", (0, 0, 0.30), 0.62, 0.0, 0.24, 0.02, square=True, scale=(0.86, 1.0, 1.0))
    return [
        box("body", (0, 0, -0.20), (0.38, 0.46, 0.30), 0.01),
        roof,
        *face(
            box("brown", (0.38, 0, -0.31), (0.02, 0.11, 0.19), 0.005),
            *both_sides(box("cyan", (0.38, 0.28, -0.14), (0.02, 0.09, 0.10), 0.005)),
        ),
        box("gray", (-0.12, 0.24, 0.38), (0.07, 0.07, 0.16), 0.01),
    ]


def _mug() -> list[Primitive]:
    return [
        frustum("body", (0, 0, 0), 0.34, 0.36, 0.42),
        frustum("brown", (0, 0, 0.41), 0.28, 0.28, 0.02, 0.005),
        torus("body", (0, 0, 0.41), 0.33, 0.04),
        torus("part", (0, 0.38, 0.0), 0.22, 0.065, (0, 90, 0)),
    ]


def _teapot() -> list[Primitive]:
    return [
        ball("body", (0, 0, -0.12), (0.40, 0.40, 0.32)),
        ball("part", (0, 0, 0.14), (0.24, 0.24, 0.12)),
        ball("part", (0, 0, 0.30), 0.075),
        rod("body", (0, -0.30, -0.14), (0, -0.56, 0.10), 0.08),
        rod("body", (0, -0.56, 0.10), (0, -0.66, 0.22), 0.055),
        torus("body", (0, 0.42, -0.08), 0.19, 0.05, (0, 90, 0)),
        frustum("body", (0, 0, -0.43), 0.24, 0.22, 0.05),
    ]


def _chair() -> list[Primitive]:
    return [
        box("body", (0, 0, -0.06), (0.34, 0.34, 0.06)),
        box("body", (-0.30, 0, 0.26), (0.05, 0.34, 0.30)),
        *both_sides(
            rod("part", (0.26, 0.26, -0.12), (0.26, 0.26, -0.45), 0.055),
            rod("part", (-0.28, 0.26, -0.12), (-0.28, 0.26, -0.45), 0.055),
        ),
    ]


def _mushroom() -> list[Primitive]:
    return [
        ball("body", (0, 0, 0.22), (0.48, 0.48, 0.28)),
        frustum("beige", (0, 0, 0.06), 0.42, 0.46, 0.07),
        frustum("part", (0, 0, -0.22), 0.19, 0.14, 0.28, 0.03),
    ]


def _tree() -> list[Primitive]:
    return [
        frustum("part", (0, 0, -0.30), 0.12, 0.10, 0.22),
        frustum("body", (0, 0, -0.06), 0.42, 0.12, 0.17),
        frustum("body", (0, 0, 0.16), 0.34, 0.08, 0.17),
        frustum("body", (0, 0, 0.38), 0.25, 0.0, 0.18),
    ]


def _rocket() -> list[Primitive]:
    fins = [
        box("part", (0.27 * x, 0.27 * y, -0.32), (0.16, 0.035, 0.19), 0.01, (0, 0, angle))
        for x, y, angle in ((1, 0, 0), (-1, 0, 0), (0, 1, 90), (0, -1, 90))
    ]
    return [
        frustum("body", (0, 0, -0.06), 0.21, 0.21, 0.34),
        frustum("part", (0, 0, 0.42), 0.21, 0.0, 0.18),
        frustum("gray", (0, 0, -0.44), 0.15, 0.10, 0.06),
        torus("cyan", (0.19, 0, 0.12), 0.06, 0.035, (0, 90, 0)),
        torus("cyan", (-0.19, 0, 0.12), 0.06, 0.035, (0, 90, 0)),
        *fins,
    ]


@dataclass(frozen=True)
class Anchors:
    """Where a creature wears things: centre and radius of the top of its head, centre and radius of its
    neck."""

    head: Vec
    head_radius: float
    neck: Vec
    neck_radius: float


SHAPES: dict[str, Callable[[], list[Primitive]]] = {
    "frog": _frog,
    "tree frog": _tree_frog,
    "cat": _cat,
    "rabbit": _rabbit,
    "bird": _bird,
    "turtle": _turtle,
    "elephant": _elephant,
    "snowman": _snowman,
    "robot": _robot,
    "car": _car,
    "house": _house,
    "mug": _mug,
    "teapot": _teapot,
    "chair": _chair,
    "mushroom": _mushroom,
    "tree": _tree,
    "rocket": _rocket,
    "ball": lambda: [ball("body", (0, 0, 0), 0.48)],
    "cube": lambda: [box("body", (0, 0, 0), (0.42, 0.42, 0.42))],
    "cone": lambda: [frustum("body", (0, 0, 0), 0.48, 0.0, 0.5)],
    "cylinder": lambda: [frustum("body", (0, 0, 0), 0.34, 0.34, 0.48)],
    "donut": lambda: [torus("body", (0, 0, -0.28), 0.38, 0.20)],
}

ANCHORS: dict[str, Anchors] = {
    "frog": Anchors((0.18, 0, 0.26), 0.22, (0.14, 0, -0.06), 0.42),
    "tree frog": Anchors((0.12, 0, 0.40), 0.20, (0.07, 0, 0.09), 0.24),
    "cat": Anchors((0.12, 0, 0.38), 0.20, (0.02, 0, -0.03), 0.24),
    "rabbit": Anchors((0.14, 0, 0.22), 0.18, (0.05, 0, -0.09), 0.23),
    "bird": Anchors((0.26, 0, 0.38), 0.18, (0.18, 0, 0.08), 0.24),
    "turtle": Anchors((0.53, 0, 0.13), 0.16, (0.42, 0, -0.12), 0.15),
    "elephant": Anchors((0.22, 0, 0.36), 0.20, (0.12, 0, 0.06), 0.30),
    "snowman": Anchors((0, 0, 0.53), 0.17, (0, 0, 0.28), 0.17),
    "robot": Anchors((0, 0, 0.49), 0.22, (0, 0, 0.13), 0.25),
}

GROUND = -0.5


def _worn(what: str, anchors: Anchors) -> list[Primitive]:
    (x, y, z), r = anchors.head, anchors.head_radius
    if what == "hat":
        return [
            frustum("wear", (x, y, z + 0.02), 1.45 * r, 1.45 * r, 0.035),
            frustum("wear", (x, y, z + 0.19), 0.95 * r, 0.95 * r, 0.17),
        ]
    if what == "crown":
        spikes = [
            frustum("wear", (x + r * math.cos(a), y + r * math.sin(a), z + 0.19), 0.45 * r, 0.0, 0.11, 0.01)
            for a in (math.tau * k / 5 for k in range(5))
        ]
        return [frustum("wear", (x, y, z + 0.06), 1.1 * r, 1.15 * r, 0.07), *spikes]
    (x, y, z), r = anchors.neck, anchors.neck_radius
    return [
        torus("wear", (x, y, z), r, 0.085, (0, 10, 0)),
        box("wear", (x + r + 0.04, y + 0.10, z - 0.16), (0.04, 0.075, 0.15), 0.02, (0, -8, 0)),
    ]


def _support(what: str) -> list[Primitive]:
    if what == "box":
        return [box("support", (0, 0, GROUND - 0.19), (0.50, 0.50, 0.19))]
    return [
        frustum("support", (0, 0, GROUND - 0.035), 0.72, 0.72, 0.035, 0.015),
        torus("support", (0, 0, GROUND + 0.01), 0.74, 0.04),
    ]


def primitives_of(meaning: Meaning) -> list[Primitive]:
    """The union of primitives for a meaning, painted with roles."""
    found = SHAPES[meaning.kind]()
    if meaning.wear:
        found = found + _worn(meaning.wear, ANCHORS[meaning.kind])
    if meaning.support:
        found = found + _support(meaning.support)
    return found


def without_face(meaning: Meaning) -> list[Primitive]:
    """`primitives_of` without the parts of the face."""
    return [p for p in primitives_of(meaning) if not p.is_face]


def two_faced(meaning: Meaning) -> list[Primitive]:
    """`primitives_of` united with a copy rotated by 180 degrees about the vertical: a perfect Janus."""
    found = primitives_of(meaning)
    turned = []
    for p in found:
        (x, y, z), (a, b, c) = p.at, p.turn
        turned.append(replace(p, at=(-x, -y, z), turn=(a, b, c + 180.0)))
    return found + turned


def has_face(kind: str) -> bool:
    """Whether the kind has a face: a chair has a front, but no face."""
    return any(p.is_face for p in SHAPES[kind]())


def pattern_color(color: str) -> str:
    """The colour of stripes and spots on a body of the given colour: black on light ones, white on dark
    ones."""
    return "black" if color in _LIGHT_COLORS else "white"


# --- tensors -----------------------------------------------------------------------------------------------

FIXED_PAINTS = ("black", "gray", "brown", "beige", "orange", "yellow", "pink", "cyan", "white")
MATERIALS = ("body", "part", "wear", "support", "second", *FIXED_PAINTS)
"""Materials of surface points: roles whose colours come from the meaning ("second" is the pattern's), or
fixed paints."""

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


def palette(
    meanings: Sequence[Meaning], device: torch.device | str = "cpu"
) -> Float[Tensor, "batch material 3"]:
    """The unlit rgb of every material in `MATERIALS`, for each meaning; black if a role is absent."""
    fixed = [RGB[name] for name in FIXED_PAINTS]
    rows = []
    for m in meanings:
        roles = (m.color, m.part_color or KINDS[m.kind].part_color, m.wear_color, m.support_color)
        rows.append([RGB[name or "black"] for name in (*roles, pattern_color(m.color))] + fixed)
    return torch.tensor(rows, device=device)


def pattern_index(meanings: Sequence[Meaning], device: torch.device | str = "cpu") -> Int[Tensor, " batch"]:
    """0 for plain, 1 for striped, 2 for spotted."""
    return torch.tensor([{None: 0, "striped": 1, "spotted": 2}[m.pattern] for m in meanings], device=device)


def paint_material(
    material: Int[Tensor, "batch n"],
    marks: Int[Tensor, "batch n"],
    colors: Float[Tensor, "batch material 3"],
    patterns: Int[Tensor, " batch"],
) -> Float[Tensor, "batch n 3"]:
    """Unlit rgb of surface points: their material's colour, or the second one at marks of a body's pattern.

    Args:
        material: indices into `MATERIALS`.
        marks: bit 1 for stripes, bit 2 for spots.
        colors, patterns: from `palette` and `pattern_index`.
    """
    is_marked = (marks & patterns[:, None] > 0) & (material == MATERIALS.index("body"))
    shown = torch.where(is_marked, MATERIALS.index("second"), material)
    return colors.gather(1, shown.long()[..., None].expand(-1, -1, 3))


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
