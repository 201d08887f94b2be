"""The stateless stream: everything random in a step is a function of (seed, step, sample index) and a name.

There is no random generator whose state has to be saved, shared or advanced. So a resumed run neither repeats
nor skips anything, and the number of ranks or accumulation steps only determines which process computes which
samples of a step.

Names used while training: cameras, jitter, background, z, points, timestep, shift, noise, vae_noise (the last
four followed by the number of the prior).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from scaledreamer.contracts import GeneratorText
from scaledreamer.prompts.order import EpochOrder
from scaledreamer.prompts.source import PromptSource, Records


def _generator(*key: object) -> np.random.Generator:
    """Philox, counter-based, keyed with 128 bits of a stable hash of the key's parts."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


@dataclass(frozen=True)
class SampleRandom:
    """Random numbers of one sample of one step; the same name always gives the same numbers.

    Attributes:
        seed: the run's seed.
        step: optimizer step, from 0.
        index: position of the sample in the step's global batch.
    """

    seed: int
    step: int
    index: int

    def uniform(self, name: str, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Numbers in [0, 1), float32 on the CPU."""
        generator = _generator(self.seed, self.step, self.index, name)
        return torch.from_numpy(generator.random(tuple(shape), dtype=np.float32))

    def normal(self, name: str, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Standard normal numbers, float32 on the CPU."""
        generator = _generator(self.seed, self.step, self.index, name)
        return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


@dataclass(frozen=True)
class BatchRandom:
    """`SampleRandom` of several samples of one step, stacked along a first axis `batch`, on a device."""

    samples: tuple[SampleRandom, ...]
    device: torch.device

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([sample.uniform(name, shape) for sample in self.samples]).to(self.device)

    def normal(self, name: str, *shape: int) -> Float[Tensor, "batch *shape"]:
        return torch.stack([sample.normal(name, shape) for sample in self.samples]).to(self.device)


class Drawn(NamedTuple):
    """Some samples of a step.

    Attributes:
        prompts: their texts.
        random: their random numbers.
        condition: their stored text embeddings, float32, if the source has them and the run uses them.
        num_replaced: number of damaged records among them that were replaced by others.
    """

    prompts: list[str]
    random: BatchRandom
    condition: GeneratorText | None = None
    num_replaced: int = 0


class PromptStream:
    """The prompts of each step: every prompt once per epoch, in a different order each epoch.

    A thread opens, or copies, the next shard in the meantime.

    Args:
        source: the corpus.
        seed: the run's seed.
        batch_size: prompts per step over all ranks and accumulation steps.
        use_embeddings: return the embeddings stored in the source.
    """

    def __init__(
        self, source: PromptSource, *, seed: int, batch_size: int, use_embeddings: bool = False
    ) -> None:
        assert batch_size >= 1, batch_size
        self.source = source
        self.seed = seed
        self.batch_size = batch_size
        self._use_embeddings = use_embeddings
        self.order = EpochOrder(source.num_prompts, source.shard_size, seed)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._prepared: int | None = None

    def prompts_at(self, step: int, indices: Sequence[int]) -> list[str]:
        """The prompts of global samples `step * batch_size + index`."""
        return self._read(step, tuple(indices)).prompts

    def samples(self, step: int, indices: Sequence[int], device: torch.device | str = "cpu") -> Drawn:
        """Prompts and random numbers of some samples of a step's global batch.

        Raises: SourceError naming the shard if it is missing or cannot be used.
        """
        assert all(0 <= index < self.batch_size for index in indices), (indices, self.batch_size)
        records = self._read(step, tuple(indices))
        self._prepare_next(step, indices[-1])
        condition = None
        if self._use_embeddings and records.condition is not None:
            pooled, tokens, mask = (
                torch.from_numpy(records.condition[name]) for name in GeneratorText._fields
            )
            condition = GeneratorText(pooled.float().to(device), tokens.float().to(device), mask.to(device))
        samples = tuple(SampleRandom(self.seed, step, index) for index in indices)
        random = BatchRandom(samples, torch.device(device))
        return Drawn(records.prompts, random, condition, records.num_replaced)

    def _prepare_next(self, step: int, last_index: int) -> None:
        """A single shard is in memory or open already."""
        if self.order.num_shards == 1:
            return
        after = self.order.shard_after(step * self.batch_size + last_index)
        if self._prepared != after:
            self._prepared = after
            self._ahead.submit(self.source.prepare, after)

    def _read(self, step: int, indices: tuple[int, ...]) -> Records:
        prompts = [""] * len(indices)
        parts: list[tuple[NDArray[np.int64], dict[str, NDArray[np.generic]]]] = []
        num_replaced = 0
        for place in self.order.locate(step * self.batch_size + np.asarray(indices)):
            found = self.source.read(place.shard, place.rows.tolist())
            num_replaced += found.num_replaced
            for sample, prompt in zip(place.samples.tolist(), found.prompts, strict=True):
                prompts[sample] = prompt
            if found.condition is not None:
                parts.append((place.samples, found.condition))
        condition = None
        if parts:
            back = np.argsort(np.concatenate([samples for samples, _ in parts]))
            condition = {
                name: np.concatenate([part[name] for _, part in parts])[back] for name in parts[0][1]
            }
        return Records(prompts, condition, num_replaced)


def rank_indices(
    batch_size: int, *, rank: int, world_size: int, micro_step: int, accumulation_steps: int
) -> range:
    """The samples of a step's global batch that one rank computes in one accumulation step.

    Raises: ValueError if the batch cannot be divided evenly.
    """
    parts = world_size * accumulation_steps
    if batch_size % parts:
        raise ValueError(
            f"training.batch_size: got {batch_size}, which cannot be divided among {world_size} rank(s) with "
            f"training.accumulation_steps {accumulation_steps}; give a multiple of {parts}."
        )
    size = batch_size // parts
    start = (micro_step * world_size + rank) * size
    return range(start, start + size)
