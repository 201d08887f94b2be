"""Corpora as indexed webdataset shards: records are read by number (`shard_writer` writes them).

A folder of shards contains

    shards.json                       the manifest; written last, so the folder is complete if it exists
    shard-000000.tar                  a webdataset shard: `KEY.txt`, and `KEY.safetensors` with an embedding
    shard-000000.index.safetensors    byte offsets, lengths and checksums of its members

Any webdataset pipeline can read the tars. The indices give this module random access to the records. Needs no
torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaledreamer.prompts.check import check_prompt
from scaledreamer.prompts.prompt_file import unique_keys
from scaledreamer.prompts.source import Records, SourceError, spread

FORMAT_VERSION = 1
MANIFEST = "shards.json"
CONDITION_PARTS = ("pooled", "tokens", "mask")
NUM_OPEN = 4
MAX_REPLACED_IN_ROW = 16
REMAKE = "make the shards again with `scaledreamer make-shards`"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06d}.tar"


def index_name(shard: int) -> str:
    """File name of a shard's index."""
    return f"shard-{shard:06d}.index.safetensors"


@dataclass(frozen=True)
class Encoder:
    """The text encoder whose embeddings are stored in shards.

    Attributes:
        name: folder or hub id that it was loaded from.
        sha256: `TextConditioner.fingerprint`.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of a folder of shards (`shards.json`).

    Attributes:
        corpus: name or file of the corpus.
        num_prompts: in all shards.
        shard_size: rows of a shard; the last one may have fewer.
        fingerprint: hash of all prompts in order.
        encoder: encoder of the embeddings, if there are any.
        words: words of the prompts (`WordCount.most_frequent`), separated by spaces; None if they were not
            counted.
    """

    corpus: str
    num_prompts: int
    shard_size: int
    fingerprint: str
    encoder: Encoder | None = None
    words: str | None = None

    @property
    def num_shards(self) -> int:
        return -(-self.num_prompts // self.shard_size)

    def dumps(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def loads(cls, text: str, place: str) -> Manifest:
        """Reads what `dumps` wrote.

        Raises: ValueError naming `place` for anything else.
        """
        try:
            values: dict[str, Any] = json.loads(text, object_pairs_hook=unique_keys)
            version = values.pop("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"it has format version {version}, this program reads {FORMAT_VERSION}")
            encoder = values.pop("encoder")
            manifest = cls(**values, encoder=Encoder(**encoder) if encoder else None)
            sizes = (manifest.num_prompts, manifest.shard_size)
            if not isinstance(manifest.words, str | None):
                raise ValueError("words is no text")
            if not all(type(size) is int and size >= 1 for size in sizes):
                raise ValueError(f"num_prompts and shard_size are {sizes[0]!r} and {sizes[1]!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{place}: not a list of shards ({reason}); {REMAKE}.") from None
        return manifest


# --- one shard ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """Positions of a shard's members in its tar.

    Attributes:
        offsets, lengths, checksums: by extension, one number per row: bytes, bytes, and CRC-32.
        num_bytes: size of the tar.
        sha256: hash of the tar.
        about: further entries.
    """

    offsets: dict[str, NDArray[np.int64]]
    lengths: dict[str, NDArray[np.int64]]
    checksums: dict[str, NDArray[np.uint32]]
    num_bytes: int
    sha256: str
    about: dict[str, str]

    @property
    def num_rows(self) -> int:
        return len(self.offsets["txt"])

    @classmethod
    def of_tar(cls, path: Path, about: Mapping[str, str]) -> Index:
        """Reads a shard from beginning to end.

        Raises: ValueError if it is no tar, is cut off, or its records are not complete.
        """
        found: dict[str, dict[str, tuple[int, int, int]]] = {}
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    content = os.pread(file.fileno(), member.size, member.offset_data)
                    if len(content) < member.size:
                        raise ValueError(f"it ends within {member.name}")
                    if key in found.setdefault(extension, {}):
                        raise ValueError(f"{member.name} stands in it twice")
                    found[extension][key] = (member.offset_data, member.size, zlib.crc32(content))
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path}: not a readable tar ({error})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        keys = list(found.get("txt", {}))
        if not keys or any(list(rows) != keys for rows in found.values()):
            raise ValueError(f"{path}: its records do not all have the same members, with a .txt among them")
        columns = {
            extension: np.array(list(rows.values()), dtype=np.int64) for extension, rows in found.items()
        }
        return cls(
            {extension: column[:, 0] for extension, column in columns.items()},
            {extension: column[:, 1] for extension, column in columns.items()},
            {extension: column[:, 2].astype(np.uint32) for extension, column in columns.items()},
            path.stat().st_size,
            file_sha256(path),
            dict(about),
        )

    def dumps(self) -> bytes:
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {}
        for name in ("offsets", "lengths", "checksums"):
            for extension, column in getattr(self, name).items():
                tensors[f"{name}.{extension}"] = np.ascontiguousarray(column)
        about = {**self.about, "bytes": self.num_bytes, "sha256": self.sha256}
        # A single entry, because safetensors writes several in random order.
        return save(tensors, {"index": json.dumps({"format_version": FORMAT_VERSION, **about})})

    @classmethod
    def load(cls, path: Path) -> Index:
        """Reads what `dumps` returned.

        Raises: ValueError with the reason for anything else; FileNotFoundError if there is no file.
        """
        from safetensors import SafetensorError, safe_open

        columns: dict[str, dict[str, NDArray[Any]]] = {"offsets": {}, "lengths": {}, "checksums": {}}
        try:
            with safe_open(path, "numpy") as file:
                about = json.loads((file.metadata() or {})["index"])
                for key in file.keys():  # noqa: SIM118
                    name, _, extension = key.partition(".")
                    columns[name][extension] = file.get_tensor(key)
            if about.pop("format_version") != FORMAT_VERSION:
                raise ValueError("it has another format version")
            size, sha256 = int(about.pop("bytes")), about.pop("sha256")
            lengths = {len(column) for group in columns.values() for column in group.values()}
            if "txt" not in columns["offsets"] or len(lengths) != 1:
                raise ValueError("its columns are not complete")
        except FileNotFoundError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise ValueError(f"{path}: not an index of a shard ({error}); {REMAKE}.") from None
        return cls(**columns, num_bytes=size, sha256=sha256, about=about)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# --- reading -----------------------------------------------------------------------------------------------


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
