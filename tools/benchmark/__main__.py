"""How long things take, and where the time goes.

    python -m tools.benchmark step [--config configs/tiny.yaml] [training.batch_size=8 ...]
    python -m tools.benchmark render [renderer.volume.num_resampled=16 ...]
    python -m tools.benchmark generator
    python -m tools.benchmark prompts
    python -m tools.benchmark prior --prior sd21 --random-weights
    python -m tools.benchmark meshes
    python -m tools.benchmark field [--grid published] [--dtype float16]

`step`: each part's share of a training step. `render`: volume rendering beside nerfacc's in pure torch.
`generator`: every architecture. `prompts`: how fast prompts come out of shards, beside a plain
webdataset pipeline over the same ones, and what a corpus of 10^9 costs. `prior`: how fast a full-size prior
runs, of what the device can do; no weights need to be there. `field`: the hash grid's backends beside a naive
grid. `meshes`: topology and distances of simplified meshes of unseen prompts.
Nothing is written but the file of --json.
Exit status: 0 done; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledreamer.cli import Parser, fail, program
from scaledreamer.config import load_config
from tools.benchmark.field import add_options as add_field_options
from tools.benchmark.field import format_field, measure_field
from tools.benchmark.generator import format_generators, measure_generators
from tools.benchmark.meshes import add_options as add_mesh_options
from tools.benchmark.meshes import format_meshes, measure_meshes
from tools.benchmark.prior import add_options, format_prior, measure_prior
from tools.benchmark.prompts import format_prompts, measure_prompts
from tools.benchmark.render import add_options as add_render_options
from tools.benchmark.render import format_render, measure_render
from tools.benchmark.step import format_step, measure_step


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = Parser(
        prog="python -m tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = parser.add_subparsers(dest="what", required=True)
    step = subcommands.add_parser("step", help="each part's share of a training step")
    step.add_argument("--config", default="tiny", help="(%(default)s)")
    step.add_argument("--steps", type=int, default=20, metavar="N", help="steps measured (%(default)s)")
    step.add_argument("--warmup", type=int, default=3, metavar="N", help="steps before them (%(default)s)")
    prompts = subcommands.add_parser("prompts", help="throughput, start, seek and memory of the stream")
    prior = subcommands.add_parser("prior", help="speed and memory of a prior's part of a training step")
    add_options(prior)
    field = subcommands.add_parser("field", help="speed of the hash grid on this device")
    add_field_options(field)
    meshes = subcommands.add_parser("meshes", help="manifolds and distances after simplification")
    add_mesh_options(meshes)
    render = subcommands.add_parser("render", help="forward and backward of volume rendering")
    generator = subcommands.add_parser("generator", help="forward and backward of each architecture")
    add_render_options(render, generator)
    for subcommand in (step, prompts, prior, field, meshes, render, generator):
        subcommand.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    for subcommand in (step, render, generator):
        subcommand.add_argument(
            "settings", nargs="*", metavar="key.path=value", help="settings that go before the file's"
        )
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        report, table = _measure(arguments)
        print(table)
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except ValueError as error:
        return fail(error)
    return 0


def _measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Numbers of what is to be measured, and the same as a table."""
    match arguments.what:
        case "prompts":
            report: dict[str, Any] = measure_prompts()
            return report, format_prompts(report)
        case "prior":
            report = measure_prior(arguments)
            return report, format_prior(report)
        case "field":
            report = measure_field(arguments)
            return report, format_field(report)
        case "meshes":
            report = measure_meshes(arguments)
            return report, format_meshes(report)
    config = load_config(arguments.config, arguments.settings)
    match arguments.what:
        case "render":
            report = measure_render(config, arguments)
            return report, format_render(report)
        case "generator":
            report = measure_generators(config, arguments)
            return report, format_generators(report)
    if arguments.steps < 1 or arguments.warmup < 0:
        raise ValueError("--steps takes at least 1 and --warmup at least 0")
    report = measure_step(config, arguments.steps, arguments.warmup)
    return report, format_step(report)


if __name__ == "__main__":
    sys.exit(main())
