"""Prompt corpora: read and validate files, split them by stable hash, and take prompts from the tinyworld.

Needs no torch. A corpus is a list of prompts without repetitions, in the order of its file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scaledreamer.prompts.check import check_prompt

SHIPPED = tuple(
    folder / "data" / "prompts" for folder in (Path(__file__).parents[2], Path(__file__).parents[1])
)
"""Where corpora of our own lie: in the repository, or in an installed package."""
NAMES = ("core_15", "showcase_400", "compose_2500", "daily_17k", "open_100k")
"""The corpora that come with the package, apart from the tinyworld's."""
TO_IMPORT = (".jsonl", ".csv", ".tsv", ".parquet", ".tar")


def corpus_file(name: str) -> Path:
    """The file of a corpus that comes with the package.

    Raises: ValueError for an unknown name, or if the file is missing.
    """
    if name not in NAMES:
        raise ValueError(
            f"prompts.name: got {name!r}; accepted are 'tinyworld', {', '.join(map(repr, NAMES))}."
        )
    for folder in SHIPPED:
        for ending in (".json", ".json.gz"):
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise ValueError(
        f"prompts.name: the corpus {name!r} is not in {SHIPPED[0]}; make it with "
        f"`python tools/make_prompts.py make {name}`."
    )


def read_prompts(path: str | Path, section: str = "train") -> list[str]:
    """Reads a corpus: a text file with one prompt a line, or JSON with a list or `{"train": [...], ...}`.

    Blank lines and lines starting with # are no prompts; prompts are stored as `normalize_prompt` gives them;
    repetitions are dropped.

    Args:
        path: the file, UTF-8; may be compressed (.gz).
        section: which list of a JSON mapping.
    Raises: ValueError naming the file, what is wrong with it and where.
    """
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in TO_IMPORT:
        raise ValueError(
            f"{path}: {suffix} files are not read directly; make a corpus of it with "
            f"`python tools/import_prompts.py {path} --out corpus.json.gz`."
        )
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read ({_reason(error)}); give a .txt or .json file of prompts."
        ) from None
    if suffix == ".json":
        places = [(f"entry {i}", prompt) for i, prompt in enumerate(_json_list(path, text, section))]
    else:
        lines = ((f"line {i}", line) for i, line in enumerate(text.splitlines(), start=1))
        places = [
            (place, line) for place, line in lines if line.strip() and not line.lstrip().startswith("#")
        ]
    prompts = _validated(path, places)
    if not prompts:
        raise ValueError(f"{path}: no prompts in it; give one prompt a line.")
    return prompts


def _json_list(path: Path, text: str, section: str) -> list[Any]:
    try:
        data = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({_reason(error)}).") from None
    if isinstance(data, dict):
        if section not in data:
            raise ValueError(
                f"{path}: no list {section!r} in it; it has {', '.join(map(repr, data)) or 'nothing'}."
            )
        data = data[section]
    if not isinstance(data, list):
        raise ValueError(f'{path}: expected a list of prompts, or a mapping {{"{section}": [...]}}.')
    return data


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json`'s object_pairs_hook: a mapping, refused if it names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return found


def _validated(path: Path, places: Iterable[tuple[str, Any]]) -> list[str]:
    """Prompts with single blanks, each once, in order."""
    prompts: dict[str, None] = {}
    for place, prompt in places:
        if not isinstance(prompt, str):
            raise ValueError(f"{path}: {place} is {prompt!r}, not a text.")
        prompt = normalize_prompt(prompt)
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"{path}: {place}: {error}.") from None
        prompts.setdefault(prompt)
    return list(prompts)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__)


def normalize_prompt(text: str) -> str:
    """A prompt as it is stored: Unicode NFC, no control characters, runs of white space as one blank."""
    visible = "".join(" " if unicodedata.category(c) == "Cc" or c in "\ufeff\u200b" else c for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def comparison_key(prompt: str) -> str:
    """What two prompts share if they ask for the same thing: compatibility forms (NFKC), case, punctuation
    and white space are ignored."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    kept = (" " if unicodedata.category(c)[0] in "CPZ" else c for c in folded)
    return " ".join("".join(kept).split()) or folded.strip()


def split_prompts(prompts: Sequence[str], holdout: float) -> tuple[list[str], list[str]]:
    """Splits a corpus into training and held-out prompts by a stable hash of each prompt's `comparison_key`.

    Args:
        holdout: fraction in [0, 1) to hold out.
    Returns: (train, held out); a prompt's side depends on the prompt alone, so it holds for corpora that
        grow, and prompts that differ in case or punctuation are on the same side.
    """
    train: list[str] = []
    held_out: list[str] = []
    for prompt in prompts:
        key = comparison_key(prompt).encode("utf-8", "replace")
        is_held_out = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64 < holdout
        (held_out if is_held_out else train).append(prompt)
    return train, held_out


def tinyworld_prompts(
    *, kinds: Sequence[str] | None = None, max_extras: int = 2, limit: int | None = None, size: int = 20_000
) -> list[str]:
    """Training prompts of the tinyworld: captions of meanings of its `seen` split.

    Meanings are drawn evenly over kinds and over the number of extras (part colour, pattern, wearing,
    support), since a plain list of them is mostly creatures with two extras; each is said in a random way.
    The draw is the same in every run.

    Args:
        kinds: only these kinds; None is all.
        max_extras: things said beyond kind and colour.
        limit: train on this many distinct meanings, each said in eight random ways; None is all that are
            drawn.
        size: number of draws, repetitions included.
    Raises: ValueError for an unknown kind.
    """
    from scaledreamer.tinyworld import grammar

    unknown = [kind for kind in kinds or () if kind not in grammar.KINDS]
    if unknown:
        raise ValueError(f"prompts.kinds: got {unknown[0]!r}; accepted are {', '.join(grammar.KINDS)}.")
    rng = random.Random("tinyworld prompts")
    chosen = tuple(kinds or grammar.KINDS)
    drawn: list[grammar.Meaning] = []
    distinct: dict[grammar.Meaning, None] = {}
    for _ in range(10 * size):
        if len(drawn) == size or len(distinct) == limit:
            break
        meaning = grammar.sample_meaning(rng, "seen", chosen)
        if grammar.num_extras(meaning) <= max_extras:
            drawn.append(meaning)
            distinct.setdefault(meaning)
    if limit is not None:
        drawn = list(distinct) * 8
    return [rng.choice(grammar.captions(meaning)) for meaning in drawn]
