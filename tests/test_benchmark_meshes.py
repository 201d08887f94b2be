"""The benchmark of meshes: its distances against closed forms, and a small run of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import trimesh

from scaledreamer.meshing.mesh import Mesh
from tools.benchmark.__main__ import main
from tools.benchmark.meshes import Surface


def test_distances_between_balls_are_those_of_their_radii_and_centres():
    def sphere(radius: float, x: float = 0.0) -> Any:
        solid = trimesh.creation.icosphere(subdivisions=4, radius=radius)
        moved = np.asarray(solid.vertices, np.float32) + np.array([x, 0, 0], np.float32)
        return Surface(Mesh(moved, np.asarray(solid.faces, np.int32)), 5000)

    concentric = sphere(0.5).distance(sphere(0.6))
    assert concentric["hausdorff"] == pytest.approx(0.1, abs=0.003)
    assert concentric["rms"] == pytest.approx(0.1, abs=0.003)
    beside = sphere(0.5).distance(sphere(0.5, 0.2))
    assert beside["hausdorff"] == pytest.approx(0.2, abs=0.005)  # along the x axis; less elsewhere
    assert 0.08 < beside["rms"] < 0.15
    assert sphere(0.5).distance(sphere(0.5))["hausdorff"] < 1e-6


def test_small_run_finds_manifolds_within_their_budget(tmp_path, capsys):
    options = ["--prompts", "2", "--max-faces", "500", "--points", "500", "--resolution", "32"]
    assert main(["meshes", *options, "--json", str(tmp_path / "report.json")]) == 0
    assert "not simplified" in capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads((tmp_path / "report.json").read_text())["rows"]}
    ours = rows["scaledreamer"]
    assert ours["watertight"] == ours["edge_manifold"] == ours["vertex_manifold"] == 2
    assert ours["torn"] == ours["over"] == 0 and ours["faces"] <= 500
    assert 0 < ours["rms"] < ours["hausdorff"] < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-faces", "1000,many"], "--max-faces 1000,many: accepted are numbers from 50"),
        (["--max-faces", "10"], "--max-faces 10: accepted are numbers from 50"),
        (["--prompts", "1"], "--prompts takes at least 2"),
    ],
)
def test_wrong_options_are_named(capsys, options, message):
    assert main(["meshes", *options]) == 2
    assert message in capsys.readouterr().err
