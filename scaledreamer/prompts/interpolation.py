"""Interpolation between the text features of two prompts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import GeneratorText


def interpolate_conditions(
    first: GeneratorText, second: GeneratorText, fraction: Float[Tensor, " frame"]
) -> GeneratorText:
    """Text features on the straight line between two texts, one for each fraction, without padding.

    Pooled vectors are interpolated linearly. The texts have different numbers of tokens, m and n, so with l
    their least common multiple, each token of the first is repeated l / m times and each of the second l / n
    times, and the two sequences of length l are interpolated. Attention is a weighted mean, which does not
    change if every token is repeated equally often. So at 0 it sees exactly the first text, at 1 the second,
    and changes smoothly in between. Adding or masking tokens would cause a jump at one end.

    Args:
        first, second: text features of one prompt each.
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
