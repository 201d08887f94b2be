"""The benchmarks of rendering and of generators at small sizes: their numbers belong together."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import get_args

import pytest

from scaledreamer.config import GeneratorSettings
from tools.benchmark.__main__ import main


def test_render_compares_ways_to_the_same_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--image-size", "12", "--prompts", "2", "--repeats", "1", "--even-samples", "100"]
    assert main(["render", *options, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = report["rows"]
    whole = rows["ours, nothing left out"]
    assert whole["query_points"] == 2 * 12**2 * report["num_rendered"]
    assert rows["ours"]["query_points"] < rows["ours, prompts together"]["query_points"]
    assert rows["ours, prompts together"]["query_points"] < whole["query_points"]
    assert rows["ours, with normals"]["sdf_points"] > 6 * rows["ours"]["query_points"]
    for name, row in rows.items():
        assert row["forward"] > 0 and row["backward"] > 0
        if not name.endswith("even samples"):
            assert row["rms_error"] < 0.02
    assert (report["nerfacc"] is None) == (importlib.util.find_spec("nerfacc") is None)
    text = capsys.readouterr().out
    assert all(name in text for name in rows) and "on a GPU not measured" in text


def test_render_takes_settings_and_the_configurations_generator(tmp_path: Path):
    options = ["--image-size", "8", "--prompts", "1", "--repeats", "1", "--even-samples", "20"]
    settings = ["renderer.volume.num_resampled=4", "generator.hyper_ingp.num_levels=2"]
    file = tmp_path / "report.json"
    assert main(["render", "--field", "initial", *options, "--json", str(file), *settings]) == 0
    report = json.loads(file.read_text())
    assert (report["num_rendered"], report["field"]) == (4, "initial")


def test_render_measures_itself_on_a_field_that_costs_nothing(tmp_path: Path):
    options = ["--image-size", "16", "--prompts", "2", "--repeats", "1", "--even-samples", "400"]
    file = tmp_path / "report.json"
    assert main(["render", "--field", "sphere", *options, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert rows["ours, nothing left out"]["query_points"] == 2 * 16**2 * 10
    assert all(row["rms_error"] < 0.02 for name, row in rows.items() if "even" not in name)


def test_generator_measures_every_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--prompts", "2", "--repeats", "1", "--points", "64"]
    assert main(["generator", *options, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["rows"]) == set(get_args(GeneratorSettings.model_fields["name"].annotation))
    text = capsys.readouterr().out
    for name, row in report["rows"].items():
        assert name in text
        assert row["parameters"] > 1000 and row["peak_bytes"] > 0 and row["backward"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "--image-size", "2"], "--image-size takes at least 4"),
        (["render", "--prompts", "0"], "--prompts takes at least 1"),
        (["generator", "--repeats", "0"], "--repeats takes at least 1"),
        (["generator", "--points", "0"], "--points takes at least 1"),
        (["render", "renderer.image_size=3"], "renderer.image_size: got 3"),
    ],
)
def test_bad_options_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    assert message in capsys.readouterr().err
