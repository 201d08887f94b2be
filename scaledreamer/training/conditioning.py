"""What a prior reads beside noised latents: the texts of all branches of a step, encoded.

Letters: `s` the guidance scale, `w_i` the weights of Perp-Neg's negative texts. Axes: `image` any number of
images, each with a prompt and a camera; `negative` the two views that Perp-Neg leads away from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import PriorText
from scaledreamer.prompts.view_words import VIEW_WORDS, neighbouring_views, view_index, with_view

if TYPE_CHECKING:
    from scaledreamer.contracts import Prior


@dataclass(frozen=True)
class Judge:
    """One of the priors of a run.

    Attributes:
        texts: its `encode_text`, remembering what it has encoded.
        guidance_scale: `s`; 1 is no guidance.
        eta: growth of ASD's timestep shift.
        weight: of its gradient, after pixel clipping.
        guidance_rescale: see `distillation.rescale_guidance`; 0 is none.
        negative_prompt: the text in the place of the empty one.
        perp_neg: strength of Perp-Neg, a factor of its weights; 0 is none.
    """

    prior: Prior
    texts: Callable[[Sequence[str]], PriorText]
    guidance_scale: float = 7.5
    eta: float = 0.1
    weight: float = 1.0
    guidance_rescale: float = 0.0
    negative_prompt: str = ""
    perp_neg: float = 0.0


@dataclass(frozen=True)
class Conditioning:
    """The texts of one prior call, one row an image each.

    Attributes:
        text: the prompt as this camera sees it.
        uncond: the empty or the negative prompt.
        negatives: texts that Perp-Neg leads away from, one embedding each; none without Perp-Neg.
        negative_weights: `w_i`, subtracted.
    """

    text: PriorText
    uncond: PriorText
    negatives: tuple[PriorText, ...] = ()
    negative_weights: Float[Tensor, "image negative"] | None = None


def encode_views(
    term: Judge,
    prompts: Sequence[str],
    elevation: Float[Tensor, " image"],
    azimuth: Float[Tensor, " image"],
) -> Conditioning:
    """Texts of images, from their prompts without view words and their cameras.

    Without Perp-Neg each has the word of its view. With it, words of neighbouring views are mixed by angle,
    see `views.neighbouring_views`.
    """
    views = view_index(elevation, azimuth)
    if term.perp_neg == 0:
        named = zip(prompts, views.tolist(), strict=True)
        return encode_texts(term, [with_view(prompt, view) for prompt, view in named])
    device = elevation.device
    of_prompt = list(dict.fromkeys(prompts))
    texts = [with_view(prompt, view) for prompt in of_prompt for view in range(len(VIEW_WORDS))]
    encoded = term.texts([*texts, term.negative_prompt])
    base = len(VIEW_WORDS) * torch.tensor([of_prompt.index(prompt) for prompt in prompts], device=device)
    mix = neighbouring_views(elevation, azimuth)
    text = encoded[base + mix.first].lerp(encoded[base + mix.second], mix.share_of_second)
    negatives = tuple(encoded[base + view] for view in mix.negatives.unbind(1))
    uncond = encoded[torch.full_like(base, len(texts))]
    return Conditioning(text, uncond, negatives, term.perp_neg * mix.negative_weights)


def encode_texts(term: Judge, texts: Sequence[str]) -> Conditioning:
    """Texts of images, as they are; no Perp-Neg, which needs cameras."""
    unique = list(dict.fromkeys([*texts, term.negative_prompt]))
    encoded = term.texts(unique)
    device = encoded.tokens.device
    text = torch.tensor([unique.index(text) for text in texts], device=device)
    return Conditioning(encoded[text], encoded[torch.full_like(text, unique.index(term.negative_prompt))])
