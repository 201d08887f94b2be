"""`scaledreamer COMMAND`: every command is found, answers without torch, and is the same as its scripts."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scaledreamer import __version__
from scaledreamer.cli.main import COMMANDS, main
from scaledreamer.cli.shipped import say_shipped_config

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train": "train.py", "infer": "infer.py"} | {
    name: f"tools/{name.replace('-', '_')}.py" for name in COMMANDS if name not in ("train", "infer")
}
"""Every command's script in the repository."""
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "numpy", "transformers", "diffusers", "deepspeed"):
    sys.modules[name] = None
sys.argv[0] = "scaledreamer"
runpy.run_module("scaledreamer", run_name="__main__")
"""


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def status_of(*argv: str) -> int | str | None:
    try:
        return main(list(argv))
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_needs_neither_torch_nor_numpy(words: list[str]):
    shown = python("-c", WITHOUT_TORCH, *words)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: scaledreamer {'' if len(words) == 1 else words[0]}")


def test_help_names_every_command_with_what_it_does(capsys: pytest.CaptureFixture[str]):
    assert status_of("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, meaning in COMMANDS.items():
        assert f"  {name:18}{meaning}" in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gets_the_rest_of_the_line_and_gives_its_status(name: str, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module(f"scaledreamer.cli.{name.replace('-', '_')}")
    got: list[list[str]] = []
    monkeypatch.setattr(module, "main", lambda argv: got.append(list(argv)) or 7)
    assert main([name, "a", "--help", "b=c"]) == 7
    assert got == [["a", "--help", "b=c"]]


def test_the_local_rank_that_deepspeed_puts_before_a_module_reaches_the_command(
    monkeypatch: pytest.MonkeyPatch,
):
    from scaledreamer.cli import train

    got: list[list[str]] = []
    monkeypatch.setattr(train, "main", lambda argv: got.append(list(argv)) or 0)
    assert main(["--local_rank=3", "train", "--config", "tiny"]) == 0
    assert got == [["--local_rank=3", "--config", "tiny"]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian", "--config", "tiny"], "error: trian: no such command; did you mean train? Accepted are"),
        (["make_shards"], "error: make_shards: no such command; did you mean make-shards? Accepted are"),
        (["frobnicate"], "error: frobnicate: no such command; accepted are train, infer, evaluate"),
        ([""], "error: '': no such command; accepted are train"),
        ([], "error: no command was given; accepted are train, infer"),
        (["--config", "tiny"], "error: unrecognized arguments: --config tiny"),
        (["--versio"], "error: unrecognized arguments: --versio"),
    ],
)
def test_no_such_command_is_one_line_with_what_is_accepted(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert status_of(*argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith(message) and output.err.count("\n") == 1 and not output.out


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]):
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"scaledreamer {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_is_its_command(name: str, tmp_path: Path):
    for words in (["--help"], ["--no-such-option"]):
        script = python(str(ROOT / SCRIPTS[name]), *words, cwd=tmp_path)
        command = python("-m", "scaledreamer", name, *words, cwd=tmp_path)
        assert (script.returncode, script.stdout, script.stderr) == (
            command.returncode,
            command.stdout,
            command.stderr,
        )
        assert command.returncode == (0 if words == ["--help"] else 2)


def test_every_console_script_is_a_main_of_the_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == {"scaledreamer", *(f"scaledreamer-{n}" for n in ("train", "infer", "doctor"))}
    for name, place in scripts.items():
        module, function = place.split(":")
        command = name.removeprefix("scaledreamer").removeprefix("-") or "main"
        assert module == f"scaledreamer.cli.{command}"
        assert callable(getattr(importlib.import_module(module), function))


def test_only_a_config_that_is_no_file_of_the_user_s_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    say_shipped_config("mine.yaml")
    assert capsys.readouterr().out == ""
    say_shipped_config("tiny")
    assert capsys.readouterr().out == f"config: {ROOT / 'configs' / 'tiny.yaml'}, shipped with the package\n"
