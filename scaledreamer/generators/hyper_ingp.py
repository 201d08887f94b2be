"""Hyper-iNGP (ScaleDreamer section 4.2, after ATT3D): one hash grid for all prompts, two small MLPs for each.

A hyper-network maps the pooled text to the weights of an SDF network and a colour network, both of which read
a point's hash grid features and coordinates. Of the text, only the conditioner's `pooled` is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scaledreamer.contracts import Generator, GeneratorText
from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.fields.hash_grid_backend import choose_backend
from scaledreamer.fields.sdf import sphere_bias
from scaledreamer.generators.decoded import check_settings
from scaledreamer.generators.whitening import TextWhitening


@dataclass(frozen=True)
class PromptMLP:
    """One MLP per prompt: ReLU between layers, none at the end.

    Attributes:
        weights: per layer, "batch in out".
        biases: per layer, "batch 1 out".
    """

    weights: list[Tensor]
    biases: list[Tensor]

    def row(self, index: int) -> PromptMLP:
        """The MLP of one prompt, as a batch of one."""
        one = slice(index, index + 1)
        return PromptMLP([w[one] for w in self.weights], [b[one] for b in self.biases])

    def __call__(self, x: Float[Tensor, "batch n in"]) -> Float[Tensor, "batch n out"]:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.relu(x) if number > 0 else x, weight)
        return x


@dataclass(frozen=True)
class HyperINGPScene:
    """Scenes of a batch of prompts (a `contracts.SceneBatch`), differentiable in the generator."""

    grid: HashGrid
    sdf_mlp: PromptMLP
    rgb_mlp: PromptMLP
    background_mlp: PromptMLP | None
    sphere_radius: float

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance: a sphere plus the network's output."""
        return self._sdf(points, self._encode(points))

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n 3"]]:
        """Signed distance and rgb in [0, 1]."""
        encoded = self._encode(points)
        return self._sdf(points, encoded), torch.sigmoid(self.rgb_mlp(encoded))

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Rgb of the background: learned by direction and prompt, or white."""
        if self.background_mlp is None:
            return torch.ones_like(directions)
        return torch.sigmoid(self.background_mlp(directions))

    def row(self, index: int) -> HyperINGPScene:
        """The scene of one prompt, as a batch of one."""
        behind = None if self.background_mlp is None else self.background_mlp.row(index)
        mlps = self.sdf_mlp.row(index), self.rgb_mlp.row(index), behind
        return HyperINGPScene(self.grid, *mlps, self.sphere_radius)

    def _sdf(self, points: Tensor, encoded: Tensor) -> Tensor:
        return sphere_bias(points, self.sphere_radius) + self.sdf_mlp(encoded)[..., 0]

    def _encode(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n feature"]:
        """Hash grid features and coordinates, computed once if the prompts share their points."""
        own = points[:1] if points.stride(0) == 0 else points
        return torch.cat([self.grid(own), own], -1).expand(len(points), -1, -1)


class HyperINGP(Generator):
    """Text to scene: a shared hash grid, and a hyper-network for each prompt's MLPs.

    Starts as the same grey sphere for every prompt (up to a hundredth of its radius). Noise z is not used.

    Args:
        condition_dim: length of the conditioner's pooled vector.
        num_levels, features_per_level, log2_table_size, base_resolution, growth: see `HashGrid`.
        hyper_width: width of the hyper-network.
        hyper_depth: its number of hidden layers.
        whitening: strength of the `TextWhitening` before it, 0 (none) to 1; must be fitted to the corpus.
        mlp_width: width of the SDF and the colour network.
        mlp_depth: their number of hidden layers.
        sphere_radius: radius of the initial surface.
        background: "learned", a network of the direction whose weights also come from the hyper-network, or
            "none", white.
        grid_backend: see `HashGrid`. Not part of `config`, so that exports run on any machine.

    Raises: ValueError naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        num_levels: int = 8,
        features_per_level: int = 4,
        log2_table_size: int = 14,
        base_resolution: int = 8,
        growth: float = 1.5,
        hyper_width: int = 128,
        hyper_depth: int = 1,
        whitening: float = 0.0,
        mlp_width: int = 32,
        mlp_depth: int = 1,
        sphere_radius: float = 0.5,
        background: Literal["learned", "none"] = "learned",
        grid_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "condition_dim": condition_dim,
            "num_levels": num_levels,
            "features_per_level": features_per_level,
            "log2_table_size": log2_table_size,
            "base_resolution": base_resolution,
            "growth": growth,
            "hyper_width": hyper_width,
            "hyper_depth": hyper_depth,
            "whitening": whitening,
            "mlp_width": mlp_width,
            "mlp_depth": mlp_depth,
            "sphere_radius": sphere_radius,
            "background": background,
        }
        sizes = ("condition_dim", "hyper_width", "hyper_depth", "mlp_width", "mlp_depth")
        check_settings(self.config, sizes)

        if not 0 <= whitening <= 1:
            raise ValueError(f"whitening is {whitening}; accepted are numbers from 0 to 1.")

        self.sphere_radius = sphere_radius
        self.whitening = TextWhitening(condition_dim, whitening) if whitening > 0 else None
        self.grid = HashGrid(
            num_levels=num_levels,
            features_per_level=features_per_level,
            log2_table_size=log2_table_size,
            base_resolution=base_resolution,
            growth=growth,
            backend=grid_backend,
        )
        widths = [self.grid.num_features + 3] + [mlp_width] * mlp_depth
        self.layers = {"sdf": _layers([*widths, 1]), "rgb": _layers([*widths, 3])}
        if background == "learned":
            self.layers["background"] = _layers([3, 16, 3])
        hidden: list[nn.Module] = [
            nn.Linear(condition_dim, hyper_width),
            nn.LayerNorm(hyper_width),
            nn.SiLU(),
        ]
        for _ in range(hyper_depth - 1):
            hidden += [nn.Linear(hyper_width, hyper_width), nn.SiLU()]
        self.hyper = nn.Sequential(*hidden)
        self.heads = nn.ModuleDict({name: _head(hyper_width, layers) for name, layers in self.layers.items()})

    def forward(self, text: GeneratorText, z: Tensor | None = None) -> HyperINGPScene:
        """The scenes of a batch of prompts.

        Raises: ValueError for noise, which this generator does not take, and for text features of another
            length.
        """
        if z is not None:
            raise ValueError("This generator takes no noise z (has_noise is False): leave z out.")
        expected, got = self.config["condition_dim"], text.pooled.shape[1]
        if expected != got:
            raise ValueError(
                f"The text has {got} numbers, the generator was built for {expected} (condition_dim)."
            )
        pooled = text.pooled.to(self.grid.table.dtype)
        hidden = self.hyper(pooled if self.whitening is None else self.whitening(pooled))
        scale = self.config["hyper_width"] ** -0.5
        mlps = {
            name: _prompt_mlp(scale * head(hidden), self.layers[name]) for name, head in self.heads.items()
        }
        return HyperINGPScene(self.grid, mlps["sdf"], mlps["rgb"], mlps.get("background"), self.sphere_radius)

    @classmethod
    def backend_line(cls, settings: dict[str, Any], device: torch.device) -> str | None:
        """See `Generator.backend_line`: what computes the hash grid."""
        try:
            return choose_backend(settings["grid_backend"], device).line
        except ValueError as error:
            raise ValueError(f"grid_{error}") from None

    @classmethod
    def small_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """See `Generator.small_settings`."""
        entries = min(settings["log2_table_size"], 12)
        small = {"log2_table_size": entries, "grid_backend": "torch", "hyper_width": 16, "hyper_depth": 1}
        return {**settings, **small}


def _layers(widths: list[int]) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer."""
    return list(zip(widths[:-1], widths[1:], strict=True))


def _head(hyper_width: int, layers: list[tuple[int, int]]) -> nn.Linear:
    """Last layer of the hyper-network for one MLP; its output has to be multiplied by hyper_width^-1/2.

    A step of Adam moves all its weights by the learning rate at once; with this factor it moves an MLP's
    weights less, and one learning rate works for all parts at any width. (Fit to 448 tinyworld objects for
    400 steps at 5e-3, hyper_width 128: 16.0 dB; without the factor 13.8 dB, and 15.3 dB at its best rate,
    2e-3.)

    The bias is initialized to the weights of an ordinary MLP, so that prompts differ only slightly: He
    initialization (2015) for the hidden layers, a hundredth of it for the last one, and zero for the MLP's
    biases.
    """
    head = nn.Linear(hyper_width, sum((inputs + 1) * outputs for inputs, outputs in layers))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        start = 0
        for number, (inputs, outputs) in enumerate(layers):
            rows = slice(start, start + inputs * outputs)
            deviation = math.sqrt(2 / inputs) * (0.01 if number == len(layers) - 1 else 1.0)
            head.bias[rows].normal_(0, deviation * math.sqrt(hyper_width))
            head.weight[rows].normal_(0, 0.1 * deviation)
            start += (inputs + 1) * outputs
    return head


def _prompt_mlp(parameters: Float[Tensor, "batch parameter"], layers: list[tuple[int, int]]) -> PromptMLP:
    """Splits the hyper-network's output into the layers of each prompt's MLP."""
    sizes = [size for inputs, outputs in layers for size in (inputs * outputs, outputs)]
    parts = parameters.split(sizes, dim=1)
    weights = [part.view(-1, *shape) for part, shape in zip(parts[::2], layers, strict=True)]
    return PromptMLP(weights, [part[:, None] for part in parts[1::2]])
