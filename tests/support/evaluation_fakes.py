"""Evaluators whose answers are known: an encoder that recognises true objects, and a tiny random CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.scene import WorldScene


def text_vector(text: str, width: int = 64) -> Tensor:
    """A unit vector that depends on the text alone; those of different texts are nearly at right angles."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
    return F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Oracle:
    """Gives an image the embedding of the caption of the most similar image that it has been shown."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.captions: list[str] = []

    def learn(self, images: Tensor, meanings: Sequence[Meaning]) -> None:
        """Images "prompt view 3 h w" of objects."""
        for views, meaning in zip(images, meanings, strict=True):
            self.images += list(views)
            self.captions += [grammar.caption(meaning)] * len(views)

    def embed_images(self, images: Tensor) -> Tensor:
        known = torch.stack(self.images).flatten(1)
        nearest = torch.cdist(images.flatten(1), known).argmin(1).tolist()
        return torch.stack([text_vector(self.captions[i]) for i in nearest])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([text_vector(text) for text in texts])


def perfect_scenes(prompts: list[str]) -> WorldScene:
    """The generator that makes exactly what a caption means."""
    meanings = [grammar.parse(prompt) for prompt in prompts]
    assert all(meanings), prompts
    return WorldScene([meaning for meaning in meanings if meaning])
