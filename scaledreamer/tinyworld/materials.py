"""Materials of the tinyworld's objects, and their colours without light, rgb in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

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

FIXED_PAINTS = ("black", "gray", "brown", "beige", "orange", "yellow", "pink", "cyan", "white")
MATERIALS = ("body", "part", "wear", "support", "second", *FIXED_PAINTS)
"""Materials of surface points: roles whose colours come from the meaning ("second" is the pattern's), or
fixed paints."""


def pattern_color(color: str) -> str:
    """The colour of stripes and spots on a body of the given colour: black on light ones, white on dark
    ones."""
    return "black" if color in _LIGHT_COLORS else "white"


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
