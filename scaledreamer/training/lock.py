"""A lock on a run's folder, so that only one run uses it at a time; a crash leaves no lock behind.

It is an operating system lock (flock) on a file `.lock` in the run's folder, which names its holder; it ends
with its process. Some network file systems have no locks, or locks that other machines do not see. For these
the holder updates the file's time every few seconds, and a new run watches it for a while. Needs no torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from scaledreamer.launch import environment

NAME = ".lock"
RENEW_SECONDS = 4.0
WATCH_SECONDS = 10.0


class InUseError(ValueError):
    """Another run trains in the folder; the message is for the user."""


class RunLock:
    """The lock of a run's folder, which is created if necessary. It ends with `release`, or the process.

    Raises: InUseError if another run has it; OSError if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        self._file = _acquire(path)
        stop = threading.Event()
        thread = threading.Thread(target=_renew, args=(self._file, stop), name="lock", daemon=True)
        thread.start()
        self._release = weakref.finalize(self, _release, os.getpid(), path, self._file, thread, stop)

    def release(self) -> None:
        """Ends the lock and removes its file."""
        self._release()

    def abandon(self) -> None:
        """Ends the lock before anything was written, and removes the folders that were created for it."""
        self.release()
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def _acquire(path: Path) -> int:
    """The file descriptor of the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _lock(path, file):
                content = json.dumps({**_self(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
                os.ftruncate(file, 0)
                os.pwrite(file, content.encode(), 0)
                with contextlib.suppress(OSError):
                    os.fsync(file)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(path: Path, file: int) -> bool:
    """Locks a file; False if its holder has removed it in the meantime.

    Raises: InUseError if another run holds it.
    """
    sees_locks = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _held(path, _holder(file)) from None
        sees_locks = False  # no locks on this file system
    holder = _holder(file)
    if holder and not (sees_locks and holder.get("boot") == _self()["boot"]):
        print(f"{path}: left by {_named(holder)}; looking for {WATCH_SECONDS:.0f} s if it runs", flush=True)
        if _is_renewed(path):
            raise _held(path, holder)
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _held(path: Path, holder: dict[str, Any]) -> InUseError:
    tasks = environment.several_tasks()
    return InUseError(
        f"training.output: got {str(path.parent)!r}, where {_named(holder)} is training; wait for it, stop "
        f"it, or choose another folder.{f' {tasks}.' if tasks else ''}"
    )


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} (since {holder.get('since')})"


def _self() -> dict[str, Any]:
    """This process; `boot` identifies the running kernel, within which locks are visible."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = socket.gethostname()
    return {"host": socket.gethostname(), "process": os.getpid(), "boot": boot}


def _holder(file: int) -> dict[str, Any]:
    """The holder recorded in the file; empty if it cannot be read."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_renewed(path: Path) -> bool:
    """Whether the file is being renewed; its times are compared with each other, not with the local clock."""
    end, first = time.monotonic() + WATCH_SECONDS, _time_of(path)
    while time.monotonic() < end:
        time.sleep(min(0.5, WATCH_SECONDS / 4))
        if _time_of(path) != first:
            return _time_of(path) is not None
    return False


def _time_of(path: Path) -> int | None:
    try:
        with path.open("rb") as file:  # opening refreshes the time on a network file system
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _renew(file: int, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(file)


def _release(process: int, path: Path, file: int, thread: threading.Thread, stop: threading.Event) -> None:
    if os.getpid() != process:  # a fork that ends
        return
    stop.set()
    thread.join()
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file), os.stat(path)):
            path.unlink()
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a fork has the file open
    os.close(file)
