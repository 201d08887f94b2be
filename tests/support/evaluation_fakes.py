"""Evaluators whose answers are known: an encoder that recognises true objects, and a tiny random CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.shapes import WorldScene
from scaledreamer.tinyworld.text import build_tokenizer


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


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A random CLIPModel and the tinyworld's tokenizer, in the layout of the shipped CLIP."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = tower | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    vision = tower | {"image_size": 64, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
