"""Runs code that may crash, hang or exhaust the memory in another Python process. Needs no torch."""

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
"""Prefix of the line with a child's answer, since libraries may print other things."""


class ChildError(Exception):
    """A child process ended without an answer; the message says how, in one line."""


def run_code(code: str, argument: object = None, *, timeout: float = 120.0, **environment: str) -> Any:
    """Runs Python code in a separate process and returns what it passed to `answer`.

    Args:
        code: may use `argument` and `answer`.
        environment: variables in addition to those of this process.
    Raises: ChildError with the last line of its error output, or what killed it.
    """
    start = (
        f"import json, sys; argument = json.loads(sys.stdin.read())\n"
        f"def answer(value): print({MARK!r} + json.dumps(value), flush=True)\n"
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The child is a single process: it must not wait for others or open a port.
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
    """Peak main memory of this process; `ru_maxrss` would include its parent's at the start."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
