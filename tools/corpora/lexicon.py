"""The nouns and word lists of data/lexicon, and the plurals of the nouns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.corpora.templates import read_blocks, read_lists

LEXICON = Path(__file__).resolve().parents[2] / "data" / "lexicon"


@dataclass(frozen=True)
class Noun:
    """A line of `data/lexicon/nouns.tsv`."""

    word: str
    category: str
    is_common: bool
    is_plural: bool


@cache
def nouns() -> tuple[Noun, ...]:
    """The lexicon, in the order of its file."""
    lines = (LEXICON / "nouns.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return tuple(
        Noun(word, category, use == "common", number == "plural") for word, category, use, number, _ in rows
    )


@cache
def common() -> dict[str, list[str]]:
    """The lists that every category may name."""
    text = read_blocks((LEXICON / "common.txt").read_text(encoding="utf-8"))[""]
    numbers = [*range(1, 25), 27, 33, 42, 45, 51, 64, 66, 72, 77, 88, 95, 99]
    return {
        **read_lists(text),
        "number": [str(number) for number in numbers],
        "mat": [],
        "adj": [],
        "part": [],
    }


@cache
def lists() -> dict[str, dict[str, list[str]]]:
    """The word lists of each category, each with the common ones; `family` names its family."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in ("creatures.txt", "things.txt"):
        for head, body in read_blocks((LEXICON / file).read_text(encoding="utf-8")).items():
            name, family, *parent = head.replace("<", "").split()
            own = read_lists(body)
            clothes = own.pop("wear", [])
            inherited = found[parent[0]] if parent else {}
            found[name] = {**common(), **inherited, **own, "clothes": clothes, "family": [family]}
    return found


_IRREGULAR = {
    **{"mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "wolf": "wolves", "ox": "oxen"},
    **{
        "knife": "knives",
        "shelf": "shelves",
        "leaf": "leaves",
        "loaf": "loaves",
        "calf": "calves",
        "elf": "elves",
    },
    **{"dwarf": "dwarves", "child": "children", "die": "dice", "scarf": "scarves", "hoof": "hooves"},
    **{"half": "halves", "elf": "elves", "bookshelf": "bookshelves", "human": "humans"},
    **{
        w: w for w in ("sheep", "deer", "moose", "bison", "aircraft", "spacecraft", "dice", "salmon", "trout")
    },
    **{w: w for w in ("squid", "shrimp", "koi", "samurai", "armor")},
    **{
        w: w + "es"
        for w in ("tomato", "potato", "mosquito", "buffalo", "volcano", "mango", "domino", "torpedo")
    },
}


def plural(noun: str) -> str:
    """The plural of a noun of the lexicon; a phrase such as "bowl of soup" bends before its "of"."""
    for link in (" of ", " in ", " on ", " and ", " with "):
        if link in noun:
            head, _, rest = noun.partition(link)
            return f"{plural(head)}{link}{rest}"
    before, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        bent = _IRREGULAR[last]
    elif last.endswith("man"):
        bent = last[:-3] + "men"
    elif last.endswith("fish"):
        bent = last
    elif re.search(r"[^aeiou]y$", last):
        bent = last[:-1] + "ies"
    else:
        bent = last + ("es" if re.search(r"(s|x|z|ch|sh)$", last) else "s")
    return f"{before} {bent}".strip()
