"""The demo's page in headless Chromium, opened as a file: no complaint on the console, meshes centred."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from scaledreamer.evaluation.page import Card, Section, View, data_uri, render_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt install chromium)"),
]
QUIET = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
RED, GREEN = (220, 20, 20), (20, 160, 20)
FRAME = (204, 212, 221)
"""Behind a mesh, as the page's style has it."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red mesh leads; below it a mesh, a green picture and an object without a surface, side by side."""
    folder = tmp_path_factory.mktemp("page")
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    colors = np.tile((*RED, 255), (len(ball.vertices), 1))
    ball = trimesh.Trimesh(ball.vertices, ball.faces, vertex_colors=colors)
    ball.export(folder / "ball.glb")
    Image.new("RGB", (128, 128), GREEN).save(folder / "picture.png")
    model, picture = data_uri(folder / "ball.glb"), data_uri(folder / "picture.png")
    entry = {"value": 0.5, "standard_error": 0.1, "ceiling": 1.0, "floor": 0.0, "normalised": 0.5}
    names = "hard_r1 plain_r1 similarity iou iou_aligned silhouette_iou image_error janus_rate"
    report = {name: entry for name in [*names.split(), "seconds_per_asset"]}
    report |= {"hard_r1_by_attribute": {"color": entry}, "gallery_size": 64, "num_distractors": 24.0}
    curves = {"loss": ([0.0, 1.0, 2.0], [3.0, 1.0, 2.0])}
    lead = Card("a red ball", [View("shipped", picture, model)])
    cards = [Card("a ball", [View("trained", picture, model), View("true", picture), View("none", None)])]
    sections = [Section("Unseen prompts", "", cards, report)]
    text = render_page("Title", lead, ["fact"], ["make demo"], sections, curves)
    path = folder / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


def take_picture(address: Path, folder: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """What a window shows, `h w 3`, and the console's lines."""
    picture = folder / "page.png"
    profile = [f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}"]
    output = [f"--screenshot={picture}", "--enable-logging=stderr", "--virtual-time-budget=30000"]
    found = subprocess.run(
        [str(BROWSER), "--headless", *SOFTWARE, *QUIET, *profile, *output, address.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # The viewer waits one second of the browser's clock for a frame; that clock runs ahead on a busy machine.
    said = [s for s in found.stderr.splitlines() if "CONSOLE" in s and "rAF timed out" not in s]
    return np.asarray(Image.open(picture).convert("RGB")).astype(int), said


def in_a_frame(page: Path, folder: Path, width: int, height: int) -> Path:
    """A page that shows another one in a frame, which may be narrower than windows may: 500."""
    outer = folder / "outer.html"
    frame = f'<iframe src="{page.as_uri()}" style="border: 0; width: {width}px; height: {height}px"></iframe>'
    outer.write_text(f'<!DOCTYPE html><body style="margin: 0">{frame}', encoding="utf-8")
    return outer


@pytest.mark.parametrize(
    ("width", "height", "is_framed"),
    [(1280, 900, False), (390, 844, True), (390, 844, False)],
    ids=["desktop", "phone", "window made narrow"],
)
def test_the_page_opens_from_a_file_without_complaint_and_shows_pictures_and_a_mesh_in_its_middle(
    page, tmp_path, width, height, is_framed
):
    if is_framed:
        pixels, said = take_picture(in_a_frame(page, tmp_path, width, height), tmp_path, (600, height))
    else:
        pixels, said = take_picture(page, tmp_path, (width, height))
    assert not said, said
    red = (pixels[..., 0] > pixels[..., 1] + 80) & (pixels[..., 0] > pixels[..., 2] + 80)
    green = (pixels[..., 1] > pixels[..., 0] + 80) & (pixels[..., 1] > pixels[..., 2] + 80)
    assert red.sum() > 5_000  # the mesh
    assert green.sum() > 2_000  # the picture, and no poster once the meshes are there
    assert np.flatnonzero((red | green).any(0)).max() < width - 8  # nothing is cut off at the right
    row = np.flatnonzero(red.any(1))[0] + 20  # through the mesh that leads
    mesh = np.flatnonzero(red[row]).mean()
    columns = np.flatnonzero(red[row] | (pixels[row] == FRAME).all(-1))
    frames = np.split(columns, np.flatnonzero(np.diff(columns) > 8) + 1)  # a mesh's edge is neither
    (frame,) = ((found[0] + found[-1]) / 2 for found in frames if found[0] < mesh < found[-1])
    assert mesh == pytest.approx(frame, abs=2)
