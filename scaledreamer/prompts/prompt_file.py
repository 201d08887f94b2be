"""Prompt files: text with one prompt per line, or JSON, as read by training, inference and tools.

Text: a line ends with "\\n", "\\r\\n" or "\\r". Other separators (U+2028, U+0085, "\\x0b", "\\x0c") are
white space within a line. Blank lines and lines that start with # are ignored.
JSON (.json): a list of strings, or named lists, `{"train": [...], ...}`; every entry is a prompt.
Both are UTF-8, with or without a byte order mark, and may be compressed (.gz). Needs no torch.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scaledreamer.prompt_text import check_prompt, normalize_prompt

TO_IMPORT = (".jsonl", ".csv", ".tsv", ".parquet", ".tar")
"""Formats that only `scaledreamer import-prompts` reads."""
MAX_LINE = 2**24
"""Characters that are read of a line; the rest is skipped, so that memory stays small."""
NOT_UTF8 = "not UTF-8 text; save it as UTF-8"
ByteStream = io.BufferedReader | io.BytesIO | gzip.GzipFile
SURROGATES = re.compile("[\ud800-\udfff]")
"""How bytes that are not UTF-8 are decoded."""
MAX_NAMED = 20
"""Places and reasons that a message lists."""
_IS_NO_PROMPT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff\u200b]*(?:#|\Z)")
_BINARY = (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PAR1", b"PK\x03\x04")


class PlacedPrompt(NamedTuple):
    """One entry of a prompt file.

    Attributes:
        place: for messages: "line 3" of text, "entry 2" of JSON (from 0).
        prompt: normalized by `normalize_prompt`; "" if it is not valid.
        problem: why it is not a valid prompt; "" if it is.
    """

    place: str
    prompt: str
    problem: str = ""


# --- whole files --------------------------------------------------------------------------------------------


def iter_prompt_file(
    path: str | Path, section: str = "train", *, source: str | None = None
) -> Iterator[PlacedPrompt]:
    """All entries of a file in order, including repetitions and entries that are not valid prompts.

    Text is read line by line, whatever its size; JSON is held in memory.

    Args:
        path: .json and .json.gz are JSON, everything else is text.
        section: which list of a JSON mapping.
        source: name of the file in messages, for example "--prompts-file list.txt".
    Raises: ValueError naming the file and what is wrong if it cannot be read as a whole.
    """
    path = Path(path)
    source = str(path) if source is None else source
    suffix = suffix_of(path)
    if suffix in TO_IMPORT:
        raise ValueError(
            f"{source}: {suffix} files are not read directly; make a corpus of it with "
            f"`scaledreamer import-prompts {path} --out corpus.json.gz`."
        )
    try:
        with open_bytes(path) as stream:
            check_is_text(source, stream.peek(1024)[:1024])
            if suffix == ".json":
                yield from _json_prompts(source, stream.read(), section)
            else:
                yield from _text_prompts(stream)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{source}: cannot be read ({_reason(error)}); give a .txt or .json file of prompts."
        ) from None


class FilePrompts:
    """The distinct prompts of a file in order, read again at every iteration and never all in memory.

    Memory holds a 16-byte hash of each prompt and, for JSON, the file.
    Raises: ValueError as `iter_prompt_file`, and, before the first prompt, one that names all entries that
        are not valid prompts.
    """

    def __init__(self, path: str | Path, section: str = "train") -> None:
        self._path, self._section = path, section
        check_no_problem(str(path), iter_prompt_file(path, section))

    def __iter__(self) -> Iterator[str]:
        seen: set[bytes] = set()
        for _, prompt, _ in iter_prompt_file(self._path, self._section):
            key = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield prompt


def prompts_of_text(content: bytes, source: str) -> list[PlacedPrompt]:
    """All entries of a text that does not come from a file, as from `iter_prompt_file`.

    Raises: ValueError if it is binary.
    """
    check_is_text(source, content[:1024])
    return list(_text_prompts(io.BytesIO(content)))


def check_no_problem(source: str, placed: Iterable[PlacedPrompt]) -> None:
    """Raises ValueError naming all entries that are not valid prompts, if there are any."""
    problems = [(place, problem) for place, _, problem in placed if problem]
    if problems:
        raise ValueError(problems_message(source, problems))


def problems_message(source: str, problems: Sequence[tuple[str, str]]) -> str:
    """One line with the place and the reason of each problem, grouped by reason.

    Args:
        problems: (place, reason); at least one.
    """
    by_reason: dict[str, list[str]] = {}
    for place, reason in problems:
        by_reason.setdefault(reason.rstrip("."), []).append(place)
    said = [f"{_listed(places)}: {reason}." for reason, places in list(by_reason.items())[:MAX_NAMED]]
    if len(by_reason) > MAX_NAMED:
        said.append(f"{sum(len(places) for places in list(by_reason.values())[MAX_NAMED:])} more.")
    count = "" if len(by_reason) == 1 else f"{len(problems)} entries cannot be prompts. "
    return f"{source}: {count}{' '.join(said)}"


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - MAX_NAMED} more" if len(places) > MAX_NAMED else ""
    return ", ".join(places[:MAX_NAMED]) + more


# --- parts that the importer shares -------------------------------------------------------------------------


def suffix_of(path: Path) -> str:
    """The extension that determines a file's format, without .gz; .tar for a .tgz file."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return ".tar" if suffix == ".tgz" else suffix


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is compressed with gzip."""
    return path.name.lower().endswith((".gz", ".tgz"))


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The content of a file, decompressed if `is_packed`. All members of a gzip file are read.

    Raises: OSError, and EOFError or zlib.error while a damaged gzip file is read.
    """
    with path.open("rb") as raw:
        if not is_packed(path):
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            try:
                yield stream
            except gzip.BadGzipFile as error:
                if "Not a gzipped file" not in str(error) or stream.tell() == 0:
                    raise
                found = str(error).partition("(")[2].rstrip(")")
                raise gzip.BadGzipFile(
                    f"{found}, which is no gzip data, follows byte {stream.tell():,} of what is unpacked"
                ) from None


def check_is_text(source: str, head: bytes) -> None:
    """Raises ValueError if a file's first bytes are not those of UTF-8 text."""
    if head.startswith(_BINARY) or head.count(0) * 4 > len(head):
        raise ValueError(
            f"{source}: not UTF-8 text, but UTF-16 or a binary file; save it as UTF-8, or rename it after "
            "its format (.txt, .json; .gz where it is compressed)."
        )


def read_lines(stream: ByteStream, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; bytes that are not UTF-8 become surrogates. Lines are cut off after
    MAX_LINE characters.

    Args:
        newline: as in `open`; None ends lines as described at the top of this module.
    """
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=newline)
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE)
        yield number, line
    text.detach()


def prompt_lines(stream: ByteStream) -> Iterator[tuple[int, str]]:
    """`read_lines` without blank lines and comments."""
    return ((number, line) for number, line in read_lines(stream) if not _IS_NO_PROMPT.match(line))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json`'s object_pairs_hook: a mapping, refused if it names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(
            f"the key {next(n for n, count in counts.items() if count > 1)!r} stands in it twice"
        )
    return found


# --- entries ------------------------------------------------------------------------------------------------


def _text_prompts(stream: ByteStream) -> Iterator[PlacedPrompt]:
    for number, line in prompt_lines(stream):
        yield _judged(f"line {number}", line)


def _json_prompts(source: str, content: bytes, section: str) -> Iterator[PlacedPrompt]:
    try:
        data = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not valid JSON ({_reason(error)}).") from None
    if isinstance(data, dict):
        if section not in data:
            names = ", ".join(map(repr, list(data)[:MAX_NAMED])) + ", ..." * (len(data) > MAX_NAMED)
            raise ValueError(f"{source}: no list {section!r} in it; it has {names or 'nothing'}.")
        data = data[section]
    if not isinstance(data, list):
        raise ValueError(f'{source}: expected a list of prompts, or a mapping {{"{section}": [...]}}.')
    for number, entry in enumerate(data):
        yield _judged(f"entry {number}", entry)


def _judged(place: str, value: Any) -> PlacedPrompt:
    if not isinstance(value, str):
        return PlacedPrompt(place, "", f"{reprlib.repr(value)} is not a text")
    if SURROGATES.search(value):
        return PlacedPrompt(place, "", NOT_UTF8)
    prompt = normalize_prompt(value)
    try:
        check_prompt(prompt)
    except ValueError as error:
        return PlacedPrompt(place, "", str(error))
    return PlacedPrompt(place, prompt)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__)
