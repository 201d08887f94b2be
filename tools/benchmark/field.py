"""How fast the hash grid's backends are, beside a naive grid in torch: `python -m tools.benchmark field`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GRIDS: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_levels": 8,
        "features_per_level": 4,
        "log2_table_size": 14,
        "base_resolution": 8,
        "growth": 1.5,
    },
    "published": {
        "num_levels": 16,
        "features_per_level": 2,
        "log2_table_size": 19,
        "base_resolution": 16,
        "growth": 1.447,
    },
}
"""The defaults of a configuration, and ScaleDreamer's Hyper-iNGP."""
ORDERS = ("random", "rays")
SAMPLES_OF_A_RAY = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--grid", choices=GRIDS, nargs="+", default=list(GRIDS), help="sizes (both)")
    parser.add_argument("--points", type=int, metavar="N", help="(2^20 on a GPU, 2^15 on a CPU)")
    parser.add_argument("--device", help="(cuda where there is one, else cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the features (%(default)s)"
    )
    parser.add_argument("--with-points", action="store_true", help="gradients of the points too")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="calls measured (%(default)s)")


def measure_field(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every backend that works on the device, and the naive grid, on the same points, taking turns.

    Returns: `grids` by name, each with its settings, its table's entries, and by the points' order and the
        backend: forward and backward seconds (median), points per second of both together, how many times as
        fast as the naive grid that is, and the relative error of features and of the table's gradient against
        the torch backend; `left_out`, why a backend is missing; and what was measured.

    Raises: ValueError for options that are out of range.
    """
    import torch

    from scaledreamer.fields.hash_grid_backend import NAMES, choose_backend

    device = choose_device(arguments.device)
    num_points = arguments.points
    if num_points is None:
        num_points = 2**20 if device.type == "cuda" else 2**15
    if min(num_points, arguments.repeats) < 1:
        raise ValueError("--points and --repeats take at least 1")
    encoders: dict[str, Any] = {"naive torch": encode_naively}
    left_out = {}
    for name in NAMES[1:]:
        try:
            encoders[name] = choose_backend(name, device).encode
        except ValueError as error:
            left_out[name] = str(error)
    dtype = getattr(torch, arguments.dtype)
    grids = {}
    # Once it is freed, glibc keeps such memory, as in a training, with its larger tensors.
    torch.empty(6_000_000)
    for name in arguments.grid:
        settings = GRIDS[name]
        grids[name] = {"settings": settings} | {
            order: measure_grid(
                encoders,
                settings,
                make_points(order, num_points).to(device),
                dtype,
                with_points=arguments.with_points,
                repeats=arguments.repeats,
            )
            for order in ORDERS
        }
    return {
        "grids": grids,
        "left_out": left_out,
        "points": num_points,
        "dtype": arguments.dtype,
        "with_points": arguments.with_points,
        "repeats": arguments.repeats,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def choose_device(name: str | None) -> torch.device:
    """The device of a name; of none a GPU, where there is one.

    Raises: ValueError if there is no such device here.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {name!r}; accepted are cpu, cuda and cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"--device {name}: torch finds {count or 'no'} CUDA device(s) here; use cpu")
    return device


def measure_grid(
    encoders: dict[str, Any],
    settings: dict[str, Any],
    points: Tensor,
    dtype: Any,
    *,
    with_points: bool,
    repeats: int,
) -> dict[str, dict[str, float]]:
    """By encoder; all are given the same table, points and upstream gradient."""
    import torch

    from scaledreamer.fields.pyramid import make_pyramid

    pyramid = make_pyramid(**{key: value for key, value in settings.items() if key != "features_per_level"})
    random = torch.Generator().manual_seed(0)
    shape = (pyramid.num_entries, settings["features_per_level"])
    table = torch.randn(shape, generator=random).to(points.device).requires_grad_()
    upstream = torch.randn(len(points), shape[1] * pyramid.num_levels, generator=random)
    upstream = upstream.to(points.device, dtype)
    inputs = [table, *([points.requires_grad_()] if with_points else [])]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in encoders}
    results: dict[str, list[Tensor]] = {}
    for repeat in range(repeats + 1):
        for name, encode in encoders.items():
            forward, features = timed(lambda encode=encode: encode(table, points, pyramid, dtype))
            backward, grads = timed(lambda features=features: torch.autograd.grad(features, inputs, upstream))
            if repeat == 0:  # the first call, not measured: kernels are compiled, memory is had
                results[name] = [features.detach(), grads[0]]
            else:
                seconds[name].append((forward, backward))
    medians = {
        name: [statistics.median(part) for part in zip(*s, strict=True)] for name, s in seconds.items()
    }
    naive = sum(medians["naive torch"])
    return {
        name: {
            "forward_seconds": forward,
            "backward_seconds": backward,
            "points_per_second": len(points) / (forward + backward),
            "times_naive": naive / (forward + backward),
            "features_error": relative_error(results[name][0], results["torch"][0]),
            "gradient_error": relative_error(results[name][1], results["torch"][1]),
        }
        for name, (forward, backward) in medians.items()
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, to its end on the GPU, and what it returns."""
    from scaledreamer.accounting import synchronize

    synchronize()
    start = time.perf_counter()
    result = function()
    synchronize()
    return time.perf_counter() - start, result


def relative_error(values: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference by that of what is expected."""
    return float((values.float() - expected.float()).norm() / expected.float().norm())


def make_points(order: str, num_points: int) -> Tensor:
    """Points in the cube: anywhere, or one after the other along chords of it, as rays are sampled."""
    import torch

    random = torch.Generator().manual_seed(1)
    if order == "random":
        return torch.rand(num_points, 3, generator=random) * 2 - 1
    ends = torch.rand(2, -(-num_points // SAMPLES_OF_A_RAY), 1, 3, generator=random) * 2 - 1
    ends = ends / ends.abs().amax(-1, keepdim=True)  # on the cube's faces
    along = torch.linspace(0, 1, SAMPLES_OF_A_RAY)[:, None]
    return torch.lerp(ends[0], ends[1], along).flatten(0, 1)[:num_points].contiguous()


def encode_naively(table: Tensor, points: Tensor, pyramid: Any, dtype: Any = None) -> Tensor:
    """A hash grid as it is first written down: a gather for each level and corner, gradients by autograd."""
    import torch

    from scaledreamer.fields.pyramid import PRIMES

    table = table.to(dtype or points.dtype)
    unit = (points.clamp(-1, 1) + 1) * 0.5
    levels = []
    for level, (scale, resolution) in enumerate(zip(pyramid.scales, pyramid.resolutions, strict=True)):
        position = unit * scale + 0.5
        lower = position.floor()
        fraction, cell = position - lower, lower.long()
        total: Any = 0
        for corner in range(8):
            offset = [corner >> axis & 1 for axis in range(3)]
            x, y, z = (cell[:, axis] + offset[axis] for axis in range(3))
            if level < pyramid.num_dense:
                index = x + y * resolution + z * resolution**2
            else:
                index = x ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
            row = pyramid.starts[level] + index % pyramid.entries[level]
            weight: Any = 1
            for axis in range(3):
                weight = weight * (fraction[:, axis] if offset[axis] else 1 - fraction[:, axis])
            total = total + weight[:, None].to(table.dtype) * table[row]
        levels.append(total)
    return torch.cat(levels, 1)


def format_field(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = []
    for name, grid in report["grids"].items():
        settings = ", ".join(f"{key} {value}" for key, value in grid["settings"].items())
        lines.append(f"{name}: {settings}")
        lines.append(
            f"  {'points':8}{'grid':14}{'forward ms':>11}{'backward':>10}{'M points/s':>12}{'naive':>8}"
        )
        for order in ORDERS:
            for backend, found in grid[order].items():
                lines.append(
                    f"  {order:8}{backend:14}{1000 * found['forward_seconds']:11.2f}"
                    f"{1000 * found['backward_seconds']:10.2f}{found['points_per_second'] / 1e6:12.2f}"
                    f"{found['times_naive']:7.1f}x"
                )
    lines += [f"without {name}: {why}" for name, why in report["left_out"].items()]
    gradients = "table and points" if report["with_points"] else "the table"
    lines.append(
        f"{report['points']:,} points, features in {report['dtype']}, gradients of {gradients}; median of "
        f"{report['repeats']} calls on {report['device']}, {report['threads']} thread(s), torch "
        f"{report['torch']}"
    )
    return "\n".join(lines)
