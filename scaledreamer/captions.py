"""Captions above the rows of sheets and sample grids.

Any text can be drawn; glyphs that Pillow's default font lacks become boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

MAX_LINES = 2
MARGIN = 3
MIN_FONT_SIZE, MAX_FONT_SIZE = 11, 28
ELLIPSIS = "..."


def captioned_rows(
    rows: Float[Tensor, "row view 3 h w"], captions: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Rows of images in [0, 1], each under its caption in black on white.

    The font size follows the image size. Captions are wrapped at words and cut after `MAX_LINES`.
    """
    pixels = (rows.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    pictures = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).numpy()
    size = min(max(rows.shape[-2] // 6, MIN_FONT_SIZE), MAX_FONT_SIZE)
    parts = []
    for picture, caption in zip(pictures, captions, strict=True):
        parts += [caption_strip(caption, picture.shape[1], size), picture]
    return np.concatenate(parts)


def caption_strip(text: str, width: int, font_size: int) -> UInt8[np.ndarray, "height {width} 3"]:
    """A white strip with the text in black, as high as the text requires."""
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.load_default(font_size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType only draws Latin-1
        text = text.encode("latin-1", "replace").decode("latin-1")
    lines = wrapped(text, width - 2 * MARGIN, font.getlength)
    line_height = round(1.2 * font_size)
    strip = Image.new("RGB", (width, len(lines) * line_height + MARGIN), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((MARGIN, number * line_height), line, fill="black", font=font)
    return np.asarray(strip)


def wrapped(
    text: str, width: float, length_of: Callable[[str], float], max_lines: int = MAX_LINES
) -> list[str]:
    """Wraps the text into one to `max_lines` lines; text that does not fit is replaced by an ellipsis.

    Args:
        width: maximum length of a line, in the units of `length_of`.
        length_of: measures the length of a line.
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    words = printable.split()
    lines: list[str] = []
    while words and len(lines) < max_lines:
        count = 1
        while count < len(words) and length_of(" ".join(words[: count + 1])) <= width:
            count += 1
        line, rest = " ".join(words[:count]), words[count:]
        if length_of(line) > width:  # one word, longer than a line
            cut = _fitting(line, width, length_of)
            line, rest = line[:cut], [line[cut:], *rest]
        lines.append(line)
        words = rest
    if words:
        last = lines[-1]
        lines[-1] = last[: _fitting(last, width - length_of(ELLIPSIS), length_of)].rstrip() + ELLIPSIS
    return lines or [""]


def _fitting(text: str, width: float, length_of: Callable[[str], float]) -> int:
    """Number of leading characters that fit; at least one."""
    count = 1
    while count < len(text) and length_of(text[: count + 1]) <= width:
        count += 1
    return count
