"""Corpora as indexed webdataset shards: records are read by number (`shard_writer` writes them).

Any webdataset pipeline can read the tars. The indices (`shard_format`) give this module random access to the
records. Needs no torch.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaledreamer.prompt_text import check_prompt
from scaledreamer.prompts.shard_format import (
    CONDITION_PARTS,
    MANIFEST,
    REMAKE,
    Index,
    Manifest,
    file_sha256,
    index_name,
    shard_name,
)
from scaledreamer.prompts.source import Records, SourceError, spread

NUM_OPEN = 4
MAX_REPLACED_IN_ROW = 16


class _OpenShard:
    """A shard opened for reading; its file is closed when the object is no longer used."""

    def __init__(self, path: Path, index: Index, num_rows: int) -> None:
        if index.num_rows != num_rows:
            raise ValueError(
                f"{path}: its index has {index.num_rows} records, {MANIFEST} says {num_rows}; they do not "
                f"belong together; {REMAKE}."
            )
        self.path, self.index = path, index
        self._file = path.open("rb")
        size = os.fstat(self._file.fileno()).st_size
        if size != index.num_bytes:
            raise ValueError(
                f"{path}: it has {size} bytes, its index says {index.num_bytes}: it is cut off, or the two "
                f"do not belong together; copy it again, or {REMAKE}."
            )

    def member(self, row: int, extension: str) -> bytes:
        """Content of one member. Raises: ValueError with the reason if it is damaged."""
        index = self.index
        length = int(index.lengths[extension][row])
        content = os.pread(self._file.fileno(), length, int(index.offsets[extension][row]))
        if zlib.crc32(content) != int(index.checksums[extension][row]):
            raise ValueError("its checksum is wrong")
        return content

    def record(self, row: int) -> tuple[str, dict[str, NDArray[Any]] | None]:
        """Prompt and stored embedding of a row. Raises: ValueError with the reason if it is damaged."""
        try:
            prompt = self.member(row, "txt").decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
        check_prompt(prompt)
        if "safetensors" not in self.index.offsets:
            return prompt, None
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return prompt, load(self.member(row, "safetensors"))
        except SafetensorError as error:
            raise ValueError(f"its embedding cannot be read ({error})") from None


@runtime_checkable
class ShardFiles(Protocol):
    """Provides the files of a folder of shards as local files."""

    place: str

    def local(self, name: str, is_whole: Callable[[Path], bool] | None = None) -> Path:
        """Local path of a file, which is copied first if necessary.

        Args:
            is_whole: checks whether a copy is complete and undamaged.
        Raises: ValueError naming the file and its place if it is missing or cannot be copied.
        """
        ...


class LocalFiles:
    """Shards in a local folder."""

    def __init__(self, folder: str | Path) -> None:
        self.place = str(folder)

    def local(self, name: str, is_whole: Callable[[Path], bool] | None = None) -> Path:
        del is_whole  # nothing is copied
        path = Path(self.place) / name
        if not path.is_file():
            raise ValueError(f"{path}: missing; copy it there again, or {REMAKE}.")
        return path


class ShardedPrompts:
    """A corpus in shards, with a few of them open at a time (a `PromptSource`).

    A damaged record (with a wrong checksum) is reported on standard error and counted, and the next intact
    record of its shard takes its place.

    Args:
        files: access to the shards.
    Raises: ValueError if there is no manifest or it cannot be used.
    """

    def __init__(self, files: ShardFiles) -> None:
        self._files = files
        path = files.local(MANIFEST)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); {REMAKE}.") from None
        self.manifest = Manifest.loads(text, f"{files.place}/{MANIFEST}")
        self.num_prompts = self.num_distinct = self.manifest.num_prompts
        self.shard_size = self.manifest.shard_size
        self.fingerprint = self.manifest.fingerprint
        self.num_damaged = 0
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._known_damaged: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def read(self, shard: int, rows: Sequence[int]) -> Records:
        try:
            return self._read(shard, rows)
        except ValueError as error:
            raise SourceError(str(error)) from None

    def _read(self, shard: int, rows: Sequence[int]) -> Records:
        opened = self._shard(shard)
        prompts: list[str] = []
        conditions: list[dict[str, NDArray[Any]]] = []
        num_replaced = 0
        for row in rows:
            (prompt, condition), is_replaced = self._whole_record(shard, opened, int(row))
            prompts.append(prompt)
            num_replaced += is_replaced
            if condition is not None:
                conditions.append(condition)
        stacked = None
        if conditions:
            stacked = {name: np.stack([c[name] for c in conditions]) for name in CONDITION_PARTS}
        return Records(prompts, stacked, num_replaced)

    def prepare(self, shard: int) -> None:
        self._shard(shard)

    def examples(self, count: int) -> list[str]:
        return self.read(0, spread(self._num_rows(0), count)).prompts

    def words(self) -> frozenset[str] | None:
        words = self.manifest.words
        return None if words is None else frozenset(words.split())

    def _num_rows(self, shard: int) -> int:
        return min(self.shard_size, self.num_prompts - shard * self.shard_size)

    def _shard(self, shard: int) -> _OpenShard:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        # Other shards stay readable while this one is copied.
        opened = self._open_shard(shard)
        with self._lock:
            self._open[shard] = opened
            while len(self._open) > NUM_OPEN:
                self._open.popitem(last=False)
        return opened

    def _open_shard(self, shard: int) -> _OpenShard:
        try:
            index = Index.load(self._files.local(index_name(shard)))
            path = self._files.local(shard_name(shard), lambda copy: file_sha256(copy) == index.sha256)
            return _OpenShard(path, index, self._num_rows(shard))
        except OSError as error:
            name = f"{self._files.place}/{shard_name(shard)}"
            raise ValueError(f"{name}: cannot be opened ({error.strerror or error}); {REMAKE}.") from None

    def _whole_record(self, shard: int, opened: _OpenShard, row: int) -> tuple[Any, bool]:
        num_rows = opened.index.num_rows
        for tried in range(min(MAX_REPLACED_IN_ROW, num_rows)):
            candidate = (row + tried) % num_rows
            try:
                return opened.record(candidate), tried > 0
            except ValueError as error:
                with self._lock:
                    if (shard, candidate) not in self._known_damaged:
                        self._known_damaged.add((shard, candidate))
                        self.num_damaged += 1
                        print(
                            f"warning: {opened.path}: record {candidate} is damaged ({error}); the next one "
                            f"is shown in its place ({self.num_damaged} damaged so far).",
                            file=sys.stderr,
                            flush=True,
                        )
        raise ValueError(
            f"{opened.path}: {MAX_REPLACED_IN_ROW} records in a row are damaged, from {row} on: the shard is "
            f"damaged or its index belongs to another one; copy it again, or {REMAKE}."
        )


def verify_shards(files: ShardFiles) -> Iterator[str]:
    """Reads a folder of shards completely and yields a line for each problem."""
    try:
        manifest = ShardedPrompts(files).manifest
    except ValueError as error:
        yield str(error)
        return
    contents: list[str] = []
    for shard in range(manifest.num_shards):
        try:
            index = Index.load(files.local(index_name(shard)))
            path = files.local(shard_name(shard))
            if Index.of_tar(path, index.about).dumps() != index.dumps():
                raise ValueError(f"{path}: its content is not what its index says; {REMAKE}.")
            contents.append(index.about.get("prompts", ""))
        except (ValueError, OSError) as error:
            yield str(error)
    is_complete = len(contents) == manifest.num_shards
    if is_complete and hashlib.sha256("".join(contents).encode()).hexdigest() != manifest.fingerprint:
        yield f"{files.place}: its shards are not those that {MANIFEST} was written for; {REMAKE}."
