"""Foreign prompt libraries made into a corpus: read, normalised, limited, de-duplicated, checked for leakage.

`entries` reads a file of any accepted format one entry after the other, `import_prompts` judges the entries
of all files and says what it dropped and why, and `write_corpus` writes what is left, whole or not at all.
Prompts are the same if their `comparison_key` is.

In memory: the kept prompts, a 16-byte hash for each distinct one, and of JSON, which cannot be read in parts,
one file. Needs no torch.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import io
import json
import os
import re
import reprlib
import shutil
import tarfile
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from scaledreamer.files import TEMPORARY, sync
from scaledreamer.prompts.check import MAX_CHARACTERS
from scaledreamer.prompts.corpus import comparison_key, normalize_prompt, split_prompts, unique_keys

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tar")
"""What is read, each also compressed (.gz)."""
GUESSED_COLUMNS = ("prompt", "caption", "text")
MAX_JSON_BYTES = 2**31
MAX_LINE = 2**24
"""Characters of a line, a CSV field or a member of a tar; longer ones are never held in memory."""
MAX_RAW = 10 * MAX_CHARACTERS
"""Characters, white space included, above which a prompt is too long before it is normalised."""
NUM_EXAMPLES = 5
EXAMPLE_LENGTH = 80

NOT_UTF8 = "not UTF-8"
NOT_JSON = "not valid JSON"
NOT_CSV = "not valid CSV"
NOT_TEXT = "not a text"
EMPTY = "empty"
TOO_FEW_WORDS = "too few words"
TOO_MANY_WORDS = "too many words"
TOO_MANY_CHARACTERS = "too many characters"
OTHER_SECTION = "other section"
REPEATED = "repeated"
ALSO_IN_TRAIN = "also in train"
REASONS = (NOT_UTF8, NOT_JSON, NOT_CSV, NOT_TEXT, EMPTY, TOO_FEW_WORDS, TOO_MANY_WORDS, TOO_MANY_CHARACTERS)
REASONS += (OTHER_SECTION, REPEATED, ALSO_IN_TRAIN)
"""Why an entry is dropped, in the order of reports. `EMPTY` has nothing but blanks and punctuation."""

TRAIN, HELD_OUT = "train", "held_out"
"""The lists of a corpus; `TRAIN` is also the section of files that have none."""
_Stream = io.BufferedReader | gzip.GzipFile
_BINARY = (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PAR1", b"PK\x03\x04")
_SURROGATES = re.compile("[\ud800-\udfff]")


# --- readers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place of a file.

    Attributes:
        section: key of a JSON mapping; "train" elsewhere.
        place: for the reader of a report, for example "line 3".
        value: the text, where there is one; bytes that are not UTF-8 are surrogates in it.
        reason: one of `REASONS` if there is no prompt to be had of it.
    """

    section: str
    place: str
    value: Any
    reason: str = ""


def suffix_of(path: Path) -> str:
    """The ending that names a file's format, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_input(path: Path) -> None:
    """Looks at a file before any is read.

    Raises: ValueError if it is missing, of an unknown format, or needs a package that is not installed.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; name the files in it.")
    if suffix_of(path) not in SUFFIXES:
        raise ValueError(
            f"{path}: the format {suffix_of(path)!r} is not known; accepted are {', '.join(SUFFIXES)}, "
            "each also with .gz: rename the file after its format."
        )
    if suffix_of(path) == ".parquet":
        _pyarrow(path)
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def entries(path: Path, column: str | None = None) -> Iterator[Entry]:
    """Reads the entries of a file in order; blank lines, and # comments of plain text, are none.

    Args:
        path: its ending says its format (`SUFFIXES`).
        column: which column or key holds the prompt; None takes the only one of `GUESSED_COLUMNS` that is
            there. A number is the column of a CSV or TSV file without a header row, from 1.
    Raises: ValueError naming the file, and the place, if the file as a whole cannot be read.
    """
    is_packed = path.name.lower().endswith(".gz")
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if is_packed else raw as stream:
            suffix = suffix_of(path)
            if suffix not in (".parquet", ".tar"):
                _check_is_text(path, stream.peek(1024)[:1024])
            match suffix:
                case ".txt":
                    yield from _text_entries(stream)
                case ".json":
                    yield from _json_entries(path, stream, column)
                case ".jsonl":
                    yield from _jsonl_entries(path, stream, column)
                case ".csv" | ".tsv":
                    yield from _csv_entries(path, stream, column, "," if suffix == ".csv" else "\t")
                case ".parquet":
                    yield from _parquet_entries(path, stream, column, is_packed)
                case ".tar":
                    yield from _tar_entries(path, stream)
                case _:
                    check_input(path)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    return ValueError(f"{path}: cannot be read ({reason}); check its name, or copy it here again.")


def _check_is_text(path: Path, head: bytes) -> None:
    if head.startswith(_BINARY) or head.count(0) * 4 > len(head):
        raise ValueError(
            f"{path}: not UTF-8 text, but UTF-16 or a binary file; save it as UTF-8, or rename it after its "
            f"format ({', '.join(SUFFIXES)}, compressed .gz)."
        )


def _lines(stream: _Stream, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, bytes that are not UTF-8 as surrogates, cut off after MAX_LINE characters."""
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=newline)
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE)
        yield number, line


def _text_entries(stream: _Stream) -> Iterator[Entry]:
    for number, line in _lines(stream):
        if len(line) >= MAX_LINE:
            yield Entry(TRAIN, f"line {number}", line, TOO_MANY_CHARACTERS)
        elif line.strip() and not line.lstrip().startswith("#"):
            yield Entry(TRAIN, f"line {number}", line)


class _DuplicateKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise _DuplicateKeyError(str(error)) from None


class _Picker:
    """Takes the prompt out of a mapping; anything else is passed on."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self.column = path, column
        self._first_keys: list[str] | None = None
        self._is_found = False

    def __call__(self, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        if self._first_keys is None:
            self._first_keys = list(entry)
        if self.column is None:
            self.column = _find_column(self.path, self._first_keys, None)
        self._is_found = self._is_found or self.column in entry
        return entry.get(self.column)

    def check_found(self) -> None:
        """Raises ValueError if there were mappings, and none had the column."""
        if self._first_keys is not None and not self._is_found:
            _find_column(self.path, self._first_keys, self.column)


def _find_column(path: Path, names: Sequence[str], column: str | None) -> str:
    listed = ", ".join(repr(_shown(name)) for name in names[:20]) + (", ..." if len(names) > 20 else "")
    if column is not None and column not in names:
        raise ValueError(
            f"{path}: --column: got {column!r}; accepted is one of the columns there: {listed or 'none'}."
        )
    found = [column] if column is not None else [name for name in GUESSED_COLUMNS if name in names]
    if len(found) != 1:
        raise ValueError(
            f"{path}: it does not say which column holds the prompts; name one of {listed or 'none'} with "
            "--column."
        )
    if list(names).count(found[0]) > 1:
        raise ValueError(f"{path}: the column {found[0]!r} stands in it twice; rename one of the two.")
    return found[0]


def _json_entries(path: Path, stream: _Stream, column: str | None) -> Iterator[Entry]:
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: more than {MAX_JSON_BYTES:,} bytes of JSON; save it as JSONL (.jsonl).")
    try:
        data = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except _DuplicateKeyError as error:
        raise ValueError(f"{path}: {error}; rename or remove one of the two.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); mend it there, or save the prompts as plain text (.txt)."
        ) from None
    del content
    sections = data if isinstance(data, dict) else {TRAIN: data}
    pick = _Picker(path, column)
    for section, found in sections.items():
        if not isinstance(found, list):
            where = f"{section!r} of it" if isinstance(data, dict) else "it"
            raise ValueError(
                f"{path}: {where} is {reprlib.repr(found)}, not a list; accepted are a list of prompts, or "
                'lists by name: {"train": [...], "test": [...]}.'
            )
        for number, entry in enumerate(found):
            place = f"{section}, entry {number}" if isinstance(data, dict) else f"entry {number}"
            yield Entry(section, place, pick(entry))
    pick.check_found()


def _jsonl_entries(path: Path, stream: _Stream, column: str | None) -> Iterator[Entry]:
    pick = _Picker(path, column)
    for number, line in _lines(stream, newline="\n"):
        place = f"line {number}"
        if not line.strip():
            continue
        if len(line) >= MAX_LINE:
            yield Entry(TRAIN, place, line, TOO_MANY_CHARACTERS)
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique_keys)
        except _DuplicateKeyError as error:
            raise ValueError(f"{path}: {place}: {error}; rename or remove one of the two.") from None
        except (ValueError, RecursionError):
            yield Entry(TRAIN, place, line, NOT_UTF8 if _SURROGATES.search(line) else NOT_JSON)
        else:
            yield Entry(TRAIN, place, pick(value))
    pick.check_found()


def _csv_entries(path: Path, stream: _Stream, column: str | None, delimiter: str) -> Iterator[Entry]:
    def lines() -> Iterator[str]:
        for number, line in _lines(stream, newline=""):
            if len(line) >= MAX_LINE:
                raise ValueError(f"{path}: line {number} has {MAX_LINE:,} characters or more; remove it.")
            yield line

    rows, index, width, start = csv.reader(lines(), delimiter=delimiter, strict=True), -1, 0, 0
    usual_limit = csv.field_size_limit(MAX_LINE)
    try:
        while True:
            start, damage = rows.line_num + 1, ""
            try:
                row = next(rows, None)
            except csv.Error as error:
                if "expected after" not in str(error):
                    # The rest of the file is in one field, or as much of it as memory may hold.
                    raise ValueError(
                        f"{path}: line {start}: a quotation mark opens a field there and does not close it; "
                        "close it, or write it twice if it is meant as a letter."
                    ) from None
                row, damage = [], str(error)
            if row is None:
                return
            place = f"line {start}" if rows.line_num == start else f"lines {start}-{rows.line_num}"
            if damage and width:
                yield Entry(TRAIN, place, damage, NOT_CSV)
            elif damage:
                raise ValueError(f"{path}: {place}: not valid CSV ({damage}); mend the first row.")
            elif not row:
                continue
            elif not width:
                index, width = _csv_column(path, row, column), len(row)
                if column is not None and column.isdecimal():
                    yield Entry(TRAIN, place, row[index])
            elif not index < len(row) <= width:
                yield Entry(TRAIN, place, delimiter.join(row), NOT_CSV)
            else:
                yield Entry(TRAIN, place, row[index])
    finally:
        csv.field_size_limit(usual_limit)


def _csv_column(path: Path, row: list[str], column: str | None) -> int:
    """Index of the column, from a file's first row."""
    if column is not None and column.isdecimal():
        if not 1 <= int(column) <= len(row):
            raise ValueError(
                f"{path}: --column: got {column}; accepted are numbers from 1 to {len(row)}, the columns of "
                "its first line."
            )
        return int(column) - 1
    names = [name.strip() for name in row]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"{path}: the column {_shown(twice[0])!r} stands in its header row twice; rename one of the two."
        )
    return names.index(_find_column(path, names, column))


def _pyarrow(path: Path) -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise ValueError(
            f"{path}: Parquet is read with pyarrow, which is not installed; run `pip install pyarrow`."
        ) from None


def _parquet_entries(path: Path, stream: _Stream, column: str | None, is_packed: bool) -> Iterator[Entry]:
    pyarrow = _pyarrow(path)
    with tempfile.TemporaryFile() as unpacked:
        if is_packed:  # it is read from its end
            shutil.copyfileobj(stream, unpacked)
        try:
            file = pyarrow.parquet.ParquetFile(unpacked if is_packed else stream)
            column = _find_column(path, file.schema_arrow.names, column)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=[column]):
                for scalar in batch.column(0):
                    number += 1
                    try:
                        value, reason = scalar.as_py(), ""
                    except UnicodeDecodeError:
                        value, reason = "", NOT_UTF8
                    yield Entry(TRAIN, f"row {number}", value, reason)
        except pyarrow.ArrowException as error:
            raise _unreadable(path, error) from None


def _tar_entries(path: Path, stream: _Stream) -> Iterator[Entry]:
    """Members KEY.txt of a webdataset shard; a key ends at the first dot of the name."""
    seen: set[bytes] = set()
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            tar.members = []  # it would keep them all  # pyright: ignore[reportAttributeAccessIssue]
            key, _, ending = Path(member.name).name.partition(".")
            if not (member.isfile() and key and ending == "txt"):
                continue
            digest = _digest(member.name)
            if digest in seen:
                raise ValueError(
                    f"{path}: the key {member.name.removesuffix('.txt')!r} stands in it twice; make the "
                    "shard again with one member KEY.txt a key."
                )
            seen.add(digest)
            file = tar.extractfile(member)
            assert file is not None
            value = file.read(MAX_LINE).decode("utf-8-sig", "surrogateescape")
            yield Entry(TRAIN, member.name, value, TOO_MANY_CHARACTERS if member.size > MAX_LINE else "")
        # Past its first member, tarfile takes a damaged or missing header for the end.
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(
                f"{path}: damaged or cut off at byte {tar.offset}; copy it here again, or make it anew."
            )
        while stream.read(2**20):  # up to gzip's checksum
            pass


# --- judging -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """How long a prompt may be, after `normalize_prompt`.

    Attributes:
        min_words: parts between blanks, at least.
        max_words: at most.
        max_characters: at most; at most MAX_CHARACTERS.
    """

    min_words: int = 1
    max_words: int = 77
    max_characters: int = 1000


@dataclass
class Dropped:
    """Entries that were dropped for one reason: how many, and place and beginning of the first few."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Tally:
    """What became of the entries of a section.

    Attributes:
        file: that it is in.
        section: its name.
        num_read: entries; as many as were kept and dropped together.
        num_kept: entries that are in the corpus.
        num_distinct: prompts within the limits that differ by `comparison_key`, kept or not.
        dropped: by reason.
    """

    file: str
    section: str
    num_read: int = 0
    num_kept: int = 0
    num_distinct: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def drop(self, reason: str, place: str, value: Any) -> None:
        found = self.dropped.setdefault(reason, Dropped())
        found.count += 1
        if len(found.examples) < NUM_EXAMPLES:
            found.examples.append((place, _shown(value)))


@dataclass(frozen=True)
class Leakage:
    """Number of distinct prompts that stand in two sections."""

    first: Tally
    second: Tally
    num_shared: int


@dataclass
class Imported:
    """A corpus and how it came about: a tally for each section of each file, and leakage for each two."""

    train: list[str]
    held_out: list[str]
    tallies: list[Tally]
    leakage: list[Leakage]


def judge(value: Any, limits: Limits) -> tuple[str, str]:
    """A prompt as it is stored, and "" or the reason why it cannot be one."""
    if not isinstance(value, str):
        return "", NOT_TEXT
    if _SURROGATES.search(value):
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


_LIMITS = Limits()
_Standing = tuple[frozenset[str], frozenset[int]]
"""Where a prompt stands: on which sides of the split, and in which sections."""


def import_prompts(
    paths: Sequence[Path],
    *,
    column: str | None = None,
    section: str | None = None,
    holdout: float | None = None,
    limits: Limits = _LIMITS,
) -> Imported:
    """Makes one corpus of files; of prompts that are the same, the first one is kept, and for training alone.

    Args:
        paths: files, see `entries`.
        column: see `entries`.
        section: take this section of each file alone, for training; the others only count for leakage. None
            takes `train` for training and holds out all others.
        holdout: pool what is taken and hold out this fraction of it by `split_prompts`.
        limits: of the prompts' lengths.
    Raises: ValueError naming the file or flag, also if nothing is left to train on.
    """
    for path in paths:
        check_input(path)
    tallies: list[Tally] = []
    standing: dict[bytes, _Standing] = {}
    known: dict[_Standing, _Standing] = {}  # the few that there are, shared by all prompts
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
            key = _digest(comparison_key(prompt))
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
    """Counts each section's distinct prompts, and those that two sections share, if any or of one file."""
    pairs = combinations(range(len(tallies)), 2)
    shared = Counter({(i, j): 0 for i, j in pairs if tallies[i].file == tallies[j].file})
    for sections, count in standing.items():
        for i in sections:
            tallies[i].num_distinct += count
        for pair in combinations(sorted(sections), 2):
            shared[pair] += count
    return [Leakage(tallies[i], tallies[j], shared[i, j]) for i, j in sorted(shared)]


def total_dropped(tallies: Sequence[Tally]) -> dict[str, Dropped]:
    """What was dropped in all sections, in the order of `REASONS`; of several files, places name theirs."""
    has_several = len({tally.file for tally in tallies}) > 1
    totals: dict[str, Dropped] = {}
    for reason in REASONS:
        for tally in tallies:
            if reason in tally.dropped:
                total, dropped = totals.setdefault(reason, Dropped()), tally.dropped[reason]
                total.count += dropped.count
                prefix = f"{tally.file}, " if has_several else ""
                total.examples += [(prefix + place, text) for place, text in dropped.examples]
                del total.examples[NUM_EXAMPLES:]
    return totals


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shown(value: Any) -> str:
    """The beginning of a value, for a message or a report."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text[: EXAMPLE_LENGTH + 1]).rstrip("\r\n")
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}..."


# --- writing -----------------------------------------------------------------------------------------------


def report_json(imported: Imported) -> str:
    """Everything that is known of an import, as JSON."""
    data = {
        "num_train": len(imported.train),
        "num_held_out": len(imported.held_out),
        "num_read": sum(tally.num_read for tally in imported.tallies),
        "dropped": _dropped_data(total_dropped(imported.tallies)),
        "sections": [
            {
                "file": tally.file,
                "section": tally.section,
                "num_read": tally.num_read,
                "num_kept": tally.num_kept,
                "num_distinct": tally.num_distinct,
                "dropped": _dropped_data(tally.dropped),
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


def _dropped_data(by_reason: dict[str, Dropped]) -> dict[str, Any]:
    return {
        reason: {
            "count": dropped.count,
            "examples": [{"place": place, "text": text} for place, text in dropped.examples],
        }
        for reason, dropped in by_reason.items()
    }


def write_corpus(path: Path, train: Sequence[str], held_out: Sequence[str]) -> None:
    """Writes `{"train": [...], "held_out": [...]}`, one prompt a line, compressed if the name ends in .gz.

    The same prompts give the same bytes. The file is replaced in one step; where that fails, it stays as it
    was.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with temporary.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    packed.writelines(_corpus_lines(train, held_out))
            else:
                raw.writelines(_corpus_lines(train, held_out))
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _corpus_lines(train: Sequence[str], held_out: Sequence[str]) -> Iterator[bytes]:
    for opening, prompts, closing in (('{"train": [', train, "],"), ('"held_out": [', held_out, "]}")):
        yield f"{opening}\n".encode()
        for number, prompt in enumerate(prompts, start=1):
            yield (json.dumps(prompt, ensure_ascii=False) + ",\n"[number == len(prompts) :]).encode()
        yield f"{closing}\n".encode()
