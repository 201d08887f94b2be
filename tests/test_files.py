"""Replacing files and folders: through links, with the modes of the umask, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scaledreamer.files import REPLACED, TEMPORARY, clean_up_beside, replace_text, replacing_folder
from scaledreamer.pipeline import TextTo3D
from scaledreamer.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from scaledreamer.training.output import check_output, claim_output
from tests.support.tiny_export import tiny_pipeline


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    previous = os.umask(request.param)
    yield request.param
    os.umask(previous)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A run whose `generator` is a link to a folder elsewhere."""
    (tmp_path / "run").mkdir()
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "run" / "generator").symlink_to(tmp_path / "disk" / "kept")
    return tmp_path / "run"


def checkpoint(step: int) -> Checkpoint:
    weights = {"w": torch.full((3,), float(step))}
    return Checkpoint(step, weights, weights, {"w": {"exp_avg": torch.zeros(3)}}, {"seed": 0})


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_modes_of_exports_and_checkpoints_are_those_of_the_umask(umask: int, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "generator")
    save_checkpoint(tmp_path / "checkpoints", checkpoint(1), keep=1)
    replace_text(tmp_path / "text", "text")
    found = modes(tmp_path)
    assert sum(name.endswith(".safetensors") for name in found) >= 5
    for name, mode in found.items():
        assert mode == (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask, name


def test_exports_go_through_a_link_again_and_again(linked: Path) -> None:
    check_output(linked)
    for _ in range(3):
        tiny_pipeline().save_pretrained(linked / "generator")
        check_output(linked)
        assert TextTo3D.from_pretrained(linked / "generator", device="cpu")
    assert (linked / "generator").is_symlink() and [p.name for p in linked.iterdir()] == ["generator"]
    assert [path.name for path in (linked.parent / "disk").iterdir()] == ["kept"]


def test_checkpoints_whose_folders_are_links_are_replaced_and_removed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    save_checkpoint(folder, checkpoint(1), keep=2)
    elsewhere.mkdir()
    (folder / "step-00000001").rename(elsewhere / "one")
    (folder / "step-00000001").symlink_to(elsewhere / "one")
    for _ in range(2):
        save_checkpoint(folder, checkpoint(1), keep=2)
        assert (folder / "step-00000001").is_symlink()
    save_checkpoint(folder, checkpoint(2), keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000002"]
    found, problems = load_newest(folder)
    assert found is not None and found.step == 2 and not problems


def test_a_file_is_replaced_where_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for text in ("first", "second"):
        replace_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == text


def test_what_was_moved_aside_behind_a_link_comes_back(linked: Path) -> None:
    disk = linked.parent / "disk"
    (disk / "kept" / "file").write_text("kept")
    (disk / "kept").rename(disk / f"{REPLACED}kept")  # killed between the two renames
    (disk / f"{TEMPORARY}kept-0123abcd").mkdir()
    others = [f"{TEMPORARY}kept-2-0123abcd", f"{TEMPORARY}other-0123abcd", f"{REPLACED}other"]
    for other in others:
        (disk / other).mkdir()
    check_output(linked)
    claim_output(linked).release()
    assert sorted(path.name for path in disk.iterdir()) == sorted(["kept", *others])
    assert (linked / "generator" / "file").read_text() == "kept"
    clean_up_beside(linked / "generator")
    assert (linked / "generator" / "file").read_text() == "kept"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("old")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name.startswith(TEMPORARY):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), replacing_folder(tmp_path / "made") as new:
        (new / "file").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "old"


@pytest.mark.parametrize("name", ["generator", "best"])
def test_a_folder_that_could_not_be_replaced_is_refused_before_training(
    name: str, linked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (linked / "generator").rename(linked / name)
    disk = linked.parent / "disk"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, _: Path(path) != disk)
        with pytest.raises(ValueError, match=f"{name} leads to .* no permission to write in {disk}; choose"):
            check_output(linked)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: path == str(disk / "kept"))
        with pytest.raises(ValueError, match=f"{name} is a mount point"):
            check_output(linked)
    check_output(linked)


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard", "shown"])
def test_a_folder_that_could_not_be_filled_is_refused_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    check_output(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path / name)
    with pytest.raises(ValueError, match=f"no permission to write in {tmp_path / name}; choose"):
        check_output(tmp_path)


def test_a_link_that_leads_nowhere_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "generator").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises(ValueError, match="generator is not a folder"):
        check_output(tmp_path)
