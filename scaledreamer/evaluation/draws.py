"""The prompts and cameras of an evaluation, which depend on the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning


@dataclass(frozen=True)
class Draw:
    """One draw of an evaluation.

    Attributes:
        seed: seed of the draw.
        meanings: distinct meanings.
        prompts: a phrasing of each, which the generator reads.
        start_azimuth_deg: azimuth of the first camera around each object.
        partners: for the floor, the index of the prompt that each asset is paired with: a permutation without
            fixed points.
    """

    seed: int
    meanings: tuple[Meaning, ...]
    prompts: tuple[str, ...]
    start_azimuth_deg: float
    partners: tuple[int, ...]


def draw_prompts(
    seed: int,
    split: str,
    count: int,
    *,
    kinds: Sequence[str] | None = None,
    max_extras: int = grammar.MAX_EXTRAS,
    or_fewer: bool = False,
) -> Draw:
    """Draws distinct meanings of a split, evenly over kinds and numbers of extras if the split has enough.

    Args:
        kinds: only these; None is all.
        max_extras: attributes beyond kind and colour.
        or_fewer: if there are fewer than `count` meanings, but at least two, take them all.
    Raises: ValueError for an unknown split or kind, and if this part of the split has fewer meanings.
    """
    assert count >= 2, count
    if split not in grammar.SPLITS:
        raise ValueError(f"split: got {split!r}; accepted are {', '.join(grammar.SPLITS)}.")
    for kind in kinds or ():
        if kind not in grammar.KINDS:
            raise ValueError(f"kinds: got {kind!r}; accepted are {', '.join(grammar.KINDS)}.")
    chosen = tuple(kinds or grammar.KINDS)
    rng = random.Random(f"evaluation|{seed}")
    found: dict[Meaning, None] = {}
    for _ in range(400 * count):
        meaning = grammar.sample_meaning(rng, None, chosen)
        if grammar.split_of(meaning) == split and grammar.num_extras(meaning) <= max_extras:
            found.setdefault(meaning)
        if len(found) == count:
            break
    else:  # a small part, in which some meanings are hardly ever drawn
        there = [
            meaning
            for kind in grammar.KINDS
            if kind in chosen
            for meaning in grammar.meanings_of_kind(kind)
            if grammar.num_extras(meaning) <= max_extras and grammar.split_of(meaning) == split
        ]
        if len(there) < (2 if or_fewer else count):
            part = f"this part of the {split} split accepts 2 to {len(there)}"
            raise ValueError(f"number of prompts: got {count}; {part}.")
        rng.shuffle(there)
        found.update(dict.fromkeys(there))
    meanings = tuple(found)[:count]
    count = len(meanings)
    partners = draw_partners(rng, count)
    return Draw(
        seed=seed,
        meanings=meanings,
        prompts=tuple(rng.choice(grammar.captions(meaning)) for meaning in meanings),
        start_azimuth_deg=rng.uniform(-45.0, 45.0),
        partners=partners,
    )


def draw_partners(rng: random.Random, count: int) -> tuple[int, ...]:
    """The partners of `count` assets for the floor; none if there is only one asset."""
    if count < 2:
        return ()
    order = rng.sample(range(count), count)
    partners = dict(zip(order, order[1:] + order[:1], strict=True))
    return tuple(partners[i] for i in range(count))
