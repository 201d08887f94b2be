"""`scaledreamer infer --interpolate A B`: one object turning into another, as a video and a sheet of stills.

In the video the camera makes one turn while the object changes; the stills are all from the front. Meshes of
every frame are only written if --formats includes a mesh format.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.cli import written
from scaledreamer.cli.infer_prompts import check_words
from scaledreamer.prompts.words import short

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D
    from scaledreamer.vocabulary import Vocabulary

FRAMES = 24
MIN_FRAMES = 2
MAX_FRAMES = 360
FORMATS = ("mp4", "png")
"""Default formats."""
NUM_STILLS = 8
VIDEO_SIZE, STILL_SIZE = 192, 256


def check(arguments: argparse.Namespace, vocabulary: Vocabulary) -> None:
    """Raises ValueError for incompatible options, or a text that is not a valid prompt."""
    other = ("prompt", "prompts_file", "stdin", "seeds", "lods", "skip_unknown", "skip_existing")
    given = [flag for flag in other if getattr(arguments, flag)]
    given += ["num_variants"] * (arguments.num_variants > 1)
    if given:
        name = given[0].replace("_", "-")
        raise ValueError(f"--{name} and --interpolate are both given; leave out one of them")
    check_words(arguments.interpolate, "--interpolate: ", vocabulary)


def make(pipe: TextTo3D, arguments: argparse.Namespace) -> int:
    """Writes all files, the sidecar last; returns the exit status.

    Frames are made one after the other, so the memory does not depend on their number.
    """
    import numpy as np

    from scaledreamer.asset import FRAMES_PER_SECOND
    from scaledreamer.meshing import export
    from scaledreamer.meshing.isosurface import EmptySurfaceError

    start, (first, second) = time.perf_counter(), arguments.interpolate
    num_frames = FRAMES if arguments.frames is None else arguments.frames
    noise = {"seed": arguments.seed, "truncation": arguments.truncation}
    assets = pipe.interpolate_lazily(first, second, num_frames, **noise)
    # They fit into every image, so that all have the same scale.
    ends = pipe.interpolate(first, second, 2, **noise)
    print(f"interpolation: {short(first)} to {short(second)}, {num_frames} frames")
    notes = list(dict.fromkeys(note for prompt in (first, second) for note in pipe.check(prompt)))
    for note in notes:
        print(f"  note: {note}")
    folder: Path = arguments.output
    # Including the first prompt: "a" to "b to c" is not "a to b" to "c".
    stem = written.stem(pipe, arguments, f"{first} to {second}", arguments.seed, first, num_frames)
    mesh_settings, look = written.mesh_settings(arguments), written.picture_settings(arguments)
    is_filmed = any(kind in arguments.formats for kind in written.VIDEOS)
    mesh_kinds = [kind for kind in arguments.formats if kind in written.MESHES]
    still_numbers = {round(i * (num_frames - 1) / (NUM_STILLS - 1)) for i in range(NUM_STILLS)}
    turning, stills, empty = [], [], []
    meshes: dict[str, list[str]] = {kind: [] for kind in mesh_kinds}
    earlier: dict[str, Any] | None = None
    for i, asset in enumerate(assets):
        if is_filmed:
            turning.append(asset.frame(i, num_frames, VIDEO_SIZE, fit=ends, **look))
        if "png" in arguments.formats and i in still_numbers:
            stills.append(asset.frame(0, 1, STILL_SIZE, fit=ends, **look))
        if not asset.has_surface:
            empty.append(i)
            continue
        if earlier is None:
            written.make_folder(folder)
            earlier = written.begin(folder, stem, arguments.formats)
        for kind in mesh_kinds:
            try:
                meshes[kind].append(asset.export(folder / f"{stem}-{i:03d}.{kind}", **mesh_settings).name)
            except EmptySurfaceError as error:  # at another resolution
                print(f"error: frame {i}: {error}; no {kind} of it", file=sys.stderr)
                empty.append(i)
    if empty:
        what = "all frames" if len(empty) == num_frames else f"{len(empty)} of {num_frames} frames"
        end = "nothing was written" if len(empty) == num_frames else "they are blank, and have no mesh"
        print(f"error: {what} have no surface; {end}", file=sys.stderr)
        if len(empty) == num_frames:
            return 1
    files: dict[str, str | list[str]] = {}
    for kind in arguments.formats:
        path = folder / f"{stem}.{kind}"
        if kind in mesh_kinds:
            path, files[kind] = folder / f"{stem}-*.{kind}", meshes[kind]
        elif kind == "png":
            export.save_png(path, export.contact_sheet(np.stack(stills)))
            files[kind] = path.name
        else:
            save = export.save_mp4 if kind == "mp4" else export.save_gif
            save(path, np.stack(turning), FRAMES_PER_SECOND)
            files[kind] = path.name
        print(f"  {path}")
    report = {
        "interpolate": [first, second],
        "frames": num_frames,
        "frames_without_surface": sorted(set(empty)),
        "seed": arguments.seed if pipe.has_noise else None,
        "notes": notes,
        **written.origin(pipe, arguments),
        "seconds": {"total": round(time.perf_counter() - start, 3)},
        "files": files,
    }
    path = written.finish(folder, stem, report, earlier or {})
    print(f"  {path}  all {time.perf_counter() - start:.1f} s")
    return 1 if empty else 0
