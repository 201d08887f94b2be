"""Shared by the readers of other people's files: entries, the choice of a column, texts for messages."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledreamer.prompts.prompt_file import SURROGATES

GUESSED_COLUMNS = ("prompt", "caption", "text", "prompts", "captions", "texts")
"""Names of the column of prompts, in any case, if --column is not given."""
EXAMPLE_LENGTH = 80
NUM_LISTED = 20
"""Maximum number of names in a message."""
NOT_UTF8 = "not UTF-8"
NOT_JSON = "not valid JSON"
NOT_CSV = "not valid CSV"
TOO_MANY_CHARACTERS = "too many characters"
TRAIN = "train"
"""The section of files that have none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a file.

    Attributes:
        section: key of a JSON mapping; "train" elsewhere.
        place: for reports, for example "line 3".
        value: the text, if there is one; bytes that are not UTF-8 are surrogates.
        reason: one of `REASONS` if the entry is not usable.
        spans_lines: whether a quoted field of its row, in any column, spans several lines.
    """

    section: str
    place: str
    value: Any
    reason: str = ""
    spans_lines: bool = False


def spread(section: str, place: str, value: Any, *, spans_lines: bool = False) -> Iterator[Entry]:
    """The entries of a column's value: for a list one per member, numbered from 1; otherwise one."""
    if isinstance(value, list) and value:
        for number, text in enumerate(value, start=1):
            yield Entry(section, f"{place}, text {number}", text, "", spans_lines)
    else:
        yield Entry(section, place, "" if value == [] else value, "", spans_lines)


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error of a file that cannot be read as a whole."""
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    return ValueError(f"{path}: cannot be read ({reason}); check its name, or copy it here again.")


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message; "none" where there are none."""
    shown_names = ", ".join(repr(shown(name)) for name in names[:NUM_LISTED])
    return (shown_names or "none") + (", ..." if len(names) > NUM_LISTED else "")


def find_column(path: Path, names: Sequence[str], column: str | None, or_number: str = "") -> str:
    """The column of the prompts: the requested one, or the only one of `GUESSED_COLUMNS`.

    Args:
        or_number: how a message says that a number is accepted too, if it is.
    Raises: ValueError if the column is missing, occurs twice, or cannot be guessed.
    """
    if column is not None and column not in names:
        raise ValueError(
            f"{path}: --column: got {column!r}; accepted is one of the columns there: {listed(names)}"
            f"{or_number}."
        )
    found = [column] if column is not None else [n for n in names if n.strip().casefold() in GUESSED_COLUMNS]
    if len(set(found)) != 1:
        raise ValueError(
            f"{path}: it does not say which column holds the prompts; name one of {listed(names)} with "
            f"--column{or_number}."
        )
    if list(names).count(found[0]) > 1:
        raise ValueError(f"{path}: the column {found[0]!r} stands in it twice; rename one of the two.")
    return found[0]


def shown(value: Any) -> str:
    """The beginning of a value, for a message or a report."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text[: EXAMPLE_LENGTH + 1]).rstrip("\r\n")
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}..."


def key_digest(text: str) -> bytes:
    """A 16-byte hash of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
