"""What `scaledreamer infer` writes beside an asset: the folder, and a sidecar that says where files are from.

A file's name ends in a hash of all that the file depends on, and its sidecar holds the SHA-256 of each file:
so files of other settings have other names, and a sidecar never speaks of another file than the one beside
it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer import __version__

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D

MESHES = ("glb", "obj", "ply")
VIDEOS = ("mp4", "gif")
PARTS = ("files", "sha256", "seconds")
Files = Mapping[str, str | list[str]]
"""Names of files by kind; several of a kind where there are levels of detail, or frames."""


def make_folder(folder: Path) -> None:
    """Makes --output, if it is missing.

    Raises: ValueError if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--output {folder}: cannot be made ({reason}); give another --output") from None


def mesh_settings(arguments: argparse.Namespace, max_faces: int | None = None) -> dict[str, Any]:
    """Of `Asset.export` for a mesh; `max_faces` instead of the arguments' is a level of detail's."""
    names = ("resolution", "texture_size", "ground", "scale")
    return {name: getattr(arguments, name) for name in names} | {
        "max_faces": max_faces or arguments.max_faces
    }


def levels(arguments: argparse.Namespace) -> tuple[int, ...]:
    """Triangles of each level of detail; of one, if no levels are asked for."""
    return arguments.lods or (arguments.max_faces,)


def picture_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of `Asset.export` for a picture or video."""
    return {"renderer": arguments.renderer, "background": arguments.background}


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that an asset's files depend on, apart from its prompt, seed and generator."""
    lods = {} if arguments.lods is None else {"max_faces": list(arguments.lods)}
    truncation = {"truncation": arguments.truncation}
    return mesh_settings(arguments) | lods | picture_settings(arguments) | truncation


def stem(pipe: TextTo3D, arguments: argparse.Namespace, prompt: str, seed: int, *more: object) -> str:
    """The files' names without suffix.

    Args:
        seed: 0 of a generator without noise: what has no effect is no part of a name.
        more: what else makes the asset another one.
    """
    from scaledreamer.meshing.export import file_stem

    used = sorted(settings(arguments).items())
    return file_stem(prompt, *more, seed, pipe.checkpoint_hash, used)


def origin(pipe: TextTo3D, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of a sidecar: terms of use, checkpoint, versions, settings."""
    import numpy
    import torch

    return {
        "terms": pipe.terms_of_use,
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
        "settings": settings(arguments) | {"device": str(pipe.device)},
    }


def is_made(folder: Path, stem: str, formats: Iterable[str]) -> bool:
    """Whether an asset's files of these formats are there as its sidecar says."""
    sidecar = _read(folder / f"{stem}.json")
    listed, whole = sidecar.get("files", {}), _whole(folder, sidecar)
    return all(kind in listed for kind in formats) and all(
        kind in whole
        for kind in listed
        if kind.split("_")[0] in formats  # an OBJ has companions
    )


def begin(folder: Path, stem: str, formats: Iterable[str]) -> dict[str, Any]:
    """Before files are written: the sidecar that is there, removed if it speaks of one that is replaced."""
    path = folder / f"{stem}.json"
    sidecar = _read(path)
    if set(formats) & sidecar.get("files", {}).keys():
        path.unlink(missing_ok=True)
    return sidecar


def finish(folder: Path, stem: str, report: dict[str, Any], earlier: dict[str, Any]) -> Path:
    """Writes the sidecar, with the files' hashes, and returns its path.

    Args:
        report: with `files`, and `seconds` by kind of file.
        earlier: what `begin` found. Of its files those stay that are as it says and that the same versions,
            settings and device have made.
    """
    from scaledreamer.meshing.export import save_json

    if all(earlier.get(name) == report[name] for name in ("versions", "settings", "checkpoint")):
        kept = {kind: names for kind, names in _whole(folder, earlier).items() if kind not in report["files"]}
        report["files"] = kept | report["files"]
        seconds = {kind: value for kind, value in earlier["seconds"].items() if kind in kept}
        report["seconds"] = seconds | report["seconds"]
        if "mesh" in earlier and kept.keys() & set(MESHES):
            report.setdefault("mesh", earlier["mesh"])
    report["sha256"] = {name: _hash(folder / name) for name in names_of(report["files"])}
    path = folder / f"{stem}.json"
    save_json(path, report)
    return path


def _read(path: Path) -> dict[str, Any]:
    """A sidecar; an empty one where there is none that can be read."""
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(sidecar, dict) and all(isinstance(sidecar.get(k), dict) for k in PARTS)
    return sidecar if is_ours else {}


def _whole(folder: Path, sidecar: dict[str, Any]) -> dict[str, str | list[str]]:
    """Those kinds of a sidecar's files of which all are what it says."""
    hashes = sidecar.get("sha256", {})

    def is_whole(name: str) -> bool:
        try:
            return _hash(folder / name) == hashes.get(name)
        except (OSError, ValueError):
            return False

    files: dict[str, str | list[str]] = sidecar.get("files", {})
    return {kind: names for kind, names in files.items() if all(map(is_whole, names_of({kind: names})))}


def names_of(files: Files) -> list[str]:
    """All names."""
    return [name for names in files.values() for name in ([names] if isinstance(names, str) else names)]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
