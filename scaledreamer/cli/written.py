"""What `infer.py` writes beside an asset's files: the folder, and how a sidecar says where they come from."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer import __version__

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D

MESH_SETTINGS = ("resolution", "texture_size", "max_faces")


def make_folder(folder: Path) -> None:
    """Makes --output, if it is missing.

    Raises: ValueError if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--output {folder}: cannot be made ({reason}); give another --output") from None


def identity(pipe: TextTo3D, arguments: argparse.Namespace, seed: int) -> tuple[object, ...]:
    """What beside the prompts makes an asset another one, for its files' names."""
    truncation = () if arguments.truncation == 1 else (arguments.truncation,)
    return (seed, pipe.checkpoint_hash, *truncation)


def origin(pipe: TextTo3D, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of a sidecar: checkpoint, versions, settings."""
    import numpy
    import torch

    return {
        "checkpoint": {
            "folder": str(pipe.folder),
            "sha256": pipe.checkpoint_hash,
            "generator": pipe.generator_name,
            "step": pipe.step,
        },
        "versions": {
            "scaledreamer": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "settings": {name: getattr(arguments, name) for name in MESH_SETTINGS}
        | {"truncation": arguments.truncation, "device": str(pipe.device)},
    }
