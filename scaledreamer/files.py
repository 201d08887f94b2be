"""Atomic replacement of files and folders, even if the process is killed. Needs no torch.

Everything is written under a temporary name (`.writing-...`) in the same folder, synced, and renamed. A
folder cannot be renamed over another one: the old one is first moved aside (`.replaced-...`), and `clean_up`
restores it if the process was killed between the two renames. Links are followed: the target is replaced, and
the link stays. File modes follow the umask, not the library that wrote the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".writing-"
REPLACED = ".replaced-"


@contextlib.contextmanager
def replacing_file(path: Path | str, *, is_synced: bool = True) -> Iterator[Path]:
    """A new file with the same extension, which replaces `path` on success and is removed on failure.

    Args:
        is_synced: whether to wait until it is on the disk.
    Raises: OSError that names `path`.
    """
    place = Path(os.path.realpath(path))
    new = place.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{place.suffix}")
    try:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = new.stat().st_mode & 0o777
        yield new
        new.chmod(mode)  # a library may have replaced the file
        if is_synced:
            sync(new)
        os.replace(new, place)
    except OSError as error:
        if error.strerror:
            error.filename, error.filename2 = str(path), None  # an error for a full disk has no file name
        raise
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
    if is_synced:
        sync(place.parent)


@contextlib.contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """A new folder, which replaces `path` on success and is removed on failure."""
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f"{TEMPORARY}{place.name}-{secrets.token_hex(4)}")
    try:
        new.mkdir()
        yield new
        _settle(new)
        _swap(new, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _swap(new: Path, place: Path) -> None:
    old = moved_aside(place)
    if place.exists():
        remove(old)  # a killed process may have left one
        os.rename(place, old)
    try:
        os.rename(new, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        raise
    sync(place.parent)
    remove(old)


def _settle(folder: Path) -> None:
    """Sets the modes in a new folder according to the umask, and waits until everything is on the disk."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(root, name)
            file.chmod(mode & 0o666)
            sync(file)
        Path(root).chmod(mode)
        sync(Path(root))


def moved_aside(place: Path) -> Path:
    """Where the old folder is while it is being replaced."""
    return place.with_name(f"{REPLACED}{place.name}")


def replace_text(path: Path, text: str) -> None:
    """Replaces a file atomically and durably; on failure it stays as it was."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """`replace_text` for binary data."""
    with replacing_file(path) as new:
        new.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    """Appends all of the data to a file, which may be new, or none of it. Does not wait for the disk."""
    size = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True) if size is None else os.truncate(path, size)
        if error.strerror:
            error.filename = str(path)
        raise


def clean_up(folder: Path) -> None:
    """Removes partial files of a killed process, and restores what it had moved aside."""
    for path in folder.glob(f"{REPLACED}*"):
        _put_back(path)
    for path in folder.glob(f"{TEMPORARY}*"):
        remove(path)


def clean_up_beside(path: Path) -> None:
    """`clean_up` for a single file or folder (or link), without touching others in the same folder."""
    place = Path(os.path.realpath(path))
    if (old := moved_aside(place)).exists():
        _put_back(old)
    name = re.compile(re.escape(f"{TEMPORARY}{place.name}-") + r"[0-9a-f]{8}")
    for other in place.parent.glob(f"{TEMPORARY}*"):
        if name.fullmatch(other.name):
            remove(other)


def _put_back(old: Path) -> None:
    place = old.with_name(old.name.removeprefix(REPLACED))
    if place.exists():
        remove(old)
    else:
        os.rename(old, place)


def remove(path: Path) -> None:
    """Removes a file, a folder with its contents, or a link (not its target), if possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def is_mount_point(path: Path) -> bool:
    """Whether the path is a mount point, which cannot be renamed."""
    place = os.path.realpath(path)
    if os.path.ismount(place):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    octal = re.compile(r"\\(\d{3})")
    return any(octal.sub(lambda m: chr(int(m[1], 8)), line.split()[4]) == place for line in lines)


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
