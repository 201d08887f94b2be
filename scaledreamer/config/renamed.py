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
} | {
    "distillation.method": "priors.0.method, for each prior its own",
    "distillation.shift_steps": "priors.0.asd.shift_steps, for each prior its own",
    "priors.0.eta": "priors.0.asd.eta",
    "renderer.inverse_deviation": "renderer.volume.beta, which is 1 / inverse_deviation",
}
"""By the old path, with items of lists as number 0: the new path, and what has to be done to the value."""
