"""`infer.py --interpolate A B`: one object turning into another, as a video and a sheet of stills.

In the video the camera goes once around while the object changes; the stills are all from the front. A mesh
of every frame is written only where --formats asks for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.prompts.check import check_prompt

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D

FRAMES = 24
MIN_FRAMES = 2
MAX_FRAMES = 360
FORMATS = ("mp4", "png")
"""What is written unless --formats says otherwise."""
NUM_STILLS = 8
VIDEO_SIZE, STILL_SIZE = 192, 256


def check(arguments: argparse.Namespace) -> dict[str, str]:
    """The two prompts, each with how messages on it begin.

    Raises: ValueError for options that do not go together, or a text that cannot be a prompt.
    """
    for flag in ("prompt", "prompts_file", "stdin", "seeds"):
        if getattr(arguments, flag):
            name = flag.replace("_", "-")
            raise ValueError(f"--{name} and --interpolate are both given; leave out one of them")
    if arguments.num_variants > 1:
        raise ValueError("--num-variants and --interpolate are both given; leave out one of them")
    for prompt in arguments.interpolate:
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"--interpolate: {error}") from None
    return dict.fromkeys(arguments.interpolate, "--interpolate: ")


def make(pipe: TextTo3D, arguments: argparse.Namespace) -> int:
    """Writes all files, the sidecar last; returns the exit status."""
    import numpy as np

    from scaledreamer.asset import FRAMES_PER_SECOND
    from scaledreamer.meshing import export
    from scaledreamer.meshing.isosurface import EmptySurfaceError

    start, (first, second) = time.perf_counter(), arguments.interpolate
    num_frames = FRAMES if arguments.frames is None else arguments.frames
    noise = {"seed": arguments.seed, "truncation": arguments.truncation}
    assets = pipe.interpolate(first, second, num_frames, **noise)
    print(f"interpolation: {_short(first)} to {_short(second)}, {num_frames} frames")
    for note in dict.fromkeys(note for asset in assets for note in asset.notes):
        print(f"  note: {note}")
    folder: Path = arguments.output
    stem = export.file_stem(f"{first} to {second}", arguments.seed, num_frames, pipe.checkpoint_hash)
    settings = {name: getattr(arguments, name) for name in ("resolution", "texture_size", "max_faces")}
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | list[str]] = {}
    status = 0
    for kind in arguments.formats:
        clock, path = time.perf_counter(), folder / f"{stem}.{kind}"
        if kind in ("mp4", "gif"):
            turning = [asset.frame(i, num_frames, VIDEO_SIZE) for i, asset in enumerate(assets)]
            save = export.save_mp4 if kind == "mp4" else export.save_gif
            save(path, np.stack(turning), FRAMES_PER_SECOND)
            files[kind] = path.name
        elif kind == "png":
            steps = [round(i * (num_frames - 1) / (NUM_STILLS - 1)) for i in range(NUM_STILLS)]
            stills = [assets[i].frame(0, 1, STILL_SIZE) for i in dict.fromkeys(steps)]
            export.save_png(path, export.contact_sheet(np.stack(stills)))
            files[kind] = path.name
        else:
            path, names = folder / f"{stem}-*.{kind}", []
            for i, asset in enumerate(assets):
                try:
                    names.append(asset.export(folder / f"{stem}-{i:03d}.{kind}", **settings).name)
                except EmptySurfaceError as error:
                    print(f"error: frame {i}: {error}; no {kind} of it", file=sys.stderr)
                    status = 1
            files[kind] = names
        print(f"  {path}  ({time.perf_counter() - clock:.1f} s)")
    report = {
        "interpolate": [first, second],
        "frames": num_frames,
        "seed": arguments.seed,
        "checkpoint": {"folder": str(pipe.folder), "sha256": pipe.checkpoint_hash},
        "settings": settings | {"truncation": arguments.truncation, "device": str(pipe.device)},
        "seconds": round(time.perf_counter() - start, 3),
        "files": files,
    }
    path = folder / f"{stem}.json"
    export.save_json(path, report)
    print(f"  {path}  all {time.perf_counter() - start:.1f} s")
    return status


def _short(text: str, length: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
