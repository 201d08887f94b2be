"""Prompts in foreign files, entry by entry: text, JSON, JSONL, CSV, TSV, Parquet and webdataset shards.

Files are read in parts, so that one broken line is one dropped entry, and none needs more memory than a line;
only JSON, which cannot be read in parts, is held as a whole. Needs no torch.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from scaledreamer.prompts import prompt_file
from scaledreamer.prompts.foreign.entry import TOO_MANY_CHARACTERS, TRAIN, Entry, unreadable
from scaledreamer.prompts.foreign.json_files import json_entries, jsonl_entries
from scaledreamer.prompts.foreign.tables import csv_entries, import_pyarrow, parquet_entries, tsv_entries
from scaledreamer.prompts.foreign.tars import tar_entries
from scaledreamer.prompts.prompt_file import ByteStream, check_is_text, open_bytes, prompt_lines, suffix_of

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tar")
"""What is read, each also compressed (.gz; .tgz is .tar.gz)."""


def check_input(path: Path) -> None:
    """Looks at a file before any is read.

    Raises: ValueError if it is missing, of an unknown format, or needs a package that is not installed.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; name the files in it.")
    if suffix_of(path) not in SUFFIXES:
        raise ValueError(
            f"{path}: the format {suffix_of(path)!r} is not known; accepted are {', '.join(SUFFIXES)}, "
            "each also with .gz, and .tgz: rename the file after its format."
        )
    if suffix_of(path) == ".parquet":
        import_pyarrow(path)
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def entries(path: Path, column: str | None = None) -> Iterator[Entry]:
    """Reads the entries of a file in order; blank lines, and # comments of plain text, are none.

    Args:
        path: its ending says its format (`SUFFIXES`).
        column: which column or key holds the prompt or a list of them; None takes the only one of
            `GUESSED_COLUMNS` that is there. A number is the column of a CSV or TSV file without a header row,
            from 1. Of a tar it is the ending of the members (None: txt).
    Raises: ValueError naming the file, and the place, if the file as a whole cannot be read.
    """
    try:
        with open_bytes(path) as stream:
            suffix = suffix_of(path)
            if suffix not in (".parquet", ".tar"):
                check_is_text(str(path), stream.peek(1024)[:1024])
            match suffix:
                case ".txt":
                    yield from _text_entries(stream)
                case ".json":
                    yield from json_entries(path, stream, column)
                case ".jsonl":
                    yield from jsonl_entries(path, stream, column)
                case ".csv":
                    yield from csv_entries(path, stream, column)
                case ".tsv":
                    yield from tsv_entries(path, stream, column)
                case ".parquet":
                    yield from parquet_entries(path, stream, column)
                case ".tar":
                    yield from tar_entries(path, stream, column)
                case _:
                    check_input(path)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise unreadable(path, error) from None


def _text_entries(stream: ByteStream) -> Iterator[Entry]:
    for number, line in prompt_lines(stream):
        reason = TOO_MANY_CHARACTERS if len(line) >= prompt_file.MAX_LINE else ""
        yield Entry(TRAIN, f"line {number}", line, reason)
