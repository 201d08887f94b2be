"""What a generator was trained on, as recorded in its export (`trained_on.json`). Needs no torch.

A text encoder accepts any word that its tokenizer knows, but what a generator can make of it depends on its
training prompts. So prompts are checked against these: their words and, if all training prompts came from the
tinyworld, the combinations that its grammar allows and the training contained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "trained_on.json"


@dataclass(frozen=True)
class World:
    """The part of the tinyworld that the prompts came from.

    Attributes:
        kinds: kinds of objects.
        max_extras: attributes beyond kind and colour.
    """

    kinds: tuple[str, ...]
    max_extras: int


@dataclass(frozen=True)
class TrainedOn:
    """The prompts of a training.

    Attributes:
        corpus: name or file.
        num_prompts: including repetitions.
        words: its words, without the rarest of a large corpus; None if they were not counted.
        world: None unless all prompts are from the tinyworld.
    """

    corpus: str
    num_prompts: int
    words: frozenset[str] | None
    world: World | None = None

    def outside(self, prompt: str) -> str | None:
        """Why a prompt is beyond the training even though all its words are known; None if it is not.

        Combinations are known for the tinyworld only.
        """
        if self.world is None:
            return None
        from scaledreamer.tinyworld import grammar

        meaning = grammar.parse(prompt)
        if meaning is None:
            reason = (
                'the tinyworld has no such caption (one is "a green frog wearing a red hat on a blue box")'
            )
        elif meaning.kind not in self.world.kinds:
            reason = f"it had no {meaning.kind}"
        elif grammar.num_extras(meaning) > self.world.max_extras:
            reason = f"it had no objects with more than {self.world.max_extras} extras"
        else:
            return None
        return f"beyond what this generator was trained on: {reason}; parts may be left out or mixed up"

    def after(self, earlier: TrainedOn | None) -> TrainedOn:
        """The record of a training that started from an earlier one's weights; None if that is unknown."""
        if earlier is None:
            return TrainedOn(self.corpus, self.num_prompts, None)
        world = None
        if self.world and earlier.world:
            kinds = tuple(dict.fromkeys([*earlier.world.kinds, *self.world.kinds]))
            world = World(kinds, max(self.world.max_extras, earlier.world.max_extras))
        words = None if self.words is None or earlier.words is None else self.words | earlier.words
        names = dict.fromkeys([*earlier.corpus.split(", then "), self.corpus])
        return TrainedOn(", then ".join(names), earlier.num_prompts + self.num_prompts, words, world)

    def dumps(self) -> str:
        """As JSON."""
        part: dict[str, Any] = {"corpus": self.corpus, "num_prompts": self.num_prompts}
        if self.world is not None:
            kinds = list(self.world.kinds)
            part["tinyworld"] = {"kinds": kinds, "max_extras": self.world.max_extras}
        return json.dumps(part | {"words": self.words and sorted(self.words)}, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str) -> TrainedOn:
        """Reads what `dumps` wrote.

        Raises: ValueError for anything else.
        """
        try:
            values = json.loads(text)
            words, world = values["words"], values.get("tinyworld")
            if not isinstance(values["corpus"], str) or not isinstance(values["num_prompts"], int):
                raise TypeError("corpus or num_prompts")
            if words is not None:
                words = frozenset(_texts(words))
            if world is not None:
                world = World(tuple(_texts(world["kinds"])), int(world["max_extras"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{FILE} is damaged ({type(error).__name__}: {error})") from None
        return cls(values["corpus"], values["num_prompts"], words, world)

    @classmethod
    def read(cls, folder: Path) -> TrainedOn | None:
        """Reads the record of an exported generator; None if there is none.

        Raises: ValueError if the file is damaged or cannot be read.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return cls.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"checkpoint {folder}: {error}; copy it or export the generator again") from None


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("no list of words")
    return values
