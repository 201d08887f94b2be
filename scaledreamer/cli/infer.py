"""The program behind `infer.py`: an asset per prompt, as GLB, turntable video, sheet of views, JSON sidecar.

Nothing here needs torch until the arguments have been found good. Exit status: 0 all assets made; 1 a
generated field had no surface (the other prompts are still made); 2 bad input, nothing was written for it;
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer import __version__
from scaledreamer.cli import Parser, accept_any_text, interpolate, is_out_of_memory, written
from scaledreamer.exported import find_generator, read_index
from scaledreamer.meshing import (
    MAX_FACES,
    MAX_MAX_FACES,
    MAX_RESOLUTION,
    MAX_TEXTURE_SIZE,
    MIN_MAX_FACES,
    MIN_RESOLUTION,
    MIN_TEXTURE_SIZE,
    RESOLUTION,
    TEXTURE_SIZE,
)
from scaledreamer.prompts.check import check_prompt

if TYPE_CHECKING:
    from scaledreamer.asset import Asset
    from scaledreamer.pipeline import TextTo3D

MAX_SEED = 2**31 - 1
FORMATS = ("glb", "mp4", "png", "obj", "ply", "gif")
DEFAULT_FORMATS = FORMATS[:3]
EXAMPLE = 'python infer.py --prompt "a red-eyed tree frog"'


def _whole_number(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"got {text!r}; accepted are whole numbers from {low} to {high}")
        return value

    return parse


def _seeds(text: str) -> tuple[int, ...]:
    parse = _whole_number(0, MAX_SEED)
    seeds = tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",") if part.strip()))
    if not seeds:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted are whole numbers separated by commas")
    return seeds


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted are numbers from 0 to 1")
    return value


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("got ''; accepted is a folder's name, . for the current one")
    return _path(text)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # a shell leaves the ~ of --output=~/x


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        raise argparse.ArgumentTypeError(
            f"got {text!r}; accepted is a comma-separated list of {', '.join(FORMATS)}"
        )
    return names


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted are auto, cpu, cuda and cuda:<number>")
    return text


def make_parser() -> argparse.ArgumentParser:
    """All options of `infer.py`."""
    parser = Parser(
        description="Makes a textured 3D asset of a text prompt, in one forward pass of a trained generator.",
        epilog=f"Example: {EXAMPLE}",
        allow_abbrev=False,
    )
    add = parser.add_argument

    def add_number(flag: str, default: int, low: int, high: int, meaning: str) -> None:
        parse = _whole_number(low, high)
        add(flag, default=default, type=parse, metavar="N", help=f"{meaning}, {low} to {high} (%(default)s)")

    add("--prompt", action="append", default=[], metavar="TEXT", help="what to make; may be repeated")
    add("--prompts-file", type=_path, metavar="FILE", help="prompts to make, one a line, UTF-8")
    add("--stdin", action="store_true", help="read prompts from standard input, one a line")
    meaning = "one object turning into another, instead of prompts"
    add("--interpolate", nargs=2, metavar="TEXT", help=f"{meaning}; writes mp4,png unless told otherwise")
    parse = _whole_number(interpolate.MIN_FRAMES, interpolate.MAX_FRAMES)
    limits = f"{interpolate.MIN_FRAMES} to {interpolate.MAX_FRAMES} ({interpolate.FRAMES})"
    add("--frames", type=parse, metavar="N", help=f"of an interpolation, {limits}")
    add("--output", default="outputs/infer", type=_folder, metavar="DIR", help="where to write (%(default)s)")
    add("--checkpoint", type=_folder, metavar="DIR", help="run or exported generator (the shipped one)")
    seeds = parser.add_mutually_exclusive_group()
    one = _whole_number(0, MAX_SEED)
    seeds.add_argument("--seed", default=0, type=one, metavar="N", help="of generators that take noise (0)")
    seeds.add_argument("--seeds", type=_seeds, metavar="LIST", help="an asset for each, as in 0,1,2")
    add_number("--num-variants", 1, 1, 1024, "assets of each prompt, from seeds --seed, --seed + 1, ...")
    truncation = "how much of the noise counts, 0 (the typical asset) to 1 (all of it)"
    add("--truncation", default=1.0, type=_fraction, metavar="X", help=f"{truncation} (%(default)s)")
    add_number("--batch-size", 8, 1, 1024, "prompts in one forward pass")
    formats = f"some of {', '.join(FORMATS)} (glb,mp4,png)"
    add("--formats", default=DEFAULT_FORMATS, type=_formats, metavar="LIST", help=formats)
    add_number("--resolution", RESOLUTION, MIN_RESOLUTION, MAX_RESOLUTION, "cells a side of marching cubes")
    add_number("--texture-size", TEXTURE_SIZE, MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE, "texels a side")
    add_number("--max-faces", MAX_FACES, MIN_MAX_FACES, MAX_MAX_FACES, "triangles of the simplified mesh")
    devices = "auto, cpu, cuda or cuda:<number>"
    add("--device", default="auto", type=_device, metavar="NAME", help=f"{devices} (%(default)s)")
    add("--version", action="version", version=f"scaledreamer {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    accept_any_text()
    try:
        if arguments.interpolate is not None and arguments.formats is DEFAULT_FORMATS:
            arguments.formats = interpolate.FORMATS
        if arguments.frames is not None and arguments.interpolate is None:
            raise ValueError("--frames: belongs to --interpolate, which is not given; leave it out")
        places = _read_prompts(arguments) if arguments.interpolate is None else interpolate.check(arguments)
        arguments.prompt = list(places)
        read_index(find_generator(arguments.checkpoint))
        _check_output(arguments.output)
        return _run(arguments, places)
    except (ValueError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: out of memory; lower --batch-size, --resolution or --texture-size, or take --device cpu",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, places: dict[str, str]) -> int:
    start = time.perf_counter()
    # Threads that wait for work must not spin: beside another busy program that took 154 s instead of 12 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import transformers

    from scaledreamer.meshing.isosurface import EmptySurfaceError
    from scaledreamer.pipeline import TextTo3D

    transformers.utils.logging.set_verbosity_error()  # its remark on long prompts becomes a note of ours
    transformers.utils.logging.disable_progress_bar()

    pipe = TextTo3D.from_pretrained(arguments.checkpoint, device=arguments.device)
    for prompt, place in places.items():
        try:
            pipe.check(prompt)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
    print(
        f"generator: {_describe(pipe, arguments.checkpoint)}; loaded in {time.perf_counter() - start:.1f} s"
    )
    if arguments.truncation != 1 and not pipe.has_noise:
        raise ValueError(
            f"--truncation {arguments.truncation}: this generator takes no noise; leave it out, or give the "
            "--checkpoint of a generator that does (conv3d_net)"
        )
    if arguments.interpolate is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return interpolate.make(pipe, arguments)
    if arguments.num_variants > 1:
        arguments.seeds = _variants(arguments, pipe.has_noise)
    seeds = arguments.seeds or (arguments.seed,)
    if len(seeds) > 1 and not pipe.has_noise:
        print(f"note: this generator takes no noise; the seeds would all give seed {seeds[0]}'s assets")
        seeds = seeds[:1]
    status, num_made, start = 0, 0, time.perf_counter()
    size = arguments.batch_size
    for seed in seeds:
        for first in range(0, len(arguments.prompt), size):
            prompts = arguments.prompt[first : first + size]
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the assets' notes, printed below
                assets = pipe(prompts, seed=seed, truncation=arguments.truncation)
            forward = (time.perf_counter() - clock) / len(prompts)
            for asset in assets:
                try:
                    _make(pipe, asset, forward, arguments)
                    num_made += 1
                except EmptySurfaceError as error:
                    where = f"prompt {_short(asset.prompt)}"
                    print(f"error: {where}: {error}; nothing was written for it", file=sys.stderr)
                    status = 1
    if len(seeds) * len(arguments.prompt) > 1:
        seconds = time.perf_counter() - start
        print(f"{num_made} assets in {seconds:.1f} s, {60 * num_made / seconds:.1f} a minute")
    return status


def _variants(arguments: argparse.Namespace, has_noise: bool) -> tuple[int, ...]:
    """The seeds of --num-variants.

    Raises: ValueError if the generator takes no noise, --seeds are given too, or there are not as many seeds.
    """
    where, first, count = f"--num-variants {arguments.num_variants}", arguments.seed, arguments.num_variants
    if not has_noise:
        raise ValueError(
            f"{where}: this generator takes no noise, all its assets of a prompt are one; leave it out, or "
            "give the --checkpoint of a generator that does (conv3d_net)"
        )
    if arguments.seeds is not None:
        raise ValueError(f"{where}: counts up from --seed, and --seeds are given; leave out one of them")
    if first + count - 1 > MAX_SEED:
        raise ValueError(f"{where}: seeds end at {MAX_SEED}; lower --seed ({first})")
    return tuple(range(first, first + count))


def _read_prompts(arguments: argparse.Namespace) -> dict[str, str]:
    """The prompts of all three sources, each once, in order; each with its place, as messages begin.

    Raises: ValueError if there is none, one of them cannot be one, or the file cannot be read.
    """
    found = [("", prompt) for prompt in arguments.prompt]
    lines: list[tuple[str, list[str]]] = []
    if arguments.prompts_file is not None:
        lines.append((f"--prompts-file {arguments.prompts_file}", _read_lines(arguments.prompts_file)))
    if arguments.stdin:
        lines.append(("--stdin", _decode(sys.stdin.buffer.read(), "--stdin").splitlines()))
    for source, texts in lines:
        kept = [(f"{source}, line {n}: ", text.strip()) for n, text in enumerate(texts, 1) if text.strip()]
        if not kept:
            raise ValueError(f"{source}: there is no prompt in it; give one a line")
        found += kept
    if not found:
        raise ValueError(
            "nothing to make: give --prompt, --prompts-file, --stdin or --interpolate (--help lists all "
            "options)"
        )
    for where, prompt in found:
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
    places: dict[str, str] = {}
    for where, prompt in found:
        places.setdefault(prompt, where)
    return places


def _read_lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"--prompts-file {path}: cannot be read ({reason}); give a text file with a prompt a line"
        ) from None
    return _decode(data, f"--prompts-file {path}").splitlines()


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{source}: line {line} is not UTF-8; save it in that encoding") from None


def _make(pipe: TextTo3D, asset: Asset, forward_seconds: float, arguments: argparse.Namespace) -> None:
    """All files of one asset; the sidecar comes last, so where it is, everything is."""
    from scaledreamer.meshing.export import file_stem, obj_companions, save_json

    print(f"prompt: {_short(asset.prompt)}" + (f", seed {asset.seed}" if arguments.seeds else ""))
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
        "mesh": {
            "vertices": len(mesh.atlas.vertices),
            "faces": len(mesh.atlas.faces),
            "watertight": mesh.watertight,
        },
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "files": files,
    }
    path = arguments.output / f"{stem}.json"
    save_json(path, report)
    forward_and_mesh = seconds["forward"] + seconds["mesh"]
    print(f"  {path}  forward pass and mesh {forward_and_mesh:.1f} s, all {seconds['total']:.1f} s")


def _describe(pipe: TextTo3D, checkpoint: Path | None) -> str:
    which = "the shipped one" if checkpoint is None else str(pipe.folder)
    step = "" if pipe.step is None else f", step {pipe.step}"
    return (
        f"{which} ({pipe.generator_name}{step}, sha256 {(pipe.checkpoint_hash or '')[:12]}) on {pipe.device}"
    )


def _check_output(folder: Path) -> None:
    """Raises ValueError unless the folder exists or, it seems, can be made, and can be written to."""
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"--output {folder}: {existing} is not a folder; give another --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output {folder}: no permission to write in {existing}; give another --output")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; is the place writable, and is there space left on it?"
    return " ".join(str(error).split())


def _short(prompt: str, length: int = 80) -> str:
    text = " ".join(prompt.split())
    return repr(text if len(text) <= length else text[: length - 3] + "...")
