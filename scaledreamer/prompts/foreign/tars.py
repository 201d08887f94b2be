"""Prompts in webdataset shards: the members KEY.txt of a tar, or of several concatenated tars.

`cat a.tar b.tar` makes the latter; most programs silently stop at the end mark of the first.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scaledreamer.prompts import prompt_file
from scaledreamer.prompts.foreign.entry import (
    NUM_LISTED,
    TOO_MANY_CHARACTERS,
    TRAIN,
    Entry,
    key_digest,
    shown,
)
from scaledreamer.prompts.prompt_file import ByteStream


def tar_entries(path: Path, stream: ByteStream, column: str | None) -> Iterator[Entry]:
    """Entries of a tar, or of several concatenated ones.

    Args:
        column: extension of the members with prompts; None is txt. A key ends at the first dot of the name.
    Raises: ValueError if a key occurs twice in one tar, if no member has the extension, if the file is
        damaged or cut off, or if anything but a tar follows an end mark.
    """
    wanted = "txt" if column is None else column.removeprefix(".")
    endings: Counter[str] = Counter()
    number, offset = 1, 0
    while offset is not None:
        stream.seek(offset)
        with tarfile.TarFile(fileobj=stream) as tar:
            yield from _members(path, tar, wanted, endings, "" if number == 1 else f" of tar {number}")
            # After the first member, tarfile treats a damaged or missing header as the end.
            stream.seek(tar.offset)
            found = stream.read(tarfile.BLOCKSIZE)
            if found != bytes(tarfile.BLOCKSIZE) and tar.offset == offset:
                raise ValueError(
                    f"{path}: byte {offset:,}: {found[:8]!r}, which begins no tar, follows the end mark of "
                    "the tar before it; cut the file off there, or make it anew."
                )
            if found != bytes(tarfile.BLOCKSIZE):
                raise ValueError(
                    f"{path}: damaged or cut off at byte {tar.offset}; copy it here again, or make it anew."
                )
        offset, number = _next_content(stream), number + 1
    if endings and wanted not in endings:
        there = ", ".join(f"KEY.{shown(ending)}" for ending, _ in endings.most_common(NUM_LISTED))
        raise ValueError(
            f"{path}: no member KEY.{wanted} in it, which is looked for; there are {there}: name the ending "
            "of those that hold the prompts with --column."
        )


def _members(
    path: Path, tar: tarfile.TarFile, wanted: str, endings: Counter[str], which: str
) -> Iterator[Entry]:
    seen: set[bytes] = set()
    for member in tar:
        tar.members = []  # it would otherwise keep them all  # pyright: ignore[reportAttributeAccessIssue]
        key, _, ending = Path(member.name).name.partition(".")
        if not (member.isfile() and key):
            continue
        if ending in endings or len(endings) < NUM_LISTED or ending == wanted:
            endings[ending] += 1
        if ending != wanted:
            continue
        digest = key_digest(member.name)
        if digest in seen:
            raise ValueError(
                f"{path}: the key {member.name.removesuffix(f'.{wanted}')!r} stands in it twice; make the "
                f"shard again with one member KEY.{wanted} a key."
            )
        seen.add(digest)
        file = tar.extractfile(member)
        assert file is not None
        value = file.read(prompt_file.MAX_LINE).decode("utf-8-sig", "surrogateescape")
        reason = TOO_MANY_CHARACTERS if member.size > prompt_file.MAX_LINE else ""
        yield Entry(TRAIN, f"{member.name}{which}", value, reason)


def _next_content(stream: ByteStream) -> int | None:
    """Skips zero bytes; offset of the next other byte, or None at the end (after gzip's checksum)."""
    offset = stream.tell()
    while block := stream.read(tarfile.BLOCKSIZE):  # small, so that going back does not make gzip start over
        rest = block.lstrip(b"\0")
        if rest:
            return offset + len(block) - len(rest)
        offset += len(block)
    return None
