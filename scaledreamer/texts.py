"""Encoded texts: what a generator reads of a prompt, and what a prior does. `contracts` has both too.

Axes: `batch` prompts, `text` any number of texts, `token` of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class GeneratorText(NamedTuple):
    """Text features for a generator, from the text conditioner.

    Attributes:
        pooled: one vector per prompt.
        tokens: one vector per token.
        mask: True for text tokens, False for padding.
    """

    pooled: Float[Tensor, "batch d"]
    tokens: Float[Tensor, "batch token d_token"]
    mask: Bool[Tensor, "batch token"]


@dataclass(frozen=True)
class PriorText:
    """Encoded texts for a prior's network, one row per text.

    Attributes:
        tokens: one vector per token, including padding.
        pooled: one vector per text, for networks that also take a pooled embedding.
    """

    tokens: Float[Tensor, "text token d_token"]
    pooled: Float[Tensor, "text d_pooled"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Int[Tensor, " image"] | slice) -> PriorText:
        return PriorText(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def lerp(self, other: PriorText, share: Float[Tensor, " text"]) -> PriorText:
        """Interpolates row by row between this embedding (share 0) and another one (share 1)."""
        tokens = torch.lerp(self.tokens, other.tokens, share.to(self.tokens.dtype)[:, None, None])
        if self.pooled is None or other.pooled is None:
            return PriorText(tokens)
        return PriorText(tokens, torch.lerp(self.pooled, other.pooled, share.to(self.pooled.dtype)[:, None]))

    @staticmethod
    def cat(parts: Sequence[PriorText]) -> PriorText:
        """Concatenates embeddings of the same prior along the texts."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        assert len(pooled) in (0, len(parts))
        return PriorText(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)
