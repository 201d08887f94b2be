"""How fast a prior's networks run, of what the device can do: `python -m tools.benchmark prior`."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
BRANCHES = 3  # of an ASD step


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "--prior", choices=("sd15", "sd21", "sdxl"), default="sd21", help="architecture (%(default)s)"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument(
        "--random-weights", action="store_true", help="made on the device, nothing is loaded"
    )
    weights.add_argument("--model", metavar="FOLDER", help="folder or hub id in the diffusers layout")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="(bfloat16; CPU: float32)"
    )
    parser.add_argument("--device", help="(cuda where there is one, else cpu)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images (%(default)s)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="with --random-weights (published)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="calls measured (%(default)s)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="calls before (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile of UNet and encoder")
    parser.add_argument("--cuda-graphs", action="store_true", help="replayed; with --compile on a GPU")
    parser.add_argument("--vae-slicing", action="store_true", help="encode one image at a time")
    parser.add_argument("--vae-tiling", action="store_true", help="encode in tiles")
    parser.add_argument("--memory-gib", type=float, metavar="GIB", help="divide calls to fit")
    parser.add_argument("--small", action="store_true", help="random networks of few channels, 64 pixels")


def measure_prior(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every part of a prior's work in an ASD step, alone and together.

    Returns: `parts` by name, each with seconds (median), flops, tflops_per_second, share_of_matrix_rate,
        images_per_second and memory_mib (most of the device's memory beyond what was there before; None
        where it cannot be seen); parameters' bytes; the matrix rate; and what was measured.

    Raises: ValueError for options that do not go together, or a model that cannot be loaded.
    """
    import torch

    from scaledreamer.accounting import count
    from scaledreamer.priors.cost import StepInputs

    if min(arguments.batch, arguments.repeats) < 1 or arguments.warmup < 0:
        raise ValueError("--batch and --repeats take at least 1 and --warmup at least 0")
    if arguments.cuda_graphs and not arguments.compile:
        raise ValueError("--cuda-graphs replays what --compile has made; give both")
    if arguments.model and (arguments.small or arguments.image_size):
        raise ValueError("--small and --image-size go with --random-weights")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    dtype = getattr(torch, name)
    prior, unweighted = load(arguments, dtype, device)
    prior.run_as(
        compile=arguments.compile,
        cuda_graphs=arguments.cuda_graphs,
        vae_slicing=arguments.vae_slicing,
        vae_tiling=arguments.vae_tiling,
        memory_gib=arguments.memory_gib,
        key="--prior",
    )
    rate = matrix_rate(dtype, device)
    # Counted undivided on the meta device: what is computed twice to save memory is no more work done.
    counted = StepInputs(unweighted, arguments.batch, branches=BRANCHES)
    step = StepInputs(prior, arguments.batch, branches=BRANCHES)
    parts = {}
    for part, method in PARTS.items():
        cost = count(getattr(counted, method))
        seconds, memory = measure(getattr(step, method), arguments.warmup, arguments.repeats, device)
        parts[part] = {
            "seconds": seconds,
            "flops": cost.flops,
            "tflops_per_second": cost.flops / seconds / 1e12,
            "share_of_matrix_rate": cost.flops / seconds / rate,
            "images_per_second": arguments.batch / seconds,
            "memory_mib": memory,
            "counted_mib": cost.peak_bytes / MIB,
        }
    sizes = {
        part: sum(p.nbytes for p in network.parameters()) for part, network in unweighted.networks().items()
    }
    return {
        "prior": arguments.model or arguments.prior + (" (small)" if arguments.small else ""),
        "parts": parts,
        "parameter_bytes": sizes,
        "matrix_tflops_per_second": rate / 1e12,
        "batch": arguments.batch,
        "branches": BRANCHES,
        "image_size": prior.image_size,
        "dtype": name,
        "vae_dtype": str(prior.networks()["vae"].dtype).removeprefix("torch."),
        "compile": arguments.compile,
        "cuda_graphs": arguments.cuda_graphs,
        "warmup": arguments.warmup,
        "repeats": arguments.repeats,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


PARTS = {
    "encode": "encode",
    "encode with gradient": "encode_with_gradient",
    "predict noise": "predict_noise",
    "whole": "step",
}


def load(arguments: argparse.Namespace, dtype: Any, device: Any) -> tuple[Any, Any]:
    """The prior on the device, and one of the same networks on the meta device."""
    from scaledreamer.priors.full_size import assemble, fill_with_noise, full_size

    if arguments.model:
        from scaledreamer.priors.sdxl import SDXLPrior
        from scaledreamer.priors.stable_diffusion import StableDiffusionPrior

        kind: Any = SDXLPrior if arguments.prior == "sdxl" else StableDiffusionPrior
        prior = kind.from_pretrained(arguments.model, device=device, dtype=dtype)
        return prior, prior.on_meta()
    options: Any = {"small": arguments.small, "image_size": arguments.image_size}
    networks = full_size(arguments.prior, dtype, **options)
    unweighted = assemble(arguments.prior, networks)
    # The text encoders stay without weights: texts are encoded once in a run, not in its steps.
    filled = {
        part: fill_with_noise(full_size(arguments.prior, dtype, **options)[part], device)
        for part in ("vae", "unet")
    }
    return assemble(arguments.prior, networks | filled), unweighted


def matrix_rate(dtype: Any, device: Any) -> float:
    """Floating-point operations a second of the best of ten products of large square matrices."""
    import torch

    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b, device) for _ in range(11 if device.type == "cuda" else 4))


def timed(function: Callable[[], Any], device: Any) -> float:
    """Seconds of one call, with the wait for the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del result
    return seconds


def measure(
    function: Callable[[], Any], warmup: int, repeats: int, device: Any
) -> tuple[float, float | None]:
    """Median seconds of a call, and the most MiB that it took."""
    for _ in range(warmup):
        timed(function, device)
    gc.collect()
    before = reset_peak_mib(device)
    seconds = statistics.median(timed(function, device) for _ in range(repeats))
    peak = peak_mib(device)
    return seconds, None if before is None or peak is None else peak - before


def reset_peak_mib(device: Any) -> float | None:
    """Starts a new peak; returns what is taken now. On a CPU, both are of the process, and Linux only."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak_mib(device: Any) -> float | None:
    """The peak since it was reset."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _status("VmHWM")


def _status(field: str) -> float | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return None


def format_prior(report: dict[str, Any]) -> str:
    """The report as a table."""
    titles = f"{'TFLOP':>9}{'TFLOP/s':>10}{'share':>8}{'images/s':>10}{'MiB':>9}"
    lines = [f"{'part':24}{'seconds':>10}{titles}"]
    for name, part in report["parts"].items():
        memory = "" if part["memory_mib"] is None else f"{part['memory_mib']:.0f}"
        lines.append(
            f"{name:24}{part['seconds']:10.4f}{part['flops'] / 1e12:9.3f}{part['tflops_per_second']:10.3f}"
            f"{part['share_of_matrix_rate']:8.1%}{part['images_per_second']:10.3f}{memory:>9}"
        )
    sizes = ", ".join(f"{part} {size / MIB:.0f}" for part, size in report["parameter_bytes"].items())
    lines.append(f"MiB of weights: {sizes}")
    lines.append(
        f"{report['prior']}, {report['batch']} image(s) of {report['image_size']} pixels, "
        f"{report['branches']} predictions each; {report['dtype']} (autoencoder {report['vae_dtype']}); "
        f"share of {report['matrix_tflops_per_second']:.3g} TFLOP/s in large products"
    )
    lines.append(
        f"median of {report['repeats']} after {report['warmup']}, on {report['device']}, {report['threads']} "
        f"thread(s), torch {report['torch']}"
    )
    return "\n".join(lines)
