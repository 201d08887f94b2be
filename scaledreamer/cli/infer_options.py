"""The options of `infer.py` and what they accept. Needs no torch."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from scaledreamer import __version__
from scaledreamer.cli import Parser, interpolate
from scaledreamer.home import expand_home
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
    try:
        return Path(expand_home(text))  # a shell leaves the ~ of --output=~/x
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
    add("--prompts-file", type=_path, metavar="FILE", help="prompts to make: one a line, or a JSON corpus")
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
