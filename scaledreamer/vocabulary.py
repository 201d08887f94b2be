"""The words that a generator knows, checked before anything is loaded. Needs no torch."""

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
    """The vocabulary of a generator with its text encoder.

    Attributes:
        of_encoder: all words of the text encoder; None if its vocabulary is open.
        trained_on: summary of the generator's training prompts; None if there is none.
    """

    of_encoder: frozenset[str] | None
    trained_on: TrainedOn | None

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Reads the vocabulary of an exported generator.

        Raises: ValueError if one of its files is damaged.
        """
        try:
            of_encoder = read_words(folder / "tokenizer" / WORDS_FILE)
        except ValueError as error:
            raise ValueError(f"checkpoint {folder}: {error}; copy it or export the generator again") from None
        return cls(of_encoder, TrainedOn.read(folder))

    @property
    def words(self) -> frozenset[str] | None:
        """The words of the training prompts or, if they were not recorded, those of the text encoder; None if
        its vocabulary is open."""
        recorded = self.trained_on.words if self.trained_on else None
        return self.of_encoder if recorded is None else recorded

    def knows_any(self, prompt: str) -> bool:
        """Whether some word of a prompt is known, or the text encoder's vocabulary is open."""
        return self.of_encoder is None or bool(content_words(prompt) - set(self._unknown(prompt)))

    def check(self, prompt: str) -> list[str]:
        """At most one line about words and combinations of a prompt that the training did not have.

        Raises: ValueError if the vocabulary is closed and no word of the prompt is known.
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
