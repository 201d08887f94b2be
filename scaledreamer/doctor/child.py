"""Things that may crash, hang or use up the memory, done in another Python. Needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scaledreamer.launch.environment import LAUNCHED

ROOT = Path(__file__).resolve().parents[2]
MARK = "doctor-result: "
"""Begins the line of a child's answer: libraries print things of their own."""


class ChildError(Exception):
    """A child ended without an answer; the message says how, in one line."""


def run_code(code: str, argument: object = None, *, timeout: float = 120.0, **environment: str) -> Any:
    """Runs Python code in a process of its own and returns what it gave to `answer`.

    Args:
        code: finds `argument` and `answer`.
        environment: variables beside those of this process.
    Raises: ChildError with the last line of its error output, or what killed it.
    """
    start = (
        f"import json, sys; argument = json.loads(sys.stdin.read())\n"
        f"def answer(value): print({MARK!r} + json.dumps(value), flush=True)\n"
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # What is asked here is one process: it must not wait for others or take a port.
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    variables = alone | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", start + code],
            input=json.dumps(argument),
            env=variables | environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"no answer within {timeout:.0f} s") from None
    answers = [line[len(MARK) :] for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode < 0:
        raise ChildError(f"killed by signal {-done.returncode}")
    if not answers:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ChildError(lines[-1][:300] if lines else f"ended with status {done.returncode}")
    return json.loads(answers[-1])


def peak_bytes() -> int:
    """Most main memory that this process has held; `ru_maxrss` counts its parent's at its start too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
