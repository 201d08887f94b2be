"""3DConv-net (ScaleDreamer section 4.2, after CC3D): noise and text to a feature volume by convolutions.

A mapping network turns noise into a vector, which is combined with the text to the style w; w modulates the
convolutions of a three-dimensional StyleGAN2. Two MLPs that all prompts share decode the features of a point
to distance and colour. Of the text, only the conditioner's `pooled` is used.

All randomness comes from z, "batch noise_dim": `z_dim` numbers for the mapping network, then one for each
convolution, in order. StyleGAN2 draws a new noise field for each convolution; at 128^3 this would be 4.8
million numbers per prompt and step, all of which would have to be stored to reproduce an asset. Here each
convolution has one constant field, scaled by its entry of z and its learned strength: noise of mean 0 and
variance 1, which vanishes at z = 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaledreamer.contracts import Generator, GeneratorText
from scaledreamer.fields.volume import FeatureVolume
from scaledreamer.generators.decoded import DecodedScene, Decoder, check_settings
from scaledreamer.generators.styled import Dense, StyledConv, StyledOutput, double

BASE_RESOLUTION = 4
"""Resolution of the learned constant that the convolutions start with."""


class Mapping(nn.Module):
    """Noise and text to styles.

    The mean over all noise is a buffer, zero until `compute_mean`. The text is added afterwards by a linear
    layer, so the mean style of a prompt follows from the mean noise and that prompt.
    """

    mean: Tensor

    def __init__(self, z_dim: int, condition_dim: int, style_dim: int, depth: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        widths = [z_dim] + [style_dim] * depth
        self.layers = nn.Sequential(
            *(Dense(a, b, is_activated=True) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self.join = Dense(style_dim + condition_dim, style_dim)
        self.register_buffer("mean", torch.zeros(style_dim))

    def forward(
        self, z: Float[Tensor, "batch z"], pooled: Float[Tensor, "batch d"], truncation: float
    ) -> Float[Tensor, "batch style"]:
        x = self.noise_style(z)
        if truncation != 1:
            x = torch.lerp(self.mean.to(x.dtype).expand_as(x), x, truncation)
        return self.join(torch.cat([x, pooled.to(x.dtype)], 1))

    def noise_style(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch style"]:
        """The style of noise before text is added; the noise is normalized to length sqrt(z)."""
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())

    @torch.no_grad()
    def compute_mean(self, num_samples: int) -> None:
        """Computes the mean, always from the same noise."""
        z = torch.randn(num_samples, self.z_dim, generator=torch.Generator().manual_seed(0))
        self.mean.copy_(self.noise_style(z.to(self.mean)).mean(0))


class Block(nn.Module):
    """The convolutions of one resolution, and their contribution to the volume.

    Args:
        inputs: channels of the previous block; None for the first block, which starts with a constant.
        has_position_bias: whether a learned field is added between the convolutions.
    """

    def __init__(
        self,
        inputs: int | None,
        channels: int,
        num_features: int,
        style_dim: int,
        resolution: int,
        *,
        has_position_bias: bool,
    ) -> None:
        super().__init__()
        shape = (channels, resolution, resolution, resolution)
        if inputs is None:
            self.doubling, self.position_bias = None, nn.Parameter(torch.randn(shape))
        else:
            self.doubling = StyledConv(inputs, channels, style_dim, resolution, is_doubling=True)
            self.position_bias = (
                nn.Parameter(torch.randn(shape) * channels**-0.5) if has_position_bias else None
            )
        self.conv = StyledConv(channels, channels, style_dim, resolution)
        self.output = StyledOutput(channels, num_features, style_dim)

    def forward(
        self, x: Tensor | None, volume: Tensor | None, style: Tensor, amounts: Float[Tensor, "batch layer"]
    ) -> tuple[Tensor, Tensor]:
        """Channels and volume at this resolution from those at half of it; `amounts` of noise by layer."""
        if self.doubling is None or x is None:
            assert self.position_bias is not None
            made: Tensor = self.position_bias.expand(len(style), -1, -1, -1, -1)
        else:
            made = self.doubling(x, style, amounts[:, 0])
            if self.position_bias is not None:
                made = made + self.position_bias
        made = self.conv(made, style, amounts[:, -1])
        features = self.output(made, style)
        return made, features if volume is None else double(volume) + features


class Conv3DNet(Generator):
    """Noise and text to scene. The initial scene is nearly the same sphere for all prompts and noise.

    Args:
        condition_dim: length of the conditioner's pooled vector.
        z_dim: noise inputs of the mapping network.
        style_dim: length of the styles w.
        mapping_depth: layers of the mapping network.
        resolution: lattice points per side of the volume, a power of two.
        num_features: features per point of the volume.
        max_channels, channel_base: convolutions at resolution r have min(max_channels, channel_base / r)
            channels.
        position_bias_resolution: blocks up to this resolution have a learned field added to their channels.
        mlp_width, mlp_depth: hidden layers of the two MLPs.
        sphere_radius: of the initial surface.
        background: "learned", a network of the direction that all prompts share, or "none", white.
        gradient_checkpointing: while training, keep only the blocks' outputs and recompute the rest in the
            backward pass: less memory, a third more time.

    Raises: ValueError naming the argument that is out of range.
    """

    has_noise = True
    repeats_on_gpu = False
    makes_features_first = True

    def __init__(
        self,
        *,
        condition_dim: int,
        z_dim: int = 32,
        style_dim: int = 128,
        mapping_depth: int = 2,
        resolution: int = 32,
        num_features: int = 16,
        max_channels: int = 160,
        channel_base: int = 768,
        position_bias_resolution: int = 16,
        mlp_width: int = 32,
        mlp_depth: int = 1,
        sphere_radius: float = 0.5,
        background: Literal["learned", "none"] = "learned",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "condition_dim": condition_dim,
            "z_dim": z_dim,
            "style_dim": style_dim,
            "mapping_depth": mapping_depth,
            "resolution": resolution,
            "num_features": num_features,
            "max_channels": max_channels,
            "channel_base": channel_base,
            "position_bias_resolution": position_bias_resolution,
            "mlp_width": mlp_width,
            "mlp_depth": mlp_depth,
            "sphere_radius": sphere_radius,
            "background": background,
            "gradient_checkpointing": gradient_checkpointing,
        }
        _check(self.config)
        resolutions = [BASE_RESOLUTION]
        while resolutions[-1] < resolution:
            resolutions.append(2 * resolutions[-1])
        channels = [min(max_channels, channel_base // r) for r in resolutions]
        self.noise_dim = z_dim + 2 * len(resolutions) - 1
        self.mapping = Mapping(z_dim, condition_dim, style_dim, mapping_depth)
        self.blocks = nn.ModuleList(
            Block(
                inputs,
                outputs,
                num_features,
                style_dim,
                r,
                has_position_bias=r <= position_bias_resolution,
            )
            for inputs, outputs, r in zip([None, *channels], channels, resolutions, strict=False)
        )
        self.decoder = Decoder(num_features, mlp_width, mlp_depth, sphere_radius, background)

    def forward(
        self, text: GeneratorText, z: Tensor | None = None, *, truncation: float = 1.0
    ) -> DecodedScene:
        """The scenes of a batch of prompts.

        Args:
            z: standard normal noise, "batch noise_dim". Required, so that it cannot be forgotten.
            truncation: 1 uses the noise as it is, 0 the mean style of each prompt, values in between
                interpolate (StyleGAN, Karras et al. 2019, section B); requires `prepare_export`.

        Raises: ValueError for noise that is missing or of another shape, text features of another length, and
            a truncation without a mean style.
        """
        expected, got = self.config["condition_dim"], text.pooled.shape[1]
        if expected != got:
            raise ValueError(
                f"The text has {got} numbers, the generator was built for {expected} (condition_dim)."
            )
        shape = (len(text.pooled), self.noise_dim)
        if z is None or tuple(z.shape) != shape:
            given = "is missing" if z is None else f"has shape {tuple(z.shape)}"
            raise ValueError(
                f"z {given}: this generator takes noise (has_noise is True), standard normal numbers of "
                f"shape {shape} (batch, noise_dim)."
            )
        if truncation != 1 and not self.mapping.mean.any():
            raise ValueError(
                f"truncation is {truncation}: there is no mean style yet, call prepare_export() first, or "
                "leave it out."
            )
        z = z.to(self.mapping.mean.dtype)
        style = self.mapping(z[:, : self.mapping.z_dim], text.pooled, truncation)
        amounts = truncation * z[:, self.mapping.z_dim :]
        x = volume = None
        for number, block in enumerate(self.blocks):
            arguments = (x, volume, style, amounts[:, max(2 * number - 1, 0) : 2 * number + 1])
            if self.config["gradient_checkpointing"] and self.training and torch.is_grad_enabled():
                x, volume = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, volume = block(*arguments)
        assert volume is not None
        return DecodedScene(FeatureVolume(volume), self.decoder)

    def prepare_export(self, *, num_samples: int = 10_000) -> None:
        """Computes the mean style for truncation from `num_samples` noise vectors (always the same)."""
        self.mapping.compute_mean(num_samples)

    @classmethod
    def small_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """See `Generator.small_settings`."""
        small = {"style_dim": 8, "mapping_depth": 1, "resolution": 8, "position_bias_resolution": 4}
        small |= {"max_channels": 4, "channel_base": 32, "gradient_checkpointing": False}
        return {**settings, **small}


def _check(config: dict[str, Any]) -> None:
    """Raises ValueError for settings out of range."""
    sizes = (key for key, value in config.items() if isinstance(value, int) and not isinstance(value, bool))
    check_settings(config, sizes)
    resolution, channel_base = config["resolution"], config["channel_base"]
    if resolution < 2 * BASE_RESOLUTION or resolution & (resolution - 1):
        raise ValueError(
            f"resolution is {resolution}: it must be a power of two, at least {2 * BASE_RESOLUTION}."
        )
    if channel_base < resolution:
        raise ValueError(f"channel_base is {channel_base}: it must be at least the resolution, {resolution}.")
