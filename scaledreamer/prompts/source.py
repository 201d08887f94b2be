"""Sources of prompts for a stream: rows of numbered shards. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scaledreamer.prompts.words import WordCount


class SourceError(ValueError):
    """Part of the corpus is missing or unusable, perhaps for one process only, and perhaps late in a run."""


class Records(NamedTuple):
    """Rows of one shard.

    Attributes:
        prompts: one per row.
        condition: stored text embeddings by field of `GeneratorText`, with the row as first axis, or None.
        num_replaced: number of damaged rows that were replaced by a neighbour.
    """

    prompts: list[str]
    condition: dict[str, NDArray[np.generic]] | None = None
    num_replaced: int = 0


@runtime_checkable
class PromptSource(Protocol):
    """A corpus in shards of equal size, the last of which may be smaller.

    Attributes:
        num_prompts: size of the corpus.
        num_distinct: number of distinct prompts, as far as is known.
        shard_size: rows of a shard.
        fingerprint: hash of the prompts in their order.
    """

    num_prompts: int
    num_distinct: int
    shard_size: int
    fingerprint: str

    def read(self, shard: int, rows: Sequence[int]) -> Records:
        """Some rows of a shard, in the given order. Safe to call from several threads.

        Raises: SourceError naming the shard if it is missing or cannot be used.
        """
        ...

    def prepare(self, shard: int) -> None:
        """Prepares a fast `read` of a shard, for example by copying it; may do nothing.

        Raises: as `read`.
        """
        ...

    def examples(self, count: int) -> list[str]:
        """At most `count` prompts spread over the corpus (or over the first shard), always the same ones."""
        ...

    def words(self) -> frozenset[str] | None:
        """The words of the corpus, without the rarest of a large one; None if they were not counted."""
        ...


def spread(size: int, count: int) -> list[int]:
    """At most `count` evenly spaced integers below `size`, starting at 0."""
    return [number * size // count for number in range(count)] if count < size else list(range(size))


class PromptList:
    """A corpus in memory, as one shard.

    Raises: ValueError if there are no prompts.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        if not prompts:
            raise ValueError("prompts: none to train on; give at least one.")
        self._prompts = prompts
        self.num_prompts = self.shard_size = len(prompts)
        self.num_distinct = len(set(prompts))
        self.fingerprint = hashlib.sha256("\n".join(prompts).encode()).hexdigest()

    def read(self, shard: int, rows: Sequence[int]) -> Records:
        assert shard == 0, shard
        return Records([self._prompts[row] for row in rows])

    def prepare(self, shard: int) -> None:
        del shard  # in memory already

    def examples(self, count: int) -> list[str]:
        return [self._prompts[row] for row in spread(self.num_prompts, count)]

    def words(self) -> frozenset[str]:
        count = WordCount()
        count.add(self._prompts)
        return count.most_frequent()
