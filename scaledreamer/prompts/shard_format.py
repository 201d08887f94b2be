"""Files of a folder of shards: names, the manifest, and the index of a shard. Needs no torch.

shards.json                       the manifest; written last, so the folder is complete if it exists
shard-000000.tar                  a webdataset shard: `KEY.txt`, and `KEY.safetensors` with an embedding
shard-000000.index.safetensors    byte offsets, lengths and checksums of its members
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledreamer.prompts.prompt_file import unique_keys

FORMAT_VERSION = 1
MANIFEST = "shards.json"
CONDITION_PARTS = ("pooled", "tokens", "mask")
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
