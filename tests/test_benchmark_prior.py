"""The benchmark of priors on small networks: its numbers add up, and bad options are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.benchmark.__main__ import main

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("prior", ["sd15", "sd21", "sdxl"])
def test_numbers_add_up(prior: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--random-weights", "--small", "--batch", "2", "--repeats", "2", "--device", "cpu"]
    assert main(["prior", "--prior", prior, *options, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    parts = report["parts"]
    assert list(parts) == ["encode", "encode with gradient", "predict noise", "whole"]
    assert parts["whole"]["flops"] == parts["encode with gradient"]["flops"] + parts["predict noise"]["flops"]
    assert parts["encode"]["flops"] < parts["encode with gradient"]["flops"]
    for part in parts.values():
        assert part["seconds"] > 0
        assert part["images_per_second"] == pytest.approx(2 / part["seconds"])
        assert part["tflops_per_second"] == pytest.approx(part["flops"] / part["seconds"] / 1e12)
        share = part["tflops_per_second"] / report["matrix_tflops_per_second"]
        assert part["share_of_matrix_rate"] == pytest.approx(share)
    assert (report["batch"], report["image_size"], report["dtype"]) == (2, 64, "float32")
    assert {"unet", "vae", "text_encoder"} <= set(report["parameter_bytes"])
    printed = capsys.readouterr().out
    assert "predict noise" in printed and "2 image(s) of 64 pixels, 3 predictions each" in printed


def test_a_model_is_measured_from_its_folder(tmp_path: Path):
    folder = ROOT / "scaledreamer" / "assets" / "tiny_prior"
    options = ["--model", str(folder), "--repeats", "1", "--vae-slicing", "--device", "cpu"]
    assert main(["prior", *options, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["prior"] == str(folder) and report["parts"]["whole"]["flops"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random-weights", "--batch", "0"], "--batch and --repeats take at least 1"),
        (["--random-weights", "--cuda-graphs"], "give both"),
        (["--model", "x", "--small"], "--small and --image-size go with --random-weights"),
        (["--random-weights", "--image-size", "100"], "image size: got 100; accepted are multiples of 8"),
        (["--random-weights", "--small", "--memory-gib", "0.00001"], "--prior.memory_gib: got 1e-05"),
    ],
)
def test_bad_options_are_named(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prior", *options, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
