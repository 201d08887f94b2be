"""Metrics of a run: summed on the device, read at ticks, written as JSON lines, to TensorBoard, and as text.

Nothing here synchronizes with the device between ticks. A full disk raises an OSError that names the file,
and leaves no partial line, record or image.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from scaledreamer.captions import captioned_rows
from scaledreamer.files import append, replace_bytes, replace_text
from scaledreamer.launch.process import Process


class Averages:
    """Means since the last tick over steps, samples and ranks; every rank adds the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Float[Tensor, "..."]) -> None:
        """Adds the mean of a tensor's entries."""
        value = value.detach().float().mean()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def collect(self, process: Process) -> dict[str, float]:
        """The means, the same on all ranks; resets them."""
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        if process.world_size > 1:
            dist.all_reduce(means)
        values = dict(zip(self._sums, (means / process.world_size).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return values


class PartTimer:
    """Durations of the parts of a step, by the clock, or by events on an asynchronous device."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._on_device:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        start = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def collect(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds


class Report:
    """The output of a run's main process: `metrics.jsonl`, TensorBoard, `samples/`, and a progress line.

    The line is updated in place on a terminal and printed at ticks elsewhere. Starting at step s drops lines
    of `metrics.jsonl` for later steps, which will be written again.

    Args:
        folder: folder of the run.
        is_silent: True for all processes but the main one.
        first_step, max_steps: where training starts or resumes, and where it ends.
        use_tensorboard: whether to write TensorBoard files.
    """

    def __init__(
        self, folder: Path, *, is_silent: bool, first_step: int, max_steps: int, use_tensorboard: bool
    ) -> None:
        self._first, self._max = first_step, max_steps
        self._start = time.monotonic()
        self._samples = folder / "samples"
        self.is_silent = is_silent
        self._metrics = folder / "metrics.jsonl"
        self._board: Board | None = None
        self._bar: Any = None
        if is_silent:
            return
        _drop_lines_after(self._metrics, first_step)
        self._metrics.touch()
        if use_tensorboard:
            self._board = Board(folder / "tensorboard", first_step)
        if sys.stdout is not None and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.description}"), refresh_per_second=4
            )
            self._bar.add_task("starting", total=max_steps, completed=first_step)
            self._bar.start()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics after `step` steps, without those that are not finite; names are group/name."""
        if self.is_silent:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        append(self._metrics, (json.dumps({"step": step, **rounded}) + "\n").encode())
        if self._board is not None:
            from torch.utils.tensorboard.summary import scalar

            self._board.write(step, [scalar(name, value) for name, value in values.items()])

    def progress(self, step: int, values: Mapping[str, float], shown: Sequence[str]) -> None:
        """Shows the progress line, with some of the metrics."""
        if self.is_silent:
            return
        seconds = (time.monotonic() - self._start) / max(step - self._first, 1)
        numbers = "  ".join(f"{name.split('/')[-1]} {values[name]:.3g}" for name in shown if name in values)
        left = _duration(seconds * (self._max - step))
        line = f"step {step}/{self._max}  {seconds:.2f} s/step  {left} left  {numbers}"
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.update(self._bar.task_ids[0], completed=step, description=line)

    def say(self, text: str) -> None:
        """Prints a separate line."""
        if self.is_silent:
            return
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def texts(self, texts: Mapping[str, str]) -> None:
        """Texts for TensorBoard, such as the configuration."""
        if self._board is not None:
            from torch.utils.tensorboard.summary import text as text_summary

            self._board.write(0, [text_summary(name, text) for name, text in texts.items()])

    def hyper_parameters(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Settings for TensorBoard's table of hyper-parameters, with the named metrics."""
        if self._board is None:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
        }
        # `add_hparams` would start a separate run and write a value for every metric.
        self._board.write(0, hparams(plain, dict.fromkeys(metrics, 0.0)))

    def grid(self, step: int, rows: Float[Tensor, "row view 3 h w"], captions: Sequence[str]) -> None:
        """Writes a grid of captioned rows as samples/step-<n>.png and to TensorBoard."""
        from PIL import Image

        grid = captioned_rows(rows, captions)
        self._samples.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(grid).save(buffer, format="PNG")
        replace_bytes(self._samples / f"step-{step:08d}.png", buffer.getvalue())
        if self._board is not None:
            from torch.utils.tensorboard.summary import image

            self._board.write(step, [image("samples", grid, dataformats="HWC")])


class Board:
    """Writes a run's TensorBoard file synchronously, in whole records.

    `SummaryWriter` is not used because on a full disk its thread dies with a traceback while the run
    continues.

    Args:
        folder: created if necessary.
        first_step: TensorBoard drops later steps in earlier files.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2

        self._proto: Any = event_pb2
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        events = [self._proto.Event(file_version="brain.Event:2")]
        if first_step:
            begin = self._proto.SessionLog(status=self._proto.SessionLog.START)
            events.append(self._proto.Event(step=first_step + 1, session_log=begin))
        self._append(events)

    def write(self, step: int, summaries: Iterable[Any]) -> None:
        """Summaries of `torch.utils.tensorboard.summary` at a step."""
        self._append([self._proto.Event(step=step, summary=summary) for summary in summaries])

    def _append(self, events: Sequence[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(buffer).write(event.SerializeToString())
        append(self._path, buffer.getvalue())


class PromptRecord:
    """Records the prompts of a rank: a line with `step`, `indices` and `prompts` per accumulation step.

    Args:
        folder: created if necessary.
        process: its rank determines the file name.
        first_step: lines of this and later steps, left by a killed run, are dropped.
    """

    def __init__(self, folder: Path, process: Process, first_step: int) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / f"rank-{process.rank}.jsonl"
        _drop_lines_after(path, first_step - 1)
        for other in folder.glob("rank-*.jsonl") if process.is_main else ():
            if int(other.stem.removeprefix("rank-")) >= process.world_size:  # of ranks that no longer exist
                _drop_lines_after(other, first_step - 1)
        path.touch()
        self._path = path

    def __call__(self, step: int, indices: Sequence[int], prompts: Sequence[str]) -> None:
        line = {"step": step, "indices": list(indices), "prompts": list(prompts)}
        append(self._path, (json.dumps(line, ensure_ascii=False) + "\n").encode())


def _drop_lines_after(path: Path, step: int) -> None:
    """Keeps the complete lines of steps up to `step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    replace_text(path, "".join(kept))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
