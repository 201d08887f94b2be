"""Makes the prompt corpora of `data/prompts` from our own grammars and word lists, and measures them.

    python -m tools.corpora.make_prompts make [NAME ...] [--out data/prompts]
    python -m tools.corpora.make_prompts check
    python -m tools.corpora.make_prompts stats NAME_OR_FILE [--json]
    python -m tools.corpora.make_prompts sample NAME_OR_FILE [--count 200] [--seed 0]

The corpora are the same byte for byte in every run. Exit status: 0 done, or everything is as stored; 1 a
stored corpus differs (check); 2 a wrong name or file. Needs no torch.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scaledreamer.cli import fail, program
from scaledreamer.prompts.corpus import comparison_key, split_prompts, tinyworld_prompts
from scaledreamer.prompts.prompt_file import check_no_problem, iter_prompt_file, open_bytes
from tools.corpora import daily, lexicon, open_vocabulary

FOLDER = Path(__file__).resolve().parents[2] / "data" / "prompts"
Sections = dict[str, list[str]]

MANY = 50
"""A 5-gram that occurs more often than this counts as frequent."""


# --- making ------------------------------------------------------------------------------------------------


def _split(prompts: Iterable[str], holdout: float) -> Sections:
    """The prompts without those that repeat an earlier one's `comparison_key`, as train and held_out."""
    distinct: dict[str, str] = {}
    for prompt in prompts:
        distinct.setdefault(comparison_key(prompt), prompt)
    train, held_out = split_prompts(list(distinct.values()), holdout)
    return {"train": train, "held_out": held_out}


def _lines(file: str) -> list[str]:
    """Prompts written by hand, one a line."""
    return (lexicon.LEXICON / file).read_text(encoding="utf-8").splitlines()


def make_core() -> Sections:
    """`core_15`."""
    return _split(_lines("core.txt"), 0.2)


def make_showcase() -> Sections:
    """`showcase_400`."""
    return _split(_lines("showcase.txt"), 0.1)


def make_compose() -> Sections:
    """`compose_2500`, with the prompts that hold a held-out pair in a list of their own."""
    prompts = list(daily.compose_prompts())
    return {
        **_split((text for text, is_held_out in prompts if not is_held_out), 0.1),
        "held_out_pairs": [text for text, is_held_out in prompts if is_held_out],
    }


def make_daily() -> Sections:
    """`daily_17k`, sorted, which compresses better."""
    return _split(sorted(daily.daily_prompts()), 0.02)


def open_captions() -> list[open_vocabulary.Caption]:
    """The captions of `open_100k` with their nouns, each `comparison_key` once: by category, then by text.

    Sorting by category compresses better; whoever trains on them shuffles them.
    """
    distinct: dict[str, open_vocabulary.Caption] = {}
    for caption in open_vocabulary.captions():
        distinct.setdefault(comparison_key(caption.text), caption)
        if len(distinct) == open_vocabulary.SIZE:
            break
    return sorted(distinct.values(), key=lambda c: (c.noun.category, c.noun.word, c.text.lower(), c.text))


def make_open() -> Sections:
    """`open_100k`."""
    return _split((caption.text for caption in open_captions()), 0.02)


MAKERS: dict[str, Callable[[], Sections]] = {
    "core_15": make_core,
    "showcase_400": make_showcase,
    "compose_2500": make_compose,
    "daily_17k": make_daily,
    "open_100k": make_open,
}
COMPRESSED = ("daily_17k", "open_100k")
NAMES = (*MAKERS, "tinyworld")


def file_name(name: str) -> str:
    """The file of a corpus in `data/prompts`."""
    return f"{name}.json.gz" if name in COMPRESSED else f"{name}.json"


def encoded(name: str, sections: Sections) -> bytes:
    """The bytes of a corpus's file: JSON with one prompt a line, compressed where the corpus is large."""
    data = (json.dumps(sections, ensure_ascii=False, indent=0) + "\n").encode("utf-8")
    if name not in COMPRESSED:
        return data
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=stream, mtime=0) as file:
        file.write(data)
    return stream.getvalue()


# --- reading and counting ----------------------------------------------------------------------------------


def read_sections(name: str) -> Sections:
    """A corpus by name, or a .json, .json.gz or .txt file of prompts; `held_out` may be empty.

    Of a JSON file whose lists are called `val` and `test`, both are held out. Repetitions are kept.

    Raises: ValueError naming the value and what is accepted.
    """
    if name == "tinyworld":
        return _tinyworld()
    path = FOLDER / file_name(name) if name in MAKERS else Path(name)
    if name not in MAKERS and not path.name.lower().endswith((".json", ".json.gz", ".txt")):
        raise ValueError(
            f"{name}: no such corpus; give one of {', '.join(NAMES)} or a .json, .json.gz or .txt file."
        )
    if path.suffix.lower() == ".txt" and path.exists():
        placed = list(iter_prompt_file(path))
        check_no_problem(str(path), placed)
        return {"train": [prompt for _, prompt, _ in placed], "held_out": []}
    try:
        with open_bytes(path) as stream:
            found = json.loads(stream.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; give one of {', '.join(NAMES)} or a file that exists."
        ) from None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise ValueError(f"{path}: cannot be read as prompts ({reason}).") from None
    if isinstance(found, list):
        found = {"train": found}
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(prompts, list) and all(isinstance(p, str) for p in prompts) for prompts in lists):
        raise ValueError(
            f'{path}: expected lists of prompts: [...] or {{"train": [...], "held_out": [...]}}.'
        )
    sections = {"train": found.get("train", [])}
    sections["held_out"] = [p for key in ("held_out", "val", "test") for p in found.get(key, [])]
    if "held_out_pairs" in found:
        sections["held_out_pairs"] = found["held_out_pairs"]
    return sections


def _tinyworld() -> Sections:
    """Training draws of the tinyworld; held out is one caption of each validation and unseen meaning."""
    from scaledreamer.tinyworld import grammar

    meanings = (*grammar.meanings_of("validation"), *grammar.meanings_of("unseen"))
    return {"train": tinyworld_prompts(), "held_out": [grammar.caption(meaning) for meaning in meanings]}


def _words(prompt: str) -> list[str]:
    return re.findall(r"[^\s,.;:!?\"()]+", prompt.lower())


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values) or [0]
    places = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    return {name: ordered[round(place * (len(ordered) - 1))] for name, place in places.items()}


def count(sections: Sections, subjects: int | None = None) -> dict[str, Any]:
    """Everything that `stats` shows; words, openings and 5-grams are those of all lists together.

    `duplicates` are prompts of the training list that repeat an earlier one, `overlap` the distinct training
    prompts that are held out too, both after `comparison_key`.
    """
    train, held_out = sections["train"], sections["held_out"]
    pairs = sections.get("held_out_pairs", [])
    train_keys = {comparison_key(prompt) for prompt in train}
    held_out_keys = {comparison_key(prompt) for prompt in (*held_out, *pairs)}
    everything = [*train, *held_out, *pairs]
    words = [_words(prompt) for prompt in everything]
    five_grams = Counter(tuple(w[i : i + 5]) for w in words for i in range(len(w) - 4))
    counts: dict[str, Any] = {
        "train": len(train),
        "held_out": len(held_out),
        "held_out_pairs": len(pairs),
        "duplicates": len(train) - len(train_keys),
        "overlap": len(train_keys & held_out_keys),
        "words": _quantiles([len(prompt.split()) for prompt in everything]),
        "openings": len({tuple(w[:3]) for w in words}),
        "five_grams": five_grams.total(),
        "five_grams_over_50": sum(n for n in five_grams.values() if n > MANY),
        "five_gram_types": len(five_grams),
        "five_gram_types_over_50": sum(n > MANY for n in five_grams.values()),
        "longest_characters": max(map(len, everything), default=0),
    }
    return counts if subjects is None else {**counts, "subjects": subjects}


def subjects_in(prompts: Iterable[str]) -> set[str]:
    """Nouns of the lexicon that are the subject of a prompt, found in the text alone.

    The subject is the noun that begins first among the longest ones, before any clause: `a cup of tea` is one
    noun, and a `chair with a cat` is a chair.
    """
    forms = {
        form.lower(): noun.word for noun in lexicon.nouns() for form in (noun.word, lexicon.plural(noun.word))
    }
    longest = max(len(form.split()) for form in forms)
    clause = re.compile(
        r",| (?:with|featuring|that|wearing|in|on|made|covered|next|under|holding|standing|sitting)\b"
    )
    opening = re.compile(
        r"^.*?\b(?:model|render|rendering|scan|miniature|figure|figurine|statue|sculpture|version|statuette"
        r"|pair|set|stack|pile|group|row|collection|couple) of "
    )
    found = set()
    for prompt in prompts:
        text = opening.sub("", prompt.lower().rstrip("."))
        words = clause.split(text)[0].removesuffix(" 3d model").split()
        spans = ((words[i : i + n], i + n) for n in range(longest, 0, -1) for i in range(len(words) - n + 1))
        hit = next(
            (" ".join(span) for span, end in spans if end == len(words) and " ".join(span) in forms), None
        )
        if hit:
            found.add(forms[hit])
    return found


# --- command line ------------------------------------------------------------------------------------------


def _make(names: Sequence[str], out: Path) -> None:
    unknown = [name for name in names if name not in MAKERS]
    if unknown:
        raise ValueError(f"{unknown[0]}: no corpus to make; accepted are {', '.join(MAKERS)}.")
    out.mkdir(parents=True, exist_ok=True)
    for name in names or MAKERS:
        data = encoded(name, MAKERS[name]())
        (out / file_name(name)).write_bytes(data)
        print(f"{out / file_name(name)}: {len(data)} bytes")


def _check() -> int:
    """Makes every corpus again; the number of those that are not stored as they are made."""
    differing = 0
    for name, make in MAKERS.items():
        path, sections = FOLDER / file_name(name), make()
        is_same = path.is_file() and json.loads(_plain(path)) == sections
        differing += not is_same
        print(f"{path}: {'as made' if is_same else 'differs from what is made; run make_prompts.py make'}")
    return differing


def _plain(path: Path) -> bytes:
    """The file's JSON; compression may differ between versions of zlib, the text may not."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _show(counts: dict[str, Any]) -> None:
    for name, value in counts.items():
        shown = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else f"{value:,}"
        print(f"{name.replace('_', ' '):24} {shown}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes and measures the prompt corpora of data/prompts.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the corpora")
    make.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}; none is all")
    make.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (data/prompts)")
    commands.add_parser("check", help="make everything again and compare with what is stored")
    stats = commands.add_parser("stats", help="count prompts, words, repetitions")
    stats.add_argument("corpus", metavar="NAME_OR_FILE", help=f"of {', '.join(NAMES)}, or a file")
    stats.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    sample = commands.add_parser("sample", help="print prompts drawn at random")
    sample.add_argument("corpus", metavar="NAME_OR_FILE", help=f"of {', '.join(NAMES)}, or a file")
    sample.add_argument("--count", type=int, default=200, help="how many (200)")
    sample.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    return parser.parse_args(argv)


@program
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _arguments(argv)
    try:
        if arguments.command == "make":
            _make(arguments.names, arguments.out)
        elif arguments.command == "check":
            return int(_check() > 0)
        else:
            sections = read_sections(arguments.corpus)
            if arguments.command == "stats":
                prompts = itertools.chain.from_iterable(sections.values())
                counts = count(
                    sections, len(subjects_in(prompts)) if arguments.corpus == "open_100k" else None
                )
                if arguments.json:
                    print(json.dumps(counts))
                else:
                    _show(counts)
            else:
                if arguments.count < 1:
                    raise ValueError(f"--count: got {arguments.count}; accepted are whole numbers from 1.")
                prompts = [prompt for part in sections.values() for prompt in part]
                drawn = random.Random(arguments.seed).sample(prompts, min(arguments.count, len(prompts)))
                print("\n".join(drawn))
    except ValueError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
