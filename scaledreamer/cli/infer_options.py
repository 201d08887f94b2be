"""The options of `scaledreamer infer` and what they accept. Needs no torch."""

from __future__ import annotations

import argparse
import itertools
import math
import re
from pathlib import Path

from scaledreamer import __version__
from scaledreamer.cli import Parser, interpolate, whole_number
from scaledreamer.home import expand_home
from scaledreamer.meshing import (
    BACKGROUND,
    MAX_FACES,
    MAX_MAX_FACES,
    MAX_RESOLUTION,
    MAX_TEXTURE_SIZE,
    MIN_MAX_FACES,
    MIN_RESOLUTION,
    MIN_TEXTURE_SIZE,
    RENDERERS,
    RESOLUTION,
    TEXTURE_SIZE,
)

MAX_SEED = 2**31 - 1
FORMATS = ("glb", "mp4", "png", "obj", "ply", "gif")
DEFAULT_FORMATS = FORMATS[:3]
TERMS = (
    "Licence of what is made: the shipped generator's assets are free to use for any purpose; for those of "
    "another generator the licence of the prior that it was trained with applies. Each sidecar says it too."
)
EXAMPLE = 'scaledreamer infer --prompt "a red-eyed tree frog"'


def _seeds(text: str) -> tuple[int, ...]:
    parse = whole_number(0, MAX_SEED)
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


def _levels(text: str) -> tuple[int, ...]:
    parse = whole_number(MIN_MAX_FACES, MAX_MAX_FACES)
    levels = tuple(parse(part.strip()) for part in text.split(",") if part.strip())
    if not levels or any(fine <= coarse for fine, coarse in itertools.pairwise(levels)):
        raise argparse.ArgumentTypeError(
            f"got {text!r}; accepted are falling numbers of triangles, separated by commas: 6000,1500,300"
        )
    return levels


def _metres(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted are metres above 0")
    return value


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("got ''; accepted is a folder's name, . for the current one")
    return _path(text)


def _path(text: str) -> Path:
    try:
        return Path(expand_home(text))  # a shell does not expand the ~ in --output=~/x
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    """All options."""
    parser = Parser(
        prog="scaledreamer infer",
        description="Makes a textured 3D asset of a text prompt, in one forward pass of a trained generator.",
        epilog=f"Example: {EXAMPLE}. {TERMS}",
        allow_abbrev=False,
    )
    add = parser.add_argument

    def add_number(flag: str, default: int, low: int, high: int, meaning: str) -> None:
        parse = whole_number(low, high)
        add(flag, default=default, type=parse, metavar="N", help=f"{meaning}, {low} to {high} (%(default)s)")

    add("--prompt", action="append", default=[], metavar="TEXT", help="what to make; may be repeated")
    add("--prompts-file", type=_path, metavar="FILE", help="prompts to make: one a line, or a JSON corpus")
    add("--stdin", action="store_true", help="read prompts from standard input, one a line")
    add("--skip-unknown", action="store_true", help="make the other prompts if some cannot be made")
    add("--list-words", action="store_true", help="list the words of the generator's training, and end")
    meaning = "one object turning into another, instead of prompts"
    add("--interpolate", nargs=2, metavar="TEXT", help=f"{meaning}; writes mp4,png unless told otherwise")
    parse = whole_number(interpolate.MIN_FRAMES, interpolate.MAX_FRAMES)
    limits = f"{interpolate.MIN_FRAMES} to {interpolate.MAX_FRAMES} ({interpolate.FRAMES})"
    add("--frames", type=parse, metavar="N", help=f"of an interpolation, {limits}")
    add("--output", default="outputs/infer", type=_folder, metavar="DIR", help="where to write (%(default)s)")
    generator = "run, exported generator or hub id (the shipped one)"
    add("--checkpoint", type=_folder, metavar="DIR", help=generator)
    seeds = parser.add_mutually_exclusive_group()
    one = whole_number(0, MAX_SEED)
    seeds.add_argument("--seed", type=one, metavar="N", help="of generators that take noise (0)")
    seeds.add_argument("--seeds", type=_seeds, metavar="LIST", help="an asset for each, as in 0,1,2")
    add_number("--num-variants", 1, 1, 1024, "assets of each prompt, from seeds --seed, --seed + 1, ...")
    truncation = "how much of the noise counts, 0 (the typical asset) to 1 (all of it)"
    add("--truncation", default=1.0, type=_fraction, metavar="X", help=f"{truncation} (%(default)s)")
    formats = f"some of {', '.join(FORMATS)} (glb,mp4,png)"
    add("--formats", default=DEFAULT_FORMATS, type=_formats, metavar="LIST", help=formats)
    add_number("--resolution", RESOLUTION, MIN_RESOLUTION, MAX_RESOLUTION, "cells a side of marching cubes")
    add_number("--texture-size", TEXTURE_SIZE, MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE, "texels a side")
    faces = parser.add_mutually_exclusive_group()
    limits = f"{MIN_MAX_FACES} to {MAX_MAX_FACES} ({MAX_FACES})"
    one, meaning = whole_number(MIN_MAX_FACES, MAX_MAX_FACES), f"triangles of the simplified mesh, {limits}"
    faces.add_argument("--max-faces", default=MAX_FACES, type=one, metavar="N", help=meaning)
    meaning = "levels of detail: a mesh for each number of triangles, as in 6000,1500,300"
    faces.add_argument("--lods", type=_levels, metavar="LIST", help=meaning)
    add("--ground", action="store_true", help="put the lowest point of meshes at height 0")
    add("--scale", type=_metres, metavar="M", help="metres of a mesh's longest side (2 for the scene's cube)")
    meaning = "what pictures show: mesh (lit, sharp) or volume (the field, as in training)"
    add("--renderer", default=RENDERERS[0], choices=RENDERERS, help=f"{meaning} (%(default)s)")
    meaning = f"behind pictures: {BACKGROUND} (a gradient), transparent (png), or a colour (white, #ff8800)"
    add("--background", default=BACKGROUND, metavar="NAME", help=f"{meaning} (%(default)s)")
    add("--skip-existing", action="store_true", help="make only what is not whole in --output yet")
    devices = "auto, cpu, cuda or cuda:<number>"
    add("--device", default="auto", type=_device, metavar="NAME", help=f"{devices} (%(default)s)")
    add("--version", action="version", version=f"scaledreamer {__version__}")
    return parser
