"""Reading ScaleDreamer's weights and settings: shared by the converters of its three generators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREFIX = "geometry."


class Weights:
    """The tensors `geometry.*` of an official "state_dict", with a record of those already used.

    Args:
        architecture: its name in messages.
    """

    def __init__(self, state: Mapping[str, Tensor], architecture: str) -> None:
        self._tensors = {name: value for name, value in state.items() if name.startswith(PREFIX)}
        self._architecture, self._taken = architecture, {f"{PREFIX}bbox"}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str) -> Tensor:
        """The tensor of this name. Raises: ValueError if there is none."""
        if name not in self._tensors:
            raise ValueError(
                f"{name} is missing: not a checkpoint of the official {self._architecture}, or a part of one."
            )
        self._taken.add(name)
        return self._tensors[name]

    def layers(self, prefix: str, step: int = 1) -> list[Tensor]:
        """Weights of a network's layers with indices 0, step, 2 step, ..."""
        found = [self.take(f"{prefix}0.weight")]
        while f"{prefix}{step * len(found)}.weight" in self:
            found.append(self.take(f"{prefix}{step * len(found)}.weight"))
        return found

    def check_all_taken(self, accepted: str = "") -> None:
        """Raises ValueError if some tensors were not used; the message ends with what is accepted."""
        left = sorted(self._tensors.keys() - self._taken)
        if left:
            raise ValueError(f"{left[0]} is no weight of this architecture ({len(left)} are not){accepted}.")


def decoder(weights: Weights, half_width: float) -> tuple[dict[str, Tensor], list[int]]:
    """State of our `Decoder` without background, and the widths of its hidden layers.

    The official MLPs have no biases, so ours are zero; distances are divided by the official `half_width`.
    """
    ours, widths = {}, {}
    for name, theirs in (("sdf", "sdf_network"), ("rgb", "feature_network")):
        layers = weights.layers(f"{PREFIX}{theirs}.layers.", step=2)
        widths[name] = [len(layer) for layer in layers]
        if name == "sdf":
            layers[-1] = layers[-1] / half_width
        for number, layer in enumerate(layers):
            ours[f"decoder.{name}.{2 * number}.weight"] = layer
            ours[f"decoder.{name}.{2 * number}.bias"] = layer.new_zeros(len(layer))
    hidden = widths["sdf"][:-1]
    if widths["rgb"] != [*hidden, 3] or widths["sdf"] != [*hidden, 1] or len(set(hidden)) != 1:
        raise ValueError(
            f"{PREFIX}sdf_network and feature_network have layers of {widths['sdf']} and {widths['rgb']}: "
            "accepted are equal hidden layers of one width, and 1 and 3 outputs."
        )
    return ours, hidden


def section(settings: Mapping[str, Any], name: str, within: str = "") -> Mapping[str, Any]:
    """A subsection of settings, empty if missing. Messages as in `length`.

    Raises: ValueError if it is not a section.
    """
    value = settings.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(
            f"{within}{name} is {value!r}: accepted is a section of settings, as the official file has."
        )
    return value or {}


def length(settings: Mapping[str, Any], name: str, published: float, within: str = "") -> float:
    """A setting that is a number above 0, by default the published one. Messages name it `within` its section
    ("section.").

    Raises: ValueError for anything else.
    """
    value = settings.get(name, published)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{within}{name} is {value!r}: accepted is a number above 0.")
    return float(value)


def size(settings: Mapping[str, Any], name: str, published: int, within: str = "") -> int:
    """A setting that is an integer of at least 1, by default the published one. Messages as in `length`.

    Raises: ValueError for anything else.
    """
    value = settings.get(name, published)
    if type(value) is not int or value < 1:
        raise ValueError(f"{within}{name} is {value!r}: accepted is a whole number, at least 1.")
    return value


def plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float32, without gradients."""
    return {name: value.detach().to(torch.float32, copy=True) for name, value in weights.items()}
