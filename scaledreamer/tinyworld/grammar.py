"""Meanings of the tinyworld, their captions, and the splits that apply to the training of everything.

A *meaning* is one object: a kind, its colour, optionally the colour of its named part, a pattern, something
it wears and something it stands on. If a caption does not mention a colour, the kind's canonical colour is
meant, so a caption has exactly one meaning and a meaning at least two captions.

Splits depend on a stable hash of the meaning alone, never on a random state.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black")
PATTERNS = ("striped", "spotted")
WEARS = ("hat", "scarf", "crown")
SUPPORTS = ("box", "plate")
MAX_EXTRAS = 2
SPLITS = ("seen", "validation", "unseen", "unseen_pairs")


@dataclass(frozen=True)
class Kind:
    """The grammar of a kind of object; its shape is in `tinyworld.objects`."""

    name: str
    color: str
    part: str | None = None
    part_color: str | None = None
    has_front: bool = False
    is_creature: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("frog", "green", "eyes", "white", True, True),
        Kind("tree frog", "green", "eyes", "orange", True, True),
        Kind("cat", "orange", "eyes", "green", True, True),
        Kind("rabbit", "white", "eyes", "pink", True, True),
        Kind("bird", "blue", "wings", "cyan", True, True),
        Kind("turtle", "green", "shell", "orange", True, True),
        Kind("elephant", "purple", "ears", "pink", True, True),
        Kind("snowman", "white", "buttons", "black", True, True),
        Kind("robot", "cyan", "eyes", "yellow", True, True),
        Kind("car", "red", "wheels", "black", True),
        Kind("house", "white", "roof", "red", True),
        Kind("mug", "white", "handle", "blue"),
        Kind("teapot", "yellow", "lid", "pink"),
        Kind("chair", "orange", "legs", "black", True),
        Kind("mushroom", "red", "stem", "white"),
        Kind("tree", "green", "trunk", "orange"),
        Kind("rocket", "white", "fins", "red"),
        Kind("ball", "red"),
        Kind("cube", "blue"),
        Kind("cone", "orange"),
        Kind("cylinder", "yellow"),
        Kind("donut", "pink"),
    )
}


@dataclass(frozen=True, order=True)
class Meaning:
    """One object of the world. `part_color` is None for kinds without a named part and always set for the
    others."""

    kind: str
    color: str
    part_color: str | None = None
    pattern: str | None = None
    wear: str | None = None
    wear_color: str | None = None
    support: str | None = None
    support_color: str | None = None

    @property
    def key(self) -> str:
        """Stable text form, the input of every hash."""
        return "|".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


@dataclass(frozen=True)
class Extras:
    """How often attributes beyond kind and colour are mentioned; the numbers are relative weights.

    Attributes:
        count: weights of 0, 1 and 2 attributes.
        part, pattern, wear, support: weights of each attribute, if it applies.
    """

    count: Sequence[float] = (0.2, 0.4, 0.4)
    part: float = 1.0
    pattern: float = 1.0
    wear: float = 1.0
    support: float = 1.0

    def draw(self, rng: random.Random, kind: Kind) -> list[str]:
        """Distinct attributes to mention for an object of a kind."""
        slots = ["pattern", "support"] + ["part"] * (kind.part is not None) + ["wear"] * kind.is_creature
        weights = {name: getattr(self, name) for name in slots if getattr(self, name) > 0}
        number = min(rng.choices(range(len(self.count)), self.count)[0], len(weights))
        if len(set(weights.values())) == 1:  # what the splits' training data was drawn with
            return rng.sample(list(weights), number)
        said: list[str] = []
        while len(said) < number:
            said += rng.choices(list(weights), list(weights.values()))
            del weights[said[-1]]
        return said


ATTRIBUTES = tuple(f.name for f in fields(Meaning) if f.name != "kind")
MISSION = Meaning("tree frog", "green", part_color="red")
"""The meaning of "a red-eyed tree frog", held out by name."""


def part_colors(kind: Kind) -> tuple[str | None, ...]:
    """Colours that the named part of a kind can have; None for a kind without one."""
    return COLORS if kind.part else (None,)


def num_extras(meaning: Meaning) -> int:
    """Number of attributes beyond kind and colour: part colour, pattern, wear, support."""
    kind = KINDS[meaning.kind]
    return _num_extras(kind, meaning.part_color, meaning.pattern, meaning.wear, meaning.support)


def _num_extras(kind: Kind, part_color: str | None, *said: str | None) -> int:
    return (part_color != kind.part_color) + len(said) - said.count(None)


def is_valid(meaning: Meaning) -> bool:
    """Whether the meaning belongs to the world: known words, complete pairs, at most `MAX_EXTRAS` extras."""
    kind = KINDS.get(meaning.kind)
    return (
        kind is not None
        and meaning.color in COLORS
        and meaning.part_color in part_colors(kind)
        and meaning.pattern in (None, *PATTERNS)
        and (meaning.wear is None or (kind.is_creature and meaning.wear in WEARS))
        and (meaning.support is None or meaning.support in SUPPORTS)
        and (meaning.wear is None) == (meaning.wear_color is None)
        and (meaning.support is None) == (meaning.support_color is None)
        and meaning.wear_color in (None, *COLORS)
        and meaning.support_color in (None, *COLORS)
        and num_extras(meaning) <= MAX_EXTRAS
    )


@cache
def meanings_of_kind(name: str) -> tuple[Meaning, ...]:
    """Every meaning of one kind, in a fixed order."""
    kind = KINDS[name]
    wears = [(None, None), *itertools.product(WEARS, COLORS)] if kind.is_creature else [(None, None)]
    supports = [(None, None), *itertools.product(SUPPORTS, COLORS)]
    choices = itertools.product(COLORS, part_colors(kind), (None, *PATTERNS), wears, supports)
    return tuple(
        Meaning(name, color, part_color, pattern, *wear, *support)
        for color, part_color, pattern, wear, support in choices
        if _num_extras(kind, part_color, pattern, wear[0], support[0]) <= MAX_EXTRAS
    )


def all_meanings() -> tuple[Meaning, ...]:
    """Every meaning of the world, kind by kind."""
    return tuple(itertools.chain.from_iterable(meanings_of_kind(name) for name in KINDS))


# --- splits ------------------------------------------------------------------------------------------------


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def attribute_pairs(meaning: Meaning) -> list[tuple[str, str, str]]:
    """The (kind, attribute, value) pairs of a meaning, without canonical colours."""
    kind = KINDS[meaning.kind]
    canonical = {"color": kind.color, "part_color": kind.part_color}
    values = ((name, getattr(meaning, name)) for name in ATTRIBUTES)
    return [(kind.name, name, value) for name, value in values if value not in (None, canonical.get(name))]


@cache
def is_unseen_pair(kind: str, attribute: str, value: str) -> bool:
    """Whether this pair is excluded from training: 5 % of all pairs, never (tree frog, red eyes)."""
    if (kind, attribute, value) == (MISSION.kind, "part_color", MISSION.part_color):
        return False
    return _unit_hash(f"pair|{kind}|{attribute}|{value}") < 0.05


@cache
def split_of(meaning: Meaning) -> str:
    """The split of a meaning: "seen" (training), "validation" (1/20), "unseen" (1/10) or "unseen_pairs"."""
    if meaning == MISSION:
        return "unseen"
    if any(is_unseen_pair(*pair) for pair in attribute_pairs(meaning)):
        return "unseen_pairs"
    u = _unit_hash(meaning.key)
    return "validation" if u < 0.05 else "unseen" if u < 0.15 else "seen"


@cache
def meanings_of(split: str) -> tuple[Meaning, ...]:
    """All meanings of one split, in the order of `all_meanings`."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; accepted are {', '.join(SPLITS)}.")
    return tuple(meaning for meaning in all_meanings() if split_of(meaning) == split)


@cache
def has_geometry(split: str, kind: str, wear: str | None = None, support: str | None = None) -> bool:
    """Whether some meaning of a split has this geometry."""
    wear_colors, support_colors = (COLORS if thing else (None,) for thing in (wear, support))
    choices = itertools.product(
        COLORS, part_colors(KINDS[kind]), (None, *PATTERNS), wear_colors, support_colors
    )
    meanings = (
        Meaning(kind, color, part_color, pattern, wear, wear_color, support, support_color)
        for color, part_color, pattern, wear_color, support_color in choices
    )
    return any(num_extras(meaning) <= MAX_EXTRAS and split_of(meaning) == split for meaning in meanings)


def sample_meaning(
    rng: random.Random,
    split: str | None = "seen",
    kinds: tuple[str, ...] = tuple(KINDS),
    extras: Extras = Extras(),
) -> Meaning:
    """Draws a meaning uniformly over kinds and then by the number of extras, rather than over all meanings.

    Most of all meanings are creatures with two extras; a uniform draw would hardly ever give a plain cube.

    Args:
        split: the split it has to be in; None is any.
        kinds: kinds to choose from; a kind listed twice is drawn twice as often.
        extras: how often attributes beyond kind and colour are mentioned.
    """
    while True:
        kind = KINDS[rng.choice(kinds)]
        said = extras.draw(rng, kind)
        meaning = Meaning(kind.name, rng.choice((*COLORS, kind.color)), kind.part_color)
        if "part" in said:
            meaning = replace(meaning, part_color=rng.choice(COLORS))
        if "pattern" in said:
            meaning = replace(meaning, pattern=rng.choice(PATTERNS))
        if "wear" in said:
            meaning = replace(meaning, wear=rng.choice(WEARS), wear_color=rng.choice(COLORS))
        if "support" in said:
            meaning = replace(meaning, support=rng.choice(SUPPORTS), support_color=rng.choice(COLORS))
        if split is None or split_of(meaning) == split:
            return meaning


# --- captions ----------------------------------------------------------------------------------------------


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _subjects(meaning: Meaning) -> list[str]:
    """Noun phrases with the part's colour before or after the noun; canonical colours may be omitted."""
    kind = KINDS[meaning.kind]
    colors = [f"{meaning.color} "] + ([""] if meaning.color == kind.color else [])
    patterns = [("", "")]
    if meaning.pattern:
        noun = {"striped": "stripes", "spotted": "spots"}[meaning.pattern]
        patterns = [(f"{meaning.pattern} ", ""), ("", f" with {noun}")]
    parts = [("", "")]
    if kind.part and meaning.part_color != kind.part_color:
        parts = [("", f" with {meaning.part_color} {kind.part}")]
        if kind.part == "eyes":
            parts.insert(0, (f"{meaning.part_color}-eyed ", ""))
        if kind.part in ("handle", "lid", "roof", "shell", "stem", "trunk"):
            parts = [
                (
                    "",
                    f" with {_article(f'{meaning.part_color} {kind.part}')}",
                )
            ]
    phrases = []
    for color, (before, after), (part_before, part_after) in itertools.product(colors, patterns, parts):
        tail = (
            f"{after} and{part_after.removeprefix(' with')}" if after and part_after else after + part_after
        )
        phrases.append(_article(f"{part_before}{before}{color}{meaning.kind}") + tail)
    return phrases


@cache
def captions(meaning: Meaning) -> tuple[str, ...]:
    """All captions of a meaning, the plainest first; at least two."""
    wears, supports = [""], [""]
    if meaning.wear and meaning.wear_color:
        thing = _article(f"{meaning.wear_color} {meaning.wear}")
        wears = [f" wearing {thing}", f" in {thing}"]
    if meaning.support and meaning.support_color:
        thing = _article(f"{meaning.support_color} {meaning.support}")
        supports = [f" on {thing}", f" on top of {thing}", f" standing on {thing}"]
    said = [
        subject + wear + support for subject in _subjects(meaning) for wear in wears for support in supports
    ]
    return tuple(said) + tuple(f"{text[2:].lstrip()}" for text in said)


def caption(meaning: Meaning, variant: int = 0) -> str:
    """One caption of a meaning; `variant` is an index into `captions` that wraps around."""
    said = captions(meaning)
    return said[variant % len(said)]


def normalise(text: str) -> str:
    """A caption in lower case, with single spaces, and without final full stop and leading article."""
    words = text.lower().strip().rstrip(".").split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


def parse(text: str) -> Meaning | None:
    """The meaning of a caption, or None if it is not in the grammar."""
    words = normalise(text).replace("-eyed", " eyed").split()
    values: dict[str, str | None] = {}

    def take(count: int) -> list[str]:
        taken, words[:] = words[:count], words[count:]
        return taken

    while words and words[0] in (*COLORS, *PATTERNS):
        word = take(1)[0]
        if words[:1] == ["eyed"]:
            take(1)
            values["part_color"] = word
        else:
            values["pattern" if word in PATTERNS else "color"] = word
    kind = next((k for size in (2, 1) if (k := KINDS.get(" ".join(words[:size])))), None)
    if kind is None:
        return None
    take(len(kind.name.split()))
    while words:
        words[:] = [w for w in words if w not in ("a", "an", "and", "with")]
        if not words:
            return None
        if words[0] in ("stripes", "spots"):
            values["pattern"] = {"stripes": "striped", "spots": "spotted"}[take(1)[0]]
        elif words[0] in COLORS and words[1:2] == [kind.part]:
            values["part_color"] = take(2)[0]
        elif words[0] in ("wearing", "in") and len(words) >= 3 and words[2] in WEARS:
            _, values["wear_color"], values["wear"] = take(3)
        elif words[0] in ("on", "standing"):
            while words and words[0] in ("standing", "on", "top", "of"):
                take(1)
            if len(words) < 2:
                return None
            values["support_color"], values["support"] = take(2)
        else:
            return None
    values = {"color": kind.color, "part_color": kind.part_color} | values
    meaning = Meaning(kind.name, **values)  # type: ignore[arg-type]
    return meaning if is_valid(meaning) else None


@cache
def vocabulary() -> frozenset[str]:
    """All words of captions, split at hyphens."""
    words = {
        "a",
        "an",
        "the",
        "and",
        "with",
        "on",
        "top",
        "of",
        "standing",
        "wearing",
        "in",
        "eyed",
        "stripes",
        "spots",
    }
    words.update(COLORS, PATTERNS, WEARS, SUPPORTS)
    for kind in KINDS.values():
        words.update(kind.name.split())
        words.update([kind.part] if kind.part else [])
    return frozenset(words)
