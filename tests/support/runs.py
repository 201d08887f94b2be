"""Training runs of seconds: their configuration, and what launching them as processes takes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import yaml

from tests.support.training_fakes import PROMPTS


def write_config(folder: Path, prior: Path, **changes: Any) -> Path:
    """The configuration of a run of seconds with a prior of `write_random_prior`."""
    settings: dict[str, Any] = {
        "prompts": {"file": str(folder / "prompts.txt")},
        "conditioner": {"name": "clip", "model": str(prior)},
        "generator": {
            "hyper_ingp": {"num_levels": 2, "log2_table_size": 6, "hyper_width": 8, "mlp_width": 4}
        },
        "renderer": {
            "image_size": 8,
            "volume": {"num_proposals": 6, "num_resampled": 4, "lattice_resolution": 6},
        },
        "priors": [
            {"name": "stable_diffusion", "model": str(prior), "stable_diffusion": {"dtype": "float32"}},
        ],
        "regularizers": {"eikonal": {"num_points": 8}},
        "training": {
            "output": str(folder / "run"),
            "max_steps": 6,
            "batch_size": 4,
            "log_every": 2,
            "sample_every": 100,
            "sample_prompts": ["a red cat"],
            "checkpoint_every": 3,
            "tensorboard": False,
            "device": "cpu",
        },
    }
    for key, value in changes.items():
        section, name = key.split("__")
        settings.setdefault(section, {})[name] = value
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def environment(**changes: str) -> dict[str, str]:
    """Of a launched process: this one's without the variables of a launcher, one thread."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    }
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
