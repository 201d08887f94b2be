"""Retrieval and similarity by the evaluator CLIP, a network that is not used to train any generator.

An object is represented by the mean of its views' unit embeddings (`pooled`), a caption by a unit vector.
Captions have no view words and all have the plainest form of the grammar. A tie counts as lost. Axes:
`prompt` objects, `d` the embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.distractors import hard_distractors
from scaledreamer.tinyworld.grammar import ATTRIBUTES, Meaning

TINY_CLIP = Path(__file__).parent.parent / "assets" / "tiny_clip"


@runtime_checkable
class ImageTextEncoder(Protocol):
    """The interface of a CLIP that the scores need."""

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors of images in [0, 1]."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors of captions."""
        ...


class TinyClip:
    """A transformers CLIPModel and its tokenizer, with a cache of caption embeddings.

    Args:
        model, tokenizer: CLIPModel, CLIPTokenizer.
        mean, std: of pixels, by channel; the model reads `(pixel - mean) / std`.
        chunk_size: images or captions per forward pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        chunk_size: int = 256,
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._mean, self._std = (torch.tensor(value)[:, None, None] for value in (mean, std))
        self._image_size = model.config.vision_config.image_size
        self._chunk_size = chunk_size
        self._max_tokens = model.config.text_config.max_position_embeddings
        self._known: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, folder: Path | str = TINY_CLIP, *, device: torch.device | str = "cpu"
    ) -> TinyClip:
        """Loads a folder in the layout of transformers, by default the shipped one.

        Mean and standard deviation of pixels come from preprocessor_config.json; without it they are 0.5.

        Raises: ValueError if it is missing or damaged.
        """
        from transformers import CLIPModel, CLIPTokenizer

        try:
            if not (Path(folder) / "config.json").is_file():
                raise OSError("there is no config.json")
            model = CLIPModel.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True)
            tokenizer = CLIPTokenizer.from_pretrained(str(folder))
            mean, std = _normalisation(Path(folder) / "preprocessor_config.json")
        except Exception as error:  # transformers raises many kinds for a damaged folder
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"evaluator CLIP {folder}: cannot be loaded ({reason}); give the folder of a CLIPModel with "
                "its tokenizer. If it is the shipped one, reinstall the package, or train it again with "
                "python -m tools.tinyworld.train_clip"
            ) from None
        return cls(torch.nn.Module.to(model, device), tokenizer, mean=mean, std=std)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that image embeddings depend on."""
        digest = hashlib.sha256(json.dumps([self._mean.tolist(), self._std.tolist()]).encode())
        for name, value in sorted(self._model.state_dict().items()):
            if name.startswith(("vision_model.", "visual_projection.")):
                digest.update(f"{name} {tuple(value.shape)} ".encode())
                digest.update(value.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors of images in [0, 1], resized to the model's size if necessary."""
        device = self._model.device
        size, mean, std = self._image_size, self._mean.to(device), self._std.to(device)
        embedded = []
        for chunk in images.split(self._chunk_size):
            if chunk.shape[-2:] != (size, size):
                chunk = F.interpolate(chunk, (size, size), mode="bilinear", antialias=True)
            pixels = (chunk.to(device) - mean) / std
            features = self._model.get_image_features(pixel_values=pixels).pooler_output
            embedded.append(F.normalize(features, dim=-1))
        return torch.cat(embedded)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors of captions, truncated to the encoder's maximum number of tokens."""
        unknown = {text for text in texts if text not in self._known}
        new = sorted(unknown, key=lambda text: (len(text.split()), text))
        for first in range(0, len(new), self._chunk_size):
            chunk = new[first : first + self._chunk_size]
            # Attention is causal and pooling reads the end-of-text token, so padding has no effect.
            batch = self._tokenizer(
                chunk, padding="longest", truncation=True, max_length=self._max_tokens, return_tensors="pt"
            )
            ids = batch.input_ids.to(self._model.device)
            features = self._model.get_text_features(input_ids=ids).pooler_output
            self._known.update(zip(chunk, F.normalize(features, dim=-1), strict=True))
        return torch.stack([self._known[text] for text in texts])


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels by channel, from a preprocessor's file; 0.5 without one.

    Raises: ValueError if it does not hold three of each.
    """
    if not path.is_file():
        return [0.5] * 3, [0.5] * 3
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("image_mean", "image_std"):
        values = content.get(name)
        if not isinstance(values, list) or [type(value) for value in values] != [float] * 3:
            raise ValueError(f"{path.name}: {name} is {values!r}; accepted are three decimal numbers")
    return content["image_mean"], content["image_std"]


@dataclass(frozen=True)
class HardRetrieval:
    """Outcome of the right caption against those that differ in one attribute, 1 won and 0 lost.

    Attributes:
        overall: against all of them at once.
        by_attribute: against those that differ in one attribute, NaN for objects without such captions.
        num_distractors: number of captions that each object's own competes with.
    """

    overall: Float[Tensor, " prompt"]
    by_attribute: dict[str, Float[Tensor, " prompt"]]
    num_distractors: Int[Tensor, " prompt"]


def pool_views(
    encoder: ImageTextEncoder, images: Float[Tensor, "prompt view 3 h w"]
) -> Float[Tensor, "prompt d"]:
    """Mean of the unit embeddings of each object's views; its product with a caption is their mean cosine."""
    return encoder.embed_images(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(1)


def hard_retrieval(
    encoder: ImageTextEncoder,
    pooled: Float[Tensor, "prompt d"],
    meanings: Sequence[Meaning],
    *,
    attributes: Sequence[Collection[str]] | None = None,
) -> HardRetrieval:
    """Hard R@1 of objects that should have the given meanings.

    Args:
        attributes: attributes of each object in which captions may be wrong, at least one; None is all.
    """
    rivals = [hard_distractors(meaning) for meaning in meanings]
    if attributes is not None:
        rivals = [
            [rival for rival in found if rival[0] in names]
            for found, names in zip(rivals, attributes, strict=True)
        ]
    texts = [grammar.caption(other) for found in rivals for _, other in found]
    counts = torch.tensor([len(found) for found in rivals], device=pooled.device)
    owner = torch.repeat_interleave(torch.arange(len(meanings), device=pooled.device), counts)
    column = [ATTRIBUTES.index(name) for found in rivals for name, _ in found]
    place = owner * len(ATTRIBUTES) + torch.tensor(column, device=pooled.device)
    right = similarity(encoder, pooled, meanings)
    wrong = (pooled[owner] * encoder.embed_texts(texts).to(pooled)).sum(-1)
    best = pooled.new_full((len(meanings) * len(ATTRIBUTES),), -torch.inf)
    best = best.scatter_reduce(0, place, wrong, "amax").unflatten(0, (-1, len(ATTRIBUTES)))
    won = torch.where(best.isinf(), torch.nan, (right[:, None] > best).float())
    return HardRetrieval(
        overall=(right > best.amax(1)).float(),
        by_attribute=dict(zip(ATTRIBUTES, won.unbind(1), strict=True)),
        num_distractors=counts,
    )


def plain_retrieval(
    encoder: ImageTextEncoder,
    pooled: Float[Tensor, "prompt d"],
    meanings: Sequence[Meaning],
    gallery_size: int,
) -> Float[Tensor, " prompt"]:
    """Plain R@1: the right caption against those of the next `gallery_size - 1` meanings, cyclically; 1 won.

    Raises: ValueError if the gallery is larger than the number of distinct meanings.
    """
    count = len(meanings)
    if len(set(meanings)) < count or not 1 <= gallery_size <= count:
        distinct = len(set(meanings))
        raise ValueError(f"gallery of {gallery_size}: needs as many distinct meanings, got {distinct}.")
    texts = encoder.embed_texts([grammar.caption(meaning) for meaning in meanings]).to(pooled)
    scores = pooled @ texts.T
    ahead = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
    is_rival = ((ahead > 0) & (ahead < gallery_size)).to(pooled.device)
    return (scores.diagonal() > scores.masked_fill(~is_rival, -torch.inf).amax(1)).float()


def similarity(
    encoder: ImageTextEncoder, pooled: Float[Tensor, "prompt d"], meanings: Sequence[Meaning]
) -> Float[Tensor, " prompt"]:
    """Mean cosine of an object's views and its caption, unscaled."""
    texts = encoder.embed_texts([grammar.caption(meaning) for meaning in meanings]).to(pooled)
    return (pooled * texts).sum(-1)
