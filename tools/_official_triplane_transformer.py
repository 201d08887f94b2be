"""Weights of the official Triplane-Transformer (theEricMa/ScaleDreamer) as weights of ours.

The official scene is a cube of half-width 2, ours has 1: the same planes, and all distances halved. Its two
MLPs have no biases: ours get zeros. It was trained to look at the padding of the text as well, so
`mask_padding` is off. Its colours are sigmoid(x) * 1.002 - 0.001, ours without the last two numbers. What a
ray sees behind the scene is not carried over: the official network for it reads spherical harmonics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PUBLISHED = {"radius": 2.0, "sdf_bias_params": 0.8, "num_heads": 16}
"""Of the official geometry's settings those that no weight shows; heads stand in space_generator_config."""

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
"""Our modules of a layer, and the official ones whose weights they hold one after the other."""
_WITHOUT_BIAS = ("cross_query", "cross_key_value", "self_query_key_value")


def convert(
    state: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor settings of our `TriplaneTransformer` and its state, float32, from an official
    "state_dict".

    Args:
        state: names `geometry.*`; all others are left alone.
        settings: of the official configuration's section `system.geometry`; `radius`, `sdf_bias_params` and
            `space_generator_config.num_heads` are read, which where missing are the published ones.

    Raises: ValueError naming the weight or setting that is not what this architecture has.
    """
    used = {"geometry.bbox"}

    def take(name: str) -> Tensor:
        if name not in state:
            raise ValueError(
                f"{name} is missing: not a checkpoint of the official Triplane-Transformer, or a part of one."
            )
        used.add(name)
        return state[name]

    if f"{SPACE}proj.weight" in state:
        raise ValueError(
            f"{SPACE}proj.weight: this one reads one vector a prompt (local_text: false); accepted are those "
            "that attend to all tokens of the text (local_text: true)."
        )
    lengths = {name: settings.get(name, PUBLISHED[name]) for name in ("radius", "sdf_bias_params")}
    num_heads = (settings.get("space_generator_config") or {}).get("num_heads", PUBLISHED["num_heads"])
    for name, value in (lengths | {"num_heads": num_heads}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} is {value!r}: accepted is a number above 0.")
    if not isinstance(num_heads, int):
        raise ValueError(f"num_heads is {num_heads!r}: accepted is a whole number.")
    half_width = float(lengths["radius"])

    positions = take(f"{SPACE}pos_embed")[0]
    ours = {"positions": positions, "deconvolution.weight": take(f"{SPACE}deconv.weight")}
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = take(f"{SPACE}norm.{kind}")
    pattern = re.compile(re.escape(SPACE) + r"layers\.(\d+)\.norm1\.weight")
    num_layers = sum(pattern.fullmatch(name) is not None for name in state)
    for number in range(num_layers):
        for name, theirs in _LAYER.items():
            for kind in ("weight",) if name in _WITHOUT_BIAS else ("weight", "bias"):
                parts = [take(f"{SPACE}layers.{number}.{part}.{kind}") for part in theirs]
                ours[f"layers.{number}.{name}.{kind}"] = torch.cat(parts)

    widths = {}
    for name, theirs in (("sdf", "sdf_network"), ("rgb", "feature_network")):
        prefix, layers = f"geometry.{theirs}.layers.", [take(f"geometry.{theirs}.layers.0.weight")]
        while f"{prefix}{2 * len(layers)}.weight" in state:
            layers.append(take(f"{prefix}{2 * len(layers)}.weight"))
        widths[name] = [len(layer) for layer in layers]
        if name == "sdf":
            layers[-1] = layers[-1] / half_width
        for number, layer in enumerate(layers):
            ours[f"decoder.{name}.{2 * number}.weight"] = layer
            ours[f"decoder.{name}.{2 * number}.bias"] = torch.zeros(len(layer))
    hidden = widths["sdf"][:-1]
    if widths["rgb"] != [*hidden, 3] or widths["sdf"] != [*hidden, 1] or len(set(hidden)) != 1:
        raise ValueError(
            f"geometry.sdf_network and feature_network have layers of {widths['sdf']} and {widths['rgb']}: "
            "accepted are equal hidden layers of one width, and 1 and 3 outputs."
        )
    resolution = math.isqrt(len(positions) // 3)
    if 3 * resolution**2 != len(positions):
        raise ValueError(f"{SPACE}pos_embed has {len(positions)} tokens: accepted are 3 squares of one size.")
    left = sorted(name for name in state if name.startswith("geometry.") and name not in used)
    if left:
        raise ValueError(f"{left[0]} is no weight of this architecture ({len(left)} are not).")
    found: dict[str, Any] = {
        "token_dim": ours["layers.0.cross_key_value.weight"].shape[1],
        "width": positions.shape[1],
        "num_layers": num_layers,
        "num_heads": num_heads,
        "token_resolution": resolution,
        "plane_features": ours["deconvolution.weight"].shape[1],
        "mlp_width": hidden[0],
        "mlp_depth": len(hidden),
        "sphere_radius": float(lengths["sdf_bias_params"]) / half_width,
        "background": "none",
        "coordinates": False,
        "mask_padding": False,
    }
    return found, {name: value.detach().float().clone() for name, value in ours.items()}
