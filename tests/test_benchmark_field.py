"""The benchmark of the hash grid's backends: its numbers add up, and what it compares computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer.fields.pyramid import make_pyramid
from tests.support import reference_fields
from tools.benchmark import field
from tools.benchmark.__main__ import main


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_add_up(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--grid", "tiny", "--points", "200", "--repeats", "2", "--device", "cpu", "--dtype", dtype]
    assert main(["field", *options, "--with-points", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["left_out"]) <= {"triton", "tinycudann"} and report["points"] == 200
    for order in ("random", "rays"):
        found = report["grids"]["tiny"][order]
        assert {"naive torch", "torch"} <= set(found)
        for backend in found.values():
            both = backend["forward_seconds"] + backend["backward_seconds"]
            assert backend["points_per_second"] == pytest.approx(200 / both)
            naive = sum(found["naive torch"][f"{part}_seconds"] for part in ("forward", "backward"))
            assert backend["times_naive"] == pytest.approx(naive / both)
            tolerance = 1e-5 if dtype == "float32" else 3e-3
            assert max(backend["features_error"], backend["gradient_error"]) < tolerance
    printed = capsys.readouterr().out
    assert "naive torch" in printed and f"200 points, features in {dtype}" in printed


def test_the_naive_grid_is_one():
    settings: dict[str, Any] = {"num_levels": 3, "base_resolution": 4, "growth": 1.58, "log2_table_size": 8}
    pyramid = make_pyramid(**settings)
    table = torch.randn(pyramid.num_entries, 2, generator=torch.Generator().manual_seed(0)).double()
    points = field.make_points("random", 9).double()
    expected = reference_fields.hash_grid(table, points, **settings)
    torch.testing.assert_close(field.encode_naively(table, points, pyramid), expected)


def test_points_in_order_lie_along_chords_of_the_cube():
    points = field.make_points("rays", 200)
    assert points.shape == (200, 3) and float(points.abs().max()) <= 1 + 1e-6
    steps = points[:128].view(2, 64, 3).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(points[[0, 63]].abs().amax(1), torch.ones(2))


@pytest.mark.parametrize("option", ["--points", "--repeats"])
@pytest.mark.parametrize("value", ["-1", "0"])
def test_bad_options_are_named(option: str, value: str, capsys: pytest.CaptureFixture[str]):
    assert main(["field", option, value, "--grid", "tiny", "--device", "cpu"]) == 2
    assert "--points and --repeats take at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "--device: got 'tpu'; accepted are cpu, cuda and cuda:<number>"),
        (["--device", "cuda:77"], "--device cuda:77: torch finds "),
        (["--points", "0", "--device", "cpu"], "--points and --repeats take at least 1"),
    ],
)
def test_devices_that_are_not_there_and_no_points_are_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["field", *options]) == 2
    assert f"error: {message}" in capsys.readouterr().err
