"""`infer.py`: every file it promises; bad input is in test_bad_input."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trimesh

from scaledreamer import generators
from scaledreamer.cli.infer import main
from scaledreamer.cli.infer_options import make_parser
from tests.support.tiny_export import tiny_pipeline

ROOT = Path(__file__).parent.parent
PROMPT = "a red-eyed tree frog"
SMALL = ["--resolution", "32", "--texture-size", "64", "--max-faces", "500", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "generator"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def empty_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator whose every scene is far outside everywhere."""
    folder = tmp_path_factory.mktemp("empty") / "generator"
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.generator.get_submodule("heads.sdf").get_parameter("bias")[-1] = 5.0
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right kind are enough here."""
    from scaledreamer.pipeline import Asset

    full = Asset.turntable
    monkeypatch.setattr(
        Asset, "turntable", lambda self, num_frames=4, size=32, **rest: full(self, 4, 32, **rest)
    )


def test_one_prompt_gives_glb_video_views_and_sidecar(checkpoint, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("stays")
    status = main(
        [
            "--prompt",
            PROMPT,
            "--checkpoint",
            str(checkpoint),
            "--output",
            str(tmp_path),
            "--seed",
            "3",
            *SMALL,
        ]
    )
    captured = capsys.readouterr()
    assert status == 0 and captured.err == ""
    sidecar = next(tmp_path.glob("*.json"))
    assert re.fullmatch(r"a-red-eyed-tree-frog-[0-9a-f]{12}", sidecar.stem)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["other.txt", *(f"{sidecar.stem}.{kind}" for kind in ("glb", "json", "mp4", "png"))]
    )
    report = json.loads(sidecar.read_text())
    assert report["prompt"] == PROMPT and report["seed"] is None
    assert report["checkpoint"]["step"] == 7 and len(report["checkpoint"]["sha256"]) == 64
    assert {"scaledreamer", "torch", "python"} <= report["versions"].keys()
    assert report["files"] == {kind: f"{sidecar.stem}.{kind}" for kind in ("glb", "mp4", "png")}
    assert {"forward", "mesh", "total"} <= report["seconds"].keys()
    assert report["settings"]["resolution"] == 32 and report["mesh"]["vertex_manifold"]
    assert isinstance(trimesh.load(tmp_path / report["files"]["glb"], force="mesh"), trimesh.Trimesh)
    assert str(checkpoint) in captured.out and "sha256" in captured.out
    assert "note: --seed has no effect: this generator takes no noise" in captured.out
    assert "licence of the prior" in report["terms"]
    assert report["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.glob(f"{sidecar.stem}.[gmp]*")
    }


def test_several_prompts_unknown_words_and_chosen_formats(checkpoint, tmp_path, capsys):
    prompts = [
        "--prompt",
        "a green frog",
        "--prompt",
        "A green frog",
        "--prompt",
        "a steampunk frog",
        "--prompt",
        "a green frog",
    ]
    assert (
        main(
            [
                *prompts,
                "--checkpoint",
                str(checkpoint.parent),
                "--output",
                str(tmp_path),
                "--formats",
                "GLB",
                *SMALL,
            ]
        )
        == 0
    )
    assert len(list(tmp_path.glob("*.glb"))) == len(list(tmp_path.glob("*.json"))) == 3
    assert not list(tmp_path.glob("*.mp4"))
    assert (
        "note: words that this generator does not know and may misread: 'steampunk'"
        in capsys.readouterr().out
    )


def test_prompts_of_file_and_standard_input_are_made_and_progress_is_said(
    checkpoint, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa green frog\r\n\n  a blue car \na green frog\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a red house\n")))
    output = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--formats", "glb"]
    options = ["--prompts-file", str(file), "--stdin"]
    assert main(["--prompt", PROMPT, *options, *output, *SMALL]) == 0
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert {r["prompt"] for r in reports} == {PROMPT, "a green frog", "a blue car", "a red house"}
    printed = capsys.readouterr().out
    assert re.search(r"4 assets in [\d.]+ s, [\d.]+ a minute", printed)
    assert re.search(rf"^1 of 4, prompt: '{PROMPT}'$", printed, re.MULTILINE)
    assert re.search(r"^4 of 4, 0:0\d:\d\d left, prompt: 'a red house'$", printed, re.MULTILINE)


def test_seeds_of_a_generator_without_noise_are_one_asset_and_it_says_so(checkpoint, tmp_path, capsys):
    output = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--formats", "obj"]
    assert main(["--prompt", PROMPT, "--seeds", "2,0,1", *output, *SMALL]) == 0
    (sidecar,) = tmp_path.glob("*.json")
    report = json.loads(sidecar.read_text())
    assert (
        report["seed"] is None
        and "--seeds has no effect: this generator takes no noise" in capsys.readouterr().out
    )
    assert all((tmp_path / name).is_file() for name in report["files"].values()) and len(report["files"]) == 3


@pytest.fixture(scope="module")
def noisy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that takes noise."""
    folder = tmp_path_factory.mktemp("noisy") / "generator"
    pipe = tiny_pipeline()
    pipe.generator_name = "conv3d_net"
    sizes = {"resolution": 8, "max_channels": 8, "style_dim": 8, "num_features": 4}
    pipe.generator = generators.make("conv3d_net", {"condition_dim": 16, **sizes})
    with torch.no_grad():
        pipe.generator.get_submodule("decoder.sdf.2").get_parameter("weight").mul_(5)
    pipe.save_pretrained(folder)
    return folder


def test_variants_are_assets_of_seeds_that_count_up(noisy_checkpoint, tmp_path):
    output = ["--checkpoint", str(noisy_checkpoint), "--formats", "ply", *SMALL]
    options = ["--seed", "4", "--num-variants", "2", "--truncation", "0.9"]
    assert main(["--prompt", PROMPT, *options, *output, "--output", str(tmp_path / "many")]) == 0
    reports = {r["seed"]: r for r in map(json.loads, map(Path.read_text, (tmp_path / "many").glob("*.json")))}
    assert reports.keys() == {4, 5} and reports[4]["settings"]["truncation"] == 0.9
    meshes = {seed: (tmp_path / "many" / r["files"]["ply"]).read_bytes() for seed, r in reports.items()}
    assert meshes[4] != meshes[5]
    one = ["--seed", "5", "--truncation", "0.9"]
    assert main(["--prompt", PROMPT, *one, *output, "--output", str(tmp_path / "one")]) == 0
    (alone,) = (tmp_path / "one").glob("*.ply")
    assert alone.read_bytes() == meshes[5]


def test_another_truncation_is_another_asset_and_replaces_none(noisy_checkpoint, tmp_path):
    output = ["--checkpoint", str(noisy_checkpoint), "--formats", "ply", *SMALL, "--output", str(tmp_path)]
    for truncation in ("1", "0.5", "0", "0.0"):
        assert main(["--prompt", PROMPT, "--truncation", truncation, *output]) == 0
    meshes = [path.read_bytes() for path in tmp_path.glob("*.ply")]
    assert len(meshes) == len(set(meshes)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--num-variants", "3"],
            "--num-variants 3: this generator takes no noise, all its assets of a prom",
        ),
        (
            ["--truncation", "0.5"],
            "--truncation 0.5: this generator takes no noise; leave it out, or give the",
        ),
        (["--truncation", "2"], "got '2'; accepted are numbers from 0 to 1"),
        (["--num-variants", "0"], "got '0'; accepted are whole numbers from 1 to 1024"),
    ],
)
def test_variety_of_a_generator_without_noise_and_impossible_numbers_are_refused(
    options, message, checkpoint, tmp_path, capsys
):
    command = ["--prompt", PROMPT, "--checkpoint", str(checkpoint), "--output", str(tmp_path), *options]
    try:
        status = main([*command, "--device", "cpu"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1,2"], "--num-variants 3: counts up from --seed, and --seeds are given; leave out one"),
        (["--seed", "2147483646"], "--num-variants 3: seeds end at 2147483647; lower --seed (2147483646)"),
    ],
)
def test_variants_and_seeds_that_contradict_each_other_are_refused(
    options, message, noisy_checkpoint, tmp_path, capsys
):
    command = ["--prompt", PROMPT, "--checkpoint", str(noisy_checkpoint), "--output", str(tmp_path)]
    assert main([*command, "--num-variants", "3", *options, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_running_again_gives_the_same_names(checkpoint, tmp_path):
    for _ in range(2):
        main(
            [
                "--prompt",
                PROMPT,
                "--checkpoint",
                str(checkpoint),
                "--output",
                str(tmp_path),
                "--formats",
                "glb",
                *SMALL,
            ]
        )
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_surface_names_the_prompt_and_exits_with_1(empty_checkpoint, tmp_path, capsys):
    status = main(
        ["--prompt", PROMPT, "--checkpoint", str(empty_checkpoint), "--output", str(tmp_path), *SMALL]
    )
    assert status == 1 and not list(tmp_path.iterdir())
    assert f"error: prompt '{PROMPT}': the signed distance is outside" in capsys.readouterr().err


def test_defaults_are_those_of_the_documentation():
    arguments = make_parser().parse_args(["--prompt", PROMPT])
    assert arguments.prompt == [PROMPT] and arguments.checkpoint is None and arguments.lods is None
    assert arguments.output == Path("outputs/infer") and arguments.formats == ("glb", "mp4", "png")


def test_home_folder_in_paths_that_a_shell_leaves_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = make_parser().parse_args(["--output=~/made", "--prompts-file=~/p.txt"])
    assert (arguments.output, arguments.prompts_file) == (tmp_path / "made", tmp_path / "p.txt")


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys; sys.argv = ['infer.py', '--help']\n"
        "try:\n    import runpy; runpy.run_path('infer.py', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'trimesh', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    before = os.times()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    seconds = (
        os.times().children_user + os.times().children_system - before[2] - before[3]
    )  # busy machines too
    assert result.returncode == 0, result.stderr
    assert all(
        flag in result.stdout for flag in ("--prompt", "--output", "--checkpoint", "--formats", "--max-faces")
    )
    assert seconds < 0.5


def test_from_the_shell_an_error_is_one_line_without_traceback(tmp_path):
    command = [sys.executable, "infer.py", "--prompt", PROMPT, "--checkpoint", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: checkpoint ") and result.stderr.count("\n") == 1
