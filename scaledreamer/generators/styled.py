"""Layers of StyleGAN2 (Karras et al. 2020), in three dimensions.

Styles are vectors, one per scene. Learning rates are equalised (Karras et al. 2018, section 4.1): weights
have standard deviation 1 and are scaled when used, so that one rate works for layers of all widths. The
weights of modulated convolutions need no scale, because demodulation removes it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LIMIT = 256.0
"""Activations are clamped here, so that an extreme step cannot make them infinite."""


class Dense(nn.Module):
    """A linear layer with an equalised learning rate.

    Args:
        bias: initial value of all biases.
        is_activated: whether a leaky ReLU (slope 0.2), times sqrt(2), follows.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, is_activated: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.is_activated = is_activated

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        x = F.linear(x, self.weight * self.weight.shape[1] ** -0.5, self.bias)
        return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.is_activated else x


def modulated_conv3d(
    x: Float[Tensor, "batch in z y x"],
    weight: Float[Tensor, "out in k k k"],
    styles: Float[Tensor, "batch in"],
    *,
    is_demodulated: bool = True,
) -> Float[Tensor, "batch out z y x"]:
    """Convolution of each scene with its own weights `w'_oik = s_i w_oik`, zeros around it, the same size.

    With demodulation each output channel is divided by the L2 norm of its weights (StyleGAN2, Eq. 1 to 3).
    Styles and norms are applied to inputs and outputs, so that all scenes share one convolution. The result
    equals a grouped convolution with separate weights per scene, without storing them. (Per training step on
    one core, batch 4: 128 channels at 8^3 52 ms, grouped 144 ms; 32 channels at 32^3 389 and 387 ms.)
    """
    y = F.conv3d(x * styles[:, :, None, None, None], weight, padding=weight.shape[-1] // 2)
    if not is_demodulated:
        return y
    norms = (styles.square() @ weight.square().sum((2, 3, 4)).t() + 1e-8).rsqrt()
    return y * norms[:, :, None, None, None]


class StyledConv(nn.Module):
    """Modulated 3x3x3 convolution, optional upsampling, noise, bias and leaky ReLU.

    The noise is a constant field, drawn at construction, scaled by a number for each scene and by a learned
    strength, initially 0.

    Args:
        resolution: resolution of the output.
        is_doubling: whether the input has half of it.
    """

    noise: Tensor

    def __init__(
        self, inputs: int, outputs: int, style_dim: int, resolution: int, *, is_doubling: bool = False
    ) -> None:
        super().__init__()
        self.style = Dense(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", torch.randn(resolution, resolution, resolution))
        self.is_doubling = is_doubling

    def forward(
        self,
        x: Float[Tensor, "batch in z y x"],
        style: Float[Tensor, "batch style"],
        amount: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch out z2 y2 x2"]:
        x = modulated_conv3d(x, self.weight, self.style(style))
        if self.is_doubling:
            x = double(x)
        noise = self.noise * (self.noise_strength * amount)[:, None, None, None]
        return _Activate.apply(x + noise[:, None] + self.bias[:, None, None, None])


class StyledOutput(nn.Module):
    """Modulated 1x1x1 convolution to features, without demodulation."""

    def __init__(self, inputs: int, outputs: int, style_dim: int) -> None:
        super().__init__()
        self.style = Dense(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: Float[Tensor, "batch in z y x"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch out z y x"]:
        styles = self.style(style) * self.weight.shape[1] ** -0.5
        return modulated_conv3d(x, self.weight, styles, is_demodulated=False) + self.bias[:, None, None, None]


class _Activate(torch.autograd.Function):
    """Leaky ReLU (slope 0.2) times sqrt(2), clamped at `_LIMIT`. It saves only its output, which the next
    layer saves anyway: a third less memory for a convolution at the finest resolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, 0.2).mul_(math.sqrt(2)).clamp_(-_LIMIT, _LIMIT)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope = torch.full_like(y, math.sqrt(2)).masked_fill_(y < 0, 0.2 * math.sqrt(2))
        return grads[0] * slope.masked_fill_(y.abs() >= _LIMIT, 0)


def double(x: Float[Tensor, "batch c z y x"]) -> Float[Tensor, "batch c z2 y2 x2"]:
    """Trilinear upsampling to twice the resolution; the outermost lattice points stay in place."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
