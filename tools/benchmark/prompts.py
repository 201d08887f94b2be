"""How fast prompts come out of shards, and what that costs: `python -m tools.benchmark prompts`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHARD_SIZE = 10_000
SIMULATED_PROMPTS = 10**9
NOUNS = ("frog", "castle", "teapot", "robot", "lighthouse", "violin", "cactus", "bicycle")


def made_up_prompts(count: int) -> list[str]:
    """Distinct prompts of usual length."""
    return [
        f"a {NOUNS[i % 8]} made of brushed steel number {i}, standing on a {NOUNS[i // 8 % 8]}"
        for i in range(count)
    ]


def rate(batches: Callable[[int], int], seconds: float) -> float:
    """Prompts a second, of calls that are given a step and return how many prompts it had."""
    batches(0)
    start, count, step = time.perf_counter(), 0, 1
    while time.perf_counter() - start < seconds:
        count += batches(step)
        step += 1
    return count / (time.perf_counter() - start)


def resident_mib() -> float:
    """Memory of this process, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure_stream(folder: str, num_prompts: int) -> dict[str, float]:
    """Start, seek, throughput and memory of the stream; run in a process of its own.

    Args:
        folder: of 100,000 prompts.
        num_prompts: simulate a corpus of this size, every shard of which is the folder's first one.
    """
    before = resident_mib()
    start = time.perf_counter()
    from scaledreamer.prompts.shard_format import MANIFEST, index_name, shard_name
    from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts
    from scaledreamer.prompts.stream import PromptStream

    imported = time.perf_counter() - start
    start = time.perf_counter()

    class Simulated(LocalFiles):
        def local(self, name: str, is_whole: Any = None) -> Path:
            if name == MANIFEST:
                manifest = json.loads((Path(folder) / MANIFEST).read_text()) | {"num_prompts": num_prompts}
                path = Path(folder) / "simulated.json"
                path.write_text(json.dumps(manifest))
                return path
            suffix = index_name(0) if name.endswith(".safetensors") else shard_name(0)
            return super().local(suffix, is_whole)

    is_simulated = num_prompts > 100_000
    source = ShardedPrompts(Simulated(folder) if is_simulated else LocalFiles(folder))
    stream = PromptStream(source, seed=0, batch_size=64)
    stream.prompts_at(0, range(64))
    started = time.perf_counter() - start
    start = time.perf_counter()
    stream.prompts_at(num_prompts // 128 + 12_345, range(64))
    sought = time.perf_counter() - start

    def batches(size: int, step: int) -> int:
        indices = range(size)
        return len(stream.prompts_at(step, indices))

    small = PromptStream(source, seed=0, batch_size=8)
    result = {
        "import_seconds": imported,
        "start_seconds": started,
        "seek_seconds": sought,
        "prompts_per_second_of_64": rate(lambda step: batches(64, step), 4),
        "prompts_per_second_of_8": rate(lambda step: len(small.prompts_at(step, range(8))), 4),
    }
    for step in np.random.default_rng(0).integers(0, num_prompts // 64, 200).tolist():
        stream.prompts_at(step, range(64))  # many different shards
    return result | {"resident_mib": resident_mib(), "resident_mib_before": before}


def measure_webdataset(folder: str) -> dict[str, float]:
    """Throughput of a plain webdataset pipeline over the same shards, with shuffled shards and a buffer."""
    import webdataset

    urls = sorted(str(path) for path in Path(folder).glob("*.tar"))
    pipeline: Any = webdataset.compat.WebDataset(urls, shardshuffle=100, seed=0)
    pipeline = pipeline.shuffle(5000).batched(64, collation_fn=None)

    def endless() -> Iterator[Any]:
        while True:
            yield from pipeline

    batches = endless()

    def step(number: int) -> int:
        del number
        return len([sample["txt"].decode() for sample in next(batches)])

    start = time.perf_counter()
    step(0)
    first = time.perf_counter() - start
    return {"first_batch_seconds": first, "prompts_per_second_of_64": rate(step, 4)}


def measure_prompts() -> dict[str, dict[str, float]]:
    """Everything, each in a process of its own."""
    from scaledreamer.prompts.shard_writer import build_shards

    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "shards")
        start = time.perf_counter()
        build_shards(made_up_prompts(100_000), Path(folder), shard_size=SHARD_SIZE, corpus="made up")
        built = time.perf_counter() - start

        def alone(call: str) -> dict[str, float]:
            code = f"import json; from tools.benchmark import prompts; print(json.dumps(prompts.{call}))"
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            )
            return json.loads(done.stdout.splitlines()[-1])

        return {
            "build 100,000": {"seconds": built, "prompts_per_second": 100_000 / built},
            "stream over 100,000": alone(f"measure_stream({folder!r}, 100_000)"),
            "stream over 1,000,000,000": alone(f"measure_stream({folder!r}, {SIMULATED_PROMPTS})"),
            "plain webdataset pipeline": alone(f"measure_webdataset({folder!r})"),
        }


def format_prompts(report: dict[str, dict[str, float]]) -> str:
    """The report as text."""
    lines = []
    for name, values in report.items():
        lines.append(name)
        lines += [f"    {key:28}{value:12,.3f}" for key, value in values.items()]
    return "\n".join(lines)
