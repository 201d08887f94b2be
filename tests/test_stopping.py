"""Signals that stop a run, a folder that another run has, and what a run leaves then."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.cli.train import main
from scaledreamer.pipeline import TextTo3D
from scaledreamer.training import run as running
from scaledreamer.training.checkpoint import load_newest
from scaledreamer.training.lock import RunLock
from scaledreamer.training.signals import STOPPING, StopSignals
from scaledreamer.training.step import Trainer
from tests.support.random_models import write_random_prior
from tests.support.runs import write_config


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_prior(tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_each_signal_is_remembered_and_handlers_come_back(number: signal.Signals) -> None:
    before = {other: signal.getsignal(other) for other in STOPPING}
    with StopSignals() as signals:
        assert signals.name is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
    assert signals.name == number.name
    assert {other: signal.getsignal(other) for other in STOPPING} == before


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.name is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_signals_save_and_export_whatever_comes_meanwhile_and_a_folder_in_use_is_refused(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGUSR1 before step 2, then SIGTERM and SIGHUP while the generator is exported, then a second run."""
    config, run = ["--config", str(write_config(tmp_path, prior))], tmp_path / "run"
    step, export = Trainer.step, running.Run._export
    refused: list[str] = []

    def interrupted(self: Trainer, at: int, **arguments: Any) -> Any:
        if at == 2:
            signal.raise_signal(signal.SIGUSR1)
        return step(self, at, **arguments)

    def hurried(self: running.Run, folder: Path, at: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        capsys.readouterr()
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert main([*config, "training.max_steps=20"]) == 2
        refused.append(capsys.readouterr().err)
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
        export(self, folder, at)

    monkeypatch.setattr(Trainer, "step", interrupted)
    monkeypatch.setattr(running.Run, "_export", hurried)
    assert main(config) == 0
    assert len(refused) == 1 and refused[0].count("\n") == 1
    assert f"got '{run}', where process " in refused[0] and "is training; wait for it, stop it" in refused[0]
    assert "stopped on SIGUSR1 after step" in capsys.readouterr().out
    checkpoint, _ = load_newest(run / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 4, "the next step was the last"
    assert TextTo3D.from_pretrained(run, device="cpu").step == checkpoint.step
    assert not list(run.glob(".*")), "the lock is gone"


def test_a_run_that_cannot_begin_leaves_neither_its_folder_nor_its_lock(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ["--config", str(write_config(tmp_path, prior)), f"training.output={tmp_path}/a/run"]

    def fail(*_: object) -> None:
        raise ValueError("of the user's")

    with monkeypatch.context() as patch:
        patch.setattr(running, "make_trainer", fail)
        assert main(config) == 2
    assert not (tmp_path / "a").exists()
    held = RunLock(tmp_path / "a" / "run")
    assert main([*config, "--dry-run"]) == 0, "looking is always allowed"
    held.release()
