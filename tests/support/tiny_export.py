"""An exported generator of a few kilobytes with random weights and a closed vocabulary, made on the spot."""

from __future__ import annotations

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from scaledreamer.generators.hyper_ingp import HyperINGP
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.tinyworld.grammar import vocabulary
from scaledreamer.tinyworld.text import build_tokenizer


def tiny_pipeline(seed: int = 0) -> TextTo3D:
    """Random text encoder and generator (a grey, slightly dented ball); renderer and cameras of training."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
    )
    generator = HyperINGP(
        condition_dim=16, num_levels=4, features_per_level=2, log2_table_size=9, hyper_width=16, mlp_width=16
    )
    return TextTo3D(
        TextConditioner(encoder, tokenizer, vocabulary()),
        generator,
        cameras={"distance": [2.5, 2.7], "fov_deg": [38.0, 44.0]},
        renderer={"name": "volume", "num_proposals": 32, "beta": 1 / 30},
        step=7,
    )
