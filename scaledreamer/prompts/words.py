"""Words of prompts: how they are told apart, and which of a corpus are kept. Needs no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

WORDS_FILE = "words.json"
"""In `tokenizer/`: the words of a text encoder that was taught a few."""

MAX_WORDS = 50_000
"""Of a corpus so many are kept, the most frequent; captions from the web have millions, mostly misspelt."""

FUNCTION_WORDS = frozenset(
    "a an and at by for from in is it its of on or that the to with".split()  # noqa: SIM905
)
"""Words that name nothing."""


def words_of(prompt: str) -> list[str]:
    """The words of a prompt in order, in lower case; signs beyond ASCII, such as emoji, count as words."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s\x00-\x7f]+", prompt.lower())


def unknown_words(prompt: str, known: frozenset[str]) -> list[str]:
    """The words of a prompt that are not known, in order, once each."""
    return list(dict.fromkeys(word for word in words_of(prompt) if word not in known))


def content_words(prompt: str) -> set[str]:
    """The words of a prompt that may name something: neither signs nor `FUNCTION_WORDS`."""
    return {word for word in words_of(prompt) if word[0].isalnum()} - FUNCTION_WORDS


class WordCount:
    """Gathers the words of prompts that pass by."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, prompts: Iterable[str]) -> None:
        """Counts each word of each prompt once."""
        for prompt in prompts:
            self._counts.update(set(words_of(prompt)))

    def most_frequent(self, limit: int = MAX_WORDS) -> frozenset[str]:
        """The words that most prompts have; of equally frequent ones those first in the alphabet."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return frozenset(word for word, _ in ranked[:limit])


def read_words(path: Path) -> frozenset[str] | None:
    """The words of a text encoder whose vocabulary is closed; None where there is no such file.

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
    """A prompt as messages show it: quoted, on one line, cut where it is long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
