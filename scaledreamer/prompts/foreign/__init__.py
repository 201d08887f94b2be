"""Prompts in other people's files, entry by entry: text, JSON, JSONL, CSV, TSV, Parquet, webdataset shards.

Files are streamed, so a broken line costs one entry, and memory holds one line. Only JSON, which cannot be
streamed, is read as a whole. Needs no torch.
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
"""Supported extensions, each also compressed (.gz; .tgz is .tar.gz)."""


def check_input(path: Path) -> None:
    """Checks a file before any is read.

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
    """Reads the entries of a file in order, without blank lines and, in plain text, # comments.

    Args:
        path: its extension determines the format (`SUFFIXES`).
        column: the column or key that has the prompt, or a list of prompts; None takes the only one of
            `GUESSED_COLUMNS` that exists. A number is the column, from 1, of a CSV or TSV file without a
            header row. For a tar it is the extension of the members (None: txt).
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
