"""Weights of the official Hyper-iNGP (theEricMa/ScaleDreamer) as weights of ours.

The official scene is a cube of half-width 2, ours has 1: the same grid, and all distances halved. Its MLPs
have no biases and do not read coordinates: ours get zeros there. Our hyper-network's output is multiplied by
hyper_width^-1/2, so the last layer's weights are divided by it. tinycudann's flat parameters of a hash grid
are our table, row by row. What a ray sees behind the scene is not carried over: the official network for it
reads a hash grid of directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaledreamer.fields.hash_grid import HashGrid

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
"""Of the official geometry's settings those that no weight shows."""

GRID = "geometry.encoding.encoding.encoding.params"
HYPER = "geometry.hypernet.layers."


def convert(
    state: dict[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor settings of our `HyperINGP` and its state, float32, from an official "state_dict".

    Args:
        state: names `geometry.*`; all others are left alone.
        settings: of the official configuration's section `system.geometry`; those of `PUBLISHED` are read,
            which where missing are the published ones, and the widths of `hypernet_config.out_dims`, without
            which both MLPs are taken to have one hidden layer.

    Raises: ValueError naming the weight or setting that is not what this architecture has.
    """
    half_width = _length(settings, "radius")
    encoding = PUBLISHED["pos_encoding_config"] | dict(settings.get("pos_encoding_config") or {})
    for name in PUBLISHED["pos_encoding_config"]:
        value, is_whole = encoding[name], name != "per_level_scale"
        is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
        if not is_number or not value > 0:
            accepted = "whole number" if is_whole else "number"
            raise ValueError(f"pos_encoding_config.{name} is {value!r}: accepted is a {accepted} above 0.")
    grid = {
        "num_levels": encoding["n_levels"],
        "features_per_level": encoding["n_features_per_level"],
        "log2_table_size": encoding["log2_hashmap_size"],
        "base_resolution": encoding["base_resolution"],
        "growth": float(encoding["per_level_scale"]),
    }
    with torch.device("meta"):
        rows, features = HashGrid(**grid).table.shape
    table = _take(state, GRID)
    if table.numel() != rows * features:
        raise ValueError(
            f"{GRID} holds {table.numel()} numbers, a grid of pos_encoding_config ({encoding}) "
            f"{rows * features}: give the configuration of this checkpoint."
        )

    if f"{HYPER}0.weight_orig" in state:
        raise ValueError("geometry.hypernet has spectral norms (spectral_norm: true): ours has none.")
    first, last = _take(state, f"{HYPER}0.weight"), _take(state, f"{HYPER}3.weight")
    unknown = sorted(
        name
        for name in state
        if name.startswith("geometry.")
        and name not in (GRID, "geometry.bbox", f"{HYPER}0.weight")
        and name not in {f"{HYPER}{layer}.{kind}" for layer in (1, 3) for kind in ("weight", "bias")}
    )
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no weight of this architecture ({len(unknown)} are not): accepted are "
            "hyper-networks with one hidden layer (n_hidden_layers: 1)."
        )
    inputs, num_outputs = grid["num_levels"] * features, len(last)
    widths = _widths(settings, inputs, num_outputs)
    hyper_width = len(first)
    ours = {
        "grid.table": table.float().view(rows, features),
        "hyper.0.weight": first,
        "hyper.0.bias": torch.zeros(hyper_width),
        "hyper.1.weight": _take(state, f"{HYPER}1.weight"),
        "hyper.1.bias": _take(state, f"{HYPER}1.bias"),
    }
    start, scale = 0, hyper_width**0.5
    stacked = torch.cat([last, _take(state, f"{HYPER}3.bias")[:, None]], 1).float() * scale
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
        "sphere_radius": _length(settings, "sdf_bias_params") / half_width,
        "background": "none",
    }
    return found, {name: value.detach().float().clone() for name, value in ours.items()}


def _widths(settings: Mapping[str, Any], inputs: int, num_outputs: int) -> list[int]:
    """Hidden layers of both MLPs."""
    out_dims = (settings.get("hypernet_config") or {}).get("out_dims")
    if out_dims is None:
        widths = [num_outputs // (2 * inputs + 4)]
    else:
        lists = out_dims if isinstance(out_dims, dict) else {}
        sdf, rgb = (lists.get(name) for name in ("sdf_weights", "feature_weights"))
        are_whole = all(
            isinstance(sizes, list) and all(type(n) is int for n in sizes) for sizes in (sdf, rgb)
        )
        sdf, rgb = (sdf, rgb) if are_whole and sdf and rgb else ([0], [0])
        widths = sdf[:-1]
        if rgb[:-1] != widths or len(set(widths)) != 1 or (sdf[-1], rgb[-1]) != (1, 3):
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


def _length(settings: Mapping[str, Any], name: str) -> float:
    value = settings.get(name, PUBLISHED[name])
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} is {value!r}: accepted is a number above 0.")
    return float(value)


def _take(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"{name} is missing: not a checkpoint of the official Hyper-iNGP, or a part of one.")
    return state[name]
