"""One run a folder at a time: a lock that a second run notices, and that no crash leaves behind.

The lock is the operating system's (flock), on a file `.lock` in the run's folder that says who holds it; it
ends with its process, however that ends. Some network file systems have no locks, or locks that other
machines do not see. There the file's time tells: the run that holds it renews it every few seconds, and
another one that finds it watches it for a while. Needs no torch.
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
    """The lock of a run's folder, which is made if it is not there. It ends with `release`, or the process.

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
        """Ends the lock before anything has been written, and removes the folders that were made for it."""
        self.release()
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def _acquire(path: Path) -> int:
    """The lock's descriptor."""
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
    """Locks a file; False if it has been removed meanwhile, by the run that held it.

    Raises: InUseError if another run holds it.
    """
    sees_locks = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _held(path, _holder(file)) from None
        sees_locks = False  # this file system has none
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
    """This process; `boot` is one for all that the same kernel runs, whose locks see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = socket.gethostname()
    return {"host": socket.gethostname(), "process": os.getpid(), "boot": boot}


def _holder(file: int) -> dict[str, Any]:
    """Who has written the file; empty if that cannot be read."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_renewed(path: Path) -> bool:
    """Whether somebody renews the file; its times are compared with each other, not with the clock here."""
    end, first = time.monotonic() + WATCH_SECONDS, _time_of(path)
    while time.monotonic() < end:
        time.sleep(min(0.5, WATCH_SECONDS / 4))
        if _time_of(path) != first:
            return _time_of(path) is not None
    return False


def _time_of(path: Path) -> int | None:
    try:
        with path.open("rb") as file:  # opening makes a network file system ask for the time anew
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
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a fork has the file as well
    os.close(file)
