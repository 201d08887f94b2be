"""How long things take, and where the time goes.

    python tools/benchmark.py step [--config configs/tiny.yaml] [training.batch_size=8 ...]
    python tools/benchmark.py render [renderer.num_resampled=16 ...]
    python tools/benchmark.py generator
    python tools/benchmark.py prompts
    python tools/benchmark.py prior --prior sd21 --random-weights
    python tools/benchmark.py meshes
    python tools/benchmark.py field [--grid published] [--dtype float16]

`step`: each part's share of a training step. `render`: volume rendering beside nerfacc's in pure torch.
`generator`: every architecture. `prompts`: how fast prompts come out of shards, beside a plain
webdataset pipeline over the same ones, and what a corpus of 10^9 costs. `prior`: how fast a full-size prior
runs, of what the device can do; no weights need to be there. `field`: the hash grid's twins beside a naive
grid. `meshes`: topology and distances of simplified meshes of unseen prompts.
Nothing is written but the file of --json.
Exit status: 0 done; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _benchmark_field import add_options as add_field_options
from _benchmark_field import format_field, measure_field
from _benchmark_generator import format_generators, measure_generators
from _benchmark_meshes import add_options as add_mesh_options
from _benchmark_meshes import format_meshes, measure_meshes
from _benchmark_prior import add_options, format_prior, measure_prior
from _benchmark_prompts import format_prompts, measure_prompts
from _benchmark_render import add_options as add_render_options
from _benchmark_render import format_render, measure_render

from scaledreamer.cli import fail, program
from scaledreamer.config import load_config

if TYPE_CHECKING:
    from scaledreamer.config import Config

ROOT = Path(__file__).resolve().parent.parent


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = parser.add_subparsers(dest="what", required=True)
    step = subcommands.add_parser("step", help="each part's share of a training step")
    step.add_argument("--config", default=str(ROOT / "configs" / "tiny.yaml"), help="(%(default)s)")
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
        if arguments.what == "prompts":
            report: dict[str, Any] = measure_prompts()
            print(format_prompts(report))
        elif arguments.what == "prior":
            report = measure_prior(arguments)
            print(format_prior(report))
        elif arguments.what == "field":
            report = measure_field(arguments)
            print(format_field(report))
        elif arguments.what == "meshes":
            report = measure_meshes(arguments)
            print(format_meshes(report))
        elif arguments.what == "render":
            report = measure_render(load_config(arguments.config, arguments.settings), arguments)
            print(format_render(report))
        elif arguments.what == "generator":
            report = measure_generators(load_config(arguments.config, arguments.settings), arguments)
            print(format_generators(report))
        else:
            if arguments.steps < 1 or arguments.warmup < 0:
                raise ValueError("--steps takes at least 1 and --warmup at least 0")
            config = load_config(arguments.config, arguments.settings)
            report = measure_step(config, arguments.steps, arguments.warmup)
            print(format_step(report))
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except ValueError as error:
        return fail(error)
    return 0


class TimedPrior:
    """A prior whose calls are timed as parts of the step; everything else is passed on."""

    def __init__(self, prior: Any, timer: Any) -> None:
        self._prior, self._timer = prior, timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        with self._timer.part("prior: encode image"):
            return self._prior.encode_image(*args, **kwargs)

    def predict_noise(self, *args: Any, **kwargs: Any) -> Any:
        with self._timer.part("prior: predict noise"):
            return self._prior.predict_noise(*args, **kwargs)


def measure_step(config: Config, num_steps: int, num_warmup: int) -> dict[str, Any]:
    """Mean seconds of a training step and of its parts, on one process; nothing is saved.

    Returns: `seconds_per_step`, `seconds` and `share` by part (no part lies within another), and what was
        measured.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from scaledreamer.build import build_trainer
    from scaledreamer.launch.process import start_process

    transformers_logging.disable_progress_bar()
    process = start_process(config.training.device)
    trainer = build_trainer(config, process)
    timer = trainer.timer

    trainer.priors = [replace(term, prior=TimedPrior(term.prior, timer)) for term in trainer.priors]
    for step in range(num_warmup):
        trainer.step(step)
    timer.collect()
    if process.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(num_warmup, num_warmup + num_steps):
        trainer.step(step)
    parts = {name: seconds / num_steps for name, seconds in timer.collect().items()}
    whole = (time.perf_counter() - start) / num_steps
    inside = {name: parts.get(f"prior: {name}", 0.0) for name in ("encode image", "predict noise")}
    seconds = {
        "waiting for the stream and its texts": parts["draw"],
        "generator and renderer, forward": parts["render"],
        "prior, encode image": inside["encode image"],
        "prior, predict noise": inside["predict noise"],
        "autoencoder backward, clipping": parts["prior"] - sum(inside.values()),
        "generator and renderer, backward": parts["backward"],
        "optimizer and averaged weights": parts["update"],
    }
    seconds["everything else"] = max(whole - sum(seconds.values()), 0.0)
    images = config.training.batch_size * config.cameras.num_views
    return {
        "seconds_per_step": whole,
        "images_per_second": images / whole,
        "seconds": seconds,
        "share": {name: value / whole for name, value in seconds.items()},
        "steps": num_steps,
        "batch_size": config.training.batch_size,
        "images_per_step": images,
        "device": str(process.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def format_step(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [f"{'part':38}{'ms':>9}{'share':>9}"]
    for name, seconds in report["seconds"].items():
        lines.append(f"{name:38}{1000 * seconds:9.1f}{report['share'][name]:9.1%}")
    lines.append(f"{'step':38}{1000 * report['seconds_per_step']:9.1f}{1:9.1%}")
    lines.append(
        f"{report['images_per_step']} images a step, {report['images_per_second']:.1f} images a second; mean "
        f"of {report['steps']} steps on {report['device']}, {report['threads']} thread(s), torch "
        f"{report['torch']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
