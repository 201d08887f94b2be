"""The files of one asset of `infer.py`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING

from scaledreamer.cli import short, written

if TYPE_CHECKING:
    from scaledreamer.asset import Asset
    from scaledreamer.pipeline import TextTo3D


def make(pipe: TextTo3D, asset: Asset, forward_seconds: float, arguments: argparse.Namespace) -> None:
    """All files of one asset; the sidecar comes last, so where it is, everything is."""
    from scaledreamer.meshing.export import file_stem, obj_companions, save_json

    print(f"prompt: {short(asset.prompt)}" + (f", seed {asset.seed}" if arguments.seeds else ""))
    seconds = {"forward": forward_seconds}
    start = time.perf_counter()
    for note in asset.notes:
        print(f"  note: {note}")
    stem = file_stem(asset.prompt, *written.identity(pipe, arguments, asset.seed))
    settings = {name: getattr(arguments, name) for name in written.MESH_SETTINGS}
    clock = time.perf_counter()
    mesh = asset.textured_mesh(
        **settings
    )  # first, so that an empty surface is known before anything is written
    seconds["mesh"] = time.perf_counter() - clock
    written.make_folder(arguments.output)
    files = {}
    for name in arguments.formats:
        clock = time.perf_counter()
        path = arguments.output / f"{stem}.{name}"
        asset.export(path, **(settings if name in ("glb", "obj", "ply") else {}))
        files[name] = path.name
        if name == "obj":
            files |= {
                "obj_material": obj_companions(path)[0].name,
                "obj_texture": obj_companions(path)[1].name,
            }
        seconds[name] = time.perf_counter() - clock
        print(f"  {path}  ({seconds[name]:.1f} s)")
    seconds["total"] = forward_seconds + time.perf_counter() - start
    report = {
        "prompt": asset.prompt,
        "seed": asset.seed,
        "notes": asset.notes,
        **written.origin(pipe, arguments),
        "mesh": dataclasses.asdict(mesh.report) | {"vertices_with_seams": len(mesh.atlas.vertices)},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "files": files,
    }
    path = arguments.output / f"{stem}.json"
    save_json(path, report)
    forward_and_mesh = seconds["forward"] + seconds["mesh"]
    print(f"  {path}  forward pass and mesh {forward_and_mesh:.1f} s, all {seconds['total']:.1f} s")
