"""Trainings against small random priors in the real layouts: Stable Diffusion 1 (epsilon), 2 (v) and XL."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scaledreamer.cli.train import main
from scaledreamer.exported import WEIGHTS
from tests.support.random_models import save_sdxl, save_stable_diffusion
from tests.support.runs import write_config

ROOT = Path(__file__).parent.parent
NUM_STEPS = 30
FAMILIES = ["epsilon", "v_prediction", "sdxl"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sdxl":
        save_sdxl(folder)
        return "sdxl", folder
    save_stable_diffusion(folder, request.param)
    return "stable_diffusion", folder


def train(folder: Path, family: tuple[str, Path], run: str) -> dict[int, dict[str, Any]]:
    """Runs train.py, with Perp-Neg; returns its metrics by step."""
    name, prior = family
    config = write_config(
        folder,
        prior,
        training__output=str(folder / run),
        training__max_steps=NUM_STEPS,
        training__log_every=1,
        training__checkpoint_every=10,
        training__keep_checkpoints=3,
    )
    priors = [{"name": name, "model": str(prior), "perp_neg": 0.5, name: {"dtype": "float32"}}]
    assert main(["--config", str(config), f"priors={json.dumps(priors)}"]) == 0
    lines = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not key.startswith(("seconds", "time"))}


def test_thirty_steps_are_finite_reach_the_generator_and_resume_bit_for_bit(
    family: tuple[str, Path], tmp_path: Path
) -> None:
    whole = train(tmp_path, family, "whole")
    assert sorted(whole) == list(range(1, NUM_STEPS + 1))
    for line in whole.values():
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert line["gradient/norm"] > 0 and line["gradient/skipped_steps"] == 0
        assert line["prior0/pixel_gradient"] > 0 and 0 <= line["prior0/clipped_fraction"] <= 1
    clipped = [line["prior0/clipped_fraction"] for line in whole.values()]
    print(f"{family[0]}: clipped fraction {min(clipped):.3f} to {max(clipped):.3f}")

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for later in (20, 30):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{later:08d}")
    resumed = train(tmp_path, family, "cut")
    assert [comparable(resumed[step]) for step in range(11, 31)] == [
        comparable(whole[step]) for step in range(11, 31)
    ]
    weights = [load_file(tmp_path / run / "generator" / WEIGHTS) for run in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("config", ["mg15", "mg15_sdxl"])
def test_published_configurations_dry_run_with_weights_of_their_layout(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prior"
    if config == "mg15_sdxl":
        save_sdxl(folder)
    else:
        save_stable_diffusion(folder, "epsilon")
    settings = [f"priors.0.model={folder}", f"conditioner.model={folder}", f"training.output={tmp_path}/run"]
    assert main(["--config", str(ROOT / "configs" / f"{config}.yaml"), "--dry-run", *settings]) == 0
    said = capsys.readouterr().out
    assert "prompts: 15" in said and "first batch (step 0)" in said and "max_steps: 50000" in said
    assert not (tmp_path / "run").exists()


def test_a_published_conv3d_net_dry_runs_in_full_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prior"
    save_stable_diffusion(folder, "epsilon")
    settings = [f"priors.0.model={folder}", f"conditioner.model={folder}", f"training.output={tmp_path}/run"]
    assert main(["--config", str(ROOT / "configs" / "df415.yaml"), "--dry-run", *settings]) == 0
    said = capsys.readouterr().out
    assert "first batch (step 0)" in said and "max_steps: 100000" in said
    parameters = int(re.search(r"total: ([\d,]+)", said)[1].replace(",", ""))  # type: ignore[index]
    assert 88e6 < parameters < 89e6
    assert not (tmp_path / "run").exists()


def test_a_dropped_text_encoder_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    save_stable_diffusion(folder, "epsilon")
    runs = []
    for is_dropped in (False, True):
        run = tmp_path / f"run-{is_dropped}"
        config = write_config(tmp_path, folder, training__output=str(run))
        drop = f"priors.0.stable_diffusion.drop_text_encoder={str(is_dropped).lower()}"
        assert main(["--config", str(config), drop]) == 0
        runs.append(load_file(run / "generator" / WEIGHTS))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.text_cache=48"],
            r"drop_text_encoder: 49 texts .* raise it to 49, or set .*drop_text_encoder=false",
        ),
        (["prompts.shard_size=5"], "drop_text_encoder: prompts in shards are not in memory"),
    ],
)
def test_text_encoders_are_dropped_only_where_all_texts_fit(
    settings: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prior"
    save_stable_diffusion(folder, "epsilon")
    config = write_config(tmp_path, folder, prompts__cache=str(tmp_path / "cache"))
    drop = "priors.0.stable_diffusion.drop_text_encoder=true"
    assert main(["--config", str(config), drop, *settings]) == 2
    assert re.search(message, capsys.readouterr().err)
