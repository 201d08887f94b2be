"""Robust standard streams: they may be closed from the start, or lose their reader, without losing work.

A closed stream is replaced by the null device, so that no file of the program gets its descriptor by mistake.
When a write to standard output or standard error fails, the rest goes to the null device as well.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO}
"""The reader has ended, or the terminal is closed, so that nobody misses the output."""


class Outlet(io.FileIO):
    """A standard stream's descriptor, whose writes never fail.

    Attributes:
        lost: the first error that lost output which somebody may miss, such as a full disk.
    """

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.title = title
        self.lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _point_to_null(self.fileno())
            if error.errno not in GONE:
                error.filename = self.title
                self.lost = error
            if self.title != "standard error":
                why = "its reader has ended" if error.errno == errno.EPIPE else error.strerror
                print(f"note: {self.title} is lost ({why}); going on without it", file=sys.stderr)
            return memoryview(data).nbytes


def prepare() -> None:
    """Makes the standard streams safe to use. Replaced streams, as in tests, are left alone."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _point_to_null(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _outlet(sys.stdout, sys.__stdout__, 1, "standard output")
    sys.stderr = _outlet(sys.stderr, sys.__stderr__, 2, "standard error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks


def finish() -> OSError | None:
    """Flushes the streams; returns why standard output is incomplete, if somebody may miss it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # a test has closed it
            stream.flush()
    outlet = _outlet_of(sys.stdout)
    return None if outlet is None else outlet.lost


def _outlet(stream: Any, original: Any, descriptor: int, title: str) -> Any:
    if stream is not original or _outlet_of(stream) is not None:
        return stream
    raw = Outlet(descriptor, title)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    is_buffered = isinstance(stream.buffer, io.BufferedWriter)  # not under python -u
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if is_buffered else raw,  # type: ignore[arg-type]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _outlet_of(stream: Any) -> Outlet | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, Outlet) else None


def _point_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
