"""Validation and normalization of prompts, before any model sees them. Needs no torch."""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 10_000


def check_prompt(prompt: str) -> None:
    """Raises ValueError if a prompt is empty, not text, or longer than MAX_CHARACTERS."""
    if not prompt.strip():
        raise ValueError('the prompt is empty; say what to make, for example "a red-eyed tree frog"')
    if len(prompt) > MAX_CHARACTERS:
        raise ValueError(
            f"the prompt has {len(prompt)} characters; accepted are at most {MAX_CHARACTERS}: shorten it"
        )
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"the prompt {prompt[:60]!r} is not valid text (UTF-8); check the terminal's encoding"
        ) from None


def normalize_prompt(text: str) -> str:
    """A prompt in the form in which it is stored: Unicode NFC, no control characters, single spaces."""
    visible = "".join(" " if unicodedata.category(c) == "Cc" or c in "\ufeff\u200b" else c for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())
