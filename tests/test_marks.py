"""What checkpoints in one file say of their networks, beside the settings of schedulers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaledreamer.cli import train
from scaledreamer.config import load_config
from scaledreamer.doctor.files import check_models
from scaledreamer.priors.sdxl import SDXLPrior
from scaledreamer.weights import layout
from scaledreamer.weights.find import WeightsError, check_weights, find_weights
from scaledreamer.weights.places import TINY_PRIOR
from scaledreamer.weights.scheduler import CONFIG, read_marks
from tests.support.ldm_checkpoint import save_single_file
from tests.support.random_models import save_sdxl

EDM = {"edm_mean": torch.full((1, 4, 1, 1), 1.5), "edm_std": torch.full((1, 4, 1, 1), 6.0)}
V = {"v_pred": torch.zeros(1)}
ZERO_SNR = {"ztsnr": torch.zeros(1)}
OWN = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
TYPE = "modelspec.prediction_type"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    pipeline = save_sdxl(folder / "pipeline")
    save_single_file(pipeline, folder / "plain.safetensors")
    return folder


def checkpoint(
    base: Path, folder: Path, marks: dict[str, torch.Tensor], metadata: dict[str, str], **scheduler: Any
) -> Path:
    """A checkpoint with marks, and beside it the settings of an SDXL with these changes of its scheduler."""
    file = folder / "model.safetensors"
    save_file(load_file(base / "plain.safetensors") | marks, file, metadata={"format": "pt"} | metadata)
    beside = shutil.copytree(
        base / "pipeline", folder / "model", ignore=shutil.ignore_patterns("*.safetensors")
    )
    config = json.loads((beside / CONFIG).read_text())
    (beside / CONFIG).write_text(json.dumps(config | scheduler))
    return file


@pytest.mark.parametrize(
    ("marks", "metadata", "scheduler", "message"),
    [
        (
            EDM,
            {},
            {},
            r"marked as a network of EDM's noise levels \(edm_mean, edm_std\); only networks of",
        ),
        ({"edm_vpred.sigma_max": torch.ones(1)}, {}, OWN, r"EDM's noise levels \(edm_vpred\.sigma_max\)"),
        (
            V,
            {},
            {},
            r"its mark v_pred says v_prediction, and scheduler/.* in .*/model prediction_type 'epsilon'",
        ),
        ({}, {TYPE: "v"}, {}, r"its mark modelspec\.prediction_type says v_prediction, and .* 'epsilon'"),
        ({}, {TYPE: "epsilon"}, OWN, r"says epsilon, and .* prediction_type 'v_prediction'"),
        (V, {TYPE: "epsilon"}, OWN, r"says epsilon, and .* prediction_type 'v_prediction'"),
        (
            ZERO_SNR,
            {},
            {},
            r"its mark ztsnr says .* has no rescale_betas_zero_snr; give the settings",
        ),
        (V | ZERO_SNR, {}, {"prediction_type": "v_prediction"}, r"its mark ztsnr"),
        ({}, {}, {"_class_name": "EDMEulerScheduler"}, r"scheduler/ is EDMEulerScheduler; only networks of"),
        ({}, {}, {"prediction_type": "sample"}, r"prediction_type is 'sample'; accepted are 'epsilon' and"),
    ],
)
def test_marks_and_settings_that_contradict_each_other_are_refused(
    base: Path,
    tmp_path: Path,
    marks: dict[str, torch.Tensor],
    metadata: dict[str, str],
    scheduler: dict[str, Any],
    message: str,
) -> None:
    file = checkpoint(base, tmp_path, marks, metadata, **scheduler)
    for look in (check_weights, find_weights):
        with pytest.raises(WeightsError, match=message):
            look([str(file)], parts=layout.SDXL, offline=True)


@pytest.mark.parametrize(
    ("marks", "metadata", "scheduler", "predicts"),
    [
        ({}, {}, {}, "epsilon"),
        ({}, {TYPE: "epsilon"}, {}, "epsilon"),
        ({}, {TYPE: "of another kind"}, {}, "epsilon"),
        ({}, {}, OWN, "v_prediction"),
        (V, {TYPE: "v"}, {"prediction_type": "v_prediction"}, "v_prediction"),
        (V | ZERO_SNR, {}, OWN, "v_prediction"),
    ],
)
def test_marks_that_agree_with_the_settings_are_loaded(
    base: Path,
    tmp_path: Path,
    marks: dict[str, torch.Tensor],
    metadata: dict[str, str],
    scheduler: dict[str, Any],
    predicts: str,
) -> None:
    file = checkpoint(base, tmp_path, marks, metadata, **scheduler)
    found = find_weights([str(file)], parts=layout.SDXL, offline=True)
    assert found.folder is not None
    prior = SDXLPrior.from_pretrained(found.folder, single_file=found.single_file)
    assert prior._schedule.prediction_type == predicts
    ends_in_noise = bool((prior.alpha(torch.ones(1)) == 0).all())
    assert ends_in_noise == bool(scheduler.get("rescale_betas_zero_snr"))


def test_a_marked_file_without_settings_asks_for_its_own(base: Path, tmp_path: Path) -> None:
    for marks, kind in ((V, "SDXL that predicts v"), (ZERO_SNR, "SDXL")):
        file = checkpoint(base, tmp_path, marks, {})
        shutil.rmtree(tmp_path / "model")
        message = f"is {kind}, which needs the settings of its own scheduler; put model_index"
        with pytest.raises(WeightsError, match=message):
            check_weights([str(file)], parts=layout.SDXL)


def test_a_folder_of_edm_is_refused_before_it_is_loaded(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base / "pipeline", tmp_path / "edm")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"_class_name": "EDMDPMSolverMultistepScheduler"}))
    with pytest.raises(WeightsError, match="scheduler/ is EDMDPMSolverMultistepScheduler; only networks"):
        check_weights([str(folder)], parts=layout.SDXL)


def test_training_and_doctor_refuse_alike(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint(base, tmp_path, EDM, {})
    settings = ["evaluation.every=null", "priors.0.name=sdxl", f"priors.0.model={file}"]
    assert train.main(["--config", "tiny", *settings]) == 2
    assert "error: priors.0.model: " in (error := capsys.readouterr().err) and "EDM's noise levels" in error
    section, _ = check_models(load_config("tiny", settings))
    assert [each for each in section.findings if each.level == "error" and "EDM's noise" in str(each)]


def test_marks_are_tensors_of_their_own_names() -> None:
    plain = read_marks(["model.v_pred.weight", "x.edm_mean"], {"format": "pt"})
    assert plain.is_plain and not plain.edm and not plain.predictions
    assert TINY_PRIOR.is_dir() and check_weights([str(TINY_PRIOR)], parts=layout.STABLE_DIFFUSION)
