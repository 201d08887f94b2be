"""The prompts of `scaledreamer infer`: from the command line, a file and standard input. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from scaledreamer.prompt_text import check_prompt
from scaledreamer.prompts.prompt_file import (
    PlacedPrompt,
    iter_prompt_file,
    problems_message,
    prompts_of_text,
)
from scaledreamer.prompts.words import short
from scaledreamer.vocabulary import NO_WORD, Vocabulary


def read_prompts(arguments: argparse.Namespace, vocabulary: Vocabulary) -> tuple[list[str], list[str]]:
    """The distinct prompts of all three sources in order, and the problems of the others, one line per
    source.

    Raises: ValueError if there are no prompts, if some cannot be made (all are named) and --skip-unknown is
        not given, or if a file cannot be read.
    """
    sources: list[tuple[str, list[PlacedPrompt]]] = []
    if arguments.prompt:
        sources.append(("--prompt", [PlacedPrompt("", prompt) for prompt in arguments.prompt]))
    if arguments.prompts_file is not None:
        source = f"--prompts-file {arguments.prompts_file}"
        sources.append((source, list(iter_prompt_file(arguments.prompts_file, source=source))))
    if arguments.stdin:
        sources.append(("--stdin", prompts_of_text(sys.stdin.buffer.read(), "--stdin")))
    if not sources:
        raise ValueError(
            "nothing to make: give --prompt, --prompts-file, --stdin or --interpolate (--help lists all "
            "options)"
        )
    good: dict[str, None] = {}
    complaints = []
    for source, placed in sources:
        if not placed:
            raise ValueError(f"{source}: there is no prompt in it; give one a line")
        problems: list[tuple[str, str]] = []
        for place, prompt, problem in placed:
            problem = problem or _problem(prompt, vocabulary)
            if not problem:
                good.setdefault(prompt)
            else:
                named = [short(prompt, 40)] if prompt or not place else []
                problems.append((" ".join([*[place] * bool(place), *named]), problem))
        if problems:
            complaints.append(problems_message(source, problems))
    if complaints and not (arguments.skip_unknown and good):
        others = " --skip-unknown makes the others." if good else ""
        raise ValueError(" ".join(complaints) + others)
    return list(good), complaints


def check_words(prompts: Iterable[str], where: str, vocabulary: Vocabulary) -> None:
    """Raises ValueError, which begins with `where`, for the first prompt that cannot be made."""
    for prompt in prompts:
        problem = _problem(prompt, vocabulary)
        if problem:
            raise ValueError(f"{where}{short(prompt, 40)}: {problem}")


def list_words(vocabulary: Vocabulary) -> None:
    """Prints the words that the generator knows, one per line, and their source on standard error.

    Raises: ValueError if they were not recorded.
    """
    words, trained_on = vocabulary.words, vocabulary.trained_on
    if words is None:
        raise ValueError(
            "--list-words: the export does not say which words its training had, and its text encoder takes "
            "any; describe the object in the words of its training"
        )
    if trained_on is None or trained_on.words is None:
        where = "its text encoder was taught; the export does not say which of them its training had"
    else:
        where = f"the {trained_on.num_prompts:,} prompts of its training had ({trained_on.corpus})"
    print(f"note: {len(words):,} words that {where}", file=sys.stderr)
    print("\n".join(sorted(words)))


def _problem(prompt: str, vocabulary: Vocabulary) -> str:
    """Why a prompt cannot be made; "" if it can."""
    try:
        check_prompt(prompt)
    except ValueError as error:
        return str(error)
    return "" if vocabulary.knows_any(prompt) else NO_WORD
