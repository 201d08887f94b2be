"""Prompts in a column of a table: CSV, TSV and Parquet.

CSV is separated by commas, semicolons or tabs, whichever divides its first lines evenly, with quoting as in
RFC 4180; a quoted field may span several lines. TSV has no quoting: a field ends at the next tab or line end,
and quotation marks are ordinary characters, except for a pair around a whole field, as some programs write.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from scaledreamer.prompts import prompt_file
from scaledreamer.prompts.foreign.entry import (
    GUESSED_COLUMNS,
    NOT_CSV,
    NOT_UTF8,
    TRAIN,
    Entry,
    find_column,
    shown,
    spread,
    unreadable,
)
from scaledreamer.prompts.prompt_file import ByteStream, is_packed, read_lines

DELIMITERS = ",;\t"
HEAD_CHARACTERS = 2**16
"""The beginning of a CSV file, from which the delimiter is guessed."""
_ENCLOSED = re.compile(r'"((?:[^"]|"")*)"')


def csv_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of CSV; an invalid row is an entry with a reason.

    Args:
        column: name in the header row, or a number from 1 if there is no header row.
    Raises: ValueError naming the line of a quoted field that is never closed, and as `find_column`.
    """
    usual_limit = csv.field_size_limit(prompt_file.MAX_LINE)
    try:
        lines = _short_lines(path, stream, newline="")
        head, delimiter = _delimiter(lines)
        rows = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
        take, start = _Column(path, column, delimiter), 0
        while True:
            start = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                if "expected after" not in str(error):
                    # The rest of the file is in one field, or as much of it as memory may hold.
                    raise ValueError(
                        f"{path}: line {start}: a quotation mark opens a field there and does not close it; "
                        "close it, or write it twice if it is meant as a letter."
                    ) from None
                yield take.damaged(_lines_from(start, rows.line_num), str(error))
                continue
            if row is None:
                return
            if row:
                yield from take(_lines_from(start, rows.line_num), row, rows.line_num > start)
    finally:
        csv.field_size_limit(usual_limit)


def tsv_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of TSV; arguments and errors as in `csv_entries`."""
    take = _Column(path, column, "\t")
    for number, line in enumerate(_short_lines(path, stream, newline=None), start=1):
        if line.strip():
            fields = [_without_enclosing_marks(field) for field in line.removesuffix("\n").split("\t")]
            yield from take(f"line {number}", fields, False)


def _without_enclosing_marks(field: str) -> str:
    enclosed = _ENCLOSED.fullmatch(field.strip())
    return enclosed[1].replace('""', '"') if enclosed else field


def _short_lines(path: Path, stream: ByteStream, newline: str | None) -> Iterator[str]:
    for number, line in read_lines(stream, newline=newline):
        if len(line) >= prompt_file.MAX_LINE:
            raise ValueError(
                f"{path}: line {number} has {prompt_file.MAX_LINE:,} characters or more; remove it."
            )
        yield line


def _lines_from(start: int, end: int) -> str:
    return f"line {start}" if end == start else f"lines {start}-{end}"


def _delimiter(lines: Iterator[str]) -> tuple[list[str], str]:
    """The first lines, taken from `lines`, and the delimiter that divides most of them like the first one."""
    head, size = [], 0
    for line in lines:
        head.append(line)
        size += len(line)
        if size >= HEAD_CHARACTERS:
            break
    counts = dict.fromkeys(DELIMITERS, 0)
    for delimiter in DELIMITERS:
        widths: list[int] = []
        # A row may be broken, or cut off at the end; those before it are enough.
        with contextlib.suppress(csv.Error):
            widths.extend(len(row) for row in csv.reader(head, delimiter=delimiter, strict=True) if row)
        alike = sum(width == widths[0] for width in widths)
        if widths and widths[0] > 1 and 2 * alike > len(widths):
            counts[delimiter] = alike
    return head, max(counts, key=lambda delimiter: counts[delimiter])


class _Column:
    """Finds the column in a table's first row, then extracts the prompt of each row."""

    def __init__(self, path: Path, column: str | None, delimiter: str) -> None:
        self.path, self.column, self.delimiter = path, column, delimiter
        self._index, self._width = -1, 0

    def __call__(self, place: str, row: list[str], spans_lines: bool) -> Iterator[Entry]:
        if not self._width:
            self._index, self._width = self._find(row), len(row)
            is_number = self.column is not None and self.column.isdecimal()
            if not is_number or row[self._index].strip().casefold() in GUESSED_COLUMNS:
                return  # a header
        if self._index < len(row) <= self._width:
            yield Entry(TRAIN, place, row[self._index], "", spans_lines)
        else:
            yield Entry(TRAIN, place, self.delimiter.join(row), NOT_CSV)

    def damaged(self, place: str, damage: str) -> Entry:
        """The entry of a row that cannot be divided into fields.

        Raises: ValueError if it is the first one.
        """
        if not self._width:
            raise ValueError(f"{self.path}: {place}: not valid CSV ({damage}); mend the first row.")
        return Entry(TRAIN, place, damage, NOT_CSV)

    def _find(self, row: list[str]) -> int:
        if self.column is not None and self.column.isdecimal():
            if not 1 <= int(self.column) <= len(row):
                raise ValueError(
                    f"{self.path}: --column: got {self.column}; accepted are numbers from 1 to {len(row)}, "
                    "the columns of its first line."
                )
            return int(self.column) - 1
        names = [name.strip() for name in row]
        twice = [name for name, count in Counter(names).items() if name and count > 1]
        if twice:
            raise ValueError(
                f"{self.path}: the column {shown(twice[0])!r} stands in its header row twice; rename one of "
                "the two, or give --column a number if that row is no header."
            )
        numbers = "1" if len(row) == 1 else f"1 to {len(row)}"
        or_number = f", or give its number ({numbers}) if the first line is no header"
        return names.index(find_column(self.path, names, self.column, or_number))


def import_pyarrow(path: Path) -> Any:
    """pyarrow, with its Parquet part.

    Raises: ValueError naming the file if it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise ValueError(
            f"{path}: Parquet is read with pyarrow, which is not installed; run `pip install pyarrow`."
        ) from None


def parquet_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of Parquet; a column of lists has one entry per text."""
    pyarrow = import_pyarrow(path)
    with tempfile.TemporaryFile() as unpacked:
        if is_packed(path):  # it is read from its end
            shutil.copyfileobj(stream, unpacked)
        try:
            file = pyarrow.parquet.ParquetFile(unpacked if is_packed(path) else stream)
            column = find_column(path, file.schema_arrow.names, column)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=[column]):
                for scalar in batch.column(0):
                    number += 1
                    try:
                        value = scalar.as_py()
                    except UnicodeDecodeError:
                        yield Entry(TRAIN, f"row {number}", "", NOT_UTF8)
                    else:
                        yield from spread(TRAIN, f"row {number}", value)
        except pyarrow.ArrowException as error:
            raise unreadable(path, error) from None
