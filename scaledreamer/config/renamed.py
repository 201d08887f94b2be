"""Settings that have another name now. The old name is refused, with the new one in the message."""

from __future__ import annotations

RENAMED: dict[str, str] = {
    f"renderer.{name}": f"renderer.volume.{name}"
    for name in (
        "near",
        "far",
        "num_proposals",
        "num_resampled",
        "rendered",
        "lattice_resolution",
        "min_opacity",
        "memory_gib",
    )
} | {"renderer.inverse_deviation": "renderer.volume.beta, which is 1 / inverse_deviation"}
"""By the old path, with items of lists as number 0: the new path, and what has to be done to the value."""
