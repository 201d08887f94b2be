"""Splitting prompts into words, and counting the words of a corpus. Needs no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

WORDS_FILE = "words.json"
"""In `tokenizer/`: the words of a text encoder with a closed vocabulary."""

MAX_WORDS = 50_000
"""How many of the most frequent words are kept; web captions have millions, mostly misspelled."""

FUNCTION_WORDS = frozenset(
    "a an and at by for from in is it its of on or that the to with".split()  # noqa: SIM905
)
"""Words without content of their own."""


def words_of(prompt: str) -> list[str]:
    """The words of a prompt in order, in lower case; non-ASCII symbols, such as emoji, count as words."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s\x00-\x7f]+", prompt.lower())


def unknown_words(prompt: str, known: frozenset[str]) -> list[str]:
    """The words of a prompt that are not known, in order, once each."""
    return list(dict.fromkeys(word for word in words_of(prompt) if word not in known))


def content_words(prompt: str) -> set[str]:
    """The words of a prompt that may name something: neither symbols nor `FUNCTION_WORDS`."""
    return {word for word in words_of(prompt) if word[0].isalnum()} - FUNCTION_WORDS


class WordCount:
    """Counts the words of prompts, one batch after the other."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, prompts: Iterable[str]) -> None:
        """Counts each word of each prompt once."""
        for prompt in prompts:
            self._counts.update(set(words_of(prompt)))

    def most_frequent(self, limit: int = MAX_WORDS) -> frozenset[str]:
        """The words that occur in most prompts; ties are resolved alphabetically."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return frozenset(word for word, _ in ranked[:limit])


def read_words(path: Path) -> frozenset[str] | None:
    """The words of a text encoder with a closed vocabulary; None if there is no such file.

    Raises: ValueError if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("no list of words")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer/{path.name}: {error}") from None
    return frozenset(words)


def short(text: str, length: int = 80) -> str:
    """A prompt for messages: quoted, on one line, shortened if it is long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
