"""Checkpoints: what is read is what was written, damage is noticed, a crash leaves an earlier one usable."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer.files import REPLACED, clean_up, replacing_folder
from scaledreamer.training import checkpoint as module
from scaledreamer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from tests.support.training_fakes import make_trainer, parameters_of


def make(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    parameters = {
        "a.weight": torch.randn(3, 4, generator=generator),
        "b": torch.randn(5, generator=generator),
    }
    averaged = {name: value + 1 for name, value in parameters.items()}
    optimizer = {
        name: {"exp_avg": value * 2, "step": torch.tensor(7.0)} for name, value in parameters.items()
    }
    return Checkpoint(step, parameters, averaged, optimizer, {"seed": 3}, {"score": 0.5, "step": 2})


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert (a.step, a.config, a.best) == (b.step, b.config, b.best)
    for mine, other in ((a.parameters, b.parameters), (a.averaged, b.averaged)):
        assert {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in other.items()}
    for name, state in a.optimizer.items():
        assert {k: v.tolist() for k, v in state.items()} == {
            k: v.tolist() for k, v in b.optimizer[name].items()
        }


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(5), keep=2)
    assert path.name == "step-00000005"
    assert_same(load_checkpoint(path), make(5))
    assert (tmp_path / "latest").read_text() == "step-00000005\n"
    index = json.loads((path / "checkpoint.json").read_text())
    assert index["format_version"] == 1
    assert not any(file.suffix in (".pt", ".pkl", ".bin") for file in path.iterdir())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none") == (None, [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["parameters.safetensors", "averaged.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: object) -> None:
    save_checkpoint(tmp_path, make(1), keep=2)
    newest = save_checkpoint(tmp_path, make(2), keep=2)
    damage(newest / name)  # type: ignore[operator]
    found, problems = load_newest(tmp_path)
    assert found is not None
    assert_same(found, make(1))
    assert len(problems) == 1 and "step-00000002: damaged" in problems[0]


def test_no_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(1), keep=2)
    (path / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match=r"step-00000001: not a checkpoint .* No other checkpoint"):
        load_newest(tmp_path)


def test_other_format_version_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(1), keep=2)
    index = json.loads((path / "checkpoint.json").read_text()) | {"format_version": 99}
    (path / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has format_version 99; this version of the package reads 1"):
        load_checkpoint(path)


def killed_before_call(count: int, save: Callable[[], object]) -> bool:
    """Runs `save` in a child, killed before its `count`-th call that touches the disk; False: it ended."""
    if (child := os.fork()) == 0:
        left = [count]

        def counted(original: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **named)

            return call

        places: list[tuple[Any, str]] = [(module, "save_file"), (module, "_hash"), (shutil, "rmtree")]
        places += [(os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir")]
        for place, name in places:
            setattr(place, name, counted(getattr(place, name)))
        save()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("step", [1, 2], ids=["the same step again", "the next step"])
def test_kill_anywhere_while_writing_leaves_a_whole_one(tmp_path: Path, step: int) -> None:
    first = tmp_path / "first"
    save_checkpoint(first, make(1), keep=1)
    for count in itertools.count(1):
        folder = tmp_path / f"kill-{count}"
        shutil.copytree(first, folder)
        is_killed = killed_before_call(
            count, lambda folder=folder: save_checkpoint(folder, make(step), keep=1)
        )
        clean_up(folder)
        found, problems = load_newest(folder)
        assert found is not None and not problems
        assert_same(found, make(found.step))
        assert not list(folder.glob(".*"))
        save_checkpoint(folder, make(3), keep=1)
        assert_same(load_newest(folder)[0] or make(0), make(3))
        if not is_killed:
            assert count > 15 and found.step == step
            break


def test_a_folder_is_replaced_beside_what_a_killed_process_had_moved_aside(tmp_path: Path) -> None:
    for name in (f"{REPLACED}made", "made"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with replacing_folder(tmp_path / "made") as new:
        (new / "file").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "new"


def test_full_disk_keeps_the_earlier_one_and_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    save_checkpoint(tmp_path, make(1), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(
            ValueError, match="step-00000002: cannot be written .* earlier checkpoints are untouched"
        ):
            save_checkpoint(tmp_path, make(2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert_same(load_newest(tmp_path)[0] or make(0), make(1))


@pytest.mark.parametrize(
    ("before", "after", "optimizer"),
    [(b, a, "adam") for b, a in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 0), (2, 0), (1, 2))]
    + [(0, 1, "sgd"), (2, 0, "sgd"), (0, 2, "adamw"), (2, 1, "adan")],
)
def test_state_moves_between_zero_stages(before: int, after: int, optimizer: str) -> None:
    first = make_trainer(zero_stage=before, optimizer=optimizer)
    straight = make_trainer(zero_stage=before, optimizer=optimizer)
    second = make_trainer(zero_stage=after, optimizer=optimizer, seed=9)
    second.batches = replace(second.batches, stream=first.batches.stream)
    second = replace(second)  # with a prefetch of these batches
    for step in range(3):
        first.step(step)
        straight.step(step)
    parameters = {name: value.clone() for name, value in first.engine.trained.state_dict().items()}
    second.engine.load_parameters(parameters)
    second.engine.load_optimizer_state(first.engine.optimizer_state())
    for step in range(3, 6):
        straight.step(step)
        second.step(step)
    if before == after:
        assert torch.equal(parameters_of(second), parameters_of(straight))
    else:
        assert torch.allclose(parameters_of(second), parameters_of(straight), rtol=1e-4, atol=1e-6)
    a, b = straight.engine.optimizer_state(), second.engine.optimizer_state()
    assert {name: set(state) for name, state in a.items()} == {name: set(state) for name, state in b.items()}
