"""`infer.py` with many prompts: what is made of each does not depend on the others, nor on earlier runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer.cli import infer_files
from scaledreamer.cli.infer import main
from scaledreamer.exported import SHIPPED
from scaledreamer.tinyworld import grammar
from scaledreamer.trained_on import TrainedOn
from tests.support.tiny_export import tiny_pipeline

PROMPTS = ["a red cube", "a green frog", "a blue car", "a cat", "a tree", "a mug", "a ball", "a red cone"]
SMALL = ["--resolution", "32", "--texture-size", "64", "--max-faces", "500", "--device", "cpu"]
FINER = SMALL[:-4]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "generator"
    tiny_pipeline().save_pretrained(folder)
    return folder


def run(output: Path, *options: str, checkpoint: Path | None = None, formats: str = "glb") -> int:
    where = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return main([*where, "--output", str(output), "--formats", formats, *options])


def prompts_file(folder: Path, *lines: str) -> list[str]:
    (folder / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    return ["--prompts-file", str(folder / "prompts.txt")]


def contents(folder: Path, pattern: str = "*.glb") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def sidecars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


# --- one asset, whatever is around it -----------------------------------------------------------------------


def test_an_asset_is_the_same_bytes_alone_and_in_any_batch_with_any_threads(tmp_path: Path) -> None:
    coarse = ["--resolution", "24", "--texture-size", "64", "--max-faces", "300", "--device", "cpu"]
    threads = torch.get_num_threads()
    try:
        for name, count, number in (("alone", 1, 1), ("three", 3, 1), ("two threads", 1, 2)):
            torch.set_num_threads(number)
            some = [option for prompt in PROMPTS[:count] for option in ("--prompt", prompt)]
            assert (
                run(tmp_path / name, *some, *coarse) == 0
            )  # the shipped generator: this one is known to differ
    finally:
        torch.set_num_threads(threads)
    alone = contents(tmp_path / "alone")
    assert len(alone) == 1 and alone.items() <= contents(tmp_path / "three").items()
    assert alone == contents(tmp_path / "two threads")


def test_a_seed_without_effect_changes_neither_names_nor_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for name, options in (("none", []), ("seed", ["--seed", "7"]), ("seeds", ["--seeds", "4,5"])):
        assert run(tmp_path / name, "--prompt", "a cat", *options, *SMALL, checkpoint=checkpoint) == 0
    assert contents(tmp_path / "none") == contents(tmp_path / "seed") == contents(tmp_path / "seeds")


# --- names and sidecars -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        ["--max-faces", "200"],
        ["--resolution", "24"],
        ["--texture-size", "96"],
        ["--ground"],
        ["--scale", "0.3"],
        ["--lods", "400,100"],
    ],
)
def test_other_settings_make_other_files_beside_the_first_ones(
    option: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    plain = ["--resolution", "32", "--texture-size", "64", "--device", "cpu"]
    kept = [each for each in zip(plain[::2], plain[1::2], strict=True) if each[0] != option[0]]
    assert run(tmp_path, "--prompt", "a cat", *plain, checkpoint=checkpoint) == 0
    before = contents(tmp_path, "*")
    again = [part for pair in kept for part in pair] + option
    assert run(tmp_path, "--prompt", "a cat", *again, checkpoint=checkpoint) == 0
    assert before.items() <= contents(tmp_path, "*").items()
    assert len(sidecars(tmp_path)) == 2
    for report in sidecars(tmp_path):
        faces = report["settings"]["max_faces"]
        found = report["mesh"] if isinstance(faces, list) else [report["mesh"]]
        wanted = faces if isinstance(faces, list) else [faces]
        assert all(mesh["faces"] <= limit for mesh, limit in zip(found, wanted, strict=True))


def test_levels_of_detail_are_made_in_one_run(checkpoint: Path, tmp_path: Path) -> None:
    options = [*FINER[:4], "--lods", "400,100", "--device", "cpu"]
    assert run(tmp_path, "--prompt", "a cat", *options, checkpoint=checkpoint, formats="ply,obj") == 0
    (report,) = sidecars(tmp_path)
    assert [mesh["faces"] for mesh in report["mesh"]] == [400, 100]
    stem = next(tmp_path.glob("*.json")).stem
    assert report["files"]["ply"] == [f"{stem}-lod0.ply", f"{stem}-lod1.ply"]
    assert report["files"]["obj_texture"] == [f"{stem}-lod0-texture.png", f"{stem}-lod1-texture.png"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.json", *report["sha256"]}


def test_a_second_format_joins_the_sidecar_of_the_first(checkpoint: Path, tmp_path: Path) -> None:
    for formats in ("glb", "ply"):
        assert run(tmp_path, "--prompt", "a cat", *SMALL, checkpoint=checkpoint, formats=formats) == 0
    (report,) = sidecars(tmp_path)
    assert set(report["files"]) == {"glb", "ply"} == report["seconds"].keys() & {"glb", "ply"}
    next(tmp_path.glob("*.glb")).write_bytes(b"another program's")
    assert run(tmp_path, "--prompt", "a cat", *SMALL, checkpoint=checkpoint, formats="ply") == 0
    (report,) = sidecars(tmp_path)
    assert set(report["files"]) == {"ply"}


def test_a_run_that_is_cut_off_leaves_no_sidecar_of_what_it_has_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "--prompt", "a cat", *SMALL, checkpoint=checkpoint) == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(infer_files, "_export", interrupted)
    assert run(tmp_path, "--prompt", "a cat", *SMALL, checkpoint=checkpoint) == 130
    assert not sidecars(tmp_path)


def test_what_is_whole_is_skipped_and_what_is_not_made_anew(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prompt", "a cat", "--prompt", "a mug", *SMALL, "--skip-existing"]
    assert run(tmp_path, *options[2:], checkpoint=checkpoint, formats="obj") == 0
    assert "0 of 1 are there already" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run(tmp_path, *options, checkpoint=checkpoint, formats="obj") == 0
    printed = capsys.readouterr().out
    assert "1 of 2 are there already" in printed and "'a mug'" not in printed
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    next(tmp_path.glob("a-mug*-texture.png")).unlink()
    assert run(tmp_path, *options, checkpoint=checkpoint, formats="obj") == 0
    assert "'a mug'" in capsys.readouterr().out and len(list(tmp_path.glob("*-texture.png"))) == 2
    assert run(tmp_path, *options, checkpoint=checkpoint, formats="obj,ply") == 0
    assert "0 of 2 are there already" in capsys.readouterr().out


def test_pictures_alone_need_no_mesh(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a mesh is simplified, unwrapped and baked")

    monkeypatch.setattr("scaledreamer.asset.simplify", refuse)
    monkeypatch.setattr("scaledreamer.asset.texture_mesh", refuse)
    look = ["--background", "White", "--renderer", "volume"]
    assert (
        run(tmp_path, "--prompt", "a cat", *look, "--device", "cpu", checkpoint=checkpoint, formats="png")
        == 0
    )
    (report,) = sidecars(tmp_path)
    assert report["settings"]["background"] == "white" and "mesh" not in report


# --- prompts that cannot be made ----------------------------------------------------------------------------

BAD = ["a cat", "qwerty", "x" * 10_001, "", "a mug", "zxcvb"]


def test_all_bad_lines_are_named_at_once_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("scaledreamer.pipeline.TextTo3D.from_pretrained")
    assert run(tmp_path / "out", *prompts_file(tmp_path, *BAD), checkpoint=checkpoint) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "line 2 'qwerty', line 6 'zxcvb': this generator knows no word" in error
    assert "line 3: the prompt has 10001 characters" in error and "--skip-unknown makes the others" in error


def test_the_others_are_made_if_asked_for(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*prompts_file(tmp_path, *BAD), "--prompt", "poiuy", "--skip-unknown", *SMALL]
    assert run(tmp_path / "out", *command, checkpoint=checkpoint) == 0
    assert {report["prompt"] for report in sidecars(tmp_path / "out")} == {"a cat", "a mug"}
    error = capsys.readouterr().err
    assert error.count("skipped: ") == 2 and "--prompt: 'poiuy'" in error and "line 6 'zxcvb'" in error
    none = [*prompts_file(tmp_path, "qwerty", "zxcvb"), "--skip-unknown"]
    assert run(tmp_path / "none", *none, checkpoint=checkpoint) == 2
    error = capsys.readouterr().err
    assert "line 1 'qwerty', line 2 'zxcvb'" in error and "makes the others" not in error


@pytest.mark.parametrize("trained_on", [None, TrainedOn("x.txt", 2, frozenset(["cat", "a"]))])
def test_words_are_listed_and_are_the_trainings(
    trained_on: TrainedOn | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    pipe.trained_on = trained_on
    pipe.save_pretrained(tmp_path)
    assert main(["--list-words", "--checkpoint", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    words = grammar.vocabulary() if trained_on is None else {"cat", "a"}
    assert printed.out.split() == sorted(words)
    said = (
        "does not say which of them its training had" if trained_on is None else "2 prompts of its training"
    )
    assert said in printed.err


def test_words_that_nobody_has_written_down_cannot_be_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    pipe.conditioner.words = None
    pipe.save_pretrained(tmp_path)
    assert main(["--list-words", "--checkpoint", str(tmp_path)]) == 2
    assert "--list-words: the export does not say which words" in capsys.readouterr().err


def test_a_combination_beyond_the_training_is_noted_in_the_sidecar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    pipe.trained_on = TrainedOn.read(SHIPPED)
    pipe.save_pretrained(tmp_path / "generator")
    prompt = ["--prompt", "a car wearing a hat", *SMALL]
    assert run(tmp_path / "out", *prompt, checkpoint=tmp_path / "generator") == 0
    assert "note: beyond what this generator was trained on" in capsys.readouterr().out
    assert "beyond what this generator" in sidecars(tmp_path / "out")[0]["notes"][0]


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lods", "300,6000"], "got '300,6000'; accepted are falling numbers of triangles"),
        (["--lods", "6000,20"], "got '20'; accepted are whole numbers from 50 to"),
        (["--lods", "600,300", "--max-faces", "100"], "--max-faces: not allowed with argument --lods"),
        (["--scale", "0"], "got '0'; accepted are metres above 0"),
        (["--renderer", "ray"], "--renderer: invalid choice: 'ray'"),
        (
            ["--background", "nocolor"],
            "--background 'nocolor': accepted are studio, transparent, and",
        ),
        (
            ["--background", "transparent"],
            "a video (mp4) is not transparent; give --formats glb,png, or",
        ),
        (["--interpolate", "a", "b", "--lods", "600,300"], "--prompt and --interpolate are both given"),
    ],
)
def test_options_that_are_wrong_are_refused_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["--prompt", "a cat", "--output", str(tmp_path / "out"), *options])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
