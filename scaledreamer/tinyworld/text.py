"""The tinyworld's tokenizer and the attributes that its text encoder is trained to carry."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from jaxtyping import Int
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
"""What a caption says, attribute by attribute; a linear probe on its encoding must recover each."""


def attribute_labels(meanings: Sequence[Meaning]) -> dict[str, Int[Tensor, " batch"]]:
    """Index of each attribute's value in `ATTRIBUTE_VALUES`."""
    return {
        name: torch.tensor([values.index(getattr(meaning, name)) for meaning in meanings])
        for name, values in ATTRIBUTE_VALUES.items()
    }


def build_tokenizer():
    """A CLIPTokenizer whose byte pairs are learnt from the world's vocabulary, so that every known word is
    one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    words = sorted(grammar.vocabulary() | {"view", "front", "side", "back", "overhead", "-", ","})
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>"
    )
    model.train_from_iterator(words * 2, trainer)
    learnt = json.loads(model.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [token for token in learnt["vocab"] if token not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
