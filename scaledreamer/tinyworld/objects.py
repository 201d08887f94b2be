"""The kinds of the tinyworld as unions of primitives, with what they wear and stand on.

Axes: z up, front +x, lengths in units of the scene cube [-1, 1]^3. Without a support, heights run from about
z = -0.5 to z = 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.primitives import (
    Primitive,
    Vec,
    ball,
    both_sides,
    box,
    face,
    frustum,
    rod,
    torus,
)


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
