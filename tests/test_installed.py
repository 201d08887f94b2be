"""The package as the wheel has it, outside the repository: whatever a command needs is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scaledreamer.config import shipped_configs
from scaledreamer.prompts.corpus import NAMES

ROOT = Path(__file__).parent.parent
RESOURCES = """
import sys

from scaledreamer import exported
from scaledreamer.config import find_config, load_config, shipped_configs
from scaledreamer.evaluation import page
from scaledreamer.prompts.corpus import corpus_file

configs, corpora = sys.argv[1].split(","), sys.argv[2].split(",")
assert shipped_configs() == configs
for name in configs:
    assert find_config(f"configs/{name}.yaml") == find_config(name)
    load_config(name)
for file in [*map(find_config, configs), *map(corpus_file, corpora), exported.SHIPPED, page.VIEWER]:
    assert file.exists(), file
    assert str(file).startswith(sys.argv[3]), file
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pyproject.toml puts into the wheel, in a folder as `pip install --target` makes it."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    target = tmp_path_factory.mktemp("installed")
    folders = {name: name for name in wheel["packages"]} | wheel["force-include"]
    for source, place in folders.items():
        shutil.copytree(ROOT / source, target / place, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def scaledreamer(installed: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command from the wheel."""
    return python(installed, "-m", "scaledreamer", *words, cwd=cwd)


def python(installed: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-B", *map(str, words)]
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_every_shipped_config_corpus_and_model_is_found_in_the_wheel(installed: Path, tmp_path: Path):
    found = python(
        installed, "-c", RESOURCES, ",".join(shipped_configs()), ",".join(NAMES), installed, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr


def test_shards_of_a_shipped_corpus_are_made_from_the_wheel(installed: Path, tmp_path: Path):
    made = scaledreamer(installed, "make-shards", "make", "core_15", "--out", "shards", cwd=tmp_path)
    assert made.returncode == 0 and "15 prompts in 1 shard(s)" in made.stdout, made.stderr
    assert scaledreamer(installed, "make-shards", "verify", "shards", cwd=tmp_path).returncode == 0


def test_a_training_by_a_shipped_config_starts_from_the_wheel_and_says_which(installed: Path, tmp_path: Path):
    run = scaledreamer(installed, "train", "--config", "configs/tiny.yaml", "--dry-run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    expected = f"config: {installed / 'scaledreamer/configs/tiny.yaml'}, shipped with the package"
    assert run.stdout.splitlines()[0] == expected


def test_a_file_of_the_user_s_goes_before_a_shipped_config_of_its_name(installed: Path, tmp_path: Path):
    (tmp_path / "tiny").write_text("training: {max_step: 5}\n")
    run = scaledreamer(installed, "train", "--config", "tiny", "--dry-run", cwd=tmp_path)
    assert run.returncode == 2 and "training.max_step: no such setting" in run.stderr
    run = scaledreamer(installed, "train", "--config", "tinny", "--dry-run", cwd=tmp_path)
    assert run.returncode == 2 and "give a YAML file, or the name of a shipped one: asd_100k" in run.stderr


def test_an_asset_is_made_from_the_wheel(installed: Path, tmp_path: Path):
    sizes = ["--resolution", "32", "--texture-size", "64", "--formats", "glb"]
    made = scaledreamer(installed, "infer", "--prompt", "a red cube", *sizes, "--output", "out", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert [path.read_bytes()[:4] for path in (tmp_path / "out").rglob("*.glb")] == [b"glTF"]


@pytest.mark.slow
def test_doctor_finds_nothing_in_the_way_of_a_shipped_config_in_the_wheel(installed: Path, tmp_path: Path):
    said = scaledreamer(installed, "doctor", "--config", "tiny", "--quick", cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    assert str(installed / "scaledreamer/configs/tiny.yaml") in said.stdout.splitlines()[0]
