"""Captions that nearly fit: neighbours of a meaning that differ from it in one attribute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from scaledreamer.tinyworld.grammar import COLORS, KINDS, PATTERNS, SUPPORTS, WEARS, Meaning, part_colors


def _variants(meaning: Meaning) -> Iterator[tuple[str, Meaning]]:
    kind = KINDS[meaning.kind]
    for color in COLORS:
        yield "color", replace(meaning, color=color)
    for color in part_colors(kind):
        yield "part_color", replace(meaning, part_color=color)
    for pattern in (None, *PATTERNS):
        yield "pattern", replace(meaning, pattern=pattern)
    for name, values in (("wear", WEARS if kind.is_creature else ()), ("support", SUPPORTS)):
        color = getattr(meaning, f"{name}_color")
        if color is None:
            for value, new_color in itertools.product(values, COLORS):
                yield name, replace(meaning, **{name: value, f"{name}_color": new_color})
            continue
        yield name, replace(meaning, **{name: None, f"{name}_color": None})
        for value in values:
            yield name, replace(meaning, **{name: value})
        for new_color in COLORS:
            yield f"{name}_color", replace(meaning, **{f"{name}_color": new_color})


def hard_distractors(meaning: Meaning) -> list[tuple[str, Meaning]]:
    """Every meaning with exactly one attribute changed, added or removed, with the attribute's name.

    Distractors may have one extra more than the world's meanings; all have captions in the grammar.
    """
    return [(name, other) for name, other in _variants(meaning) if other != meaning]
