"""Plain field: one scene, a hash grid and two MLPs, optimized for a single prompt. It ignores the text.

The "generator" of single-prompt optimization (DreamFusion and its successors). While training, the colour
field may be queried at slightly displaced points ("minor perturbation of the input points coordinates of
texture fields", Pan et al. 2024, section 5.2), the distance never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.contracts import Generator, GeneratorText
from scaledreamer.fields.hash_grid import HashGrid
from scaledreamer.fields.hash_grid_backend import choose_backend
from scaledreamer.generators.decoded import DecodedScene, Decoder, check_settings


@dataclass(frozen=True)
class GridFeatures:
    """Hash grid features and coordinates of points, the same for every scene of a batch."""

    grid: HashGrid

    def __call__(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n feature"]:
        """Features at points, computed once if the prompts share the points."""
        own = points[:1] if points.stride(0) == 0 else points
        return torch.cat([self.grid(own), own], -1).expand(len(points), -1, -1)

    def row(self, index: int) -> GridFeatures:
        """The features of one scene, which are the same."""
        del index
        return self


@dataclass(frozen=True)
class JitteredScene:
    """A scene whose colour is queried at displaced points (a `scaledreamer.contracts.SceneBatch`).

    Attributes:
        z: noise that determines the displacements.
        deviation: standard deviation of the displacement along each axis, in scene units.
    """

    scene: DecodedScene
    z: Float[Tensor, "batch 2"]
    deviation: float

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance at the points, without displacement."""
        return self.scene.sdf(points)

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n 3"]]:
        """Signed distance at the points, rgb in [0, 1] at the displaced points."""
        beside = points + self.deviation * noise_at(points, self.z)
        features = self.scene.features(beside)
        return self.scene.sdf(points), torch.sigmoid(self.scene.decoder.rgb(features))

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Rgb of the background."""
        return self.scene.background(directions)

    def row(self, index: int) -> JitteredScene:
        """The scene of one prompt, as a batch of one."""
        return JitteredScene(self.scene.row(index), self.z[index : index + 1], self.deviation)


class Field(Generator):
    """One scene for all prompts.

    Starts as a grey sphere (up to a hundredth of its radius). Noise z, "batch 2", displaces the points of the
    colour field while training, and is refused otherwise.

    Args:
        num_levels, features_per_level, log2_table_size, base_resolution, growth: see `HashGrid`.
        mlp_width, mlp_depth: hidden layers of the distance's and the colour's network.
        sphere_radius: of the initial surface.
        background: "learned", a network of the direction, or "none", white.
        color_jitter: standard deviation of the displacement along each axis, in scene units; 0 is none.
        grid_backend: see `HashGrid`. Not part of `config`, so that exports run on any machine.

    Raises: ValueError naming the argument that is out of range.
    """

    noise_dim = 2

    def __init__(
        self,
        *,
        num_levels: int = 8,
        features_per_level: int = 4,
        log2_table_size: int = 15,
        base_resolution: int = 8,
        growth: float = 1.4,
        mlp_width: int = 32,
        mlp_depth: int = 1,
        sphere_radius: float = 0.5,
        background: Literal["learned", "none"] = "learned",
        color_jitter: float = 0.0,
        grid_backend: str = "auto",
    ) -> None:
        super().__init__()
        grid: dict[str, Any] = {
            "num_levels": num_levels,
            "features_per_level": features_per_level,
            "log2_table_size": log2_table_size,
            "base_resolution": base_resolution,
            "growth": growth,
        }
        self.config: dict[str, Any] = grid | {
            "mlp_width": mlp_width,
            "mlp_depth": mlp_depth,
            "sphere_radius": sphere_radius,
            "background": background,
            "color_jitter": color_jitter,
        }
        check_settings(self.config, ("mlp_width", "mlp_depth"))
        if not 0 <= color_jitter < math.inf:
            raise ValueError(
                f"color_jitter is {color_jitter}: a standard deviation in scene units, 0 for none or for "
                "example 0.005."
            )
        self.grid = HashGrid(**grid, backend=grid_backend)
        self.decoder = Decoder(self.grid.num_features + 3, mlp_width, mlp_depth, sphere_radius, background)

    @property
    def has_noise(self) -> bool:
        """Whether it takes noise z: only while training with jitter."""
        return self.training and self.config["color_jitter"] > 0

    def forward(self, text: GeneratorText, z: Tensor | None = None) -> DecodedScene | JitteredScene:
        """The scene, once for each prompt of the batch; without z there is no jitter.

        Raises: ValueError for noise without jitter, or of another shape.
        """
        scene = DecodedScene(GridFeatures(self.grid), self.decoder)
        if z is None:
            return scene
        if not self.has_noise:
            raise ValueError(
                "This generator takes noise z only while it is trained with color_jitter above 0: leave z "
                "out."
            )
        shape = (len(text.pooled), self.noise_dim)
        if tuple(z.shape) != shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)}: this generator takes standard normal numbers of shape "
                f"{shape} (batch, noise_dim)."
            )
        return JitteredScene(scene, z, self.config["color_jitter"])

    @classmethod
    def text_settings(cls, condition_dim: int, token_dim: int) -> dict[str, int]:
        """See `Generator.text_settings`: it reads no text."""
        del condition_dim, token_dim
        return {}

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
        return {**settings, "log2_table_size": entries, "grid_backend": "torch"}


# --- noise without a generator ------------------------------------------------------------------------------

_WORD = 2**32 - 1


def noise_at(points: Float[Tensor, "batch n 3"], z: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch n 3"]:
    """Standard normal numbers that depend only on z and the point.

    So neither the order of the points nor their division into chunks or batches matters, and there is no
    state. Not differentiable. A hash of the float32 bits of z and the point gives uniform numbers, which the
    Box-Muller transform makes normal.
    """
    words = [part.detach().float().contiguous().view(torch.int32).long() & _WORD for part in (z, points)]
    state = _mix(words[0][:, :1])
    for word in (words[0][:, 1:], *words[1].unbind(-1)):
        state = _mix(state ^ word)
    streams = torch.stack([_mix(state + number * 0x9E3779B9 & _WORD) for number in range(4)], -1)
    uniform = (streams.double() + 0.5) * 2.0**-32  # in (0, 1)
    radius = (-2 * uniform[..., :2].log()).sqrt()
    angle = 2 * math.pi * uniform[..., 2:]
    normal = torch.cat([radius * angle.cos(), radius[..., :1] * angle[..., :1].sin()], -1)
    return normal.to(points.dtype)


def _mix(words: Tensor) -> Tensor:
    """A bijection of 32-bit words, stored as int64, that mixes all bits (Mueller's finalizer)."""
    for _ in range(2):
        words = (words ^ (words >> 16)) * 0x45D9F3B & _WORD
    return words ^ (words >> 16)
