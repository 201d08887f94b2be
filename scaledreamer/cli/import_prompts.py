"""Makes a corpus from other people's prompts, and reports what it dropped and what occurs in several splits.

    scaledreamer import-prompts library.json --out corpus.json.gz
    scaledreamer import-prompts a.csv b.jsonl.gz --column caption --holdout 0.02 --out corpus.json.gz

Reads plain text (one prompt per line), JSON (a list, named lists, captions by id, COCO captions), JSONL, CSV
(commas, semicolons or tabs), TSV (without quoting), Parquet (with pyarrow; strings or lists of strings) and
webdataset shards (.tar), all optionally gzipped. Exit status: 0 done; 2 bad input or a full disk, nothing was
written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scaledreamer.cli import Parser, fail, program, whole_number
from scaledreamer.files import replace_text
from scaledreamer.os_errors import advice
from scaledreamer.prompt_text import MAX_CHARACTERS
from scaledreamer.prompts.importing import (
    Imported,
    Limits,
    Noted,
    import_prompts,
    report_json,
    total_dropped,
    total_joined,
    write_corpus,
)

NUM_OVERLAPS = 50


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted are numbers from 0 up to, not including, 1")
    return value


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="scaledreamer import-prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, limits = parser.add_argument, Limits()
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="files; their endings say their formats")
    add("--out", type=Path, required=True, metavar="FILE", help="the corpus, .json or .json.gz")
    column = (
        "column or key of the prompts (the only one of prompt, caption, text or their plurals there), a "
        "number for CSV and TSV without a header row, the ending of a tar's members (txt)"
    )
    add("--column", metavar="NAME", help=column)
    section = "train on this section of the inputs alone (train; all others are held out)"
    add("--section", metavar="NAME", help=section)
    holdout = "pool all sections and hold out this fraction anew (keep the inputs' sections)"
    add("--holdout", type=_fraction, metavar="F", help=holdout)
    words = whole_number(1, MAX_CHARACTERS)
    add("--min-words", type=words, default=limits.min_words, metavar="N", help="of a prompt (%(default)s)")
    add("--max-words", type=words, default=limits.max_words, metavar="N", help="of a prompt (%(default)s)")
    characters = {"type": words, "default": limits.max_characters, "metavar": "N"}
    add("--max-characters", **characters, help="of a prompt (%(default)s)")
    add("--report", type=Path, metavar="FILE", help="all counts, examples and overlaps, as JSON")
    add("--force", action="store_true", help="replace --out and --report where they are there")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        _run(arguments)
    except ValueError as error:
        return fail(error)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    out, report = arguments.out, arguments.report
    _check_outputs(arguments)
    limits = Limits(arguments.min_words, arguments.max_words, arguments.max_characters)
    imported = import_prompts(
        arguments.inputs,
        column=arguments.column,
        section=arguments.section,
        holdout=arguments.holdout,
        limits=limits,
    )
    with _writing(f"--out {out}", "What was there before is untouched."):
        write_corpus(out, imported.train, imported.held_out)
    if report is not None:
        with _writing(f"--report {report}", f"The corpus {out} is whole."):
            replace_text(report, report_json(imported))
    for line in table(imported):
        print(line)
    print(f"\n{out}: {len(imported.train):,} training and {len(imported.held_out):,} held-out prompts")


@contextlib.contextmanager
def _writing(place: str, consolation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{place}: cannot be written ({error.strerror or error}); {advice(error)}. {consolation}"
        ) from None


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raises ValueError for problems that would otherwise be noticed only after reading everything."""
    if arguments.min_words > arguments.max_words:
        raise ValueError(
            f"--min-words: got {arguments.min_words}; accepted are numbers up to --max-words, "
            f"{arguments.max_words}."
        )
    if not arguments.out.name.lower().endswith((".json", ".json.gz")):
        raise ValueError(f"--out: got {arguments.out}; accepted are names that end in .json or .json.gz.")
    places: dict[Path, str] = {}
    for flag, path in [("INPUT", path) for path in arguments.inputs] + [("--report", arguments.report)]:
        if path is not None:
            place = Path(os.path.realpath(path))
            if place in places:
                raise ValueError(f"{flag} {path}: given twice, also as {places[place]}; name another file.")
            places[place] = flag
    if arguments.report is not None and os.path.realpath(arguments.report) == os.path.realpath(arguments.out):
        raise ValueError(f"--report {arguments.report}: is --out as well; name another file.")
    for flag, path in (("--out", arguments.out), ("--report", arguments.report)):
        if path is None:
            continue
        if os.path.isdir(path):
            raise ValueError(f"{flag} {path}: is a folder; name a file in it.")
        if os.path.lexists(path) and not arguments.force:
            raise ValueError(f"{flag} {path}: is there already; choose another name, or give --force.")
        if not os.path.isdir(path.parent):
            raise ValueError(f"{flag} {path}: there is no folder {path.parent}; make it first.")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(
                f"{flag} {path}: no permission to write in {path.parent}; choose another folder."
            )


def table(imported: Imported) -> Iterator[str]:
    """Lines that summarize an import: counts of each section, what was dropped and why, and overlaps."""
    names = [("input", "section"), *((tally.file, tally.section) for tally in imported.tallies)]
    heads = ["read", "distinct", "kept", "dropped"]
    numbers = [(t.num_read, t.num_distinct, t.num_kept, t.num_read - t.num_kept) for t in imported.tallies]
    rows = [heads, *([f"{number:,}" for number in row] for row in numbers)]
    file_width, section_width = (max(map(len, column)) for column in zip(*names, strict=True))
    for (file, section), row in zip(names, rows, strict=True):
        cells = "".join(f"  {cell:>9}" for cell in row)
        yield f"{file:{file_width}}  {section:{section_width}}{cells}"
    for reason, dropped in total_dropped(imported.tallies).items():
        yield f"\ndropped, {reason}: {dropped.count:,}"
        yield from _examples(dropped)
    joined = total_joined(imported.tallies)
    if joined.count:
        yield f"\nread as one prompt each, though they run over lines: {joined.count:,}"
        yield from _examples(joined)
        yield "  (in CSV, a quotation mark that is a letter is written twice in a quoted field)"
    if imported.leakage:
        yield "\nin two sections (case, punctuation and white space ignored)"
    for leak in imported.leakage[:NUM_OVERLAPS]:
        first, second = leak.first, leak.second
        of_first = "" if first.file == second.file else f" of {first.file}"
        yield f"  {first.section}{of_first} and {second.section} of {second.file}: {leak.num_shared:,}"
    if len(imported.leakage) > NUM_OVERLAPS:
        yield f"  ... {len(imported.leakage) - NUM_OVERLAPS:,} more in --report"


def _examples(noted: Noted) -> Iterator[str]:
    yield from (f"  {place}: {text!r}" for place, text in noted.examples)
    if noted.count > len(noted.examples):
        yield "  ..."


if __name__ == "__main__":
    sys.exit(main())
