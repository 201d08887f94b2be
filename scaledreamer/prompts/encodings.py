"""Text encodings, remembered where the texts are few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from scaledreamer.contracts import GeneratorText

Encoding = TypeVar("Encoding")


class EncodingCache(Generic[Encoding]):
    """Encodings of texts by a frozen encoder, those used last remembered.

    A remembered text is always encoded alone: its encoding must not depend, by rounding, on which others were
    new with it, or a run resumed with nothing remembered would not go on bit for bit. Where a corpus does not
    fit, alone is slower and remembering of no use: a capacity of 0 encodes each request as one batch.

    Args:
        encode: texts to a batch of encodings.
        join: several batches to one.
        capacity: texts remembered.
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
    """One batch of several; all have the same number of tokens."""
    return GeneratorText(*(torch.cat(parts) for parts in zip(*conditions, strict=True)))
