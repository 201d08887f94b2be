"""Templates of prompts: `[x|y]` is a choice, `<name>` an entry of a list, `a~` the article that fits.

Only `random.Random.random` is called, whose numbers for a seed are the same in every version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

T = TypeVar("T")
Lists = Mapping[str, Sequence[str]]

_AN = re.compile(r"(?:[aeiou]|[AEIO][a-z-]|SUV|ATM|hourglass|8|11\b|18\b)")
_NOT_AN = re.compile(r"(?:uni(?!n)|use|utility|one[- ]|ukulele|euro|ewe\b|UFO|urinal)")


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def article(words: str) -> str:
    """ "a" or "an", as the words that follow are spoken."""
    is_an = words.startswith("heir") or (_AN.match(words) and not _NOT_AN.match(words))
    return "an" if is_an else "a"


def read_lists(text: str) -> dict[str, list[str]]:
    """Lines `name: entry; entry; ...` as a mapping; an empty list has no entries."""
    lists = {}
    for line in text.strip().splitlines():
        name, _, entries = line.partition(":")
        lists[name] = [entry.strip() for entry in entries.split(";") if entry.strip()]
    return lists


def read_blocks(text: str) -> dict[str, str]:
    """The text below each line `@head`, by head; lines that start with # and blank lines are left out."""
    blocks: dict[str, list[str]] = {}
    head = ""
    for line in text.splitlines():
        if line.startswith("@"):
            head = line[1:].strip()
            blocks[head] = []
        if line.strip() and line[0] not in "@#":
            blocks.setdefault(head, []).append(line)
    return {name: "\n".join(lines) for name, lines in blocks.items()}


@cache
def _parsed(template: str) -> tuple[tuple[str, object], ...]:
    """The template as ("text", words), ("list", name) and ("choice", templates) pieces."""
    pieces: list[tuple[str, object]] = []
    position = 0
    while position < len(template):
        character = template[position]
        if character == "<":
            end = template.index(">", position)
            pieces.append(("list", template[position + 1 : end]))
            position = end + 1
        elif character == "[":
            depth, start, options = 1, position + 1, []
            position += 1
            while depth:
                here = template[position]
                depth += (here == "[") - (here == "]")
                if (here == "|" and depth == 1) or depth == 0:
                    options.append(template[start:position])
                    start = position + 1
                position += 1
            pieces.append(("choice", tuple(options)))
        else:
            end = min(
                (e for e in (template.find(c, position) for c in "<[") if e >= 0), default=len(template)
            )
            pieces.append(("text", template[position:end]))
            position = end
    return tuple(pieces)


def _expanded(template: str, rng: random.Random, lists: Lists) -> str:
    words = []
    for kind, value in _parsed(template):
        if kind == "text":
            words.append(str(value))
        elif kind == "list":
            words.append(_expanded(pick(rng, lists[str(value)]), rng, lists))
        else:
            assert isinstance(value, tuple)
            words.append(_expanded(pick(rng, value), rng, lists))
    return "".join(words)


def expand(template: str, rng: random.Random, lists: Lists) -> str:
    """One sentence of a template, with its articles and single blanks."""
    return with_articles(_expanded(template, rng, lists))


def with_articles(text: str) -> str:
    """Replaces each `a~` by "a" or "an", and runs of blanks by one."""
    words = text.split()
    for index in range(len(words) - 1, -1, -1):
        if words[index] == "a~":
            words[index] = article(words[index + 1])
    return " ".join(words)
