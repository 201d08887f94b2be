"""Encoded texts of a prior for the images of a step: view words, negative prompts and Perp-Neg.

Axes: `image` any number of images, each with a prompt and a camera; `negative` the two neighbouring views of
Perp-Neg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Conditions, PriorInputs, PriorText
from scaledreamer.prompts.view_words import VIEW_WORDS, neighbouring_views, view_index, with_view


@dataclass(frozen=True)
class Texts:
    """Makes the texts of one prior of a run.

    Attributes:
        encode: its `encode_text`, possibly cached.
        negative_prompt: used instead of the empty prompt.
        perp_neg: strength of Perp-Neg, a factor of its weights; 0 is none.
    """

    encode: Callable[[Sequence[str]], PriorText]
    negative_prompt: str = ""
    perp_neg: float = 0.0

    def of_views(
        self,
        prompts: Sequence[str],
        elevation: Float[Tensor, " image"],
        azimuth: Float[Tensor, " image"],
    ) -> Conditions:
        """Encoded texts of images, from their prompts without view words and their cameras.

        Without Perp-Neg, each has its view word. With it, the encodings of neighbouring views are
        interpolated by angle, see `view_words.neighbouring_views`.

        Args:
            elevation, azimuth: radians.
        """
        if self.perp_neg == 0:
            views = view_index(elevation, azimuth).tolist()
            return self.plain([with_view(p, view) for p, view in zip(prompts, views, strict=True)])
        device = elevation.device
        of_prompt = list(dict.fromkeys(prompts))
        texts = [with_view(prompt, view) for prompt in of_prompt for view in range(len(VIEW_WORDS))]
        encoded = self.encode([*texts, self.negative_prompt])
        base = len(VIEW_WORDS) * torch.tensor([of_prompt.index(prompt) for prompt in prompts], device=device)
        mix = neighbouring_views(elevation, azimuth)
        text = encoded[base + mix.first].lerp(encoded[base + mix.second], mix.share_of_second)
        negatives = tuple(PriorInputs(encoded[base + view]) for view in mix.negatives.unbind(1))
        uncond = PriorInputs(encoded[torch.full_like(base, len(texts))])
        return Conditions(PriorInputs(text), uncond, negatives, self.perp_neg * mix.negative_weights)

    def plain(self, texts: Sequence[str]) -> Conditions:
        """Encoded texts of images without view words; without Perp-Neg, which needs cameras."""
        unique = list(dict.fromkeys([*texts, self.negative_prompt]))
        encoded = self.encode(unique)
        index = torch.tensor([unique.index(text) for text in texts], device=encoded.tokens.device)
        uncond = encoded[torch.full_like(index, unique.index(self.negative_prompt))]
        return Conditions(PriorInputs(encoded[index]), PriorInputs(uncond))

    def all_of(self, prompts: Sequence[str]) -> list[str]:
        """Every text that these prompts may require, for encoding before training."""
        unique = dict.fromkeys(prompts)
        named = [with_view(prompt, view) for prompt in unique for view in range(len(VIEW_WORDS))]
        return [*named, self.negative_prompt]
