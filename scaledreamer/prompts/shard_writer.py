"""Writes folders of shards, resumably, by one of several processes. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledreamer.files import TEMPORARY, clean_up, replace_text, sync
from scaledreamer.os_errors import advice, reason
from scaledreamer.prompt_text import check_prompt
from scaledreamer.prompts.shard_format import (
    MANIFEST,
    Encoder,
    Index,
    Manifest,
    file_sha256,
    index_name,
    shard_name,
)
from scaledreamer.prompts.words import WordCount

Encode = Callable[[list[str]], Mapping[str, NDArray[np.generic]]]
"""Maps prompts to the fields of `GeneratorText`; the first axis is the prompt."""


def build_shards(
    prompts: Iterable[str],
    folder: Path,
    *,
    shard_size: int,
    corpus: str,
    encode: Encode | None = None,
    encoder: Encoder | None = None,
    on_shard: Callable[[int, int], None] = lambda shard, num_prompts: None,
) -> Manifest:
    """Writes a folder of shards; after an interruption, continues from the complete ones.

    The same arguments give the same bytes. Prompts are written in the given order, which should be random,
    because training goes through one shard after the other.

    Args:
        prompts: any number; one shard of them is in memory at a time.
        folder: new, or from an interrupted call.
        shard_size: rows of every shard but the last.
        corpus: name for the manifest.
        encode: computes embeddings to be stored beside the prompts, in fp16.
        encoder: identifies `encode`; required with it.
        on_shard: called after each shard with its number and the number of prompts so far.
    Raises: ValueError for a bad prompt or none, and if the folder holds something else or cannot be written.
    """
    assert shard_size >= 1 and (encode is None) == (encoder is None), (shard_size, encoder)
    digest, num_prompts, shard = hashlib.sha256(), 0, 0
    count = WordCount()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean_up(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        for shard, part in enumerate(_parts(prompts, shard_size)):
            for prompt in part:
                _check(prompt, corpus)
            content = hashlib.sha256("\n".join(part).encode()).hexdigest()
            identity = {"prompts": content, "encoder": encoder.sha256 if encoder else ""}
            if not _is_whole(folder, shard, identity):
                _write_shard(folder, shard, part, shard * shard_size, encode, identity)
            digest.update(content.encode())
            num_prompts += len(part)
            count.add(part)
            on_shard(shard, num_prompts)
        if not num_prompts:
            raise ValueError(f"{corpus}: no prompts in it; give at least one.")
        _remove_after(folder, shard)
        words = " ".join(sorted(count.most_frequent()))
        manifest = Manifest(corpus, num_prompts, shard_size, digest.hexdigest(), encoder, words)
        replace_text(folder / MANIFEST, manifest.dumps())
    except OSError as error:
        raise ValueError(
            f"{folder}: the shards cannot be written ({reason(error)}); {advice(error)}. "
            "The same command goes on from the shards that are whole."
        ) from None
    return manifest


def _parts(prompts: Iterable[str], size: int) -> Iterator[list[str]]:
    part: list[str] = []
    for prompt in prompts:
        part.append(prompt)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _check(prompt: str, corpus: str) -> None:
    try:
        check_prompt(prompt)
        if "\n" in prompt:
            raise ValueError(f"the prompt {prompt[:60]!r} has more than one line")
    except ValueError as error:
        raise ValueError(f"{corpus}: {error}; `scaledreamer import-prompts` cleans a corpus.") from None


def _is_whole(folder: Path, shard: int, identity: Mapping[str, str]) -> bool:
    """Whether an earlier call wrote this shard with the same content, and it is undamaged."""
    try:
        index = Index.load(folder / index_name(shard))
        is_same = all(index.about.get(name) == value for name, value in identity.items())
        return is_same and file_sha256(folder / shard_name(shard)) == index.sha256
    except (OSError, ValueError):
        return False


def _write_shard(
    folder: Path,
    shard: int,
    prompts: list[str],
    first: int,
    encode: Encode | None,
    identity: Mapping[str, str],
) -> None:
    from safetensors.numpy import save
    from webdataset.writer import TarWriter

    stored: list[dict[str, Any]] = [{"txt": prompt.encode()} for prompt in prompts]
    if encode is not None:
        parts = {
            name: np.asarray(part, dtype=np.bool_ if name == "mask" else np.float16)
            for name, part in encode(prompts).items()
        }
        for row, record in enumerate(stored):
            record["safetensors"] = save({name: part[row] for name, part in parts.items()})
    path = folder / shard_name(shard)
    temporary = folder / f"{TEMPORARY}{path.name}"
    with temporary.open("wb") as file:
        writer = TarWriter(file, encoder=False, mtime=0, user="", group="")
        for row, record in enumerate(stored):
            writer.write({"__key__": f"{first + row:012d}", **record})
        writer.close()
    sync(temporary)
    os.replace(temporary, path)
    index = Index.of_tar(path, identity)
    temporary = folder / f"{TEMPORARY}{index_name(shard)}"
    temporary.write_bytes(index.dumps())
    sync(temporary)
    os.replace(temporary, folder / index_name(shard))
    sync(folder)


def _remove_after(folder: Path, last: int) -> None:
    """Removes shards of an earlier, larger corpus."""
    for path in folder.glob("shard-*"):
        number = path.name.removeprefix("shard-")[:6]
        if number.isdigit() and int(number) > last:
            path.unlink()


def shuffled(prompts: Iterable[str]) -> list[str]:
    """Prompts in the order of a stable hash: random, but the same for any input order."""
    return sorted(prompts, key=lambda prompt: hashlib.blake2b(prompt.encode(), digest_size=16).digest())


def build_once(
    prompts: Callable[[], Iterable[str]],
    folder: Path,
    *,
    num_prompts: int,
    shard_size: int,
    corpus: str,
    say: Callable[[str], None],
) -> None:
    """Writes a folder of shards unless it exists; one of several processes does so while the others wait.

    Args:
        prompts: returns the prompts; not called if the folder exists.
        folder: its name must identify its content.
        num_prompts: number of prompts.
        say: prints progress messages.
    Raises: ValueError as `build_shards`.
    """
    from filelock import FileLock, Timeout

    if (folder / MANIFEST).is_file():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".lock-{folder.name}"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"prompts: waiting for another process to make the shards of {corpus}")
            lock.acquire()
    except OSError as error:
        raise ValueError(
            f"{folder}: the shards cannot be written ({reason(error)}); {advice(error)}, by prompts.cache."
        ) from None
    with lock:
        if (folder / MANIFEST).is_file():
            return

        def tell(shard: int, written: int) -> None:
            say(f"prompts: made shard {shard + 1} of {corpus}, {written:,} of {num_prompts:,} prompts")

        build_shards(prompts(), folder, shard_size=shard_size, corpus=corpus, on_shard=tell)
