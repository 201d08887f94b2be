"""Backgrounds of images: a plain colour, the default gradient, or nothing.

Images are premultiplied by their opacity until they are composited over a backdrop. Needs no torch.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from scaledreamer.meshing import BACKGROUND as DEFAULT
from scaledreamer.meshing import TRANSPARENT

STUDIO_TOP, STUDIO_BOTTOM = (0.60, 0.66, 0.74), (0.76, 0.80, 0.85)
"""A greyish blue on which both white and black stand out."""

Backdrop = Float[np.ndarray, "h 1 3"] | None


def make_backdrop(name: str, height: int) -> Backdrop:
    """Colours in [0, 1] of each row of an image; None for a transparent background.

    Args:
        name: studio, transparent, or a colour: an HTML name, or hexadecimal as in #ff8800.
    Raises: ValueError for anything else.
    """
    if name == TRANSPARENT:
        return None
    if name == DEFAULT:
        down = (np.arange(height, dtype=np.float32)[:, None, None] + 0.5) / height
        top, bottom = (np.array(color, np.float32) for color in (STUDIO_TOP, STUDIO_BOTTOM))
        return top + (bottom - top) * down
    return np.full((height, 1, 3), parse_color(name), np.float32)


def parse_color(name: str) -> tuple[float, float, float]:
    """Rgb in [0, 1] from a name or a hexadecimal number.

    Raises: ValueError if it is neither.
    """
    from PIL import ImageColor

    try:
        red, green, blue = (value / 255 for value in ImageColor.getrgb(name.strip())[:3])
    except ValueError:
        raise ValueError(
            f"background {name!r}: accepted are {DEFAULT}, {TRANSPARENT}, and colours by name (white, "
            "slategray) or number (#ff8800)"
        ) from None
    return red, green, blue


def lay_over(
    images: Float[np.ndarray, "view h w 4"], backdrop: Backdrop
) -> UInt8[np.ndarray, "view h w channel"]:
    """Composites over a backdrop to rgb; without a backdrop, rgba that is no longer premultiplied."""
    color, opacity = images[..., :3], images[..., 3:]
    if backdrop is not None:
        result = color + (1 - opacity) * backdrop
    else:
        result = np.concatenate([color / np.maximum(opacity, 1e-6), opacity], axis=-1)
    return (result.clip(0, 1) * 255).round().astype(np.uint8)
