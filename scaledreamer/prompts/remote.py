"""Remote shards: copied to a local cache one by one, when they are needed. Needs no torch.

Several processes may share one cache: a file is copied once, under a lock, and appears completely or not at
all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from scaledreamer.files import TEMPORARY, clean_up
from scaledreamer.home import expand_home
from scaledreamer.prompts.shard_format import MANIFEST
from scaledreamer.prompts.shards import LocalFiles, ShardFiles

NUM_TRIES = 3
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20
PLAIN_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


def shard_files(source: str, *, cache: str | Path, cache_gib: float = 100.0) -> ShardFiles:
    """Access to a folder of shards, local or remote.

    Args:
        source: a folder; `http(s)://...`; `pipe:COMMAND` with `{name}` where a file's name belongs, which
            must write that file to its standard output; or a URL of any file system that fsspec knows
            (`s3://...`).
        cache: folder for copies of remote shards.
        cache_gib: beyond this size, the least recently used copies are removed.
    Raises: ValueError if records cannot be accessed by number.
    """
    if source.startswith("pipe:"):
        if "{name}" not in source:
            raise ValueError(
                f"prompts.shards: got {source!r}; a pipe must name its file: put {{name}} where it belongs, "
                "as in 'pipe:ssh host cat /corpus/{name}'. A pipe of all shards together has no index and "
                "cannot be resumed."
            )
        return CachedFiles(source, _open_pipe, cache, cache_gib)
    plain = source.split("?")[0].rstrip("/")
    if plain.endswith(PLAIN_ENDINGS) or ("{" in plain and ".." in plain):
        raise ValueError(
            f"prompts.shards: got {source!r}, tars without an index: records in them cannot be found by "
            "number, so that training on them could not be resumed or shared among ranks without repeating "
            "prompts. Make indexed shards of them with `scaledreamer make-shards` and give the folder."
        )
    if source.startswith(("http://", "https://")):
        return CachedFiles(source.rstrip("/"), _open_http, cache, cache_gib)
    if "://" in source:
        return CachedFiles(source.rstrip("/"), _open_fsspec, cache, cache_gib)
    folder = Path(expand_home(source, "prompts.shards"))
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"prompts.shards: got {source!r}, where there is no {MANIFEST}"
            + (
                ": without it, and the indices beside the tars, records cannot be found by number; make the "
                "folder with `scaledreamer make-shards`."
                if folder.is_dir()
                else "; give a folder that `scaledreamer make-shards` has made."
            )
        )
    return LocalFiles(folder)


class CachedFiles:
    """A remote folder of shards, copied file by file.

    Args:
        place: the remote location.
        open_file: opens one of its files: `(place, name) -> bytes to read`.
        cache: folder for copies, with a subfolder for this location.
        limit_gib: limit for all tars of this location.
    """

    def __init__(
        self,
        place: str,
        open_file: Callable[[str, str], contextlib.AbstractContextManager[IO[bytes]]],
        cache: str | Path,
        limit_gib: float,
    ) -> None:
        self.place, self._open_file, self._limit = place, open_file, limit_gib * 2**30
        name = hashlib.blake2b(place.encode(), digest_size=10).hexdigest()
        self._folder = Path(expand_home(cache, "prompts.cache")) / "remote" / name
        self._is_fresh = False

    def local(self, name: str, is_whole: Callable[[Path], bool] | None = None) -> Path:
        from filelock import FileLock

        path = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if name == MANIFEST:
                with FileLock(self._folder / ".lock"):
                    self._refresh_manifest()
                return path
            if not path.exists():
                with FileLock(self._folder / f".lock-{name}"):
                    if not path.exists():  # another process may have copied it meanwhile
                        self._copy(name, path, is_whole)
                        self._make_room(path)
            with contextlib.suppress(OSError):
                os.utime(path)  # used last
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "free space, lower prompts.cache_gib," if full else "make it writable,"
            raise ValueError(
                f"{path}: cannot be written ({error.strerror or error}); {advice} or choose another "
                "prompts.cache."
            ) from None
        return path

    def _refresh_manifest(self) -> None:
        """Copies the manifest again; if the corpus has changed, discards copies of the old one."""
        path = self._folder / MANIFEST
        clean_up(self._folder)
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        self._copy(MANIFEST, path, None)
        if before is not None and _fingerprint(before) != _fingerprint(path.read_text(errors="replace")):
            for old in self._folder.glob("shard-*"):
                old.unlink(missing_ok=True)

    def _copy(self, name: str, path: Path, is_whole: Callable[[Path], bool] | None) -> None:
        temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
        reason = ""
        try:
            for tried in range(NUM_TRIES):
                if tried:
                    time.sleep(2.0**tried)
                try:
                    with self._open_file(self.place, name) as source, temporary.open("wb") as target:
                        shutil.copyfileobj(source, target, BLOCK_BYTES)
                except FileNotFoundError as error:
                    reason = str(error) or "not found"
                    break
                except _UnreadableError as error:
                    reason = str(error)
                    continue
                if is_whole is None or is_whole(temporary):
                    os.replace(temporary, path)
                    return
                reason = "what arrived is not what its index says"
        finally:
            temporary.unlink(missing_ok=True)
        raise ValueError(
            f"{self.place}: {name} cannot be copied ({reason}); see that it can be reached, or copy the "
            "folder here and give that as prompts.shards."
        )

    def _make_room(self, newest: Path) -> None:
        """Removes the least recently used tars above the limit; a process that has one open keeps it."""
        tars = sorted(self._folder.glob("shard-*.tar"), key=lambda tar: tar.stat().st_mtime)
        total = sum(tar.stat().st_size for tar in tars)
        for tar in tars:
            if total <= self._limit:
                break
            if tar != newest:
                total -= tar.stat().st_size
                tar.unlink(missing_ok=True)


class _UnreadableError(Exception):
    """A file that could not be fetched, for a reason that may be temporary."""


def _fingerprint(manifest: str) -> object:
    try:
        return json.loads(manifest)["fingerprint"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


@contextlib.contextmanager
def _open_http(place: str, name: str) -> Iterator[IO[bytes]]:
    base, _, query = place.partition("?")
    url = f"{base.rstrip('/')}/{name}" + (f"?{query}" if query else "")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            yield cast(IO[bytes], _Counted(response, response.headers.get("Content-Length")))
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            raise FileNotFoundError(f"the server answers {error.code} {error.reason}") from None
        raise _UnreadableError(f"the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _UnreadableError(str(getattr(error, "reason", error))) from None


class _Counted:
    """A response that fails if it ends before its stated length."""

    def __init__(self, response: Any, length: str | None) -> None:
        self._response, self._left = response, int(length) if length else None

    def read(self, size: int) -> bytes:
        block = self._response.read(size)
        if self._left is not None:
            self._left -= len(block)
            if not block and self._left > 0:
                raise _UnreadableError(f"the connection ended {self._left} bytes early")
        return block


@contextlib.contextmanager
def _open_pipe(place: str, name: str) -> Iterator[IO[bytes]]:
    command = place.removeprefix("pipe:").replace("{name}", name)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.stdout.close()
            status = process.wait()
        errors.seek(0)
        said = " ".join(errors.read().decode("utf-8", "replace").split())[-300:]
    if status:
        raise _UnreadableError(f"the command {command!r} ended with status {status}: {said}")


@contextlib.contextmanager
def _open_fsspec(place: str, name: str) -> Iterator[IO[bytes]]:
    import fsspec

    try:
        with cast(Any, fsspec.open(f"{place}/{name}", "rb")) as file:
            yield file
    except FileNotFoundError:
        raise FileNotFoundError("there is no such file") from None
    except (ImportError, ValueError) as error:  # a protocol that is unknown, or whose package is missing
        raise FileNotFoundError(" ".join(str(error).split())) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # of the copy here
        raise _UnreadableError(str(error)) from None
    except Exception as error:  # each file system has errors of its own
        raise _UnreadableError(f"{type(error).__name__}: {error}") from None
