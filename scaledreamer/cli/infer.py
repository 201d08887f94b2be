"""The program behind `infer.py`: an asset per prompt, as GLB, turntable video, sheet of views, JSON sidecar.

Nothing here needs torch until the arguments have been found good. Exit status: 0 all assets made; 1 a
generated field had no surface (the other prompts are still made); 2 bad input, nothing was written for it;
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.cli import fail, infer_files, interpolate, is_out_of_memory, program, short
from scaledreamer.cli.infer_options import DEFAULT_FORMATS, MAX_SEED, make_parser
from scaledreamer.cli.infer_prompts import read_prompts
from scaledreamer.exported import find_generator, read_index

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        if arguments.interpolate is not None and arguments.formats is DEFAULT_FORMATS:
            arguments.formats = interpolate.FORMATS
        if arguments.frames is not None and arguments.interpolate is None:
            raise ValueError("--frames: belongs to --interpolate, which is not given; leave it out")
        places = read_prompts(arguments) if arguments.interpolate is None else interpolate.check(arguments)
        arguments.prompt = list(places)
        read_index(find_generator(arguments.checkpoint))
        _check_output(arguments.output)
        return _run(arguments, places)
    except ValueError as error:
        return fail(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: out of memory; lower --batch-size, --resolution or --texture-size, or take --device cpu",
            file=sys.stderr,
        )
        return 2


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
                    infer_files.make(pipe, asset, forward, arguments)
                    num_made += 1
                except EmptySurfaceError as error:
                    where = f"prompt {short(asset.prompt)}"
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
