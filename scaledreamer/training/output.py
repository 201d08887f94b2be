"""The folder that a run is told to write to: it is one, and nothing of the user's is in its way.

Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from scaledreamer.config import Config
from scaledreamer.config_file import read_yaml
from scaledreamer.exported import INDEX


def check_output(folder: Path) -> None:
    """Raises ValueError unless a run may write there and replaces nothing that is not a run's."""
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    problem = ""
    if not existing.is_dir():
        problem = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"no permission to write in {existing}"
    elif existing == folder.absolute():
        problem = _foreign(folder)
    if problem:
        raise ValueError(f"training.output: got {str(folder)!r}, but {problem}; choose another folder.")


def _foreign(folder: Path) -> str:
    """What of an existing folder is not of a run, and in its way; empty if nothing is."""
    for name in ("checkpoints", "samples", "tensorboard", "generator", "best"):
        place = folder / name
        if os.path.lexists(place) and not place.is_dir():
            return f"{place} is not a folder"
    for name in ("generator", "best"):
        place = folder / name
        if place.is_dir() and any(place.iterdir()) and not (place / INDEX).is_file():
            return f"{place} is not an exported generator"
    config, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    if os.path.lexists(metrics) and not metrics.is_file():
        return f"{metrics} is not a file"
    if config.is_file() and not metrics.is_file() and not (folder / "checkpoints").is_dir():
        try:
            is_whole = read_yaml(config).keys() >= Config.model_fields.keys()
        except ValueError:
            is_whole = False
        if not is_whole:
            return f"{config} is no run's and would be replaced"
    return ""


def make_output(folder: Path) -> None:
    """Makes a run's folder.

    Raises: ValueError if it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"training.output: got {str(folder)!r}, which cannot be made ({reason}); choose another folder."
        ) from None
