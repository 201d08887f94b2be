"""One thread beside the training step: it reads and encodes what the next step needs meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pending(Generic[Result]):
    """Work that was begun and may not be done yet."""

    future: Future[tuple[Result, Any]]

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

        def work() -> tuple[Result, Any]:
            with torch.cuda.stream(stream):
                stream.wait_event(before)
                return function(*args), stream.record_event()

        return Pending(self._thread.submit(work))

    def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Runs a function after what was begun before it, and waits for it."""
        return self.begin(function, *args).result()
