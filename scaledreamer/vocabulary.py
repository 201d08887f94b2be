"""The words that a generator knows, asked before anything is loaded. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scaledreamer.prompts.words import (
    FUNCTION_WORDS,
    WORDS_FILE,
    content_words,
    read_words,
    short,
    unknown_words,
)
from scaledreamer.trained_on import TrainedOn

NO_WORD = (
    "this generator knows no word of the prompt; describe the object in the words of its training "
    '(scaledreamer infer --list-words), for example "a red-eyed tree frog"'
)


@dataclass(frozen=True)
class Vocabulary:
    """Of a generator with its text encoder.

    Attributes:
        of_encoder: every word that the text encoder was taught; None where it takes any.
        trained_on: the prompts of the generator's training; None where nobody has written them down.
    """

    of_encoder: frozenset[str] | None
    trained_on: TrainedOn | None

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Of an exported generator.

        Raises: ValueError if a file of it is damaged.
        """
        try:
            of_encoder = read_words(folder / "tokenizer" / WORDS_FILE)
        except ValueError as error:
            raise ValueError(f"checkpoint {folder}: {error}; copy it or export the generator again") from None
        return cls(of_encoder, TrainedOn.read(folder))

    @property
    def words(self) -> frozenset[str] | None:
        """The words of the training's prompts; where nobody has written these down, those that the text
        encoder was taught; None where that takes any word."""
        recorded = self.trained_on.words if self.trained_on else None
        return self.of_encoder if recorded is None else recorded

    def knows_any(self, prompt: str) -> bool:
        """Whether some word of a prompt is known, or the text encoder takes any."""
        return self.of_encoder is None or bool(content_words(prompt) - set(self._unknown(prompt)))

    def check(self, prompt: str) -> list[str]:
        """Words and combinations of a prompt that the training did not have, in a line or none.

        Raises: ValueError if the text encoder takes no other words than it was taught, and none of the
            prompt is known.
        """
        if not self.knows_any(prompt):
            raise ValueError(f"{short(prompt, 60)}: {NO_WORD}")
        unknown = self._unknown(prompt)
        if unknown:
            listed = ", ".join(short(word, 60) for word in unknown[:8]) + (
                ", ..." if len(unknown) > 8 else ""
            )
            is_closed = self.of_encoder is not None
            what = "that this generator does not know" if is_closed else "that its training hardly had"
            return [f"words {what} and may misread: {listed}"]
        outside = self.trained_on.outside(prompt) if self.trained_on else None
        return [] if outside is None else [outside]

    def _unknown(self, prompt: str) -> list[str]:
        return [] if self.words is None else unknown_words(prompt, self.words | FUNCTION_WORDS)
