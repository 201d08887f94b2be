"""Trains a generator, or resumes an interrupted run: `scaledreamer train`, `train.py`.

Needs no torch until the configuration is validated. Exit status: 0 finished, or stopped and saved; 2 bad
input, or a run that cannot continue; 130 interrupted for a second time.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaledreamer import __version__
from scaledreamer.cli import Parser, fail, is_out_of_memory, program
from scaledreamer.cli.shipped import say_shipped_config
from scaledreamer.launch import environment

if TYPE_CHECKING:
    from scaledreamer.config import Config


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="scaledreamer train",
        description="Trains a text-to-3D generator. The same command again resumes an interrupted run.",
        epilog="Example: deepspeed train.py --config configs/tiny.yaml training.max_steps=500",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE",
        help="YAML file with what differs from the defaults, or the name of a shipped one (tiny)",
    )
    add("settings", nargs="*", metavar="key.path=value", help="settings that go before the file's")
    add(
        "--dry-run",
        action="store_true",
        help="print the configuration, parameters and the first batch, then stop",
    )
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)  # from launchers
    add("--version", action="version", version=f"scaledreamer {__version__}")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_intermixed_args(argv)
    from scaledreamer.config import load_config
    from scaledreamer.downloads import check_models

    try:
        config = load_config(arguments.config, arguments.settings)
        environment.check()
        downloads = check_models(config)
    except ValueError as error:
        return _fail(error)
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    if os.environ["LOCAL_RANK"] == "0":
        say_shipped_config(arguments.config)
    _announce(downloads)
    if environment.is_left_over():
        environment.say_waiting()  # before the seconds that torch takes
    if tasks := environment.several_tasks():
        print(f"note: {tasks}", flush=True)
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        environment.load("torch", "torch.distributed", "transformers", "diffusers")
    except ValueError as error:
        return _fail(error)
    try:
        return _train(config, is_dry_run=arguments.dry_run)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(ValueError(out_of_memory(error, config)))


def out_of_memory(error: Exception, config: Config) -> str:
    """The message for out of memory, with the allocator's numbers and the three settings that help most."""
    said = " ".join(str(error).split())
    number = r"(?:[^.]|\.\d)*"  # of a sentence, whose numbers may have a point
    found = re.findall(rf"[Tt]ried to allocate {number}|GPU \d+ has {number}", said)
    numbers = f" ({'. '.join(found)})" if found else ""
    networks = f"priors.0.{config.priors[0].name}"
    return (
        f"out of memory{numbers}; raise training.accumulation_steps, which divides training.batch_size "
        f"({config.training.batch_size}) into parts; set {networks}.memory_gib; or lower renderer.image_size "
        f"({config.renderer.largest_image_size}). Large generators: lower their sizes. scaledreamer doctor "
        "says what a configuration takes before it starts."
    )


def _train(config: Config, *, is_dry_run: bool) -> int:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from scaledreamer.prompts.source import SourceError
    from scaledreamer.training.description import describe
    from scaledreamer.training.run import RunError, prepare

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)  # what goes wrong is said below, once
    try:
        run = prepare(config, is_dry_run=is_dry_run)
    except (ValueError, OSError) as error:
        return _fail(error)
    if is_dry_run:
        if run.process.is_main:
            print(describe(run.config, run.trainer, run.first_step))
    else:
        try:
            run.train()
        except SourceError as error:
            resumed = "the same command then goes on from the last checkpoint"
            return _fail(ValueError(f"{error} Training has stopped; {resumed}."), is_shared=False)
        except (RunError, OSError) as error:
            return _fail(error)
    return 0


def _announce(downloads: list[str]) -> None:
    """What is to be downloaded; of a machine's processes the first says so and shows the progress."""
    if not downloads:
        return
    if os.environ["LOCAL_RANK"] == "0":
        print("\n".join(downloads), flush=True)
    else:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def _fail(error: Exception, *, is_shared: bool = True) -> int:
    """One line for the user; of several processes that fail alike, only from the first of a machine."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    is_first = os.environ.get("LOCAL_RANK", rank) == "0"
    if (
        is_first
        or not is_shared
        or not (rank.isdecimal() and world_size.isdecimal() and 0 < int(rank) < int(world_size))
    ):
        fail(error)
    return 2


if __name__ == "__main__":
    sys.exit(main())
