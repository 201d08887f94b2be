"""Prompt corpora: reading files, splitting by a stable hash, and prompts of the tinyworld.

Needs no torch. A corpus is a list of distinct prompts in the order of its file.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaledreamer.prompts.prompt_file import check_no_problem, iter_prompt_file

SHIPPED = tuple(
    folder / "data" / "prompts" for folder in (Path(__file__).parents[2], Path(__file__).parents[1])
)
"""Where the project's corpora are: in the repository, or in the installed package."""
NAMES = ("core_15", "showcase_400", "compose_2500", "daily_17k", "open_100k")
"""The corpora that are part of the package, apart from the tinyworld."""


def corpus_file(name: str) -> Path:
    """The file of a corpus that is part of the package.

    Raises: ValueError for an unknown name, or if the file is missing.
    """
    if name not in NAMES:
        raise ValueError(
            f"prompts.name: got {name!r}; accepted are 'tinyworld', {', '.join(map(repr, NAMES))}."
        )
    for folder in SHIPPED:
        for ending in (".json", ".json.gz"):
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise ValueError(
        f"prompts.name: the corpus {name!r} is not in {SHIPPED[0]}; make it with "
        f"`python -m tools.corpora.make_prompts make {name}`."
    )


def read_prompts(path: str | Path, section: str = "train") -> list[str]:
    """Reads a corpus from a file (see `iter_prompt_file`), without duplicates.

    Args:
        section: which list of a JSON mapping.
    Raises: ValueError naming the file and everything that is wrong with it; also if it has no prompt.
    """
    placed = list(iter_prompt_file(path, section))
    check_no_problem(str(path), placed)
    if not placed:
        raise ValueError(f"{path}: no prompts in it; give one prompt a line.")
    return list(dict.fromkeys(prompt for _, prompt, _ in placed))


def comparison_key(prompt: str) -> str:
    """A key that prompts share if they differ only in compatibility forms (NFKC), case, punctuation or white
    space."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    kept = (" " if unicodedata.category(c)[0] in "CPZ" else c for c in folded)
    return " ".join("".join(kept).split()) or folded.strip()


def split_prompts(prompts: Sequence[str], holdout: float) -> tuple[list[str], list[str]]:
    """Splits a corpus into training and held-out prompts by a stable hash of each prompt's `comparison_key`.

    Args:
        holdout: fraction in [0, 1) to hold out.
    Returns: (train, held out). The side depends on the prompt alone, so it stays the same when a corpus
        grows, and prompts that differ only in case or punctuation are on the same side.
    """
    train: list[str] = []
    held_out: list[str] = []
    for prompt in prompts:
        key = comparison_key(prompt).encode("utf-8", "replace")
        is_held_out = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64 < holdout
        (held_out if is_held_out else train).append(prompt)
    return train, held_out


def tinyworld_prompts(
    *,
    kinds: Sequence[str] | None = None,
    max_extras: int = 2,
    extras: Mapping[str, Any] | None = None,
    limit: int | None = None,
    size: int = 20_000,
) -> list[str]:
    """Training prompts of the tinyworld: captions of meanings of its `seen` split.

    Meanings are sampled uniformly over kinds and then by the number of extras (part colour, pattern, wearing,
    support), because most of all meanings are creatures with two extras. Each is phrased at random. The
    sample is the same in every run.

    Args:
        kinds: only these kinds; None is all.
        max_extras: attributes beyond kind and colour.
        extras: how often each attribute is mentioned; None is the default of `grammar.Extras`.
        limit: train on this many distinct meanings, each phrased in eight random ways; None is all that are
            drawn.
        size: number of draws, including repetitions.
    Raises: ValueError for an unknown kind.
    """
    from scaledreamer.tinyworld import grammar

    unknown = [kind for kind in kinds or () if kind not in grammar.KINDS]
    if unknown:
        raise ValueError(f"prompts.kinds: got {unknown[0]!r}; accepted are {', '.join(grammar.KINDS)}.")
    rng = random.Random("tinyworld prompts")
    chosen = tuple(kinds or grammar.KINDS)
    said = grammar.Extras(**(extras or {}))
    said = replace(said, count=said.count[: max_extras + 1])
    drawn: list[grammar.Meaning] = []
    distinct: dict[grammar.Meaning, None] = {}
    for _ in range(10 * size):
        if len(drawn) == size or len(distinct) == limit:
            break
        meaning = grammar.sample_meaning(rng, "seen", chosen, said)
        if grammar.num_extras(meaning) <= max_extras:
            drawn.append(meaning)
            distinct.setdefault(meaning)
    if limit is not None:
        drawn = list(distinct) * 8
    return [rng.choice(grammar.captions(meaning)) for meaning in drawn]
