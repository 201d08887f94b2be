"""`scaledreamer infer` makes an asset of each prompt: GLB, turntable video, sheet of views, JSON sidecar.

Needs no torch until the arguments are validated. Exit status: 0 all assets made; 1 a generated field had no
surface (the other prompts are still made); 2 bad input, nothing was written for it; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.cli import fail, infer_files, interpolate, is_out_of_memory, program, written
from scaledreamer.cli.infer_options import DEFAULT_FORMATS, MAX_SEED, make_parser
from scaledreamer.cli.infer_prompts import list_words, read_prompts
from scaledreamer.exported import find_generator, read_index
from scaledreamer.prompts.words import short
from scaledreamer.vocabulary import Vocabulary

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
        _check_pictures(arguments)
        folder = find_generator(arguments.checkpoint)
        read_index(folder)
        arguments.checkpoint = arguments.checkpoint and folder  # one on a hub is located only once
        vocabulary = Vocabulary.read(folder)
        if arguments.list_words:
            list_words(vocabulary)
            return 0
        if arguments.interpolate is not None:
            interpolate.check(arguments, vocabulary)
        else:
            arguments.prompt, complaints = read_prompts(arguments, vocabulary)
            for complaint in complaints:
                print(f"skipped: {complaint}", file=sys.stderr)
        _check_output(arguments.output)
        return _run(arguments)
    except ValueError as error:
        return fail(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: out of memory; lower --resolution or --texture-size, or take --device cpu",
            file=sys.stderr,
        )
        return 2


def _run(arguments: argparse.Namespace) -> int:
    start = time.perf_counter()
    # Waiting threads must not spin: next to another busy program that took 154 s instead of 12 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import transformers

    from scaledreamer.pipeline import TextTo3D

    transformers.utils.logging.set_verbosity_error()  # long prompts get our own note
    transformers.utils.logging.disable_progress_bar()

    pipe = TextTo3D.from_pretrained(arguments.checkpoint, device=arguments.device)
    print(
        f"generator: {_describe(pipe, arguments.checkpoint)}; loaded in {time.perf_counter() - start:.1f} s"
    )
    if arguments.truncation != 1 and not pipe.has_noise:
        raise ValueError(
            f"--truncation {arguments.truncation}: this generator takes no noise; leave it out, or give the "
            "--checkpoint of a generator that does (conv3d_net)"
        )
    seeds = _seeds(arguments, pipe.has_noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the assets' notes, which are printed anyway
        if arguments.interpolate is not None:
            return interpolate.make(pipe, arguments)
        return _make_all(pipe, arguments, seeds)


def _make_all(pipe: TextTo3D, arguments: argparse.Namespace, seeds: Sequence[int]) -> int:
    """Makes an asset for each seed and prompt; returns the exit status."""
    from scaledreamer.meshing.isosurface import EmptySurfaceError

    jobs = [(seed, prompt) for seed in seeds for prompt in arguments.prompt]
    stems = {job: written.stem(pipe, arguments, job[1], job[0]) for job in jobs}
    if arguments.skip_existing:
        folder, formats = arguments.output, arguments.formats
        missing = [job for job in jobs if not written.is_made(folder, stems[job], formats)]
        print(f"{len(jobs) - len(missing)} of {len(jobs)} are there already")
        jobs = missing
    status, num_made, start = 0, 0, time.perf_counter()
    for number, (seed, prompt) in enumerate(jobs, 1):
        of_seed = f", seed {seed}" if len(seeds) > 1 else ""
        clock = time.perf_counter()
        left = (clock - start) / max(number - 1, 1) * (len(jobs) - number + 1)
        so_far = f", {timedelta(seconds=round(left))} left" if number > 1 else ""
        of_all = f"{number} of {len(jobs)}{so_far}, " if len(jobs) > 1 else ""
        print(f"{of_all}prompt: {short(prompt)}{of_seed}", flush=True)
        asset = pipe(prompt, seed=seed, truncation=arguments.truncation)
        try:
            infer_files.make(pipe, asset, stems[seed, prompt], time.perf_counter() - clock, arguments)
            num_made += 1
        except EmptySurfaceError as error:
            print(f"error: prompt {short(prompt)}: {error}; nothing was written for it", file=sys.stderr)
            status = 1
    if len(jobs) > 1:
        seconds = time.perf_counter() - start
        print(f"{num_made} assets in {seconds:.1f} s, {60 * num_made / seconds:.1f} a minute")
    return status


def _seeds(arguments: argparse.Namespace, has_noise: bool) -> Sequence[int]:
    """The seeds to be made; if seeds have no effect, prints a note and uses 0, as if none were given.

    Raises: ValueError as `_variants`.
    """
    given = [f"--{name}" for name in ("seed", "seeds") if getattr(arguments, name) is not None]
    arguments.seed = arguments.seed or 0
    if arguments.num_variants > 1:
        return _variants(arguments, has_noise)
    if given and not has_noise:
        print(f"note: {given[0]} has no effect: this generator takes no noise; a prompt has one asset")
        arguments.seed, arguments.seeds = 0, None
    return arguments.seeds or (arguments.seed,)


def _variants(arguments: argparse.Namespace, has_noise: bool) -> tuple[int, ...]:
    """The seeds of --num-variants.

    Raises: ValueError if the generator takes no noise, --seeds is given too, or the seeds would be too large.
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


def _check_pictures(arguments: argparse.Namespace) -> None:
    """Raises ValueError for an invalid --background, or one that does not suit a format of --formats."""
    from scaledreamer.meshing.backdrop import TRANSPARENT, make_backdrop

    arguments.background = arguments.background.strip().lower()
    try:
        make_backdrop(arguments.background, 1)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    videos = [kind for kind in arguments.formats if kind in written.VIDEOS]
    if videos and arguments.background == TRANSPARENT:
        others = ",".join(kind for kind in arguments.formats if kind not in videos) or "png"
        raise ValueError(
            f"--background {TRANSPARENT}: a video ({videos[0]}) is not transparent; give --formats {others}, "
            "or a colour"
        )


def _check_output(folder: Path) -> None:
    """Raises ValueError unless the folder exists, or can apparently be created, and is writable."""
    existing = folder.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"--output {folder}: {existing} is not a folder; give another --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output {folder}: no permission to write in {existing}; give another --output")
