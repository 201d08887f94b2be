"""The text encoder whose output a generator is given. Apart from any prior's own, and part of what is
exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaledreamer.scene import TextCondition

WORDS_FILE = "words.json"


class TextConditioner:
    """A frozen CLIP text encoder: plain prompts, without view words, to `TextCondition`.

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
        from transformers import CLIPTextModel, CLIPTokenizer

        source = str(folder_or_id)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **options)
            encoder = CLIPTextModel.from_pretrained(
                source, subfolder="text_encoder", dtype=torch.float32, use_safetensors=True, **options
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"conditioner {source}: text_encoder/ and tokenizer/ cannot be loaded ({reason}); give a "
                "folder that holds both, or a hub id that can be reached."
            ) from None
        words_path = Path(source) / "tokenizer" / WORDS_FILE
        words = (
            frozenset(json.loads(words_path.read_text(encoding="utf-8"))) if words_path.is_file() else None
        )
        return cls(encoder, tokenizer, words)

    @property
    def condition_dim(self) -> int:
        """Width of `TextCondition.pooled` and `.tokens`."""
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
    def __call__(self, prompts: list[str]) -> TextCondition:
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
        return TextCondition(
            output.pooler_output, output.last_hidden_state, batch.attention_mask.to(device).bool()
        )

    def num_tokens(self, prompt: str) -> int:
        """Tokens of a prompt before any cut, marks of start and end included."""
        return len(self._tokenizer(prompt).input_ids)

    def unknown_words(self, prompt: str) -> list[str]:
        """The prompt's words that a closed vocabulary lacks, in order, once each; empty for an open one."""
        if self.words is None:
            return []
        found = re.findall(r"[^\W_]+(?:'[^\W_]+)?", prompt.lower())
        return list(dict.fromkeys(word for word in found if word not in self.words))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `text_encoder/` (safetensors) and `tokenizer/`, and the closed vocabulary if there is
        one."""
        folder = Path(folder)
        self._encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
        self._tokenizer.save_pretrained(folder / "tokenizer")
        if self.words is not None:
            (folder / "tokenizer" / WORDS_FILE).write_text(
                json.dumps(sorted(self.words)) + "\n", encoding="utf-8"
            )

    def state(self) -> dict[str, Tensor]:
        """The encoder's weights by name, for hashes."""
        return self._encoder.state_dict()
