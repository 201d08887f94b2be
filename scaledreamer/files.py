"""Files and folders that are there whole or not at all, whenever the process is killed. Needs no torch.

Everything is made under a temporary name (`.writing-...`) beside its place, synced, and renamed. A folder
cannot be renamed over another one: the old one first steps aside (`.replaced-...`), and `clean_up` puts it
back where a kill fell between the two renames.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

TEMPORARY = ".writing-"
REPLACED = ".replaced-"


def replace_text(path: Path, text: str) -> None:
    """Replaces a file by another in one step, on the disk as well; where that fails, it stays as it was."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """`replace_text` for what is no text."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.strerror:
            error.filename = str(path)  # a full disk names none
        raise
    sync(path.parent)


def append(path: Path, data: bytes) -> None:
    """Appends all of the data to a file, which may be new, or nothing of it. Does not wait for the disk."""
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


def replace_folder(new: Path, final: Path) -> None:
    """Renames a finished folder to `final`, in the place of what may be there."""
    old = final.with_name(f"{REPLACED}{final.name}")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)  # a killed process may have left one
        os.rename(final, old)
    os.rename(new, final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Removes what a killed process left half-written, and puts back what it had moved aside."""
    for path in folder.glob(f"{REPLACED}*"):
        final = path.with_name(path.name.removeprefix(REPLACED))
        if final.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.rename(path, final)
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a file and waits until it is on the disk."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the list of files of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
