"""Prompts in foreign files, one entry after the other: text, JSON, JSONL, CSV, Parquet and webdataset shards.

Files are read in parts, so that one broken line is one dropped entry, and none needs more memory than a line;
only JSON, which cannot be read in parts, is held as a whole. Needs no torch.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import json
import os
import reprlib
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledreamer.prompts import prompt_file
from scaledreamer.prompts.prompt_file import (
    SURROGATES,
    ByteStream,
    check_is_text,
    is_packed,
    prompt_lines,
    read_lines,
    suffix_of,
    unique_keys,
)

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tar")
"""What is read, each also compressed (.gz)."""
GUESSED_COLUMNS = ("prompt", "caption", "text")
MAX_JSON_BYTES = 2**31
EXAMPLE_LENGTH = 80
NOT_UTF8 = "not UTF-8"
NOT_JSON = "not valid JSON"
NOT_CSV = "not valid CSV"
TOO_MANY_CHARACTERS = "too many characters"
TRAIN = "train"
"""The section of files that have none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place of a file.

    Attributes:
        section: key of a JSON mapping; "train" elsewhere.
        place: for the reader of a report, for example "line 3".
        value: the text, where there is one; bytes that are not UTF-8 are surrogates in it.
        reason: one of `REASONS` if there is no prompt to be had of it.
    """

    section: str
    place: str
    value: Any
    reason: str = ""


def check_input(path: Path) -> None:
    """Looks at a file before any is read.

    Raises: ValueError if it is missing, of an unknown format, or needs a package that is not installed.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; name the files in it.")
    if suffix_of(path) not in SUFFIXES:
        raise ValueError(
            f"{path}: the format {suffix_of(path)!r} is not known; accepted are {', '.join(SUFFIXES)}, "
            "each also with .gz: rename the file after its format."
        )
    if suffix_of(path) == ".parquet":
        _pyarrow(path)
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def entries(path: Path, column: str | None = None) -> Iterator[Entry]:
    """Reads the entries of a file in order; blank lines, and # comments of plain text, are none.

    Args:
        path: its ending says its format (`SUFFIXES`).
        column: which column or key holds the prompt; None takes the only one of `GUESSED_COLUMNS` that is
            there. A number is the column of a CSV or TSV file without a header row, from 1.
    Raises: ValueError naming the file, and the place, if the file as a whole cannot be read.
    """
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if is_packed(path) else raw as stream:
            suffix = suffix_of(path)
            if suffix not in (".parquet", ".tar"):
                check_is_text(str(path), stream.peek(1024)[:1024])
            match suffix:
                case ".txt":
                    yield from _text_entries(stream)
                case ".json":
                    yield from _json_entries(path, stream, column)
                case ".jsonl":
                    yield from _jsonl_entries(path, stream, column)
                case ".csv" | ".tsv":
                    yield from _csv_entries(path, stream, column, "," if suffix == ".csv" else "\t")
                case ".parquet":
                    yield from _parquet_entries(path, stream, column)
                case ".tar":
                    yield from _tar_entries(path, stream)
                case _:
                    check_input(path)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    return ValueError(f"{path}: cannot be read ({reason}); check its name, or copy it here again.")


def _text_entries(stream: ByteStream) -> Iterator[Entry]:
    for number, line in prompt_lines(stream):
        reason = TOO_MANY_CHARACTERS if len(line) >= prompt_file.MAX_LINE else ""
        yield Entry(TRAIN, f"line {number}", line, reason)


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _DuplicateKeyError(str(error)) from None


class _Picker:
    """Takes the prompt out of a mapping; anything else is passed on."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.column = path, column
        self._first_keys: list[str] | None = None
        self._is_found = False

    def __call__(self, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        if self._first_keys is None:
            self._first_keys = list(entry)
        if self.column is None:
            self.column = _find_column(self.path, self._first_keys, None)
        self._is_found = self._is_found or self.column in entry
        return entry.get(self.column)

    def check_found(self) -> None:
        """Raises ValueError if there were mappings, and none had the column."""
        if self._first_keys is not None and not self._is_found:
            _find_column(self.path, self._first_keys, self.column)


def _find_column(path: Path, names: Sequence[str], column: str | None) -> str:
    listed = ", ".join(repr(shown(name)) for name in names[:20]) + (", ..." if len(names) > 20 else "")
    if column is not None and column not in names:
        raise ValueError(
            f"{path}: --column: got {column!r}; accepted is one of the columns there: {listed or 'none'}."
        )
    found = [column] if column is not None else [name for name in GUESSED_COLUMNS if name in names]
    if len(found) != 1:
        raise ValueError(
            f"{path}: it does not say which column holds the prompts; name one of {listed or 'none'} with "
            "--column."
        )
    if list(names).count(found[0]) > 1:
        raise ValueError(f"{path}: the column {found[0]!r} stands in it twice; rename one of the two.")
    return found[0]


def _json_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
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
    sections = data if isinstance(data, dict) else {TRAIN: data}
    pick = _Picker(path, column)
    for section, found in sections.items():
        if not isinstance(found, list):
            where = f"{section!r} of it" if isinstance(data, dict) else "it"
            raise ValueError(
                f"{path}: {where} is {reprlib.repr(found)}, not a list; accepted are a list of prompts, or "
                'lists by name: {"train": [...], "test": [...]}.'
            )
        for number, entry in enumerate(found):
            place = f"{section}, entry {number}" if isinstance(data, dict) else f"entry {number}"
            yield Entry(section, place, pick(entry))
    pick.check_found()


def _jsonl_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
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
            yield Entry(TRAIN, place, pick(value))
    pick.check_found()


def _csv_entries(path: Path, stream: ByteStream, column: str | None, delimiter: str) -> Iterator[Entry]:
    def lines() -> Iterator[str]:
        for number, line in read_lines(stream, newline=""):
            if len(line) >= prompt_file.MAX_LINE:
                raise ValueError(
                    f"{path}: line {number} has {prompt_file.MAX_LINE:,} characters or more; remove it."
                )
            yield line

    rows, index, width, start = csv.reader(lines(), delimiter=delimiter, strict=True), -1, 0, 0
    usual_limit = csv.field_size_limit(prompt_file.MAX_LINE)
    try:
        while True:
            start, damage = rows.line_num + 1, ""
            try:
                row = next(rows, None)
            except csv.Error as error:
                if "expected after" not in str(error):
                    # The rest of the file is in one field, or as much of it as memory may hold.
                    raise ValueError(
                        f"{path}: line {start}: a quotation mark opens a field there and does not close it; "
                        "close it, or write it twice if it is meant as a letter."
                    ) from None
                row, damage = [], str(error)
            if row is None:
                return
            place = f"line {start}" if rows.line_num == start else f"lines {start}-{rows.line_num}"
            if damage and width:
                yield Entry(TRAIN, place, damage, NOT_CSV)
            elif damage:
                raise ValueError(f"{path}: {place}: not valid CSV ({damage}); mend the first row.")
            elif not row:
                continue
            elif not width:
                index, width = _csv_column(path, row, column), len(row)
                if column is not None and column.isdecimal():
                    yield Entry(TRAIN, place, row[index])
            elif not index < len(row) <= width:
                yield Entry(TRAIN, place, delimiter.join(row), NOT_CSV)
            else:
                yield Entry(TRAIN, place, row[index])
    finally:
        csv.field_size_limit(usual_limit)


def _csv_column(path: Path, row: list[str], column: str | None) -> int:
    """Index of the column, from a file's first row."""
    if column is not None and column.isdecimal():
        if not 1 <= int(column) <= len(row):
            raise ValueError(
                f"{path}: --column: got {column}; accepted are numbers from 1 to {len(row)}, the columns of "
                "its first line."
            )
        return int(column) - 1
    names = [name.strip() for name in row]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"{path}: the column {shown(twice[0])!r} stands in its header row twice; rename one of the two."
        )
    return names.index(_find_column(path, names, column))


def _pyarrow(path: Path) -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise ValueError(
            f"{path}: Parquet is read with pyarrow, which is not installed; run `pip install pyarrow`."
        ) from None


def _parquet_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    pyarrow = _pyarrow(path)
    with tempfile.TemporaryFile() as unpacked:
        if is_packed(path):  # it is read from its end
            shutil.copyfileobj(stream, unpacked)
        try:
            file = pyarrow.parquet.ParquetFile(unpacked if is_packed(path) else stream)
            column = _find_column(path, file.schema_arrow.names, column)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=[column]):
                for scalar in batch.column(0):
                    number += 1
                    try:
                        value, reason = scalar.as_py(), ""
                    except UnicodeDecodeError:
                        value, reason = "", NOT_UTF8
                    yield Entry(TRAIN, f"row {number}", value, reason)
        except pyarrow.ArrowException as error:
            raise _unreadable(path, error) from None


def _tar_entries(path: Path, stream: ByteStream) -> Iterator[Entry]:
    """Members KEY.txt of a webdataset shard; a key ends at the first dot of the name."""
    seen: set[bytes] = set()
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            tar.members = []  # it would keep them all  # pyright: ignore[reportAttributeAccessIssue]
            key, _, ending = Path(member.name).name.partition(".")
            if not (member.isfile() and key and ending == "txt"):
                continue
            key = key_digest(member.name)
            if key in seen:
                raise ValueError(
                    f"{path}: the key {member.name.removesuffix('.txt')!r} stands in it twice; make the "
                    "shard again with one member KEY.txt a key."
                )
            seen.add(key)
            file = tar.extractfile(member)
            assert file is not None
            value = file.read(prompt_file.MAX_LINE).decode("utf-8-sig", "surrogateescape")
            yield Entry(
                TRAIN, member.name, value, TOO_MANY_CHARACTERS if member.size > prompt_file.MAX_LINE else ""
            )
        # Past its first member, tarfile takes a damaged or missing header for the end.
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(
                f"{path}: damaged or cut off at byte {tar.offset}; copy it here again, or make it anew."
            )
        while stream.read(2**20):  # up to gzip's checksum
            pass


def shown(value: Any) -> str:
    """The beginning of a value, for a message or a report."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text[: EXAMPLE_LENGTH + 1]).rstrip("\r\n")
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}..."


def key_digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
