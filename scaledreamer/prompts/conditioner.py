"""The generator's text encoder. It is separate from the priors' encoders and part of the export."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaledreamer.config import ConditionerSettings, WeightSettings
from scaledreamer.contracts import GeneratorText
from scaledreamer.prompts.words import WORDS_FILE, read_words, unknown_words
from scaledreamer.weights.find import WeightsError, find_weights
from scaledreamer.weights.loading import load_text_encoder
from scaledreamer.weights.places import conditioner_places


class TextConditioner:
    """A frozen CLIP text encoder: plain prompts, without view words, to `GeneratorText`.

    Args:
        text_encoder, tokenizer: transformers' CLIPTextModel and CLIPTokenizer.
        words: all words of a closed vocabulary; None if the vocabulary is open.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, words: frozenset[str] | None = None) -> None:
        self._encoder = text_encoder.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.words = words

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path, **options: Any) -> TextConditioner:
        """Loads `text_encoder/` and `tokenizer/` from a folder (a pipeline or an exported generator) or a
        hub id.

        Raises: ValueError if either is missing or cannot be read.
        """
        source = str(folder_or_id)
        try:
            encoder, tokenizer = load_text_encoder(source, torch.float32, **options)
            words = read_words(Path(source) / "tokenizer" / WORDS_FILE)
        except ValueError as error:
            raise ValueError(
                f"conditioner {source}: text_encoder/ and tokenizer/ cannot be loaded ({error}); give a "
                "folder that holds both, or a hub id that can be reached."
            ) from None
        return cls(encoder, tokenizer, words)

    @property
    def condition_dim(self) -> int:
        """Length of `GeneratorText.pooled`."""
        return self._encoder.config.hidden_size

    @property
    def token_dim(self) -> int:
        """Length of a token vector in `GeneratorText.tokens`."""
        return self._encoder.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of a prompt, including start and end tokens; the rest is cut off."""
        return self._encoder.config.max_position_embeddings

    def to(self, device: torch.device | str) -> TextConditioner:
        """Moves the encoder; returns itself."""
        self._encoder.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> GeneratorText:
        """Encodes prompts; `mask` is False on padding.

        Raises: ValueError if there is no prompt.
        """
        if not prompts:
            raise ValueError("prompts: got an empty list; give at least one prompt.")
        batch = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = self._encoder.device
        output = self._encoder(batch.input_ids.to(device))
        return GeneratorText(
            output.pooler_output, output.last_hidden_state, batch.attention_mask.to(device).bool()
        )

    def num_tokens(self, prompt: str) -> int:
        """Number of tokens of the whole prompt, including start and end tokens."""
        return len(self._tokenizer(prompt).input_ids)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that are missing in a closed vocabulary, in order, without repetitions."""
        return [] if self.words is None else unknown_words(prompt, self.words)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `text_encoder/` (safetensors) and `tokenizer/`, and the closed vocabulary if there is one.

        Weights that fp16 represents exactly, such as those of the shipped encoder, are written in fp16.
        """
        folder = Path(folder)
        state = {
            name: value.half() if torch.equal(value.half().to(value.dtype), value) else value
            for name, value in self._encoder.state_dict().items()
        }
        self._encoder.save_pretrained(folder / "text_encoder", state_dict=state)
        self._tokenizer.save_pretrained(folder / "tokenizer")
        if self.words is not None:
            (folder / "tokenizer" / WORDS_FILE).write_text(
                json.dumps(sorted(self.words)) + "\n", encoding="utf-8"
            )

    def state(self) -> dict[str, Tensor]:
        """The encoder's weights by name, for hashes."""
        return self._encoder.state_dict()

    def fingerprint(self) -> str:
        """Hash of everything that the output depends on: weights (as float32) and vocabulary."""
        digest = hashlib.sha256(json.dumps(sorted(self._tokenizer.get_vocab().items())).encode())
        for name, value in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def make_conditioner(
    settings: ConditionerSettings, weights: WeightSettings, device: torch.device | str
) -> TextConditioner:
    """The generator's text encoder, frozen, on a device; downloaded if need be.

    Raises: ValueError if it cannot be had.
    """
    try:
        found = find_weights(**conditioner_places(settings, weights))
    except WeightsError as error:
        raise ValueError(f"conditioner {error}") from None
    assert found.folder is not None
    return TextConditioner.from_pretrained(found.folder, variant=found.variant).to(device)
