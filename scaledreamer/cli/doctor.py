"""Reports what will work on this machine and with a configuration, before anything starts.

    scaledreamer doctor
    scaledreamer doctor --config tiny training.batch_size=16

Checks versions, devices, compilers and optional packages and, for a configuration, its weights, prompts,
disks, memory and speed. Nothing is downloaded, and only the file of --json is written. Exit status: 0 no
errors; 1 an error was found; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer import __version__
from scaledreamer.cli import Parser, fail, program
from scaledreamer.doctor import machine
from scaledreamer.doctor.findings import Section, num_errors, one_line, summary
from scaledreamer.memory import memory_bytes

if TYPE_CHECKING:
    from scaledreamer.config import Config


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="scaledreamer doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, or a shipped one's name (tiny)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    parser.add_argument("--quick", action="store_true", help="no training steps to measure the speed")
    parser.add_argument(
        "settings", nargs="*", metavar="key.path=value", help="settings that go before the file's"
    )
    parser.add_argument("--version", action="version", version=f"scaledreamer {__version__}")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_intermixed_args(argv)
    try:
        config = _load(arguments.config, arguments.settings)
        sections = []
        for section in examine(config, is_quick=arguments.quick):
            print(f"{section}\n", flush=True)
            sections.append(section)
        print(summary(sections))
        if arguments.json is not None:
            _write(arguments.json, sections)
    except ValueError as error:
        return fail(error)
    return 1 if num_errors(sections) else 0


def _load(path: str | None, settings: list[str]) -> Config | None:
    if path is None and not settings:
        return None
    from scaledreamer.cli.shipped import say_shipped_config
    from scaledreamer.config import load_config

    config = load_config(path, settings)
    if path is not None:
        say_shipped_config(path)
    return config


def _write(path: Path, sections: list[Section]) -> None:
    data = [
        {
            "title": section.title,
            "findings": [{"level": f.level, "what": f.what, "todo": f.todo} for f in section.findings],
            "numbers": section.numbers,
        }
        for section in sections
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def examine(config: Config | None, *, is_quick: bool = False) -> Iterator[Section]:
    """Yields one section after the other; without a configuration, only those on the machine."""
    yield machine.check_versions()
    yield machine.check_environment()
    devices = machine.check_devices(config.training.device if config else "auto")
    yield devices
    is_compiled = config is not None and any(prior.networks.compile for prior in config.priors)
    yield machine.check_compilers(is_compiled=is_compiled)
    backend = _grid_backend(config)
    yield machine.check_accelerators(backend)
    if config is None:
        return
    valid = Section("Configuration")
    priors = ", ".join(prior.name for prior in config.priors)
    if backend in ("triton", "tinycudann") and not devices.numbers["devices"]:
        key = f"generator.{config.generator.name}.grid_backend"
        valid.add("error", f"{key} is {backend}, which needs a GPU, and there is none", "set it to auto")
    valid.add("ok", f"valid: {config.generator.name} with {priors}, {config.training.max_steps:,} steps")
    yield valid
    try:
        yield from _examine_run(config, devices, is_quick)
    except ImportError as error:
        broken = Section("Run")
        broken.add("error", f"the package cannot be imported ({error})", "install what is missing above")
        yield broken


def _grid_backend(config: Config | None) -> str | None:
    """The backend of the generator's hash grid in the configuration."""
    generator = None if config is None else config.generator.chosen
    return getattr(generator, "grid_backend", None)


def _examine_run(config: Config, devices: Section, is_quick: bool) -> Iterator[Section]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from scaledreamer.doctor import files

    weights, models = files.check_models(config)
    yield weights
    prompts = files.check_prompts(config)
    yield prompts

    from scaledreamer.doctor import memory, networks, speed
    from scaledreamer.doctor.child import ChildError

    gpus = devices.numbers["devices"] if config.training.device != "cpu" else []
    assert isinstance(gpus, list)
    launched, world = devices.numbers["ranks"], os.environ.get("WORLD_SIZE", "")
    ranks = int(world) if world.isdecimal() else len(gpus) or launched
    assert isinstance(ranks, int)
    ranks = max(1, min(ranks, config.training.batch_size // config.training.accumulation_steps))
    num_prompts = prompts.numbers.get("num_distinct", 10**9)
    assert isinstance(num_prompts, int)
    width = networks.condition_dim(models[0])
    num_parameters = sum(networks.num_parameters(config.generator, width).values())
    download = weights.numbers["download_bytes"]
    assert isinstance(download, int)
    yield files.check_disk(
        config, num_parameters=num_parameters, download_bytes=download, num_prompts=num_prompts
    )
    free, _ = memory_bytes()
    try:
        found = memory.estimate(config, models, ranks=ranks, is_cuda=bool(gpus), num_distinct=num_prompts)
    except (ValueError, RuntimeError, ChildError) as error:
        failed = Section("Memory")
        failed.add("error", f"cannot be estimated: {one_line(error)}")
        yield failed
        return
    section = memory.report(found, config, ranks=ranks, free_main=free, devices=gpus)
    yield section
    if not is_quick:
        is_here = all(model.here is not None for model in models)
        can_run = is_here and not num_errors([section, weights, prompts])
        yield speed.report(config, found, ranks=ranks, can_run=can_run, is_cuda=bool(gpus))


if __name__ == "__main__":
    sys.exit(main())
