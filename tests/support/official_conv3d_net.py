"""A small checkpoint of the official 3DConv-net."""

from __future__ import annotations

import torch
from torch import Tensor

Z, C, W, FEATURES, WIDTH = 3, 5, 6, 4, 7
CHANNELS = {4: 4, 8: 4, 16: 2}
BIASED = 8
"""Up to this resolution blocks have a bias of each place."""


def official_state() -> dict[str, Tensor]:
    """A checkpoint's weights of small sizes, all of them random."""
    random = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        state[f"geometry.{name}"] = scale * torch.randn(shape, generator=random)

    def add_dense(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs, scale=0.3)

    add("bbox", 2, 3)
    mapping = "space_generator.mapping"
    add(f"{mapping}.w_avg", W)
    add_dense(f"{mapping}.layers.0", Z, W)
    add_dense(f"{mapping}.layers.1", W, W)
    add_dense(f"{mapping}.embed", W + C, W)
    before = 0
    for number, (r, channels) in enumerate(CHANNELS.items()):
        block = "space_generator.synthesis." + ("first_block" if number == 0 else f"blocks.{number - 1}")
        for name, inputs in (("conv0", before), ("conv1", channels))[number == 0 :]:
            add_dense(f"{block}.{name}.affine", W, inputs)
            add(f"{block}.{name}.weight", channels, inputs, 3, 3, 3)
            add(f"{block}.{name}.noise_const", r, r, r)
            add(f"{block}.{name}.noise_strength", 1)
            add(f"{block}.{name}.bias", channels, scale=0.3)
        add_dense(f"{block}.torgb.affine", W, channels)
        add(f"{block}.torgb.weight", FEATURES, channels, 1, 1, 1)
        add(f"{block}.torgb.bias", FEATURES, scale=0.3)
        if r <= BIASED:
            add(f"{block}.const" if number == 0 else f"{block}.const_bias", channels, r, r, r)
        before = channels
    for name, outputs in (("sdf_network", 1), ("feature_network", 3)):
        add(f"{name}.layers.0.weight", WIDTH, FEATURES, scale=0.5)
        add(f"{name}.layers.2.weight", outputs, WIDTH, scale=0.3)
    state["background.network.layers.0.weight"] = torch.zeros(16, 9)
    return state
