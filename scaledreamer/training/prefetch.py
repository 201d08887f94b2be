"""Prefetching: a thread reads and encodes the next step's data during a training step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Pending(Generic[Result]):
    """Work that was started and may not be finished."""

    future: Future[tuple[Result, torch.cuda.Event | torch.Event | None]]

    def result(self) -> Result:
        """Waits for the thread; on a GPU the current stream, but not the host, waits for the work's stream.

        Raises: whatever the work raised.
        """
        value, done = self.future.result()
        if done is not None:
            torch.cuda.current_stream().wait_event(done)
        return value


class PrefetchThread:
    """Runs functions one after the other in a separate thread and, on a GPU, a separate stream.

    Their results may be used on the stream that was current when they were started. The memory is only reused
    by later work here, which waits for everything queued on the current stream before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, function: Callable[..., Result], *args: object) -> Pending[Result]:
        """Queues a function and returns at once."""
        if self._stream is None:
            return Pending(self._thread.submit(lambda: (function(*args), None)))
        stream, before = self._stream, torch.cuda.current_stream().record_event()

        def work() -> tuple[Result, torch.cuda.Event | torch.Event | None]:
            with torch.cuda.stream(stream):
                stream.wait_event(before)
                return function(*args), stream.record_event()

        return Pending(self._thread.submit(work))

    def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Runs a function after everything queued before it, and waits for it."""
        return self.begin(function, *args).result()


class Prefetch(Generic[Result]):
    """Draws accumulation steps in order, each during the computation of the previous one.

    Args:
        draw: makes the batch of a step and an accumulation step within it, both counted from 0.
        accumulation_steps: accumulation steps per step.
        device: device of the batches.
    """

    def __init__(
        self, draw: Callable[[int, int], Result], accumulation_steps: int, device: torch.device
    ) -> None:
        self._draw, self._accumulation_steps = draw, accumulation_steps
        self._thread = PrefetchThread(device)
        self._pending: tuple[tuple[int, int], Pending[Result]] | None = None

    def __call__(self, step: int, micro_step: int = 0) -> Result:
        """The batch of an accumulation step; starts drawing the next one."""
        batch = self.draw(step, micro_step)
        following = (micro_step + 1) % self._accumulation_steps
        key = (step + (following == 0), following)
        self._pending = (key, self._thread.begin(self._draw, *key))
        return batch

    def draw(self, step: int, micro_step: int = 0) -> Result:
        """The batch of an accumulation step, drawn now unless it was already started."""
        pending, self._pending = self._pending, None
        if pending is None or pending[0] != (step, micro_step):
            return self._thread.run(self._draw, step, micro_step)
        return pending[1].result()

    def run(self, function: Callable[..., Other], *args: object) -> Other:
        """Runs something else in the same thread, after everything queued before it, and waits for it."""
        return self._thread.run(function, *args)
