"""Between two prompts: conditions that begin as one text's and end as the other's."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import GeneratorText


def interpolate_conditions(
    first: GeneratorText, second: GeneratorText, fraction: Float[Tensor, " frame"]
) -> GeneratorText:
    """Conditions on the straight line from one text to another, one for each fraction, without padding.

    Pooled vectors are mixed. Of tokens the texts have different numbers m and n, so each token of the first
    is repeated l / m times and each of the second l / n times, l being the least common multiple, and the
    two sequences of l are mixed. Attention is a weighted mean, which does not change when all its tokens are
    repeated equally often: at 0 it sees the first text as it is, at 1 the second, and in between it changes
    smoothly. Adding or masking tokens would jump at one of the ends.

    Args:
        first, second: of one prompt each.
        fraction: 0 is the first, 1 the second.

    Raises: ValueError for more than one prompt, or one without tokens.
    """
    texts = []
    for condition in (first, second):
        if len(condition.pooled) != 1 or not condition.mask.any():
            raise ValueError("interpolate_conditions takes two conditions of one prompt each, with tokens.")
        texts.append(condition.tokens[condition.mask])
    length = math.lcm(*map(len, texts))
    start, end = (text.repeat_interleave(length // len(text), 0) for text in texts)
    tokens = torch.lerp(start, end, fraction[:, None, None])
    pooled = torch.lerp(first.pooled, second.pooled, fraction[:, None])
    return GeneratorText(pooled, tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool))
