"""The state-free stream: everything random in a step is a function of (seed, step, sample index) and a name.

There is no generator whose state would have to be saved, shared or advanced. So a resumed run repeats nothing
and skips nothing, and the number of ranks or of accumulation steps only decides who computes which samples of
a step.

Names used while training: cameras, jitter, background, z, points, timestep, shift, noise, vae_noise (the last
four followed by the number of the prior).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def _generator(*key: object) -> np.random.Generator:
    """Philox, counter-based, keyed with 128 bits of a stable hash of the key's parts."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


@dataclass(frozen=True)
class SampleRandom:
    """Random numbers of one sample of one step; asking twice for a name gives the same numbers.

    Attributes:
        seed: of the run.
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


class PromptStream:
    """Which prompts a step shows: every prompt once an epoch, in an order of the epoch's own.

    Args:
        prompts: at least one.
        seed: of the run.
        batch_size: prompts of a step over all ranks and accumulation steps.
    Raises: ValueError without prompts.
    """

    def __init__(self, prompts: Sequence[str], *, seed: int, batch_size: int) -> None:
        if not prompts:
            raise ValueError("prompts: none to train on; give at least one.")
        assert batch_size >= 1, batch_size
        self.prompts = prompts
        self.seed = seed
        self.batch_size = batch_size
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def prompt_at(self, step: int, index: int) -> str:
        """The prompt of global sample `step * batch_size + index`."""
        epoch, position = divmod(step * self.batch_size + index, len(self.prompts))
        if epoch != self._epoch:  # only remembered, never advanced: any epoch may be asked for at any time
            self._order = _generator(self.seed, "epoch", epoch).permutation(len(self.prompts))
            self._epoch = epoch
        return self.prompts[int(self._order[position])]

    def samples(
        self, step: int, indices: Sequence[int], device: torch.device | str = "cpu"
    ) -> tuple[list[str], BatchRandom]:
        """Prompts and random numbers of some samples of a step's global batch."""
        assert all(0 <= index < self.batch_size for index in indices), (indices, self.batch_size)
        prompts = [self.prompt_at(step, index) for index in indices]
        samples = tuple(SampleRandom(self.seed, step, index) for index in indices)
        return prompts, BatchRandom(samples, torch.device(device))


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
