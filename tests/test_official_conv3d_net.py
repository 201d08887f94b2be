"""The official 3DConv-net's weights as ours, beside a naive forward pass that reads the official names.

The reference below is written from the equations with numpy loops; it has been compared with the official
module, which is not a part of this repository.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledreamer.contracts import GeneratorText
from scaledreamer.generators.conv3d_net import Conv3DNet
from scaledreamer.official.conv3d_net import convert
from tests.support.official_conv3d_net import BIASED, CHANNELS, FEATURES, WIDTH, C, W, Z, official_state

ROOT = Path(__file__).parent.parent

Array = NDArray[np.float64]


class NaiveReference:
    """One scene in the official units, from the official names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.double().numpy() for name, value in state.items()}

    def _get(self, name: str) -> Array:
        return self.state[f"geometry.{name}"]

    def _dense(self, name: str, x: Array) -> Array:
        weight = self._get(f"{name}.weight")
        return weight @ x / np.sqrt(weight.shape[1]) + self._get(f"{name}.bias")

    def _conv(self, name: str, x: Array, w: Array, *, doubles: bool = False) -> Array:
        styles = self._dense(f"{name}.affine", w)
        weight = self._get(f"{name}.weight") * styles[None, :, None, None, None]
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3, 4), keepdims=True) + 1e-8)
        size = x.shape[1]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
        y = np.zeros((len(weight), size, size, size))
        for i, j, k in itertools.product(range(3), repeat=3):
            part = padded[:, i : i + size, j : j + size, k : k + size]
            y += np.tensordot(weight[:, :, i, j, k], part, axes=1)
        y = doubled(y) if doubles else y
        y = y + self._get(f"{name}.noise_const") * self._get(f"{name}.noise_strength")
        y = y + self._get(f"{name}.bias")[:, None, None, None]
        return np.clip(np.where(y < 0, 0.2 * y, y) * np.sqrt(2), -256, 256)

    def volume(self, z: Array, c: Array) -> Array:
        x = z / np.sqrt((z**2).mean() + 1e-8)
        for number in range(2):
            x = self._dense(f"space_generator.mapping.layers.{number}", x)
            x = np.where(x < 0, 0.2 * x, x) * np.sqrt(2)
        w = self._dense("space_generator.mapping.embed", np.concatenate([x, c]))
        x, image = np.zeros(0), np.zeros(0)
        for number, r in enumerate(CHANNELS):
            block = "space_generator.synthesis." + ("first_block" if number == 0 else f"blocks.{number - 1}")
            if number == 0:
                x = self._get(f"{block}.const")
            else:
                x = self._conv(f"{block}.conv0", x, w, doubles=True)
                x = x + self._get(f"{block}.const_bias") if r <= BIASED else x
            x = self._conv(f"{block}.conv1", x, w)
            styles = self._dense(f"{block}.torgb.affine", w) / np.sqrt(len(x))
            weight = self._get(f"{block}.torgb.weight")[:, :, 0, 0, 0] * styles
            made = np.tensordot(weight, x, axes=1) + self._get(f"{block}.torgb.bias")[:, None, None, None]
            image = made if number == 0 else doubled(image) + made
        return image

    def __call__(self, volume: Array, point: Array) -> tuple[float, Array]:
        """Distance and colour at a point of the cube of half-width 2."""
        size = volume.shape[1]
        position = (point / 2 + 1) / 2 * size - 0.5
        lower = np.floor(position).astype(int)
        features = np.zeros(len(volume))
        for sides in itertools.product((0, 1), repeat=3):
            x, y, z = lower + sides
            weight = np.prod(np.where(sides, position - lower, 1 - (position - lower)))
            if all(0 <= a < size for a in (x, y, z)):
                features += weight * volume[:, z, y, x]
        outputs = []
        for name in ("sdf_network", "feature_network"):
            hidden = np.maximum(self._get(f"{name}.layers.0.weight") @ features, 0)
            outputs.append(self._get(f"{name}.layers.2.weight") @ hidden)
        return float(np.linalg.norm(point) - 0.8 + outputs[0][0]), 1 / (1 + np.exp(-outputs[1]))


def doubled(x: Array) -> Array:
    """Twice the lattice points along each axis, the outermost stay; linear between, axis by axis."""
    size = x.shape[1]
    places = np.linspace(0, size - 1, 2 * size)
    for axis in (1, 2, 3):
        x = np.apply_along_axis(lambda line: np.interp(places, np.arange(size), line), axis, x)
    return x


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official_state()


def test_converted_weights_give_the_scene_of_the_naive_reference(state: dict[str, Tensor]) -> None:
    settings, ours = convert(state, {})
    generator = Conv3DNet(**settings)
    generator.load_state_dict(ours)
    generator.double()
    random = torch.Generator().manual_seed(1)
    z, c = (torch.randn(1, size, generator=random).double() for size in (Z, C))
    at = (2 * torch.rand(1, 40, 3, generator=random) - 1).double()
    at[0, 0] = 1.0
    reference = NaiveReference(state)
    volume = reference.volume(z[0].numpy(), c[0].numpy())
    ones = torch.ones(1, generator.noise_dim - Z).double()
    condition = GeneratorText(c, c[:, None], torch.ones(1, 1, dtype=torch.bool))
    scene = generator(condition, torch.cat([z, ones], 1))
    torch.testing.assert_close(scene.features.values[0], torch.from_numpy(volume), rtol=1e-7, atol=1e-7)
    sdf, rgb = (values.detach() for values in scene.query(at))
    for n, point in enumerate(at[0].numpy()):
        distance, color = reference(volume, 2 * point)
        assert float(sdf[0, n]) == pytest.approx(distance / 2, abs=1e-7)
        torch.testing.assert_close(rgb[0, n], torch.from_numpy(color), rtol=1e-7, atol=1e-7)
    assert torch.equal(scene.background(at), torch.ones_like(at))


def test_settings_are_read_off_the_weights_and_lengths_are_halved(state: dict[str, Tensor]) -> None:
    settings, ours = convert(state, {"radius": 2.0, "sdf_bias_params": 0.5, "activation": "none"})
    assert settings == {
        "condition_dim": C,
        "z_dim": Z,
        "style_dim": W,
        "mapping_depth": 2,
        "resolution": 16,
        "num_features": FEATURES,
        "max_channels": 4,
        "channel_base": 32,
        "position_bias_resolution": BIASED,
        "mlp_width": WIDTH,
        "mlp_depth": 1,
        "sphere_radius": 0.25,
        "background": "none",
    }
    assert ours.keys() == Conv3DNet(**settings).state_dict().keys()
    assert {value.dtype for value in ours.values()} == {torch.float32}


def narrower(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another hidden layer for both networks, of a width of its own."""
    changed = {}
    for name in ("sdf_network", "feature_network"):
        outputs = len(state[f"geometry.{name}.layers.2.weight"])
        changed[f"geometry.{name}.layers.2.weight"] = torch.ones(4, WIDTH)
        changed[f"geometry.{name}.layers.4.weight"] = torch.ones(outputs, 4)
    return changed


def without(name: str) -> Any:
    return lambda state: {key: value for key, value in state.items() if key != f"geometry.{name}"}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda state: {}, {}, "mapping.embed.weight is missing: accepted are generators that read text"),
        (without("sdf_network.layers.0.weight"), {}, "sdf_network.layers.0.weight is missing"),
        (
            lambda state: state | narrower(state),
            {},
            r"layers of \[7, 4, 1\] and \[7, 4, 3\]: accepted are equal hidden layers of one width",
        ),
        (without("space_generator.synthesis.blocks.0.conv0.bias"), {}, "blocks.0.conv0.bias is missing"),
        (without("space_generator.synthesis.blocks.1.conv1.weight"), {}, "is no weight of this architecture"),
        (
            lambda state: state | {"geometry.deformation_network.layers.0.weight": torch.zeros(1)},
            {},
            "geometry.deformation_network.layers.0.weight is no weight of this architecture",
        ),
        (lambda state: state, {"radius": 0}, "radius is 0: accepted is a number above 0"),
        (lambda state: state, {"radius": True}, "radius is True: accepted is a number above 0"),
        (lambda state: state, {"sdf_bias_params": [1, 1, 1]}, r"sdf_bias_params is \[1, 1, 1\]"),
    ],
)
def test_what_is_no_such_checkpoint_is_named(
    change: Any, settings: dict[str, Any], message: str, state: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(change(state), settings)


def test_channels_of_another_rule_are_refused(state: dict[str, Tensor]) -> None:
    """With half as many channels at 8^3 as the rule has."""
    block = "geometry.space_generator.synthesis.blocks."
    halved = dict(state)
    for name in ("0.conv0.weight", "0.conv0.bias", "0.conv1.bias"):
        halved[block + name] = state[block + name][:2]
    with pytest.raises(ValueError, match=r"have \[4, 2, 2\] channels at resolutions \[4, 8, 16\]"):
        convert(halved, {})
