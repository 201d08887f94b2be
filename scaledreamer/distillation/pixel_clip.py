"""Pixel-wise gradient clipping (PGC, arXiv 2310.12474): bound what one pixel may ask for.

Gradients are `(batch, 3, h, w)`, taken at the prior's **input image** in [0, 1], after any upsampling of the
render (c = 0.1 belongs to 512 pixels), and each is *one image's* gradient: neither divided by the batch or by
accumulation steps nor multiplied by a loss scale. The norm of a pixel, over its 3 channels, is `"l2"` (the
paper) or `"linf"`, the largest absolute channel (the released code). With g a pixel and c the threshold:

    pgc_n   min(|g|, c) g / |g|    Eq. 10: direction kept, untouched up to c
    pgc_v   clamp(g, -c, c)        each value for itself: may turn the direction; norm is for statistics only
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
    """What clipping did, one entry per image, on the gradient's device; non-finite pixels count in no norm.

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
        """Whether every pixel of every image was finite: the part of a step's finite flag that PGC knows."""
        return (self.num_nonfinite == 0).all()


def clip_gradient(
    gradient: Float[Tensor, "batch 3 h w"],
    threshold: float,
    mode: str = "pgc_n",
    norm: str = "l2",
) -> tuple[Float[Tensor, "batch 3 h w"], ClipStats]:
    """Clips each pixel's gradient (PGC, Eqs. 9 and 10); images and pixels do not affect one another.

    A pixel that is not finite in some channel becomes zero in all three, and is counted: the result is always
    finite, and a training step skips when `stats.is_finite` is false. Nothing here waits for the device.

    Args:
        gradient: gradient of one image's loss each, at the image in [0, 1].
        threshold: c > 0, in the gradient's units; infinity clips nothing, and still zeroes non-finite pixels.
        mode: "pgc_n", "pgc_v" or "pngd".
        norm: "l2" or "linf".
    Returns: the clipped gradient, in the given dtype, and statistics in float32 or wider.
    Raises: ValueError for an unknown mode or norm, or a threshold that is not positive.
    """
    _check_settings(threshold, mode, norm)
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    is_finite = wide.isfinite().all(dim=1, keepdim=True)
    wide = wide.where(is_finite, 0)

    # A norm is largest * unit_norm, 1 <= unit_norm <= sqrt(3): squares of very large or tiny values are lost.
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
    """Identity whose backward clips the gradient of each image: PGC as one line of another pipeline.

        images = clip_pixel_gradient(images, threshold=0.1, scale=1 / len(images))  # just before the prior

    c speaks of one image's gradient, but what arrives here carries whatever the loss was multiplied by later.
    Autograd cannot know that factor, so `scale` states it: `1 / batch` for a loss that is a mean, times
    `1 / accumulation_steps`, times the loss scale of mixed precision (`scaler.get_scale()`). It is divided
    out before clipping and put back after, so none of the three changes what is clipped.

    Non-finite pixels come out as they arrived, so that the pipeline's own check (a gradient scaler's, say)
    still sees them; `on_stats` is told their number.

    Args:
        images: the prior's input, in [0, 1].
        threshold, mode, norm: as for `clip_gradient`.
        scale: factor > 0 between one image's gradient and the gradient that will arrive.
        on_stats: called during backward with the statistics of the unscaled gradient.
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
        # In half precision dividing out a loss scale could round one image's gradient to zero.
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
