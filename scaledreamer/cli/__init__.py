"""Command lines: argument parsing that needs no torch, and the programs behind the thin scripts."""

from __future__ import annotations

import argparse
import io
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Arguments whose errors are one line, as all others, with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists all options)\n")


def accept_any_text() -> None:
    """Lets standard output show what it has no letters for as \\u86d9, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is Python's or torch's word for too little memory, of a CPU or a GPU."""
    is_of_gpu = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or is_of_gpu or "allocate memory" in str(error)


def short(text: str, length: int = 80) -> str:
    """A prompt as messages show it: quoted, on one line, cut where it is long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
