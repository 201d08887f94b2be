"""Command lines whose standard streams are closed, full, or whose reader has left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from scaledreamer.cli import program

@program
def main():
    for i in range(20000):
        print("line", i)
    print("a note", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        file.write(f"{file.fileno()} {sys.stdin.read()!r} {sys.stdout.isatty()}")
    return 0

sys.exit(main())
"""


def start(tmp_path: Path, redirection: str, *, options: str = "") -> tuple[int, str, str]:
    """Exit status, error output and what the program wrote to its file, under a shell's redirection."""
    command = f'"$PYTHON" {options} -c "$PROGRAM" "$DONE" {redirection}'
    variables = {"PYTHON": sys.executable, "PROGRAM": PROGRAM, "DONE": str(tmp_path / "done")}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    written = (tmp_path / "done").read_text() if (tmp_path / "done").exists() else ""
    return done.returncode, done.stderr, written


@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- <&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error_and_no_file_gets_their_number(tmp_path: Path, closed: str) -> None:
    status, errors, written = start(tmp_path, closed)
    assert status == 0 and errors == ("" if "2>&-" in closed else "a note\n")
    number, rest = written.split(" ", 1)
    assert int(number) > 2 and rest == "'' False"


@pytest.mark.parametrize("options", ["", "-u"])
def test_a_reader_that_leaves_is_said_once_and_the_work_goes_on(tmp_path: Path, options: str) -> None:
    status, errors, written = start(tmp_path, "| head -n 1", options=options)
    assert status == 0 and written
    assert errors == "note: standard output is lost (its reader has ended); going on without it\na note\n", (
        errors
    )


def test_a_reader_of_both_streams_that_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    status, errors, written = start(tmp_path, "2>&1 | head -n 1")
    assert status == 0 and errors == "" and written


def test_a_full_disk_under_standard_output_fails_at_the_end_with_its_own_advice(tmp_path: Path) -> None:
    status, errors, written = start(tmp_path, "> /dev/full")
    assert status == 2 and written
    assert errors.splitlines()[-1] == (
        "error: standard output: No space left on device; make room on that disk, or choose another place"
    )


def test_output_that_can_be_written_is_whole(tmp_path: Path) -> None:
    status, errors, _ = start(tmp_path, '> "$DONE.out"')
    assert status == 0 and errors == "a note\n"
    assert (tmp_path / "done.out").read_text().splitlines() == [f"line {i}" for i in range(20000)]
