"""The demo's page in headless Chromium, opened as a file: no complaint on the console, meshes that show."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from scaledreamer.evaluation.page import Card, Section, data_uri, render_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt install chromium)"),
]
QUIET = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
RED, GREEN = (220, 20, 20), (20, 160, 20)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two assets: a red mesh beside green turntables, and one without a mesh."""
    folder = tmp_path_factory.mktemp("page")
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    colors = np.tile((*RED, 255), (len(ball.vertices), 1))
    ball = trimesh.Trimesh(ball.vertices, ball.faces, vertex_colors=colors)
    ball.export(folder / "ball.glb")
    Image.new("RGB", (128, 128), GREEN).save(folder / "turntable.gif")
    model, turntable = data_uri(folder / "ball.glb"), data_uri(folder / "turntable.gif")
    entry = {"value": 0.5, "standard_error": 0.1, "ceiling": 1.0, "floor": 0.0, "normalised": 0.5}
    names = "hard_r1 plain_r1 similarity iou iou_aligned silhouette_iou image_error janus_rate"
    report = {name: entry for name in [*names.split(), "seconds_per_asset"]}
    report |= {"hard_r1_by_attribute": {"color": entry}, "gallery_size": 64, "num_distractors": 24.0}
    cards = [Card("a red ball", turntable, turntable, model), Card("nothing", turntable, turntable)]
    curves = {"loss": ([0.0, 1.0, 2.0], [3.0, 1.0, 2.0])}
    text = render_page(
        "Title", ["fact"], ["make demo"], [Section("Unseen prompts", "", cards, report)], curves
    )
    path = folder / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_page_opens_from_a_file_without_complaint_and_shows_mesh_and_turntables(
    page, tmp_path, width, height
):
    picture = tmp_path / "page.png"
    profile = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"]
    output = [f"--screenshot={picture}", "--enable-logging=stderr", "--virtual-time-budget=30000"]
    found = subprocess.run(
        [str(BROWSER), "--headless", *SOFTWARE, *QUIET, *profile, *output, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # The viewer waits one second of the browser's clock for a frame; that clock runs ahead on a busy machine.
    said = [s for s in found.stderr.splitlines() if "CONSOLE" in s and "rAF timed out" not in s]
    assert not said, said
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 80) & (pixels[..., 0] > pixels[..., 2] + 80)
    green = (pixels[..., 1] > pixels[..., 0] + 80) & (pixels[..., 1] > pixels[..., 2] + 80)
    assert red.sum() > 5_000  # the mesh
    assert green.sum() > 10_000  # two turntables or more
    assert np.flatnonzero((red | green).any(0)).max() < width - 8  # nothing is cut off at the right
