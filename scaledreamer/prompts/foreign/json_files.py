"""Prompts in JSON, read as a whole, and in JSONL, read line by line.

A JSON file is one of:
    ["a frog", ...] or [{"caption": "a frog", ...}, ...]      a list of texts or mappings
    {"train": [...], "val": [...]}                            such lists by section
    {"annotations": [{"caption": "a frog", ...}, ...], ...}   COCO captions; other keys are ignored
    {"id 1": "a frog", "id 2": "a cat", ...}                  captions by id (Cap3D); also mappings or lists
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaledreamer.prompts import prompt_file
from scaledreamer.prompts.foreign.entry import (
    GUESSED_COLUMNS,
    NOT_JSON,
    NOT_UTF8,
    TOO_MANY_CHARACTERS,
    TRAIN,
    Entry,
    find_column,
    shown,
    spread,
)
from scaledreamer.prompts.prompt_file import SURROGATES, ByteStream, read_lines, unique_keys

MAX_JSON_BYTES = 2**31
MAX_SECTIONS = 20
"""With more named lists than this, none of them called train, the names are ids rather than sections."""
COCO = "annotations"


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _DuplicateKeyError(str(error)) from None


class _Picker:
    """Extracts the prompt, or the list of prompts, from a mapping; anything else is an entry itself."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.column = path, column
        self._first_keys: list[str] | None = None
        self._is_found = False

    def __call__(self, section: str, place: str, value: Any) -> Iterator[Entry]:
        if not isinstance(value, dict):
            yield Entry(section, place, value)
            return
        if self._first_keys is None:
            self._first_keys = list(value)
        if self.column is None:
            self.column = find_column(self.path, self._first_keys, None)
        self._is_found = self._is_found or self.column in value
        yield from spread(section, place, value.get(self.column))

    def check_found(self) -> None:
        """Raises ValueError if there were mappings, and none had the column."""
        if self._first_keys is not None and not self._is_found:
            find_column(self.path, self._first_keys, self.column)


def json_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of JSON.

    Raises: ValueError if it is no JSON, too large, or of none of the shapes above.
    """
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: more than {MAX_JSON_BYTES:,} bytes of JSON; save it as JSONL (.jsonl).")
    try:
        data = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except _DuplicateKeyError as error:
        raise ValueError(f"{path}: {error}; rename or remove one of the two.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); mend it there, or save the prompts as plain text (.txt)."
        ) from None
    del content
    pick = _Picker(path, column)
    for section, place, value in _values(path, data, column):
        yield from pick(section, place, value)
    pick.check_found()


def _values(path: Path, data: Any, column: str | None) -> Iterator[tuple[str, str, Any]]:
    """Section, place and value of each text or mapping."""
    if not isinstance(data, dict):
        yield from _list_values(path, TRAIN, "", "it", data)
        return
    lists = [name for name, value in data.items() if isinstance(value, list)]
    if COCO in lists:
        yield from _list_values(path, TRAIN, f"{COCO}, ", COCO, data[COCO])
    elif len(lists) == len(data) > MAX_SECTIONS and TRAIN not in data:
        for name, texts in data.items():
            for number, text in enumerate(texts, start=1):
                yield TRAIN, f"id {shown(name)!r}, text {number}", text
    elif not lists and any(isinstance(value, str | dict) for value in data.values()):
        key = next((name for name in (column, *GUESSED_COLUMNS) if name in data), None)
        if key is not None:
            raise ValueError(
                f"{path}: with its key {key!r} it may be the mapping of one prompt, or captions by id; put "
                "brackets around it, [...], in the first case, rename that id in the second."
            )
        for name, value in data.items():
            yield TRAIN, f"id {shown(name)!r}", value
    else:
        for section, found in data.items():
            yield from _list_values(path, section, f"{section}, ", f"{section!r} of it", found)


def _list_values(
    path: Path, section: str, prefix: str, what: str, found: Any
) -> Iterator[tuple[str, str, Any]]:
    if not isinstance(found, list):
        raise ValueError(
            f"{path}: {what} is {reprlib.repr(found)}, not a list; accepted are a list of prompts, lists by "
            'name: {"train": [...], "test": [...]}, captions by id: {"id": "a frog", ...}, and COCO '
            'captions: {"annotations": [{"caption": "a frog"}, ...], ...}.'
        )
    for number, entry in enumerate(found):
        yield section, f"{prefix}entry {number}", entry


def jsonl_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of JSONL: a text or a mapping per line."""
    pick = _Picker(path, column)
    for number, line in read_lines(stream, newline="\n"):
        place = f"line {number}"
        if not line.strip():
            continue
        if len(line) >= prompt_file.MAX_LINE:
            yield Entry(TRAIN, place, line, TOO_MANY_CHARACTERS)
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique_keys)
        except _DuplicateKeyError as error:
            raise ValueError(f"{path}: {place}: {error}; rename or remove one of the two.") from None
        except (ValueError, RecursionError):
            yield Entry(TRAIN, place, line, NOT_UTF8 if SURROGATES.search(line) else NOT_JSON)
        else:
            yield from pick(TRAIN, place, value)
    pick.check_found()
