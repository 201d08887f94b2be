"""Variables of launchers, job systems and libraries: what they lead to is said in one line, in time."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from scaledreamer.cli import train
from scaledreamer.doctor.machine import check_environment
from scaledreamer.launch import environment, process
from scaledreamer.launch.environment import LAUNCHED

LEFT = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
LINE = (
    "waiting for 2 other processes at 127.0.0.1:29512, up to an hour: the environment has RANK=0 and "
    "WORLD_SIZE=3. If no launcher has started them, stop this one and run: unset RANK WORLD_SIZE "
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of a launcher or a job system, and nothing said yet."""
    for name in (*LAUNCHED, *environment._LAUNCHERS, *environment._NUM_TASKS, "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    environment.say_waiting.cache_clear()


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_place_of_a_process_is_what_a_launcher_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, **LEFT)
    assert environment.place() == (0, 3, 0, 3)
    set_variables(monkeypatch, RANK="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    assert environment.place() == (2, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "3"), ("RANK", "-1"), ("WORLD_SIZE", ""), ("LOCAL_RANK", "x"), ("MASTER_ADDR", "")]
    + [("LOCAL_WORLD_SIZE", "two"), ("LOCAL_WORLD_SIZE", "0")],
)
def test_places_that_no_launcher_sets_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, **LEFT | {name: value})
    with pytest.raises(ValueError, match=f"the environment has .*{name}={value}.*unset RANK to train in one"):
        environment.check()


def test_left_over_variables_say_what_is_waited_for_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imported(*_: str) -> None:
        raise ValueError("torch would be imported now")

    monkeypatch.setattr(environment, "load", imported)
    set_variables(monkeypatch, **LEFT)
    assert train.main(["--config", "tiny"]) == 2
    waiting, stopped = capsys.readouterr().err.splitlines()
    assert waiting.startswith(LINE) and "torch would be imported" in stopped
    environment.say_waiting.cache_clear()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert train.main(["--config", "tiny"]) == 2
    assert "waiting" not in capsys.readouterr().err, "torchrun has started the others"


def test_a_process_that_waits_for_the_others_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_variables(monkeypatch, **LEFT)
    seconds = [0.0]
    monkeypatch.setattr(process, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: time.sleep(seconds[0]))
    process._join("gloo", 0, 3, None)
    assert capsys.readouterr().err == ""
    seconds[0] = 0.5
    for _ in range(2):
        process._join("gloo", 0, 3, None)
    said = capsys.readouterr().err
    assert said.startswith(LINE) and said.count("\n") == 1
    assert process.SILENT_SECONDS < 5 and not any(
        isinstance(thread, threading.Timer) and thread.is_alive() for thread in threading.enumerate()
    )


@pytest.mark.parametrize(
    "variables",
    [{"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "16"}],
)
def test_tasks_of_a_job_system_without_a_launcher_are_named(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.several_tasks() == ""
    set_variables(monkeypatch, **variables)
    name, number = next(iter(variables.items()))
    assert environment.several_tasks().startswith(f"{name}={number}, but no launcher has set RANK")
    assert f"one run on all {number}" in environment.several_tasks()
    set_variables(monkeypatch, **LEFT)
    assert environment.several_tasks() == "" and not environment.is_left_over()


def test_one_task_of_a_job_system_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, SLURM_NTASKS="1", OMPI_COMM_WORLD_SIZE="x")
    assert environment.several_tasks() == ""


def test_an_interface_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, GLOO_SOCKET_IFNAME="lo")
    environment.check()
    set_variables(monkeypatch, GLOO_SOCKET_IFNAME="nope0")
    with pytest.raises(ValueError, match="GLOO_SOCKET_IFNAME: got 'nope0'; accepted is a network interface"):
        environment.check()


def test_a_library_that_dies_of_a_variable_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nraise {}\n"
    for name, error in (
        ("telling", "ValueError('TELLING_LOGS: no such\\nlog')"),
        ("silent", "ValueError('invalid literal')"),
        ("missing", "ImportError('no such module')"),
    ):
        (tmp_path / f"{name}.py").write_text(code.format(error))
    monkeypatch.syspath_prepend(str(tmp_path))
    set_variables(monkeypatch, TELLING_LOGS="foo", SILENT_TIMEOUT="abc")
    wanted = (
        r"telling cannot be imported \(TELLING_LOGS: no such log\); the environment has TELLING_LOGS=foo; "
    )
    with pytest.raises(ValueError, match=wanted):
        environment.load("telling")
    with pytest.raises(ValueError, match="has .*SILENT_TIMEOUT=abc.*; unset it"):
        environment.load("silent")
    with pytest.raises(ImportError, match="no such module"):
        environment.load("missing")


def test_the_accelerator_of_deepspeed_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(environment, "load", lambda *names: loaded.append(os.environ["DS_ACCELERATOR"]))
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert "deepspeed" in sys.modules or process.import_deepspeed("cpu")
    process.import_deepspeed("cpu")
    assert loaded[-1] == "cpu"


def test_doctor_names_what_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no variable of a launcher" in str(check_environment())
    set_variables(monkeypatch, **LEFT, DS_ACCELERATOR="cuda")
    found = " ".join(str(check_environment()).split())
    assert f"warning: train.py would begin by {LINE}" in found
    assert "DS_ACCELERATOR=cuda has no effect" in found
    set_variables(monkeypatch, RANK="5")
    assert "error: the environment has RANK=5" in str(check_environment())
