"""Converts weights of the official Hyper-iNGP (theEricMa/ScaleDreamer).

The official scene is a cube of half-width 2, ours has half-width 1: the grid is the same, and all distances
are halved. Its MLPs have no biases and do not read coordinates: the corresponding weights are zero. Our
hyper-network's output is multiplied by hyper_width^-1/2, so the last layer's weights are divided by it.
tinycudann's flat hash grid parameters are our table, row by row. The background is not converted: the
official network reads a hash grid of directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.official.weights import Weights, length, plain, section, size

PUBLISHED: dict[str, Any] = {
    "radius": 2.0,
    "sdf_bias_params": 0.5,
    "pos_encoding_config": {
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    },
}
"""The official geometry's settings that cannot be inferred from the weights."""

GRID = "geometry.encoding.encoding.encoding.params"
HYPER = "geometry.hypernet.layers."
GROWTH = "per_level_scale"


def convert(
    state: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor settings of our `HyperINGP` and its state, float32, from an official "state_dict".

    Args:
        state: names `geometry.*`; others are ignored.
        settings: section `system.geometry` of the official configuration; those of `PUBLISHED` are read, by
            default the published ones, and the widths in `hypernet_config.out_dims`, without which both MLPs
            are assumed to have one hidden layer.

    Raises: ValueError naming the weight or setting that does not fit this architecture.
    """
    half_width, sphere_radius = (
        length(settings, name, PUBLISHED[name]) for name in ("radius", "sdf_bias_params")
    )
    encoding, published = section(settings, "pos_encoding_config"), PUBLISHED["pos_encoding_config"]
    within = "pos_encoding_config."
    sizes = {name: size(encoding, name, value, within) for name, value in published.items() if name != GROWTH}
    growth = length(encoding, GROWTH, published[GROWTH], within)
    grid: dict[str, Any] = {
        "num_levels": sizes["n_levels"],
        "features_per_level": sizes["n_features_per_level"],
        "log2_table_size": sizes["log2_hashmap_size"],
        "base_resolution": sizes["base_resolution"],
        "growth": growth,
    }
    with torch.device("meta"):
        rows, features = HashGrid(**grid).table.shape
    official = Weights(state, "Hyper-iNGP")
    table = official.take(GRID)
    if table.numel() != rows * features:
        raise ValueError(
            f"{GRID} holds {table.numel()} numbers, a grid of pos_encoding_config "
            f"({sizes | {GROWTH: growth}}) {rows * features}: give the configuration of this checkpoint."
        )

    if f"{HYPER}0.weight_orig" in official:
        raise ValueError("geometry.hypernet has spectral norms (spectral_norm: true): ours has none.")
    first, last, last_bias = (official.take(f"{HYPER}{name}") for name in ("0.weight", "3.weight", "3.bias"))
    norm = {f"hyper.1.{kind}": official.take(f"{HYPER}1.{kind}") for kind in ("weight", "bias")}
    official.check_all_taken(": accepted are hyper-networks with one hidden layer (n_hidden_layers: 1)")
    inputs, num_outputs = grid["num_levels"] * features, len(last)
    widths = _widths(settings, inputs, num_outputs)
    hyper_width = len(first)
    ours = {
        "grid.table": table.float().view(rows, features),
        "hyper.0.weight": first,
        "hyper.0.bias": torch.zeros(hyper_width),
    } | norm
    start, scale = 0, hyper_width**0.5
    stacked = torch.cat([last, last_bias[:, None]], 1).float() * scale
    for name, outputs in (("sdf", 1), ("rgb", 3)):
        layers = [inputs, *widths, outputs]
        parts = []
        for number, (before, after) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
            part = stacked[start : start + before * after]
            start += before * after
            if name == "sdf" and number == len(layers) - 2:
                part = part / half_width
            parts.append(part)
            coordinates = 3 if number == 0 else 0
            parts.append(stacked.new_zeros((coordinates + 1) * after, hyper_width + 1))  # and biases
        joined = torch.cat(parts)
        ours[f"heads.{name}.weight"], ours[f"heads.{name}.bias"] = joined[:, :-1], joined[:, -1]
    found = grid | {
        "condition_dim": first.shape[1],
        "hyper_width": hyper_width,
        "hyper_depth": 1,
        "mlp_width": widths[0],
        "mlp_depth": len(widths),
        "sphere_radius": sphere_radius / half_width,
        "background": "none",
    }
    return found, plain(ours)


def _widths(settings: Mapping[str, Any], inputs: int, num_outputs: int) -> list[int]:
    """Hidden layers of both MLPs."""
    out_dims = section(section(settings, "hypernet_config"), "out_dims", "hypernet_config.")
    if not out_dims:
        widths = [num_outputs // (2 * inputs + 4)]
    else:
        sdf, rgb = out_dims.get("sdf_weights"), out_dims.get("feature_weights")
        widths = sdf[:-1] if isinstance(sdf, list) else []
        if sdf != [*widths, 1] or rgb != [*widths, 3] or len(set(widths)) != 1:
            raise ValueError(
                f"hypernet_config.out_dims is {out_dims}: accepted are equal hidden layers of one width, and "
                "1 and 3 outputs."
            )
    layers = [inputs, *widths]
    size = 2 * sum(a * b for a, b in zip(layers[:-1], layers[1:], strict=True)) + 4 * widths[-1]
    if size != num_outputs or widths[0] < 1:
        raise ValueError(
            f"{HYPER}3.weight gives {num_outputs} numbers, and MLPs of {inputs} inputs and hidden layers "
            f"{widths} have {size}: give the configuration of this checkpoint."
        )
    return widths
