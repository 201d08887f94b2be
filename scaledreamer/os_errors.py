"""Errors of the operating system, and advice for each: the one place where an OSError becomes a message.

Needs no torch.
"""

from __future__ import annotations

import errno
import os
import re

_ADVICE = {
    errno.ENOSPC: "make room on that disk, or choose another place",
    errno.EDQUOT: "your quota on that disk is used up; remove files of yours, or choose another place",
    errno.EFBIG: "the file system or `ulimit -f` allows no larger file; choose another place",
    errno.EACCES: "you lack the permission; change it (chmod, chown), or choose another place",
    errno.EPERM: "you lack the permission; change it (chmod, chown), or choose another place",
    errno.EROFS: "that disk is mounted read-only; choose another place",
    errno.ENOENT: "check the name, and whether the disk is mounted",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "move what is there, or choose another name",
    errno.ENOTEMPTY: "move what is there, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle; mend them, or choose another place",
    errno.EXDEV: "it lies on two disks; choose a place on one",
    errno.EMFILE: "this process has too many files open; raise the limit (`ulimit -n 4096`)",
    errno.ENFILE: "the machine has too many files open; end other programs",
    errno.ENOMEM: "end other programs, or give this one more memory",
    errno.EAGAIN: "too many processes or threads; end other programs, or raise `ulimit -u`",
    errno.EBUSY: "another program uses it; end that program, or choose another place",
    errno.ETXTBSY: "another program uses it; end that program, or choose another place",
    errno.EIO: "the disk or the terminal fails; look at the system's log (dmesg)",
    errno.ESTALE: "the network disk has changed under the program; run the same command again",
    errno.EPIPE: "the program that read the output has ended; write to a file instead",
    errno.ECONNREFUSED: "nothing listens at that address; check it",
    errno.ETIMEDOUT: "there was no answer in time; check the network, and run the same command again",
    errno.ENETUNREACH: "check the network",
    errno.EHOSTUNREACH: "check the network",
}


def number_of(error: BaseException) -> int | None:
    """The errno of an error, even if a library written in Rust has turned it into text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def reason(error: BaseException) -> str:
    """What went wrong, in the system's words if there are any: "No space left on device"."""
    number = number_of(error)
    words = getattr(error, "strerror", None) or (os.strerror(number) if number else "")
    return words or " ".join(str(error).split()) or type(error).__name__


def advice(error: BaseException, otherwise: str = "check the place, or choose another one") -> str:
    """Advice for an error of the operating system; `otherwise` for all others."""
    return _ADVICE.get(number_of(error) or 0, otherwise)


def one_line(error: BaseException) -> str:
    """An error as one line for the user; with file and advice if it is from the operating system."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{' -> '.join(names)}: " if names else ""
        return f"{where}{error.strerror}; {advice(error)}"
    return " ".join(str(error).split())
