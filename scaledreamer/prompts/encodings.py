"""A cache of text encodings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from scaledreamer.contracts import GeneratorText

Encoding = TypeVar("Encoding")


class EncodingCache(Generic[Encoding]):
    """A least-recently-used cache of a frozen encoder's text encodings.

    Cached texts are always encoded one at a time. Otherwise rounding would make an encoding depend on the
    other texts of its batch, and a run resumed with an empty cache would not continue bit for bit. For a
    corpus that does not fit, one at a time is slow and caching is useless: with a capacity of 0 each request
    is encoded as one batch.

    Args:
        encode: encodes texts as a batch.
        join: concatenates batches.
        capacity: number of texts that are kept.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Encoding],
        join: Callable[[list[Encoding]], Encoding],
        *,
        capacity: int,
    ) -> None:
        self.encode, self._join, self._capacity = encode, join, capacity
        self._known: OrderedDict[str, Encoding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Encoding:
        """One batch with the encoding of each text, in order."""
        if self._capacity == 0:
            return self.encode(list(texts))
        found: dict[str, Encoding] = {}
        for text in dict.fromkeys(texts):
            found[text] = self._known[text] if text in self._known else self.encode([text])
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return self._join([found[text] for text in texts])


def join_conditions(conditions: list[GeneratorText]) -> GeneratorText:
    """Concatenates batches, all with the same number of tokens."""
    return GeneratorText(*(torch.cat(parts) for parts in zip(*conditions, strict=True)))
