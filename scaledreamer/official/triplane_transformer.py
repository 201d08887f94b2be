"""Converts weights of the official Triplane-Transformer (theEricMa/ScaleDreamer).

The official scene is a cube of half-width 2, ours has half-width 1: the planes are the same, and all
distances are halved. Its two MLPs have no biases: ours are zero. It was trained to attend to the padding of
the text, so `mask_padding` is off. Its colours are sigmoid(x) * 1.002 - 0.001; ours omit the last two
numbers. The background is not converted: the official network reads spherical harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaledreamer.official.weights import Weights, decoder, length, plain, section, size

PUBLISHED: dict[str, Any] = {"radius": 2.0, "sdf_bias_params": 0.8, "num_heads": 16}
"""Official settings that cannot be inferred from the weights; num_heads is in space_generator_config."""

SPACE = "geometry.space_generator."
_LAYER = {
    "cross_norm": ["norm1"],
    "cross_query": ["cross_attn.to_q"],
    "cross_key_value": ["cross_attn.to_k", "cross_attn.to_v"],
    "cross_out": ["cross_attn.to_out.0"],
    "self_norm": ["norm2"],
    "self_query_key_value": ["self_attn.to_q", "self_attn.to_k", "self_attn.to_v"],
    "self_out": ["self_attn.to_out.0"],
    "mlp_norm": ["norm3"],
    "mlp_in": ["mlp.0"],
    "mlp_out": ["mlp.3"],
}
"""Our modules of a layer, and the official modules whose weights they concatenate."""
_WITHOUT_BIAS = ("cross_query", "cross_key_value", "self_query_key_value")


def convert(
    state: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor settings of our `TriplaneTransformer` and its state, float32, from an official
    "state_dict".

    Args:
        state: names `geometry.*`; others are ignored.
        settings: section `system.geometry` of the official configuration; `radius`, `sdf_bias_params` and
            `space_generator_config.num_heads` are read, by default the published ones.

    Raises: ValueError naming the weight or setting that does not fit this architecture.
    """
    official = Weights(state, "Triplane-Transformer")
    if f"{SPACE}proj.weight" in official:
        raise ValueError(
            f"{SPACE}proj.weight: this one reads one vector a prompt (local_text: false); accepted are those "
            "that attend to all tokens of the text (local_text: true)."
        )
    half_width, sphere_radius = (
        length(settings, name, PUBLISHED[name]) for name in ("radius", "sdf_bias_params")
    )
    num_heads = size(section(settings, "space_generator_config"), "num_heads", PUBLISHED["num_heads"])

    positions = official.take(f"{SPACE}pos_embed")[0]
    ours = {"positions": positions, "deconvolution.weight": official.take(f"{SPACE}deconv.weight")}
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = official.take(f"{SPACE}norm.{kind}")
    num_layers = 1  # at least; the first that is missing is named
    while f"{SPACE}layers.{num_layers}.norm1.weight" in official:
        num_layers += 1
    for number in range(num_layers):
        for name, theirs in _LAYER.items():
            for kind in ("weight",) if name in _WITHOUT_BIAS else ("weight", "bias"):
                parts = [official.take(f"{SPACE}layers.{number}.{part}.{kind}") for part in theirs]
                ours[f"layers.{number}.{name}.{kind}"] = torch.cat(parts)

    networks, hidden = decoder(official, half_width)
    ours |= networks
    resolution = math.isqrt(len(positions) // 3)
    if 3 * resolution**2 != len(positions):
        raise ValueError(f"{SPACE}pos_embed has {len(positions)} tokens: accepted are 3 squares of one size.")
    official.check_all_taken()
    found: dict[str, Any] = {
        "token_dim": ours["layers.0.cross_key_value.weight"].shape[1],
        "width": positions.shape[1],
        "num_layers": num_layers,
        "num_heads": num_heads,
        "token_resolution": resolution,
        "plane_features": ours["deconvolution.weight"].shape[1],
        "mlp_width": hidden[0],
        "mlp_depth": len(hidden),
        "sphere_radius": sphere_radius / half_width,
        "background": "none",
        "coordinates": False,
        "mask_padding": False,
    }
    return found, plain(ours)
