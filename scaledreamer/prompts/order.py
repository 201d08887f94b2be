"""The order in which a run sees its prompts: permutations that are computed, never stored. Needs no torch.

Sample i of the stream belongs to epoch `i // num_prompts`. Each epoch visits the shards in its own order, and
the rows of each shard in their own order. Both are keyed permutations of [0, n) for any n: generalized
Feistel networks on mixed radices with cycle walking (Black & Rogaway, "Ciphers with Arbitrary Finite
Domains", CT-RSA 2002). So any sample of any epoch is found in constant time and memory, whatever the size of
the corpus, and by any process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_ROUNDS = 8
MAX_SIZE = 1 << 48


class Permutation:
    """A keyed permutation of the integers below `size`, in constant memory.

    Args:
        size: from 1 to 2**48.
        key: identifies the permutation; its text is hashed.
    """

    def __init__(self, size: int, *key: object) -> None:
        assert 1 <= size <= MAX_SIZE, size
        self.size = size
        # Numbers below rows * columns >= size are pairs (row, column); those from `size` on are walked past.
        rows = max(math.isqrt(size - 1) + 1, 2)
        self._rows, self._columns = np.uint64(rows), np.uint64(-(-size // rows))
        digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8 * NUM_ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """The image of each number, in the same shape."""
        return self._walk(numbers, self._forward)

    def inverse(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """The preimage of each number."""
        return self._walk(numbers, self._backward)

    def _walk(
        self, numbers: ArrayLike, step: Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
    ) -> NDArray[np.int64]:
        given = np.asarray(numbers, dtype=np.int64)
        assert ((given >= 0) & (given < self.size)).all(), (given, self.size)
        found = step(given.astype(np.uint64).ravel())
        outside = found >= self.size
        while outside.any():
            found[outside] = step(found[outside])
            outside = found >= self.size
        return found.astype(np.int64).reshape(given.shape)

    def _forward(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row, column = numbers // self._columns, numbers % self._columns
        for i, key in enumerate(self._keys):
            if i % 2:
                row = (row + _mix(column ^ key) % self._rows) % self._rows
            else:
                column = (column + _mix(row ^ key) % self._columns) % self._columns
        return row * self._columns + column

    def _backward(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row, column = numbers // self._columns, numbers % self._columns
        for i, key in reversed(list(enumerate(self._keys))):
            if i % 2:
                row = (row + self._rows - _mix(column ^ key) % self._rows) % self._rows
            else:
                column = (column + self._columns - _mix(row ^ key) % self._columns) % self._columns
        return row * self._columns + column


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Place(NamedTuple):
    """Requested samples that are in the same shard.

    Attributes:
        shard: its number.
        rows: rows of the samples within the shard.
        samples: their positions in the request.
    """

    shard: int
    rows: NDArray[np.int64]
    samples: NDArray[np.int64]


class EpochOrder:
    """The shard and row of sample i of an endless stream over a sharded corpus.

    Every epoch contains every row of every shard once. It goes through one shard after the other, so that a
    process has one of them open at a time; each shard should therefore be a random part of the corpus.

    Args:
        num_prompts: size of the corpus, at least 1.
        shard_size: rows of every shard but the last, which may have fewer.
        seed: the run's seed.
    """

    def __init__(self, num_prompts: int, shard_size: int, seed: int) -> None:
        assert num_prompts >= 1 and shard_size >= 1, (num_prompts, shard_size)
        self.num_prompts, self.shard_size, self.seed = num_prompts, shard_size, seed
        self.num_shards = -(-num_prompts // shard_size)
        self._missing = self.num_shards * shard_size - num_prompts  # rows that the last shard lacks
        self._shards = lru_cache(4)(lambda epoch: Permutation(self.num_shards, seed, "shards", epoch))
        self._rows = lru_cache(16)(
            lambda epoch, shard: Permutation(self.size_of(shard), seed, "rows", epoch, shard)
        )
        self._short_at = lru_cache(4)(lambda epoch: int(self._shards(epoch).inverse(self.num_shards - 1)))

    def size_of(self, shard: int) -> int:
        """Rows of a shard."""
        return self.shard_size - self._missing * (shard == self.num_shards - 1)

    def locate(self, samples: ArrayLike) -> list[Place]:
        """Shard and row of each sample (numbered from 0, any epoch), grouped by shard in visiting order."""
        epochs, positions = np.divmod(np.asarray(samples, dtype=np.int64), self.num_prompts)
        places = []
        for epoch in np.unique(epochs):
            chosen = np.flatnonzero(epochs == epoch)
            visits, rows = self._visits(int(epoch), positions[chosen])
            for visit in np.unique(visits):
                here = visits == visit
                shard = int(self._shards(int(epoch))(visit))
                places.append(Place(shard, self._rows(int(epoch), shard)(rows[here]), chosen[here]))
        return places

    def shard_after(self, sample: int) -> int:
        """The shard that is visited after that of a sample."""
        epoch, position = divmod(sample, self.num_prompts)
        visit = int(self._visits(epoch, np.array([position]))[0][0]) + 1
        if visit == self.num_shards:
            epoch, visit = epoch + 1, 0
        return int(self._shards(epoch)(visit))

    def _visits(
        self, epoch: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which shard of the epoch, in visiting order, each position is in, and the position within it."""
        if self._missing:
            first_after = (self._short_at(epoch) + 1) * self.shard_size - self._missing
            positions = positions + self._missing * (positions >= first_after)
        return np.divmod(positions, self.shard_size)
