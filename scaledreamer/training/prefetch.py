"""One thread beside the training step: it reads and encodes what the next step needs meanwhile."""

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
    """Work that was begun and may not be done yet."""

    future: Future[tuple[Result, torch.cuda.Event | torch.Event | None]]

    def result(self) -> Result:
        """Waits for the thread; on a GPU the current stream waits for the work's stream, the host does not.

        Raises: what the work has raised.
        """
        value, done = self.future.result()
        if done is not None:
            torch.cuda.current_stream().wait_event(done)
        return value


class PrefetchThread:
    """Runs functions one after the other in a thread of its own and, on a GPU, on a stream of its own.

    What they return may be used on the stream that was current when they were begun. Its memory is given out
    again only to later work here, and that waits for all that was queued on the current stream before it.
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
        """Runs a function after what was begun before it, and waits for it."""
        return self.begin(function, *args).result()


class Prefetch(Generic[Result]):
    """Draws accumulation steps in their order, each while the one before it is computed.

    Args:
        draw: the batch of a step and an accumulation step in it; both count from 0.
        accumulation_steps: of one step.
        device: where batches are used.
    """

    def __init__(
        self, draw: Callable[[int, int], Result], accumulation_steps: int, device: torch.device
    ) -> None:
        self._draw, self._accumulation_steps = draw, accumulation_steps
        self._thread = PrefetchThread(device)
        self._pending: tuple[tuple[int, int], Pending[Result]] | None = None

    def __call__(self, step: int, micro_step: int = 0) -> Result:
        """The batch of an accumulation step; the drawing of the one after it begins."""
        batch = self.draw(step, micro_step)
        following = (micro_step + 1) % self._accumulation_steps
        key = (step + (following == 0), following)
        self._pending = (key, self._thread.begin(self._draw, *key))
        return batch

    def draw(self, step: int, micro_step: int = 0) -> Result:
        """The batch of an accumulation step, drawn now unless it was begun before."""
        pending, self._pending = self._pending, None
        if pending is None or pending[0] != (step, micro_step):
            return self._thread.run(self._draw, step, micro_step)
        return pending[1].result()

    def run(self, function: Callable[..., Other], *args: object) -> Other:
        """Runs something else in the same thread, after what was begun before it, and waits for it."""
        return self._thread.run(function, *args)
