"""The prompts of `infer.py`: from the command line, a file and standard input. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scaledreamer.prompts.check import check_prompt


def read_prompts(arguments: argparse.Namespace) -> dict[str, str]:
    """The prompts of all three sources, each once, in order; each with its place, as messages begin.

    Raises: ValueError if there is none, one of them cannot be one, or the file cannot be read.
    """
    found = [("", prompt) for prompt in arguments.prompt]
    lines: list[tuple[str, list[str]]] = []
    if arguments.prompts_file is not None:
        lines.append((f"--prompts-file {arguments.prompts_file}", _read_lines(arguments.prompts_file)))
    if arguments.stdin:
        lines.append(("--stdin", _decode(sys.stdin.buffer.read(), "--stdin").splitlines()))
    for source, texts in lines:
        kept = [(f"{source}, line {n}: ", text.strip()) for n, text in enumerate(texts, 1) if text.strip()]
        if not kept:
            raise ValueError(f"{source}: there is no prompt in it; give one a line")
        found += kept
    if not found:
        raise ValueError(
            "nothing to make: give --prompt, --prompts-file, --stdin or --interpolate (--help lists all "
            "options)"
        )
    for where, prompt in found:
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
    places: dict[str, str] = {}
    for where, prompt in found:
        places.setdefault(prompt, where)
    return places


def _read_lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"--prompts-file {path}: cannot be read ({reason}); give a text file with a prompt a line"
        ) from None
    return _decode(data, f"--prompts-file {path}").splitlines()


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{source}: line {line} is not UTF-8; save it in that encoding") from None
