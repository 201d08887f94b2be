"""Prompt files of other people, written on the spot."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.prompts.importing import Imported, import_prompts


def as_json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def as_tar(members: list[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def as_parquet(columns: dict[str, list[Any]]) -> bytes:
    reason = "pyarrow, which reads Parquet, is not installed (it is no dependency)"
    pyarrow = pytest.importorskip("pyarrow", reason=reason)
    parquet = importlib.import_module("pyarrow.parquet")
    packed = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), packed, row_group_size=2)
    return packed.getvalue()


def imported(folder: Path, name: str, content: bytes, **arguments: Any) -> Imported:
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return import_prompts([folder / name], **arguments)
