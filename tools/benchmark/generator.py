"""Speed of every architecture: `python -m tools.benchmark generator`; and what `render` needs of it too.

The best of the repeats counts: an error against a slower machine is only ever upwards. On one CPU thread the
clock is the process' own, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from scaledreamer.config import Config

PROMPTS = (
    "a red cat",
    "a blue chair",
    "a green car",
    "a yellow rocket",
    "a purple mushroom",
    "a white rabbit",
    "an orange bird",
    "a brown teapot",
)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises: ValueError naming an option that is out of range."""
    for name, low in (("prompts", 1), ("repeats", 1), ("image_size", 4), ("even_samples", 1), ("points", 1)):
        if getattr(arguments, name, low) < low:
            raise ValueError(f"--{name.replace('_', '-')} takes at least {low}")


def measure_generators(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each architecture of the configuration: text to scenes, points asked, and backward."""
    import torch
    from transformers.utils import logging as transformers_logging

    from scaledreamer.accounting import count

    check_options(arguments)
    transformers_logging.disable_progress_bar()
    batch, num_points = arguments.prompts, arguments.points
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
    points = torch.rand(batch, num_points, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows: dict[str, dict[str, float]] = {}
    for name in get_args(type(config.generator).model_fields["name"].annotation):
        generator, conditioner = make_generator(config, name)
        with torch.no_grad():
            condition = conditioner(prompts)
        z = make_noise(generator, batch)
        best: list[float] = []

        def query(scene: Any) -> Tensor:
            sdf, features = scene.query(points)
            return sdf.square().sum() + features.square().sum()

        for number in range(1 + arguments.repeats):
            times = [clock()]
            scene = generator(condition, z)
            times.append(clock())
            loss = query(scene)
            times.append(clock())
            loss.backward()
            times.append(clock())
            taken = [end - start for start, end in zip(times[:-1], times[1:], strict=True)]
            if number > 0 and (not best or sum(taken) < sum(best)):
                best = taken
        generator.zero_grad(set_to_none=True)
        rows[name] = {"forward": best[0], "query": best[1], "backward": best[2]}
        rows[name]["points_per_second"] = batch * num_points / sum(best)
        rows[name]["parameters"] = sum(parameter.numel() for parameter in generator.parameters())
        rows[name]["peak_bytes"] = count(
            lambda generator=generator, condition=condition, z=z: query(generator(condition, z)).backward()
        ).peak_bytes
    return {"what": "generator", "rows": rows, "prompts": batch, "points": num_points} | machine()


def format_generators(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"{'':22}{'parameters':>12}{'scenes':>9}{'points':>9}{'backward':>10}{'all, ms':>9}{'points/s':>11}"
        f"{'peak MiB':>10}"
    ]
    for name, row in report["rows"].items():
        parts = [1000 * row[part] for part in ("forward", "query", "backward")]
        lines.append(
            f"{name:22}{row['parameters']:12,}{parts[0]:9.0f}{parts[1]:9.0f}{parts[2]:10.0f}{sum(parts):9.0f}"
            f"{row['points_per_second']:11,.0f}{row['peak_bytes'] / 2**20:10.0f}"
        )
    lines.append(f"{report['prompts']} prompts, {report['points']} points each. {where(report)}")
    return "\n".join(lines)


# --- also for rendering -------------------------------------------------------------------------------------


def make_generator(config: Config, name: str) -> tuple[Any, Any]:
    """A generator of the configuration's settings, with the configuration's conditioner."""
    import torch

    from scaledreamer import generators
    from scaledreamer.prompts.conditioner import make_conditioner

    conditioner = make_conditioner(config.conditioner, config.weights, "cpu")
    section = config.generator.model_copy(update={"name": name})
    torch.manual_seed(config.seed)
    settings = generators.constructor_settings(
        section, condition_dim=conditioner.condition_dim, token_dim=conditioner.token_dim
    )
    return generators.make(name, settings), conditioner


def make_noise(generator: Any, batch: int) -> Tensor | None:
    """The same each time; None for a generator without."""
    import torch

    if not generator.has_noise:
        return None
    return torch.randn(batch, generator.noise_dim, generator=torch.Generator().manual_seed(0))


def _is_one_thread() -> bool:
    import torch

    return torch.get_num_threads() == 1


def clock() -> float:
    """Seconds since some moment."""
    return time.process_time() if _is_one_thread() else time.perf_counter()


def machine() -> dict[str, Any]:
    """Of a report: what was measured on, and how."""
    import torch

    clock = "time of the process" if _is_one_thread() else "time on the wall"
    return {"device": "cpu", "threads": torch.get_num_threads(), "clock": clock, "torch": torch.__version__}


def where(report: dict[str, Any]) -> str:
    """The same in words."""
    return (
        f"{report['clock']} on {report['device']}, {report['threads']} thread(s), torch {report['torch']}; "
        "on a GPU not measured"
    )
