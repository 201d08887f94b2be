"""The grammar of `open_100k`: descriptions of single objects in the manner of captions of 3D models.

A caption is a noun of the lexicon with adjectives before it, an opening such as "3D model of a", and clauses
after it (parts, clothes, finish, pose or place) until it has about as many words as were drawn for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tools.corpora.lexicon import Noun, common, lists, nouns, plural
from tools.corpora.templates import Lists, expand, pick, with_articles

SIZE = 102_300
"""Prompts that are made, before the split."""

# fmt: off
LENGTHS = (
    14, 34, 50, 60, 76, 92, 102, 106, 104, 96, 88, 74, 58, 44,
    32, 22, 16, 12, 9, 6, 4, 3, 2, 1.5, 1, 0.7, 0.5, 0.3,
)
# fmt: on
"""Weights of captions of 3, 4, ... 30 words, after the spread of real prompt libraries."""

HUE_WEIGHTS = {
    **dict.fromkeys(("room", "terrain", "drink", "dish", "hotdrink", "fruit", "vegetable"), 0.0),
    **dict.fromkeys(("person", "child", "fighter", "folk_myth"), 0.0),
    **{"house": 0.35, "building": 0.2, "structure": 0.15, "opening": 0.5, "tree": 0.4, "plant": 0.15},
    **{
        "cake": 0.15,
        "bottled": 0.2,
        "bread": 0.5,
        "book": 0.7,
        "paper": 0.3,
        "cannon": 0.3,
        "sculpture": 0.5,
    },
    **{"bust": 0.4, "specimen": 0.4, "machine": 0.6, "optical": 0.4},
}
"""How often a noun of a category gets a color, against 1 of the others: fruit and people have their own."""

_CONIFERS = re.compile(
    "pine|fir|spruce|cedar|cypress|redwood|sequoia|larch|hemlock|yew|juniper|christmas|palm|puzzle"
)
_SERVED = re.compile("bowl|plate|can|jar|tin|cup|soup|pho|fondue|paella|risotto")
_HOLY = re.compile(
    "church|cathedral|temple|mosque|chapel|abbey|shrine|monastery|synagogue|tomb|pyramid|castle|basilica"
)
_FRUIT_TREES = re.compile(
    "apple|lemon|orange|peach|pear|plum|fig|mango|banana|cherry|olive|avocado|pomegran|mulb"
)
_FEMALE = re.compile(
    "woman|girl|princess|queen|witch|female|maid|bride|mother|lady|ess$|goddess|nymph|fairy|geisha"
)
_TOWNS = re.compile(
    "city|street|square|parking|market|airport|stadium|crossroads|court|track|battlefield|quarry|mine"
)
_FOR_LIQUIDS = re.compile(
    "bottle|flask|vial|beaker|tube|jar|bowl|bucket|pitcher|jug|cauldron|carafe|decanter|tub|basin|pot$"
)
_FOR_THINGS = re.compile(
    "basket|bowl|bucket|barrel|jar|pot$|crate|box|pail|hamper|tub|cask|urn|vase|trough|bin$|carton|planter"
)


@dataclass(frozen=True)
class Caption:
    """A prompt with the noun that it describes."""

    text: str
    noun: Noun


@cache
def _words_of(name: str) -> frozenset[str]:
    return frozenset(common()[name])


# --- one caption -------------------------------------------------------------------------------------------


def _words(text: str) -> set[str]:
    return set(re.split(r"[^a-z]+", text.lower())) | set(text.lower().split())


class _Draw:
    """One caption in the making: its noun, the lists of its category, and what has been said."""

    def __init__(self, noun: Noun, rng: random.Random, target: int) -> None:
        self.noun, self.rng, self.target = noun, rng, target
        self.lists: Lists = lists()[noun.category]
        self.family = self.lists["family"][0]
        self.used = _words(noun.word)
        self.templates: set[str] = set()
        self.has_material = self.has_hue = self.has_with = self.has_beside = False
        self.is_plain = self.is_covered = self.is_many = False

    def choose(self, name: str) -> str:
        """An entry of a list, expanded."""
        return expand(pick(self.rng, self.lists[name]), self.rng, self.lists)

    def one(self, name: str) -> str:
        """A new entry of a list, none of whose longer words the caption has; "" if none is found."""
        entries = self.lists[name]
        for _ in range(6 if entries else 0):
            template = pick(self.rng, entries)
            text = expand(template, self.rng, self.lists)
            words = {word for word in _words(text) if len(word) > 3}
            if template not in self.templates and not words & self.used and self.fits(text):
                self.used |= words
                self.templates.add(template)
                return text
        return ""

    def fits(self, text: str) -> bool:
        """Whether the noun can be what the words say."""
        noun, category = self.noun.word, self.noun.category
        if re.search(r"\b(\w+) and \1\b", text) or self.has_with and text.startswith("with "):
            return False  # "white and white"; "with a door with a window"
        if self.is_covered and text.startswith(("filled", "covered")):
            return False
        if self.family == "food" and re.search("(pile|patch) of|rock|stone|crate|bench|rug|carpet", text):
            return False
        if (
            category == "dish"
            and _SERVED.match(noun)
            and re.search("crisp|grill|half-eaten|bite|pickle", text)
        ):
            return False
        if category == "cake" and "candle" in text and not re.search("cake|pie|donut|pudding|tart", noun):
            return False
        if category == "building" and _HOLY.search(noun) and re.search("neon|parking|awning|solar", text):
            return False
        if category == "tree" and _CONIFERS.search(noun) and re.search("bloss|flower|fruit|leaves", text):
            return False
        if category == "tree" and "fruit" in text and not _FRUIT_TREES.search(noun):
            return False
        if self.family == "being" and _FEMALE.search(noun) and re.search("beard|mustache", text):
            return False
        if category == "terrain" and _TOWNS.search(noun) and re.search("sheep|boat|dock|mush", text):
            return False
        if text.startswith("half filled") and category in ("vessel", "boxlike"):
            return bool(_FOR_LIQUIDS.search(noun))
        if text.startswith("filled with") and category in ("vessel", "boxlike"):
            return bool(_FOR_THINGS.search(noun))
        return True

    def adjectives(self, count: int) -> list[str]:
        """Up to `count` adjectives: an opinion, size or state, then a color, then a material."""
        is_phrase = " of " in self.noun.word
        weights = {"adj": 1.0, "hue": HUE_WEIGHTS.get(self.noun.category, 1.0), "mat": 0.75}
        if is_phrase or _words_of("materials") & self.used or not self.lists["mat"]:
            weights["mat"] = 0.0
        if is_phrase or _words_of("colored") & self.used or not self.lists["hue"]:
            weights["hue"] = 0.0
        chosen: dict[str, str] = {}
        while len(chosen) < count and any(weights.values()):
            remaining = sum(weights.values()) * self.rng.random()
            name = next(n for n, weight in weights.items() if (remaining := remaining - weight) < 0)
            weights[name] = 0.0
            if word := self.one(name):
                chosen[name] = word
        if "mat" in chosen and "hue" in chosen:  # "black and white wooden", "red silver"
            is_colored = _words_of("colored") & _words(chosen["mat"])
            if is_colored or " and " in chosen["hue"]:
                del chosen["hue"]
        self.has_material = "mat" in chosen or bool(_words_of("materials") & self.used)
        self.has_hue = "hue" in chosen or bool(_words_of("colored") & self.used)
        return [chosen[name] for name in ("adj", "hue", "mat") if name in chosen]

    def parts(self, count: int) -> str:
        """Parts that the thing has, as "a, b and c"."""
        found = [part for part in (self.one("part") for _ in range(count)) if part]
        last = ("it", "back", "top", "sides", "inside", "front", "chest", "cover")
        found.sort(key=lambda part: part.endswith(last))
        if len(found) > 2:
            comma = "," if self.rng.random() < 0.6 else ""
            return f"{', '.join(found[:-1])}{comma} and {found[-1]}"
        return " and ".join(found)


def _subject(draw: _Draw) -> str:
    """The head of the caption: number or opening, adjectives, noun."""
    rng, noun, roll = draw.rng, draw.noun, draw.rng.random()
    if draw.target <= 4:
        count = 1 if roll < 0.6 else 2
    else:
        count = 0 if roll < 0.12 else 1 if roll < 0.5 else 2 if roll < 0.9 else 3
    adjectives = draw.adjectives(count)
    one, many = (" ".join([*adjectives, word]) for word in (noun.word, plural(noun.word)))
    if noun.is_plural:
        roll = rng.random()
        if roll < 0.4 and noun.category in ("tool", "utensil", "bottoms", "accessory", "eyewear", "optical"):
            return f"a pair of {one}"
        return one if roll < 0.8 else f"3D model of {one}"
    draw.is_many = True
    if noun.word in _words_of("stacked") and rng.random() < 0.3:
        return f"{draw.choose('stacks')} {many}"
    chance = (
        0.0 if draw.family == "scene" else 0.02 if draw.family in ("being", "vehicle", "building") else 0.07
    )
    if noun.category in ("eel", "winged_myth", "pterosaur", "drink") or " of " in noun.word:
        chance *= 0.3
    if rng.random() < chance:
        is_crowd = draw.family in ("animal", "being", "vehicle", "building")
        return (
            f"{draw.choose('crowd' if is_crowd or noun.category in _words_of('large') else 'numbers')} {many}"
        )
    draw.is_many = False
    return _opened(draw, one)


def _opened(draw: _Draw, phrase: str) -> str:
    """The noun phrase (without article) behind an opening such as "3D model of a"."""
    rng, roll = draw.rng, draw.rng.random()
    styles = [] if any(style in phrase for style in draw.lists["style"]) else draw.lists["style"]
    is_technical = draw.family in ("vehicle", "building") or draw.noun.category in ("robot", "machine", "gun")
    if styles and is_technical and "futuristic" not in phrase:
        styles = [*styles, *draw.lists["future"]]
    kinds = [*draw.lists["kinds"], "model"]
    if draw.family in ("animal", "being"):
        kinds = [*draw.lists["kinds"], *draw.lists["figures"]]
    elif draw.family in ("vehicle", "building"):
        kinds = [*draw.lists["kinds"], *draw.lists["machines"]]
    draw.is_plain = roll < 0.62
    if roll < 0.36 or not styles:
        return f"a~ {phrase}"
    if roll < 0.62:
        return phrase
    if roll < 0.72:
        return f"a~ {pick(rng, styles)} {phrase}"
    if roll < 0.78:
        return f"{pick(rng, styles)} {phrase}"
    if roll < 0.84:
        return f"3D model of a~ {phrase}"
    if roll < 0.87:
        return f"a 3D model of a~ {phrase}"
    if roll < 0.93:
        return f"{pick(rng, kinds)} of a~ {phrase}"
    if roll < 0.97:
        return f"a~ {pick(rng, styles)} {pick(rng, kinds)} of a~ {phrase}"
    return f"{phrase} 3D model" if rng.random() < 0.4 else f"a~ {phrase} 3D model"


def _order(draw: _Draw) -> list[str]:
    """Which clauses follow the subject, in order."""
    rng, family, category = draw.rng, draw.family, draw.noun.category
    is_still = family in ("thing", "food", "plant")
    if draw.is_many:
        tail = {"thing": "place", "food": "place", "plant": "pose", "animal": "group"}.get(family, "pose")
        orders = ["part", f"part {tail}", tail] if is_still else [tail]
    elif category in ("beast_myth", "robot"):
        orders = ["part pose", "pose", "part", "part pose", "wear pose"]
    elif family == "being" and draw.target >= 15:
        orders = ["part wear pose", "wear pose", "part pose"]
    elif family == "being":
        orders = ["wear pose", "wear pose", "part pose", "part wear", "wear", "pose", "part", "pose"]
    elif family == "animal":
        orders = ["pose", "pose", "part", "part pose", "part pose"]
        if category in _words_of("dressed"):
            orders += ["wear pose" if rng.random() < 0.5 else "part wear"]
    elif family == "thing" and category not in _words_of("unfinished"):
        orders = ["part", "part", "part", "part pose", "pose", "part finish", "finish", "finish pose"]
    else:
        orders = ["part", "part", "part pose", "part pose", "pose"]
    return pick(rng, orders).split()


def _clauses(draw: _Draw) -> Iterator[str]:
    """Clauses that may follow the subject."""
    rng, family, room = draw.rng, draw.family, draw.target
    count = 1 + (room >= 9 and rng.random() < 0.65) + (room >= 13 and rng.random() < 0.4) + (room >= 19)
    for index, name in enumerate(_order(draw)):
        if name == "part":
            is_varied = not draw.is_many and family not in ("being", "scene") and rng.random() < 0.25
            verb = pick(rng, ("featuring", "that has")) if is_varied else "with"
            if parts := draw.parts(count):
                draw.has_with = verb == "with"
                yield f"{verb} {parts}"
        elif name == "wear":
            verb = (
                pick(rng, ("wearing", "in", "dressed in")) if family == "being" and index == 0 else "wearing"
            )
            if (
                clothes := draw.one("clothes")
                if draw.lists["clothes"]
                else expand("a~ <hatlike>", rng, draw.lists)
            ):
                yield f"{verb} {clothes}"
        elif name == "finish":
            if finish := _finish(draw):
                draw.is_covered = finish.startswith("covered")
                yield finish
        elif name == "place":
            yield expand("<on> a~ <surface>", rng, draw.lists)
        elif name == "group":
            yield draw.choose("together") if rng.random() < 0.8 else "together"
        elif pose := draw.one("pose"):
            draw.has_with |= pose.startswith("with ")
            draw.has_beside = "next to" in pose
            yield pose
    is_alone = not draw.is_many and not draw.has_beside and family == "thing"
    if room >= 14 and is_alone and rng.random() < 0.3:
        yield draw.choose("beside")


def _finish(draw: _Draw) -> str:
    """What the surface looks like, if that goes with the material and the color that were said."""
    category = draw.noun.category
    is_soft, is_hard = category in _words_of("soft"), category in _words_of("hard")
    for _ in range(3):
        finish = draw.one("softfinish" if is_soft else "hardfinish" if is_hard else "finish")
        is_said = (
            draw.has_material and finish.startswith("made of") or draw.has_hue and finish.startswith("in ")
        )
        if finish and not is_said:
            return finish
    return ""


def _finished(text: str, draw: _Draw) -> str:
    """Spelling, capital letter and full stop as people set them, or not."""
    rng = draw.rng
    if draw.is_many:
        text = re.sub(r"\b(on|around|from|over|with) it\b", r"\1 them", text)
        text = re.sub(r"\bits\b", "their", text)
    if draw.is_plain and rng.random() < 0.06:
        text += f", {draw.choose('endings')}"
    if rng.random() < 0.25:
        text = re.sub(r"\bgray\b", "grey", text)
    roll = rng.random()
    if roll < 0.6:
        text = text[0].upper() + text[1:]
    return text + "." if roll < 0.35 else text


def caption(noun: Noun, rng: random.Random, target: int) -> str:
    """A caption of the noun with about `target` words."""
    draw = _Draw(noun, rng, target)
    text = _subject(draw)
    length = len(text.replace("a~ ", "a ").split())
    for index, clause in enumerate(_clauses(draw)):
        added = len(clause.split())
        is_too_long = length + added > target + 1
        if is_too_long and (index or length >= target - 1):
            continue
        text, length = f"{text} {clause}", length + added
    return _finished(with_articles(text), draw)


def captions(seed: str = "open_100k 1") -> Iterator[Caption]:
    """Captions without end, repetitions included: common nouns three times as often as rare ones."""
    rng = random.Random(seed)
    pool = [noun for noun in nouns() for _ in range(3 if noun.is_common else 1)]
    targets = [length for length, weight in enumerate(LENGTHS, start=3) for _ in range(round(weight * 10))]
    while True:
        noun, target = pick(rng, pool), pick(rng, targets)
        best, error = "", 100
        for _ in range(5):
            text = caption(noun, rng, target)
            if abs(len(text.split()) - target) < error:
                best, error = text, abs(len(text.split()) - target)
            if error <= (target > 12):
                break
        if 3 <= len(best.split()) <= 30:
            yield Caption(best, noun)
