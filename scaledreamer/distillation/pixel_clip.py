"""Pixel-wise gradient clipping (PGC, arXiv 2310.12474): bounds the gradient of each pixel.

Gradients are `(batch, 3, h, w)`, taken at the prior's **input image** in [0, 1], after any upsampling of the
render (c = 0.1 is meant for 512 pixels), and each is *one image's* gradient: neither divided by the batch
size or the accumulation steps nor multiplied by a loss scale. The norm of a pixel, over its 3 channels, is
`"l2"` (the paper) or `"linf"`, the largest absolute channel (the released code). With g a pixel and c the
threshold:

    pgc_n   min(|g|, c) g / |g|    Eq. 10: direction kept, unchanged up to c
    pgc_v   clamp(g, -c, c)        element-wise: may change the direction; norm is for statistics only
    pngd    c / (|g| + c) g        Eq. 9: direction kept, every pixel shortened, c never reached
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MODES = ("pgc_n", "pgc_v", "pngd")
NORMS = ("l2", "linf")


class ClipStats(NamedTuple):
    """Clipping statistics, one entry per image, on the gradient's device; norms ignore non-finite pixels.

    norm_mean, norm_max: norms of pixels before clipping.
    clipped_norm_mean: mean norm after clipping.
    clipped_fraction: pixels that the threshold touched: norm above c (pgc_v: any value above c).
    num_nonfinite: pixels with a NaN or an infinity in any channel.
    """

    norm_mean: Float[Tensor, " batch"]
    norm_max: Float[Tensor, " batch"]
    clipped_norm_mean: Float[Tensor, " batch"]
    clipped_fraction: Float[Tensor, " batch"]
    num_nonfinite: Int[Tensor, " batch"]

    @property
    def is_finite(self) -> Bool[Tensor, ""]:
        """Whether every pixel of every image was finite, for the step's finite flag."""
        return (self.num_nonfinite == 0).all()


def clip_gradient(
    gradient: Float[Tensor, "batch 3 h w"],
    threshold: float,
    mode: str = "pgc_n",
    norm: str = "l2",
) -> tuple[Float[Tensor, "batch 3 h w"], ClipStats]:
    """Clips each pixel's gradient (PGC, Eqs. 9 and 10), independently of other pixels and images.

    A pixel that is not finite in some channel becomes zero in all three, and is counted: the result is always
    finite, and a training step is skipped if `stats.is_finite` is false. Does not synchronize with the
    device.

    Args:
        gradient: gradients of each image's own loss, at the image in [0, 1].
        threshold: c > 0, in the gradient's units; infinity clips nothing, but still zeroes non-finite pixels.
        mode: "pgc_n", "pgc_v" or "pngd".
        norm: "l2" or "linf".
    Returns: the clipped gradient, in the given dtype, and statistics in float32 or wider.
    Raises: ValueError for an unknown mode or norm, or a threshold that is not positive.
    """
    _check_settings(threshold, mode, norm)
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    is_finite = wide.isfinite().all(dim=1, keepdim=True)
    wide = wide.where(is_finite, 0)

    # A norm is largest * unit_norm, 1 <= unit_norm <= sqrt(3): squares of extreme values would be lost.
    largest = wide.abs().amax(dim=1, keepdim=True)
    unit = wide / largest.where(largest > 0, 1)
    unit_norm = unit.square().sum(dim=1, keepdim=True).sqrt() if norm == "l2" else torch.ones_like(largest)
    unit_norm = unit_norm.where(largest > 0, 1)
    pixel_norm = largest * unit_norm
    is_above = pixel_norm > threshold
    if math.isinf(threshold):
        clipped = wide
    elif mode == "pgc_n":
        clipped = torch.where(is_above, unit * (threshold / unit_norm), wide)
    elif mode == "pgc_v":
        is_above = largest > threshold
        clipped = wide.clamp(-threshold, threshold)
    else:
        clipped = unit * (threshold / (unit_norm + threshold / largest))

    num_finite = is_finite.sum(dim=(1, 2, 3)).clamp(min=1)
    clipped_norm = clipped.norm(dim=1) if norm == "l2" else clipped.abs().amax(dim=1)
    stats = ClipStats(
        norm_mean=pixel_norm.sum(dim=(1, 2, 3)) / num_finite,
        norm_max=pixel_norm.amax(dim=(1, 2, 3)),
        clipped_norm_mean=clipped_norm.sum(dim=(1, 2)) / num_finite,
        clipped_fraction=is_above.sum(dim=(1, 2, 3)).to(wide.dtype) / num_finite,
        num_nonfinite=(~is_finite).sum(dim=(1, 2, 3)),
    )
    return clipped.to(gradient.dtype), stats


def clip_pixel_gradient(
    images: Float[Tensor, "batch 3 h w"],
    threshold: float,
    mode: str = "pgc_n",
    norm: str = "l2",
    scale: float = 1.0,
    on_stats: Callable[[ClipStats], None] | None = None,
) -> Float[Tensor, "batch 3 h w"]:
    """Identity whose backward pass clips the gradient of each image: PGC as one line in any pipeline.

        images = clip_pixel_gradient(images, threshold=0.1, scale=1 / len(images))  # just before the prior

    c applies to one image's gradient, but the gradient that arrives here includes all later factors of the
    loss. Autograd does not know them, so they are given as `scale`: `1 / batch` for a loss that is a mean,
    times `1 / accumulation_steps`, times the loss scale of mixed precision (`scaler.get_scale()`). The
    gradient is divided by it before clipping and multiplied afterwards, so none of them affects the clipping.

    Non-finite pixels are passed on unchanged, so that the pipeline's own check (for example in a gradient
    scaler) still sees them; `on_stats` receives their number.

    Args:
        images: the prior's input, in [0, 1].
        threshold, mode, norm: as in `clip_gradient`.
        scale: factor > 0 between one image's gradient and the gradient that arrives here.
        on_stats: called in the backward pass with the statistics of the unscaled gradient.
    Returns: `images`, unchanged.
    Raises: ValueError as `clip_gradient`, and for a scale that is not positive and finite.
    """
    _check_settings(threshold, mode, norm)
    if not 0 < scale < math.inf:
        raise ValueError(
            f"scale={scale}: expected a positive finite number, the factor between one image's gradient and "
            "the gradient that arrives (for example 1 / batch size)"
        )
    clipped: Any = _ClipPixelGradient.apply(images, threshold, mode, norm, scale, on_stats)
    return clipped


class _ClipPixelGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, *settings: Any) -> Tensor:
        ctx.settings = settings
        return images.view_as(images)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        threshold, mode, norm, scale, on_stats = ctx.settings
        # In half precision, dividing by a loss scale could round one image's gradient to zero.
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        clipped, stats = clip_gradient(wide / scale, threshold, mode, norm)
        if on_stats is not None:
            on_stats(stats)
        is_finite = gradient.isfinite().all(dim=1, keepdim=True)
        result = torch.where(is_finite, (clipped * scale).to(gradient.dtype), gradient)
        return result, *(None for _ in ctx.settings)


def _check_settings(threshold: float, mode: str, norm: str) -> None:
    if not threshold > 0:
        raise ValueError(f"threshold={threshold}: expected a positive number, or infinity to clip nothing")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r}: expected one of {', '.join(NORMS)}")
