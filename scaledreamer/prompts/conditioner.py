"""The text encoder whose output a generator is given. Apart from any prior's own, and part of what is
exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaledreamer.contracts import GeneratorText
from scaledreamer.prompts.words import WORDS_FILE, read_words, unknown_words
from scaledreamer.weights.loading import load_text_encoder


class TextConditioner:
    """A frozen CLIP text encoder: plain prompts, without view words, to `GeneratorText`.

    Args:
        text_encoder, tokenizer: transformers' CLIPTextModel and CLIPTokenizer.
        words: every word that it was taught, where its vocabulary is closed; None where it is open.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, words: frozenset[str] | None = None) -> None:
        self._encoder = text_encoder.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.words = words

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path, **options: Any) -> TextConditioner:
        """Reads `text_encoder/` and `tokenizer/` of a folder (a pipeline's or an exported generator's) or a
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
        """Length of a vector of `GeneratorText.tokens`."""
        return self._encoder.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Tokens read of a prompt, marks of start and end included; what is longer is cut."""
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
        """Tokens of a prompt before any cut, marks of start and end included."""
        return len(self._tokenizer(prompt).input_ids)

    def unknown_words(self, prompt: str) -> list[str]:
        """The prompt's words that a closed vocabulary lacks, in order, once each; empty for an open one."""
        return [] if self.words is None else unknown_words(prompt, self.words)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `text_encoder/` (safetensors) and `tokenizer/`, and the closed vocabulary if there is one.

        Weights that lose nothing in fp16, as those of the shipped encoder, are written in fp16.
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
        """Hash of all that its output depends on: weights (as float32) and vocabulary."""
        digest = hashlib.sha256(json.dumps(sorted(self._tokenizer.get_vocab().items())).encode())
        for name, value in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()
