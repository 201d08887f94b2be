"""The prompts of `infer.py`: from the command line, a file and standard input. Needs no torch."""

from __future__ import annotations

import argparse
import sys

from scaledreamer.prompts.check import check_prompt
from scaledreamer.prompts.prompt_file import (
    PlacedPrompt,
    check_no_problem,
    iter_prompt_file,
    prompts_of_text,
)


def read_prompts(arguments: argparse.Namespace) -> dict[str, str]:
    """The prompts of all three sources, each once, in order; each with its place, as messages begin.

    Raises: ValueError if there is none, one of them cannot be one, or the file cannot be read.
    """
    found = [("", prompt) for prompt in arguments.prompt]
    read: list[tuple[str, list[PlacedPrompt]]] = []
    if arguments.prompts_file is not None:
        source = f"--prompts-file {arguments.prompts_file}"
        read.append((source, list(iter_prompt_file(arguments.prompts_file, source=source))))
    if arguments.stdin:
        read.append(("--stdin", prompts_of_text(sys.stdin.buffer.read(), "--stdin")))
    for source, placed in read:
        check_no_problem(source, placed)
        if not placed:
            raise ValueError(f"{source}: there is no prompt in it; give one a line")
        found += [(f"{source}: {place}: ", prompt) for place, prompt, _ in placed]
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
