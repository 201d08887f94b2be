"""Backgrounds for compositing. A pure function; random numbers are passed in as uniforms in [0, 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def augmented_background(
    background: Float[Tensor, "batch view 3 *hw"], uniforms: Float[Tensor, "batch view 4"], probability: float
) -> Float[Tensor, "batch view 3 *hw"]:
    """Replaces the background of a view, with this probability, by a random plain colour.

    As in ScaleDreamer: a background whose colour changes from step to step does not let low opacity go
    unnoticed.

    Args:
        uniforms: in [0, 1): whether to replace, then red, green and blue.

    Raises: ValueError if the probability is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability of a random background is {probability}: it must be from 0 to 1.")
    shape = (*uniforms.shape[:2], -1, *[1] * (background.ndim - 3))
    is_replaced = (uniforms[..., :1] < probability).view(shape)
    return torch.where(is_replaced, uniforms[..., 1:].reshape(shape), background)
