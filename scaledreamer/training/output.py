"""Checks of a run's output folder: it is writable, and contains nothing of the user's that would be replaced.

Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from scaledreamer.config import Config, read_yaml
from scaledreamer.exported import INDEX
from scaledreamer.files import clean_up, clean_up_beside, is_mount_point, moved_aside
from scaledreamer.os_errors import advice, reason
from scaledreamer.training.lock import InUseError, RunLock

FILLED = ("checkpoints", "samples", "tensorboard", "shown")
"""Folders that a run writes into."""
REPLACED = ("generator", "best")
"""Folders that a run replaces."""


def check_output(folder: Path) -> None:
    """Raises ValueError unless a run may write there and replaces nothing that is not a run's."""
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    problem = ""
    if not existing.is_dir():
        problem = f"{existing} is not a folder"
    elif not _is_writable(existing):
        problem = f"no permission to write in {existing}"
    elif existing == folder.absolute():
        problem = _foreign(folder) or _irreplaceable(folder)
    if problem:
        raise ValueError(f"training.output: got {str(folder)!r}, but {problem}; choose another folder.")


def _foreign(folder: Path) -> str:
    """What in an existing folder is not part of a run and would be replaced; empty if nothing is."""
    for name in (*FILLED, *REPLACED):
        place = folder / name
        # By a run that was killed at that moment.
        is_aside = moved_aside(Path(os.path.realpath(place))).is_dir()
        if os.path.lexists(place) and not place.is_dir() and not is_aside:
            return f"{place} is not a folder"
    for name in REPLACED:
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


def _irreplaceable(folder: Path) -> str:
    """What in an existing folder the run could not write, perhaps because of a link; empty if nothing."""
    for name in FILLED:
        place = folder / name
        if place.is_dir() and not _is_writable(place):
            return f"no permission to write in {place}"
    for name in REPLACED:
        place = folder / name
        if place.is_dir() and is_mount_point(place):
            return f"{place} is a mount point, and a run replaces that folder: mount the folder above it"
        parent = Path(os.path.realpath(place)).parent
        if place.is_symlink() and not _is_writable(parent):
            return f"{place} leads to a folder that cannot be replaced: no permission to write in {parent}"
    return ""


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def claim_output(folder: Path) -> RunLock:
    """Creates a run's folder, or removes partial files of a killed run from it, and locks it.

    Raises: ValueError if it cannot, or another run trains there.
    """
    lock = None
    try:
        lock = RunLock(folder)
        clean_up(folder)
        clean_up(folder / "checkpoints")
        for name in REPLACED:
            clean_up_beside(folder / name)
        return lock
    except InUseError:
        raise
    except (OSError, ValueError) as error:
        if lock is not None:
            lock.abandon()
        raise ValueError(
            f"training.output: got {str(folder)!r}, which cannot be made ({reason(error)}); {advice(error)}."
        ) from None
