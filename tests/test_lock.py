"""The lock of a run's folder: a second run is refused, and no crash leaves it behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.training import lock
from scaledreamer.training.lock import NAME, InUseError, RunLock

HOLD = """
import sys
from pathlib import Path
from scaledreamer.training.lock import RunLock
held = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.4)


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the folder's lock, until its standard input ends."""
    command, pipe = [sys.executable, "-c", HOLD, str(folder)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_who_has_the_folder(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path / "run")
    who = f"process {process.pid} on {re.escape(socket.gethostname())}"
    with pytest.raises(InUseError, match=f"{tmp_path}/run', where {who} .*is training; wait for it, stop it"):
        RunLock(tmp_path / "run")
    process.communicate("")
    assert not list((tmp_path / "run").iterdir()), "it ended well and left nothing"
    RunLock(tmp_path / "run").release()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / NAME).exists()
    start = time.monotonic()
    held = RunLock(tmp_path)
    assert time.monotonic() - start < lock.WATCH_SECONDS, "nothing to watch on the same machine"
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    held.release()
    assert not (tmp_path / NAME).exists()


def test_a_lock_ends_with_release_and_with_its_last_reference(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path)
    first.release()
    first.release()
    second = RunLock(tmp_path)
    del second
    RunLock(tmp_path).release()


def test_an_abandoned_lock_removes_the_folders_that_were_made_for_it(tmp_path: Path) -> None:
    RunLock(tmp_path / "a" / "b").abandon()
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    RunLock(tmp_path / "a" / "b").abandon()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]


def test_a_fork_that_ends_takes_no_lock_with_it(tmp_path: Path) -> None:
    held = RunLock(tmp_path)
    child = os.fork()
    if child == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(InUseError):
        RunLock(tmp_path)
    held.release()


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that knows no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def with_locks_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that grants every machine the lock; this test is two machines."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    this = {"host": "node1", "process": 7, "boot": "1"}
    monkeypatch.setattr(lock, "_self", lambda: this)

    def become_another() -> None:
        monkeypatch.setattr(lock, "_self", lambda: {"host": "node2", "process": 7, "boot": "2"})

    monkeypatch.setattr(lock, "_acquire", acquiring(become_another))


def acquiring(after: Callable[[], None]) -> Callable[[Path], int]:
    original = lock._acquire

    def acquire(path: Path) -> int:
        file = original(path)
        after()
        return file

    return acquire


@pytest.mark.parametrize("file_system", [without_locks, with_locks_of_one_machine])
def test_where_locks_are_not_seen_the_time_of_the_file_tells(
    file_system: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file_system(monkeypatch)
    first = RunLock(tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(InUseError, match=r"process \d+ on .*is training"):
        RunLock(tmp_path)
    assert "left by process" in capsys.readouterr().out
    content = (tmp_path / NAME).read_text()
    first.release()
    (tmp_path / NAME).write_text(content)  # as a crash leaves it: nobody renews it
    RunLock(tmp_path).release()
    assert "looking for" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": null}', "\0" * 10])
def test_a_file_that_says_nothing_is_no_obstacle(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    held = RunLock(tmp_path)
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InUseError, match=r"where (another process|process None on None .*) is training"):
        RunLock(tmp_path)
    held.release()


def test_tasks_of_a_job_that_all_train_are_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    held = RunLock(tmp_path)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(InUseError, match="SLURM_NTASKS=4, but no launcher has set RANK"):
        RunLock(tmp_path)
    held.release()
