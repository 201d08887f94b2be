"""The tinyworld's tokenizer, and the attributes that its text encoder is trained to represent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import pre_tokenizers
from torch import Tensor

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning

MAX_TOKENS = 32

ATTRIBUTE_VALUES: dict[str, tuple[str | None, ...]] = {
    "kind": tuple(grammar.KINDS),
    "color": grammar.COLORS,
    "part_color": (None, *grammar.COLORS),
    "pattern": (None, *grammar.PATTERNS),
    "wear": (None, *grammar.WEARS),
    "wear_color": (None, *grammar.COLORS),
    "support": (None, *grammar.SUPPORTS),
    "support_color": (None, *grammar.COLORS),
}
"""The attributes of a caption; a linear probe on its encoding must recover each."""


def attribute_labels(meanings: Sequence[Meaning]) -> dict[str, Int[Tensor, " batch"]]:
    """Index of each attribute's value in `ATTRIBUTE_VALUES`."""
    return {
        name: torch.tensor([values.index(getattr(meaning, name)) for meaning in meanings])
        for name, values in ATTRIBUTE_VALUES.items()
    }


def build_tokenizer():
    """A CLIPTokenizer whose byte pairs are learned from the world's words, so that each word is one token.

    Deterministic: of the most frequent pairs, the alphabetically first is merged.
    """
    from transformers import CLIPTokenizer

    words = sorted(grammar.vocabulary() | {"view", "front", "side", "back", "overhead", "-", ","})
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for word in pieces for pair in pairwise(word))
        if not counts:
            break
        first, second = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((first, second))
        pieces = [_merge(word, first, second) for word in pieces]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    learnt: Any = merges
    return CLIPTokenizer(vocab=vocabulary, merges=learnt, model_max_length=MAX_TOKENS)


def _merge(word: list[str], first: str, second: str) -> list[str]:
    """Merges every occurrence of the two adjacent pieces."""
    joined: list[str] = []
    for piece in word:
        if joined and joined[-1] == first and piece == second:
            joined[-1] = first + second
        else:
            joined.append(piece)
    return joined
