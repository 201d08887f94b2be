"""The commands of `scaledreamer`, one module each; none loads torch before its arguments are validated."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from scaledreamer.cli import streams
from scaledreamer.os_errors import one_line

Arguments = ParamSpec("Arguments")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others, with status 2."""

    def error(self, message: str) -> NoReturn:
        said = " ".join(message.removeprefix("argument ").split())
        self.exit(2, f"error: {said} (--help lists all options)\n")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that takes integers from `low` to `high`."""

    def parse(text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) < 20
        if not is_number or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}; accepted are whole numbers from {low} to {high}")
        return int(text)

    return parse


def program(main: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
    """Turns a `main` that returns an exit status (None is 0) into a command.

    Its standard streams may be closed, or fail at any time, without ending the work (`streams`). Errors of
    the operating system become one line with advice and status 2; Ctrl-C is status 130.
    """

    @functools.wraps(main)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        streams.prepare()
        try:
            status = main(*args, **kwargs) or 0
        except OSError as error:
            status = fail(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = 130
        lost = streams.finish()
        return status or (0 if lost is None else fail(lost))

    return run


def fail(error: Exception) -> int:
    """Prints an error in one line; returns the exit status, 2."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch means out of memory, on a CPU or a GPU."""
    is_of_gpu = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or is_of_gpu or "allocate memory" in str(error)
