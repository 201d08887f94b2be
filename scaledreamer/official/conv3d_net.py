"""Converts weights of the official 3DConv-net (theEricMa/ScaleDreamer).

The official scene is a cube of half-width 2, ours has half-width 1: points, the sphere's radius and distances
are halved. The official convolutions draw new noise fields in each pass. Ours use the constant fields that
are stored in its checkpoints, and give equal results if those are used (noise_mode="const") and z is one for
the convolutions. The background is not converted: the official network reads spherical harmonics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from scaledreamer.official.weights import Weights, decoder, length, plain

GENERATOR = "geometry.space_generator."
PUBLISHED = {"radius": 2.0, "sdf_bias_params": 0.8}
"""The official geometry's settings that cannot be inferred from the weights."""


def convert(
    state: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor settings of our `Conv3DNet` and its state, float32, from an official "state_dict".

    Args:
        state: names `geometry.*`; others are ignored.
        settings: section `system.geometry` of the official configuration; `radius` and `sdf_bias_params` are
            read, by default the published ones. Everything else follows from the weights.

    Raises: ValueError naming the weight or setting that does not fit this architecture.
    """
    half_width, sphere_radius = (length(settings, name, PUBLISHED[name]) for name in PUBLISHED)
    official = Weights(state, "3DConv-net")
    ours = dict(_mapping(official))
    resolutions, channels, bias_resolution = [], [], 4
    for number, prefix in enumerate(_block_prefixes(official)):
        ours |= {f"blocks.{number}.{name}": value for name, value in _block(official, prefix, number)}
        resolutions.append(official.take(f"{prefix}conv1.noise_const").shape[0])
        channels.append(official.take(f"{prefix}conv1.bias").shape[0])
        if f"blocks.{number}.position_bias" in ours:
            bias_resolution = resolutions[-1]
    networks, hidden = decoder(official, half_width)
    ours |= networks
    official.check_all_taken()
    style_dim, joined = ours["mapping.join.weight"].shape
    found: dict[str, Any] = {
        "condition_dim": joined - style_dim,
        "z_dim": ours["mapping.layers.0.weight"].shape[1],
        "style_dim": style_dim,
        "mapping_depth": sum(name.startswith("mapping.layers.") for name in ours) // 2,
        "resolution": resolutions[-1],
        "num_features": len(ours["blocks.0.output.bias"]),
        "max_channels": channels[0],
        "channel_base": channels[-1] * resolutions[-1],
        "position_bias_resolution": bias_resolution,
        "mlp_width": hidden[0],
        "mlp_depth": len(hidden),
        "sphere_radius": sphere_radius / half_width,
        "background": "none",
    }
    expected = [min(found["max_channels"], found["channel_base"] // r) for r in resolutions]
    if channels != expected:
        raise ValueError(
            f"the convolutions have {channels} channels at resolutions {resolutions}, where {expected} are "
            "accepted: channel_multiplier 1 or 2."
        )
    return found, plain(ours)


def _mapping(official: Weights) -> Iterator[tuple[str, Tensor]]:
    prefix = f"{GENERATOR}mapping."
    if f"{prefix}embed.weight" not in official:
        raise ValueError(
            f"{prefix}embed.weight is missing: accepted are generators that read text (c_dim > 0)."
        )
    weights = official.layers(f"{prefix}layers.")
    # The mean over noise and text; ours, over noise alone, is computed at export.
    if f"{prefix}w_avg" in official:
        official.take(f"{prefix}w_avg")
    for number, weight in enumerate(weights):
        yield f"mapping.layers.{number}.weight", weight
        yield f"mapping.layers.{number}.bias", official.take(f"{prefix}layers.{number}.bias")
    for name in ("weight", "bias"):
        yield f"mapping.join.{name}", official.take(f"{prefix}embed.{name}")
    yield "mapping.mean", torch.zeros(len(weights[-1]))


def _block_prefixes(official: Weights) -> list[str]:
    synthesis = f"{GENERATOR}synthesis."
    prefixes = [f"{synthesis}first_block."]
    while f"{synthesis}blocks.{len(prefixes) - 1}.conv1.weight" in official:
        prefixes.append(f"{synthesis}blocks.{len(prefixes) - 1}.")
    return prefixes


def _block(official: Weights, prefix: str, number: int) -> Iterator[tuple[str, Tensor]]:
    pairs = [("conv", "conv1"), ("output", "torgb")]
    if number == 0:
        yield "position_bias", official.take(f"{prefix}const")
    else:
        pairs.append(("doubling", "conv0"))
        if f"{prefix}const_bias" in official:
            yield "position_bias", official.take(f"{prefix}const_bias")
    for ours, theirs in pairs:
        yield f"{ours}.style.weight", official.take(f"{prefix}{theirs}.affine.weight")
        yield f"{ours}.style.bias", official.take(f"{prefix}{theirs}.affine.bias")
        names = {"weight": "weight", "bias": "bias"}
        if ours != "output":
            names |= {"noise_strength": "noise_strength", "noise": "noise_const"}
        for our_name, their_name in names.items():
            yield f"{ours}.{our_name}", official.take(f"{prefix}{theirs}.{their_name}")
