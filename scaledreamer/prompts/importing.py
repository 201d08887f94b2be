"""Imports other people's prompt files: reads, normalizes, filters, deduplicates, and checks for leakage.

`import_prompts` checks the entries of all files (`foreign.entries`) and reports what it dropped and why.
`write_corpus` writes the rest, completely or not at all. Two prompts are equal if their `comparison_key` is.

Memory holds the kept prompts, a 16-byte hash of each distinct prompt, and one file if it is JSON, which
cannot be read in parts. Needs no torch.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from scaledreamer.files import replacing_file
from scaledreamer.prompt_text import MAX_CHARACTERS, normalize_prompt
from scaledreamer.prompts.corpus import comparison_key, split_prompts
from scaledreamer.prompts.foreign import check_input, entries
from scaledreamer.prompts.foreign.entry import (
    NOT_CSV,
    NOT_JSON,
    NOT_UTF8,
    TOO_MANY_CHARACTERS,
    TRAIN,
    Entry,
    key_digest,
    shown,
)
from scaledreamer.prompts.prompt_file import SURROGATES

MAX_RAW = 10 * MAX_CHARACTERS
"""A longer entry, white space included, is dropped before it is normalized."""
NUM_EXAMPLES = 5

NOT_TEXT = "not a text"
EMPTY = "empty"
TOO_FEW_WORDS = "too few words"
TOO_MANY_WORDS = "too many words"
OTHER_SECTION = "other section"
REPEATED = "repeated"
ALSO_IN_TRAIN = "also in train"
REASONS = (NOT_UTF8, NOT_JSON, NOT_CSV, NOT_TEXT, EMPTY, TOO_FEW_WORDS, TOO_MANY_WORDS, TOO_MANY_CHARACTERS)
REASONS += (OTHER_SECTION, REPEATED, ALSO_IN_TRAIN)
"""Reasons to drop an entry, in the order of reports. `EMPTY`: nothing but white space and punctuation."""

HELD_OUT = "held_out"


# --- judging -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Allowed length of a prompt, after `normalize_prompt`.

    Attributes:
        min_words, max_words: number of words, separated by spaces.
        max_characters: at most MAX_CHARACTERS.
    """

    min_words: int = 1
    max_words: int = 77
    max_characters: int = 1000


@dataclass
class Noted:
    """Entries for a report: their number, and place and beginning of the first few."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, place: str, value: Any) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append((place, shown(value)))


@dataclass
class Tally:
    """What became of the entries of a section.

    Attributes:
        file, section: where the entries are.
        num_read: all entries, kept or dropped.
        num_kept: entries that are in the corpus.
        num_distinct: prompts within the limits that differ by `comparison_key`, kept or not.
        dropped: by reason.
        joined: entries that span several lines, each taken as one prompt.
    """

    file: str
    section: str
    num_read: int = 0
    num_kept: int = 0
    num_distinct: int = 0
    dropped: dict[str, Noted] = field(default_factory=dict)
    joined: Noted = field(default_factory=Noted)

    def drop(self, reason: str, place: str, value: Any) -> None:
        self.dropped.setdefault(reason, Noted()).add(place, value)


@dataclass(frozen=True)
class Leakage:
    """Number of distinct prompts that two sections share."""

    first: Tally
    second: Tally
    num_shared: int


@dataclass
class Imported:
    """A corpus with its report: a tally for each section of each file, and the leakage between any two."""

    train: list[str]
    held_out: list[str]
    tallies: list[Tally]
    leakage: list[Leakage]


def judge(value: Any, limits: Limits) -> tuple[str, str]:
    """The normalized prompt, and the reason to drop it or ""."""
    if not isinstance(value, str):
        return "", NOT_TEXT
    if SURROGATES.search(value):
        return "", NOT_UTF8
    if len(value) > MAX_RAW:
        return "", TOO_MANY_CHARACTERS
    prompt = normalize_prompt(value)
    num_words = prompt.count(" ") + 1
    if all(unicodedata.category(c)[0] in "CPZ" for c in prompt):
        return "", EMPTY
    if num_words < limits.min_words:
        return "", TOO_FEW_WORDS
    if len(prompt) > limits.max_characters:
        return "", TOO_MANY_CHARACTERS
    if num_words > limits.max_words:
        return "", TOO_MANY_WORDS
    return prompt, ""


def _runs_over_lines(entry: Entry) -> bool:
    """Whether a prompt or its row spans several lines: it may really be several prompts."""
    text = entry.value.strip()
    return entry.spans_lines or "\n" in text or "\r" in text


_LIMITS = Limits()
_Standing = tuple[frozenset[str], frozenset[int]]
"""Where a prompt occurs: on which sides of the split, and in which sections."""


def import_prompts(
    paths: Sequence[Path],
    *,
    column: str | None = None,
    section: str | None = None,
    holdout: float | None = None,
    limits: Limits = _LIMITS,
) -> Imported:
    """Makes one corpus of several files. Of equal prompts the first one is kept, on the training side if any.

    Args:
        paths: files, see `entries`.
        column: see `entries`.
        section: train on this section of each file; the others only count for leakage. None trains on
            `train` and holds out all others.
        holdout: pool the selected prompts and hold out this fraction of them by `split_prompts`.
        limits: of the prompts' lengths.
    Raises: ValueError naming the file or flag, also if nothing is left to train on.
    """
    for path in paths:
        check_input(path)
    tallies: list[Tally] = []
    standing: dict[bytes, _Standing] = {}
    known: dict[_Standing, _Standing] = {}  # few distinct values, shared by all prompts
    train: list[str] = []
    held_out: list[tuple[str, bytes, Tally, str]] = []
    for path in paths:
        numbers: dict[str, int] = {}
        for entry in entries(path, column):
            if entry.section not in numbers:
                numbers[entry.section] = len(tallies)
                tallies.append(Tally(str(path), entry.section))
            tally = tallies[numbers[entry.section]]
            tally.num_read += 1
            prompt, reason = ("", entry.reason) if entry.reason else judge(entry.value, limits)
            if reason:
                tally.drop(reason, entry.place, entry.value)
                continue
            if _runs_over_lines(entry):
                tally.joined.add(entry.place, prompt)
            key = key_digest(comparison_key(prompt))
            sides, sections = standing.get(key, (frozenset(), frozenset()))
            if section is not None:
                side = TRAIN if entry.section == section else ""
            else:
                side = TRAIN if holdout is not None or entry.section == TRAIN else HELD_OUT
            if not side:
                tally.drop(OTHER_SECTION, entry.place, prompt)
            elif side == HELD_OUT and TRAIN in sides:
                tally.drop(ALSO_IN_TRAIN, entry.place, prompt)
            elif side in sides:
                tally.drop(REPEATED, entry.place, prompt)
            elif side == TRAIN:
                train.append(prompt)
                tally.num_kept += 1
            else:
                held_out.append((prompt, key, tally, entry.place))
            stands = (sides | {side}, sections | {numbers[entry.section]})
            standing[key] = known.setdefault(stands, stands)
        if section is not None and section not in numbers:
            listed = ", ".join(map(repr, numbers)) or "no entries"
            raise ValueError(
                f"{path}: --section: got {section!r}; accepted is a section that is there: {listed}."
            )
    kept_out: list[str] = []
    for prompt, key, tally, place in held_out:
        if TRAIN in standing[key][0]:
            tally.drop(ALSO_IN_TRAIN, place, prompt)
        else:
            kept_out.append(prompt)
            tally.num_kept += 1
    if holdout is not None:
        train, kept_out = split_prompts(train, holdout)
    if not train:
        raise ValueError(_nothing_left(paths, tallies, len(kept_out), holdout))
    return Imported(
        train, kept_out, tallies, _leakage(tallies, Counter(sections for _, sections in standing.values()))
    )


def _nothing_left(paths: Sequence[Path], tallies: list[Tally], num_out: int, holdout: float | None) -> str:
    files = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    if num_out and holdout is not None:
        return f"{files}: --holdout {holdout:g} holds out all {num_out} prompts; lower it."
    if num_out:
        sections = ", ".join(sorted({tally.section for tally in tallies if tally.num_kept}))
        return (
            f"{files}: no prompts in a section {TRAIN!r}; name the one to train on with --section "
            f"({sections}), or split them anew with --holdout."
        )
    num_read = sum(tally.num_read for tally in tallies)
    if not num_read:
        return f"{files}: no prompts in it; give at least one."
    reasons = []
    for reason, dropped in total_dropped(tallies).items():
        place, text = dropped.examples[0]
        reasons.append(f"{dropped.count} {reason} (first {place}: {text!r})")
    return f"{files}: no prompts left of {num_read}: {', '.join(reasons)}; mend the file or widen the limits."


def _leakage(tallies: list[Tally], standing: Counter[frozenset[int]]) -> list[Leakage]:
    """Counts each section's distinct prompts, and those shared by two sections, if any or of one file."""
    pairs = combinations(range(len(tallies)), 2)
    shared = Counter({(i, j): 0 for i, j in pairs if tallies[i].file == tallies[j].file})
    for sections, count in standing.items():
        for i in sections:
            tallies[i].num_distinct += count
        for pair in combinations(sorted(sections), 2):
            shared[pair] += count
    return [Leakage(tallies[i], tallies[j], shared[i, j]) for i, j in sorted(shared)]


def total_dropped(tallies: Sequence[Tally]) -> dict[str, Noted]:
    """What was dropped in all sections, in the order of `REASONS`; with several files, places name them."""
    totals = {
        reason: _total(tallies, lambda tally, r=reason: tally.dropped.get(r, Noted())) for reason in REASONS
    }
    return {reason: total for reason, total in totals.items() if total.count}


def total_joined(tallies: Sequence[Tally]) -> Noted:
    """Entries that span several lines, over all sections; places as in `total_dropped`."""
    return _total(tallies, lambda tally: tally.joined)


def _total(tallies: Sequence[Tally], noted_of: Callable[[Tally], Noted]) -> Noted:
    has_several = len({tally.file for tally in tallies}) > 1
    total = Noted()
    for tally in tallies:
        noted = noted_of(tally)
        prefix = f"{tally.file}, " if has_several else ""
        total.count += noted.count
        total.examples += [(prefix + place, text) for place, text in noted.examples]
        del total.examples[NUM_EXAMPLES:]
    return total


# --- writing -----------------------------------------------------------------------------------------------


def report_json(imported: Imported) -> str:
    """The full report of an import, as JSON."""
    data = {
        "num_train": len(imported.train),
        "num_held_out": len(imported.held_out),
        "num_read": sum(tally.num_read for tally in imported.tallies),
        "dropped": _by_reason(total_dropped(imported.tallies)),
        "joined": _noted(total_joined(imported.tallies)),
        "sections": [
            {
                "file": tally.file,
                "section": tally.section,
                "num_read": tally.num_read,
                "num_kept": tally.num_kept,
                "num_distinct": tally.num_distinct,
                "dropped": _by_reason(tally.dropped),
            }
            for tally in imported.tallies
        ],
        "leakage": [
            {
                "first": {"file": leak.first.file, "section": leak.first.section},
                "second": {"file": leak.second.file, "section": leak.second.section},
                "num_shared": leak.num_shared,
            }
            for leak in imported.leakage
        ],
    }
    # A file's name need not be UTF-8.
    return json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "replace").decode() + "\n"


def _by_reason(dropped: dict[str, Noted]) -> dict[str, Any]:
    return {reason: _noted(noted) for reason, noted in dropped.items()}


def _noted(noted: Noted) -> dict[str, Any]:
    examples = [{"place": place, "text": text} for place, text in noted.examples]
    return {"count": noted.count, "examples": examples}


def write_corpus(path: Path, train: Sequence[str], held_out: Sequence[str]) -> None:
    """Writes `{"train": [...], "held_out": [...]}`, one prompt per line, compressed if the name ends in .gz.

    The same prompts give the same bytes. The file is replaced atomically.
    """
    with replacing_file(path) as new, new.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                packed.writelines(_corpus_lines(train, held_out))
        else:
            raw.writelines(_corpus_lines(train, held_out))


def _corpus_lines(train: Sequence[str], held_out: Sequence[str]) -> Iterator[bytes]:
    for opening, prompts, closing in (('{"train": [', train, "],"), ('"held_out": [', held_out, "]}")):
        yield f"{opening}\n".encode()
        for number, prompt in enumerate(prompts, start=1):
            yield (json.dumps(prompt, ensure_ascii=False) + ",\n"[number == len(prompts) :]).encode()
        yield f"{closing}\n".encode()
