"""The grammar of `daily_17k`: people of all ages and trades in everyday places, and of `compose_2500`."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tools.corpora.templates import Lists, article, expand, pick, read_blocks, read_lists

DAILY_SIZE = 17_700
"""Prompts that are made, before the split."""

WORDS = Path(__file__).resolve().parents[2] / "data" / "lexicon" / "daily.txt"


@cache
def _blocks() -> dict[str, str]:
    return read_blocks(WORDS.read_text(encoding="utf-8"))


def _cells(line: str) -> list[str]:
    """Cells of a line, split at the bars outside of brackets."""
    cells, depth, start = [], 0, 0
    for position, character in enumerate(line):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            cells.append(line[start:position].strip())
            start = position + 1
    return [*cells, line[start:].strip()]


def _rows(text: str) -> list[list[str]]:
    return [_cells(line) for line in text.strip().splitlines()]


def daily_prompts() -> list[str]:
    """Prompts of `daily_17k`, each once, in the order they are drawn."""
    rng = random.Random("daily_17k 1")
    found: dict[str, None] = {}
    doings, child_doings, trades = (_rows(_blocks()[name]) for name in ("doings", "child_doings", "trades"))
    lists = read_lists(_blocks()["lists"])
    while len(found) < DAILY_SIZE:
        roll = rng.random()
        if roll < 0.24:
            name, activities, places = pick(rng, trades)
            who, activity = name, pick(rng, activities.split("; "))
        elif roll < 0.4:
            activity, places = pick(rng, child_doings)
            who = "<childish>"
        else:
            activity, places = pick(rng, doings)
            who = "<adult>"
        text = _sentence(rng, lists, who, activity, pick(rng, places.split("; ")))
        if 7 <= len(text.split()) <= 22 and "_" not in text:
            found.setdefault(text)
    return list(found)


def _sentence(rng: random.Random, lists: Lists, who: str, activity: str, place: str) -> str:
    mood = "<mood> " if rng.random() < 0.55 else ""
    look = pick(
        rng, (" with <hair>", " with <hair>", " wearing <wear>", " in <inwear>", " wearing <wear>", "")
    )
    if look == " with <hair>" and rng.random() < 0.3:
        look += " and <extra>" if rng.random() < 0.5 else ", wearing <wear>,"
    verb = pick(rng, (" is", " is", " is", "", ""))
    later = " <weather>" if rng.random() < 0.15 else ""
    if look.endswith(",") and not verb:
        verb = " is"
    text = expand(f"a~ {mood}{who}{look}{verb} {activity} {place}{later}", rng, lists)
    words = text.split()
    if len(words) > 3 and len({words[1], words[2], words[3]}) < 3:
        return "_"
    return text[0].upper() + text[1:] if rng.random() < 0.9 else text


# --- compose_2500 ------------------------------------------------------------------------------------------

ANIMALS = (
    "fox",
    "otter",
    "badger",
    "frog",
    "owl",
    "hedgehog",
    "penguin",
    "goat",
    "walrus",
    "koala",
    "moose",
    "turtle",
    "mole",
)
ACTIVITIES = (
    "playing chess",
    "baking bread",
    "watering a cactus",
    "rowing a small boat",
    "painting a fence",
    "beating a drum",
    "reading a map",
    "sweeping leaves",
    "flying a kite",
)
OUTFITS = (
    "a yellow raincoat",
    "a knitted scarf",
    "blue overalls",
    "an astronaut suit",
    "a pirate coat",
    "a chef's hat",
    "a velvet cape",
    "round glasses",
)
MATERIALS = ("carved from wood", "made of clay", "made of blue glass")


def is_held_out_pair(animal: str, other: str) -> bool:
    """Whether only `held_out_pairs` may hold the animal with this activity or outfit: some 6 % of all."""
    digest = hashlib.blake2b(f"compose|{animal}|{other}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < 0.06


def compose_prompts() -> Iterator[tuple[str, bool]]:
    """All prompts of `compose_2500`, each with whether it holds a held-out pair."""
    for animal, activity, outfit, material in itertools.product(ANIMALS, ACTIVITIES, OUTFITS, MATERIALS):
        text = f"{article(animal)} {animal} {activity} and wearing {outfit}, {material}"
        yield text, is_held_out_pair(animal, activity) or is_held_out_pair(animal, outfit)
