"""The pipeline from prompt to files, and its exports; foreign or damaged ones are in test_bad_input."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file
from trimesh.visual import TextureVisuals

from scaledreamer.exported import INDEX, SHIPPED, find_generator, read_index
from scaledreamer.meshing.isosurface import EmptySurfaceError
from scaledreamer.pipeline import Asset, TextTo3D
from scaledreamer.rendering.volume import VolumeRenderer
from tests.support.analytic_scenes import AnalyticScene, ball, box, position_color, union
from tests.support.tiny_export import tiny_pipeline

PROMPT = "a red-eyed tree frog"


@pytest.fixture(scope="module")
def pipe() -> TextTo3D:
    return tiny_pipeline()


@pytest.fixture
def exported(pipe: TextTo3D, tmp_path: Path) -> Path:
    pipe.save_pretrained(tmp_path / "generator", dtype=torch.float32)
    return tmp_path / "generator"


def nose_asset() -> Asset:
    """A ball with a nose towards +x, coloured by position."""
    return Asset(
        "a nose", 0, AnalyticScene(union(ball(radius=0.4), box((0.5, 0, 0), (0.2, 0.1, 0.1))), position_color)
    )


def test_asset_exports_glb_upright_and_colored(tmp_path):
    path = nose_asset().export(tmp_path / "new" / "nose.glb", resolution=64, texture_size=128, max_faces=1500)
    mesh = trimesh.load(path, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh) and len(mesh.faces) <= 1500
    assert mesh.bounds[1][2] == pytest.approx(0.7, abs=0.03)  # +z of glTF is the front
    assert mesh.bounds[:, 1] == pytest.approx([-0.4, 0.4], abs=0.03)
    assert isinstance(mesh.visual, TextureVisuals)
    colors = mesh.visual.to_color().vertex_colors[:, :3] / 255
    world = mesh.vertices[:, [2, 0, 1]]
    assert np.quantile(np.abs(colors - (world + 1) / 2).max(axis=1), 0.9) < 0.1


def test_more_faces_than_asked_for_are_said():
    balls = [ball((x, y, z), 0.15) for x in (-0.6, 0, 0.6) for y in (-0.6, 0, 0.6) for z in (-0.4, 0.4)]
    asset = Asset("balls", 0, AnalyticScene(union(*balls)))
    report = asset.textured_mesh(resolution=32, max_faces=50, texture_size=64).report
    assert report.is_manifold and (report.bodies, report.faces) == (18, 4 * 18)
    assert asset.notes == [
        "the mesh has 72 faces, more than the 50 asked for: fewer would tear its bodies and handles apart"
    ]


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_asset_stands_on_the_ground_as_long_as_asked_for_in_every_format(tmp_path, suffix):
    settings = {"resolution": 32, "texture_size": 64, "ground": True, "scale": 30.0}
    path = nose_asset().export(tmp_path / f"nose.{suffix}", **settings)
    mesh = trimesh.load(path, force="mesh", process=False)
    up, front = (2, 0) if suffix == "ply" else (1, 2)
    assert mesh.bounds[0][up] == pytest.approx(0, abs=1e-5)
    assert mesh.extents.argmax() == front and mesh.extents[front] == pytest.approx(30, rel=1e-4)


def test_glb_says_under_which_terms_it_may_be_used(tmp_path, pipe, exported):
    read = {}
    for name, source in {"shipped": None, "trained": exported}.items():
        terms = TextTo3D.from_pretrained(source).terms_of_use
        asset = Asset("A red frog!", 0, nose_asset().scene, terms_of_use=terms)
        data = asset.export(tmp_path / f"{name}.glb", resolution=32, texture_size=64).read_bytes()
        read[name] = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert read["shipped"]["asset"]["copyright"].startswith("Free to use for any purpose")
    assert "licence of the prior" in read["trained"]["asset"]["copyright"]
    assert read["shipped"]["meshes"][0]["name"] == "a-red-frog"
    assert read["shipped"]["asset"]["extras"]["mesh"]["bodies"] == 1


def test_asset_mesh_is_in_world_axes_and_made_once():
    asset = nose_asset()
    assert asset.mesh.bounds[1][0] == pytest.approx(0.7, abs=0.03)
    assert asset.textured_mesh() is asset.textured_mesh()


@pytest.mark.parametrize("renderer", ["mesh", "volume"])
def test_turntable_begins_at_the_front_and_turns_counter_clockwise(renderer):
    frames = nose_asset().turntable(4, 48, elevation_deg=0, renderer=renderer, background="transparent")
    assert frames.shape == (4, 48, 48, 4) and frames.dtype == np.uint8
    covered = frames[:, :40, :, 3] > 128  # without the shadow
    columns = [np.nonzero(mask)[1] for mask in covered]
    assert columns[0].mean() == pytest.approx(23.5, abs=0.6)  # the nose points at the camera
    # Seen from +y, its left side, the nose points to the image's left: most of what is seen is to the right.
    to_right = [column.mean() - (column.min() + column.max()) / 2 for column in columns]
    assert to_right[1] > 1 and to_right[3] < -1


def test_asset_exports_pictures_and_refuses_other_suffixes(tmp_path):
    asset = nose_asset()
    asset.export(tmp_path / "views.png")
    assert Image.open(tmp_path / "views.png").size == (4 * 256, 256)
    with pytest.raises(ValueError, match=r"cannot export nose\.fbx: accepted are .*\.glb"):
        asset.export(tmp_path / "nose.fbx")
    with pytest.raises(ValueError, match="resolution, ground, scale.*belong to .glb"):
        asset.export(tmp_path / "views.png", resolution=64, ground=True, scale=2.0)


def test_an_asset_without_surface_says_so_and_writes_nothing(tmp_path):
    asset = Asset("nothing", 0, AnalyticScene(lambda points: torch.ones_like(points[..., 0])))
    for kind in ("glb", "png", "mp4"):
        with pytest.raises(EmptySurfaceError, match="no surface"):
            asset.export(tmp_path / "new" / f"nothing.{kind}")
    assert not list(tmp_path.iterdir())


def test_saved_and_loaded_pipeline_gives_the_same_scene(pipe, exported):
    loaded = TextTo3D.from_pretrained(exported, device="cpu")
    points = torch.rand(1, 50, 3) * 2 - 1
    for ours, theirs in zip(
        pipe(PROMPT).scene.query(points), loaded(PROMPT).scene.query(points), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert (loaded.step, loaded.generator_name) == (7, "hyper_ingp")
    assert loaded.cameras == pipe.cameras and loaded.renderer == pipe.renderer
    assert loaded.checkpoint_hash is not None and len(loaded.checkpoint_hash) == 64


def test_an_export_from_before_renderers_had_names_still_loads(exported, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(exported, folder)
    index = json.loads((folder / INDEX).read_text())
    index["renderer"] = {"num_resampled": 10, "inverse_deviation": 50.0}
    (folder / INDEX).write_text(json.dumps(index))
    loaded = TextTo3D.from_pretrained(folder, device="cpu")
    assert loaded.renderer == {"name": "volume", "num_resampled": 10, "beta": 0.02}
    assert loaded.make_renderer() == VolumeRenderer(num_resampled=10, beta=0.02)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "raytracer"}, "renderer 'raytracer': accepted is 'volume'"),
        ({"name": "volume", "sharpness": 3.0}, "renderer volume: no such setting: sharpness"),
        (
            {"name": "volume", "near": 7.0},
            "renderer in model_index.json: near is 7.0 .*; export the generator again",
        ),
    ],
)
def test_a_renderer_that_there_is_not_is_named(exported, tmp_path, section, message):
    folder = tmp_path / "odd"
    shutil.copytree(exported, folder)
    index = json.loads((folder / INDEX).read_text()) | {"renderer": section}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        TextTo3D.from_pretrained(folder, device="cpu")


def test_export_holds_no_pickle_and_half_precision_by_default(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "export")
    names = {path.suffix for path in (tmp_path / "export").rglob("*") if path.is_file()}
    assert names <= {".json", ".safetensors", ".md", ".txt"}
    weights = load_file(tmp_path / "export" / "generator" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert (
        TextTo3D.from_pretrained(tmp_path / "export")(PROMPT).textured_mesh(resolution=32).report.is_manifold
    )


def test_exporting_again_replaces_all_but_the_readme_and_foreign_folders_are_refused(pipe, exported):
    (exported / "README.md").write_text("model card")
    (exported / "generator" / "old.bin").write_text("old")
    pipe.save_pretrained(exported)
    assert (exported / "README.md").read_text() == "model card"
    assert not (exported / "generator" / "old.bin").exists()
    assert [path.name for path in exported.parent.iterdir()] == ["generator"]
    (exported.parent / "mine").mkdir()
    (exported.parent / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="mine is not empty and not an exported generator"):
        pipe.save_pretrained(exported.parent / "mine")


def test_seed_changes_nothing_for_a_generator_without_noise(pipe):
    points = torch.rand(1, 20, 3)
    assert torch.equal(pipe(PROMPT, seed=1).scene.sdf(points), pipe(PROMPT, seed=2).scene.sdf(points))


def test_a_run_folder_leads_to_its_generator(exported):
    assert find_generator(exported.parent) == exported
    assert find_generator(exported) == exported
    assert find_generator(str(exported.parent)) == exported


def test_without_a_folder_the_shipped_generator_is_meant():
    if SHIPPED.is_dir():
        assert find_generator(None) == SHIPPED
    else:
        with pytest.raises(ValueError, match="shipped generator is missing"):
            find_generator(None)


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_there_is_named(exported, device):
    with pytest.raises(ValueError, match=f"device '?{device}"):
        TextTo3D.from_pretrained(exported, device=device)


def test_unknown_words_and_cut_ends_are_noted(pipe):
    with pytest.warns(UserWarning, match="does not know.*'steampunk', 'zeppelin'"):
        asset = pipe("a steampunk frog on a zeppelin")
    assert len(asset.notes) == 1
    prompt = "a frog " + "wearing a red hat " * 20 + "on a blue box"
    (note,) = pipe.check(prompt)
    assert "reads 32 tokens; ignored from here on: 'wearing a red hat wearing" in note
    assert (
        prompt.split()[30] == "wearing" and pipe.conditioner.num_tokens(" ".join(prompt.split()[:30])) == 32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe(PROMPT).notes == []


@pytest.mark.parametrize("prompt", ["青い蛙", "zzz qqq", "the", "🐸", "зелёная лягушка"])
def test_a_prompt_without_any_known_word_is_refused(pipe, prompt):
    with pytest.raises(ValueError, match="knows no word of the prompt"):
        pipe(prompt)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "empty"), (" \n\t", "empty"), ("a" * 10_001, "10001 characters"), ("\udcff", "UTF-8")],
)
def test_an_impossible_prompt_is_refused_before_anything_runs(pipe, prompt, message):
    with pytest.raises(ValueError, match=message):
        pipe(prompt)


def test_index_of_an_export_is_complete(exported):
    index = read_index(exported)
    assert (
        index["generator"]["name"] == "hyper_ingp" and index["generator"]["settings"]["condition_dim"] == 16
    )
    assert index["step"] == 7 and index["cameras"]["fov_deg"] == [38.0, 44.0]
