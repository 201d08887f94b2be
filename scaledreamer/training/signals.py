"""Signals that ask a run to save and stop. Needs no torch."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C, `kill`, signals of job systems before the time limit (sbatch --signal), and a closed terminal."""


class StopSignals:
    """Records the first signal instead of terminating; a later second Ctrl-C interrupts.

    SIGHUP stays ignored if it was, as under nohup.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._time = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.name is None:
            self.name, self._time = signal.Signals(number).name, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._time > 1:
            raise KeyboardInterrupt
