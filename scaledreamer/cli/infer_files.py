"""The files of one asset of `scaledreamer infer`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from scaledreamer.cli import written

if TYPE_CHECKING:
    from scaledreamer.asset import Asset
    from scaledreamer.meshing.texture import TexturedMesh
    from scaledreamer.pipeline import TextTo3D


def make(
    pipe: TextTo3D, asset: Asset, stem: str, forward_seconds: float, arguments: argparse.Namespace
) -> None:
    """Writes all files of one asset; the sidecar comes last, so if it exists, everything does.

    Raises: EmptySurfaceError before anything is written.
    """
    start = time.perf_counter()
    seconds = {"forward": forward_seconds}
    for note in asset.notes:
        print(f"  note: {note}")
    # First, so that an empty surface is noticed before anything is written.
    levels = _meshes(asset, arguments)
    seconds["mesh"] = time.perf_counter() - start
    folder = arguments.output
    written.make_folder(folder)
    earlier = written.begin(folder, stem, arguments.formats)
    files: dict[str, str | list[str]] = {}
    for kind in arguments.formats:
        clock = time.perf_counter()
        names = _export(asset, kind, stem, arguments)
        files |= names
        seconds[kind] = time.perf_counter() - clock
        for name in written.names_of({kind: names[kind]}):
            print(f"  {folder / name}")
    seconds["total"] = forward_seconds + time.perf_counter() - start
    report: dict[str, Any] = {
        "prompt": asset.prompt,
        "seed": asset.seed,
        "notes": asset.notes,
        **written.origin(pipe, arguments),
    }
    if levels:
        described = [_describe(mesh) for mesh in levels]
        report["mesh"] = described[0] if arguments.lods is None else described
    report["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    report["files"] = files
    path = written.finish(folder, stem, report, earlier)
    said = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    print(f"  {path}  {seconds['total']:.1f} s ({said})")


def _meshes(asset: Asset, arguments: argparse.Namespace) -> list[TexturedMesh]:
    """A mesh for each level of detail; none if no format needs them.

    Raises: EmptySurfaceError if there is no surface.
    """
    kinds = set(arguments.formats)
    if kinds - set(written.MESHES):
        asset.check_surface()
    if not kinds & set(written.MESHES):
        return []
    shared = {"resolution": arguments.resolution, "texture_size": arguments.texture_size}
    return [asset.textured_mesh(max_faces=level, **shared) for level in written.levels(arguments)]


def _export(asset: Asset, kind: str, stem: str, arguments: argparse.Namespace) -> dict[str, str | list[str]]:
    """Writes files of one kind; returns their names by kind, for an OBJ with its companions."""
    from scaledreamer.meshing.export import obj_companions

    folder = arguments.output
    if kind not in written.MESHES:
        return {kind: asset.export(folder / f"{stem}.{kind}", **written.picture_settings(arguments)).name}
    endings = [""] if arguments.lods is None else [f"-lod{n}" for n in range(len(arguments.lods))]
    paths = [
        asset.export(folder / f"{stem}{ending}.{kind}", **written.mesh_settings(arguments, max_faces=level))
        for ending, level in zip(endings, written.levels(arguments), strict=True)
    ]
    found: dict[str, list[str]] = {kind: [path.name for path in paths]}
    if kind == "obj":
        materials, textures = zip(*map(obj_companions, paths), strict=True)
        found |= {"obj_material": [path.name for path in materials]}
        found |= {"obj_texture": [path.name for path in textures]}
    return {name: names[0] if arguments.lods is None else names for name, names in found.items()}


def _describe(mesh: TexturedMesh) -> dict[str, Any]:
    """The description of a mesh in a sidecar."""
    return dataclasses.asdict(mesh.report) | {"vertices_with_seams": len(mesh.atlas.vertices)}
