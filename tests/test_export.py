"""Files, read back by readers that share no code with the writers: glTF by its specification, video."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from scaledreamer.meshing.export import (
    contact_sheet,
    file_stem,
    place,
    save_bytes,
    save_gif,
    save_glb,
    save_mp4,
    save_obj,
    save_ply,
    save_png,
    to_gltf_axes,
)
from scaledreamer.meshing.isosurface import extract_surface
from scaledreamer.meshing.texture import TexturedMesh, texture_mesh
from tests.support.analytic_scenes import AnalyticScene, ball, box, position_color, union

# Taller than wide, a nose towards +x, a mark on the left (+y): front, up and handedness all show.
FIGURE = union(
    box((0, 0, 0), (0.2, 0.25, 0.5)), ball((0.45, 0.0, 0.3), 0.15), box((0.0, 0.35, -0.3), (0.1, 0.2, 0.1))
)


@pytest.fixture(scope="module")
def textured() -> TexturedMesh:
    scene = AnalyticScene(FIGURE, position_color)
    return texture_mesh(scene, extract_surface(scene, resolution=64, max_faces=2000), texture_size=256)


@pytest.fixture(scope="module")
def glb(textured: TexturedMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "figure.glb"
    save_glb(path, textured, {"prompt": "a figure"}, name="a-figure", terms_of_use="Free to use")
    return path


class PlainGltf:
    """GLB by the letter of the glTF 2.0 specification: header, JSON chunk, binary chunk, accessors."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        json_length, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        self.tree: dict[str, Any] = json.loads(data[20 : 20 + json_length])
        binary_length, kind = struct.unpack_from("<I4s", data, 20 + json_length)
        assert kind == b"BIN\0"
        self.binary = data[28 + json_length :][:binary_length]

    def view(self, index: int) -> bytes:
        view = self.tree["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self.binary[start : start + view["byteLength"]]

    def array(self, index: int) -> np.ndarray:
        accessor = self.tree["accessors"][index]
        dtype = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        data = self.view(accessor["bufferView"])[accessor.get("byteOffset", 0) :]
        return np.frombuffer(data, dtype, accessor["count"] * width).reshape(-1, width)

    def primitive(self) -> dict[str, Any]:
        (mesh,) = self.tree["meshes"]
        (primitive,) = mesh["primitives"]
        return primitive

    def base_color(self) -> np.ndarray:
        material = self.tree["materials"][self.primitive()["material"]]["pbrMetallicRoughness"]
        texture = self.tree["textures"][material["baseColorTexture"]["index"]]
        image = self.tree["images"][texture["source"]]
        assert image["mimeType"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(self.view(image["bufferView"]))).convert("RGB"))


def test_glb_read_by_the_specification_stands_upright_and_faces_plus_z(glb):
    gltf = PlainGltf(glb)
    for node in gltf.tree["nodes"]:  # positions are used as they are stored
        assert not {"rotation", "scale", "translation"} & node.keys()
        np.testing.assert_array_equal(node.get("matrix", np.eye(4).ravel()), np.eye(4).ravel())
    x, y, z = gltf.array(gltf.primitive()["attributes"]["POSITION"]).T
    assert (y.min(), y.max()) == pytest.approx((-0.5, 0.5), abs=0.02)  # world z is up
    assert (z.min(), z.max()) == pytest.approx((-0.2, 0.6), abs=0.02)  # the nose, world +x
    assert (x.min(), x.max()) == pytest.approx((-0.25, 0.55), abs=0.02)  # world +y, the figure's left
    normals = gltf.array(gltf.primitive()["attributes"]["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)


def test_glb_read_by_the_specification_shows_each_point_in_its_color(glb):
    gltf = PlainGltf(glb)
    attributes = gltf.primitive()["attributes"]
    positions, uv = gltf.array(attributes["POSITION"]), gltf.array(attributes["TEXCOORD_0"])
    faces = gltf.array(gltf.primitive()["indices"]).reshape(-1, 3)
    image = gltf.base_color()
    centers, center_uv = positions[faces].mean(axis=1), uv[faces].mean(axis=1)
    size = len(image)  # glTF: v = 0 is the top of the image
    column, row = (center_uv * size).astype(int).clip(0, size - 1).T
    world = centers[:, [2, 0, 1]]
    error = np.abs(image[row, column] / 255 - (world + 1) / 2).max(axis=1)
    assert np.quantile(error, 0.98) < 0.02


def test_glb_is_matt_and_says_where_it_comes_from(glb):
    gltf = PlainGltf(glb)
    material = gltf.tree["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and material["roughnessFactor"] == 1
    assert np.allclose(material.get("baseColorFactor", [1, 1, 1, 1]), 1)
    assert gltf.tree["asset"]["generator"].startswith("scaledreamer")
    assert gltf.tree["asset"]["extras"] == {"prompt": "a figure"}
    assert gltf.tree["asset"]["copyright"] == "Free to use"
    assert [mesh["name"] for mesh in gltf.tree["meshes"]] == ["a-figure"]
    assert [node["name"] for node in gltf.tree["nodes"] if "mesh" in node] == ["a-figure"]


@pytest.mark.parametrize("scale", [None, 1.8, 250.0])
def test_a_mesh_is_placed_on_the_ground_and_as_long_as_asked_for(textured, scale):
    placed = place(textured, ground=True, scale=scale).atlas
    before = textured.atlas.vertices
    assert placed.vertices[:, 2].min() == 0
    factor = np.ptp(placed.vertices, axis=0) / np.ptp(before, axis=0)
    np.testing.assert_allclose(factor, factor[0], rtol=1e-4)  # its shape stays
    assert np.ptp(placed.vertices, axis=0).max() == pytest.approx(scale or np.ptp(before, axis=0).max())
    np.testing.assert_allclose(placed.vertices[:, :2], before[:, :2] * factor[0], rtol=1e-4, atol=1e-4)


def test_a_mesh_that_is_only_scaled_keeps_the_centre_of_the_scene_cube(textured):
    placed = place(textured, scale=2 * float(np.ptp(textured.atlas.vertices, axis=0).max()))
    np.testing.assert_allclose(placed.atlas.vertices, 2 * textured.atlas.vertices, rtol=1e-6)
    assert place(textured).atlas.vertices.tobytes() == textured.atlas.vertices.tobytes()


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_length_is_refused(textured, scale):
    with pytest.raises(ValueError, match="scale is .*accepted are metres above 0"):
        place(textured, scale=scale)


def test_glb_read_by_trimesh_has_its_volume_and_faces_outward(glb, textured):
    loaded = trimesh.load(glb, force="mesh", process=False)
    assert isinstance(loaded, trimesh.Trimesh)
    assert isinstance(loaded.visual, TextureVisuals) and loaded.visual.uv is not None
    assert textured.report.is_manifold
    expected = 0.4 * 0.5 * 1.0 + 4 / 3 * np.pi * 0.15**3 + 0.2 * 0.3 * 0.2
    assert loaded.volume == pytest.approx(expected, rel=0.03)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight
    assert (loaded.face_normals * loaded.vertex_normals[loaded.faces].mean(axis=1)).sum(axis=1).min() > -0.1


def test_gltf_axes_are_a_rotation():
    turned = to_gltf_axes(np.eye(3)).T  # columns: where the world's axes go
    assert np.linalg.det(turned) == pytest.approx(1)
    np.testing.assert_array_equal(turned @ [1, 0, 0], [0, 0, 1])
    np.testing.assert_array_equal(turned @ [0, 0, 1], [0, 1, 0])


def test_video_has_its_frames_size_and_colors(tmp_path):
    frames = np.zeros((6, 48, 64, 3), np.uint8)
    frames[:, :, :32, 0] = 255
    frames[3:, :, 32:, 2] = 255
    save_mp4(tmp_path / "clip.mp4", frames, fps=12)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "clip.mp4"))
    meta = next(reader)
    read = np.stack([np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in reader])
    assert meta["size"] == (64, 48) and meta["fps"] == 12 and meta["codec"] == "h264"
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames)[:, 4:-4, 4:28].mean() < 8
    assert np.abs(read.astype(int) - frames)[:, 4:-4, 36:60].mean() < 8


def test_a_failing_ffmpeg_is_one_clear_message_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(ValueError, match=r"could not write the video .*clip\.mp4.*--formats glb,png"):
        save_mp4(tmp_path / "clip.mp4", np.zeros((2, 32, 32, 3), np.uint8), fps=12)
    assert not list(tmp_path.iterdir())


def test_gif_and_png_are_read_back(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[2:, ..., 1] = 200
    save_gif(tmp_path / "a.gif", frames, fps=10)
    with Image.open(tmp_path / "a.gif") as image:
        assert getattr(image, "n_frames", 1) in (2, 4) and image.size == (16, 16)  # pillow joins equal frames
    save_png(tmp_path / "a.png", frames[3])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), frames[3])


def test_contact_sheet_fills_rows_from_the_left():
    images = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (4, 6, 3)
    assert (sheet[:2, :3] == 10).all() and (sheet[:2, 3:] == 20).all()
    assert (sheet[2:, :3] == 30).all() and (sheet[2:, 3:] == 255).all()
    assert contact_sheet(images[:1]).shape == (2, 3, 3)


@pytest.mark.parametrize(
    "prompt",
    [
        "a red-eyed tree frog",
        "../../etc/passwd",
        "a" * 5000,
        "青い蛙",
        "CON",
        'a/b\\c:d*e?"f<g>|h\0i\nj',
        ".",
        " ",
    ],
)
def test_file_names_are_safe_and_short(prompt):
    stem = file_stem(prompt)
    assert len(stem) <= 73 and not set(stem) - set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert stem[0] != "-"


def test_file_names_never_collide_and_repeat_for_the_same_asset():
    prompts = ["a cat", "A cat", "a  cat", "a cat!", "a-cat", "蛙", "猫", "x" * 100 + "1", "x" * 100 + "2"]
    stems = [
        file_stem(prompt, seed, checkpoint) for prompt in prompts for seed in (0, 1) for checkpoint in "ab"
    ]
    assert len({stem.lower() for stem in stems}) == len(stems)
    assert file_stem("a cat", 0, "a") == file_stem("a cat", 0, "a")
    assert file_stem("a red-eyed tree frog").startswith("a-red-eyed-tree-frog-")


def test_writing_replaces_whole_files_or_leaves_them_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    save_bytes(path, b"old")
    save_bytes(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o666 & ~_umask()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bytes(path, b"newer")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Positions and texture coordinates of every face's corners, their numbers, and the texture's name."""
    columns: dict[str, list[list[str]]] = {"v": [], "vt": [], "f": [], "mtllib": [], "usemtl": []}
    for line in path.read_text().splitlines():
        key, *values = line.split() or [""]
        if key in columns:
            columns[key].append(values)
    corners = np.array(
        [[int(i) - 1 for i in corner.split("/")[:2]] for face in columns["f"] for corner in face]
    )
    positions, uv = (np.array(columns[key], float) for key in ("v", "vt"))
    ((library,),) = columns["mtllib"]
    ((material,),) = columns["usemtl"]
    lines = (path.parent / library).read_text().splitlines()
    entries = dict(line.split(maxsplit=1) for line in lines)
    assert entries["newmtl"] == material
    return positions[corners[:, 0]], uv[corners[:, 1]], corners[:, 0], entries["map_Kd"]


def test_obj_read_by_its_specification_stands_upright_and_shows_each_point_in_its_color(textured, tmp_path):
    save_obj(tmp_path / "figure.obj", textured)
    positions, uv, _, texture = read_obj(tmp_path / "figure.obj")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["figure-texture.png", "figure.mtl", "figure.obj"]
    assert (positions[:, 1].min(), positions[:, 1].max()) == pytest.approx((-0.5, 0.5), abs=0.02)
    assert positions[:, 2].max() == pytest.approx(0.6, abs=0.02)  # the nose, world +x
    image = np.asarray(Image.open(tmp_path / texture))
    size = len(image)  # OBJ: v = 0 is the bottom of the image
    centers, (u, v) = positions.reshape(-1, 3, 3).mean(1), uv.reshape(-1, 3, 2).mean(1).T
    column, row = (u * size).astype(int).clip(0, size - 1), ((1 - v) * size).astype(int).clip(0, size - 1)
    error = np.abs(image[row, column] / 255 - (centers[:, [2, 0, 1]] + 1) / 2).max(axis=1)
    assert np.quantile(error, 0.98) < 0.02


@pytest.mark.parametrize("failing", ["figure-texture.png", "figure.mtl", "figure.obj"])
@pytest.mark.parametrize("kind", ["write", "rename"])
def test_an_obj_that_cannot_be_written_leaves_nothing(textured, tmp_path, monkeypatch, failing, kind):
    original, suffix = os.replace, Path(failing).suffix
    if kind == "write":
        open_as = Path.open

        def full(path: Path, *rest: Any, **more: Any) -> Any:
            return open_as(Path("/dev/full") if path.suffix == suffix else path, *rest, **more)

        monkeypatch.setattr(Path, "open", full)
    else:

        def refuse(source: Path, target: Path) -> None:
            if target.name == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(source, target)

        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_obj(tmp_path / "figure.obj", textured)
    assert caught.value.filename.startswith(str(tmp_path / "figure"))
    assert not list(tmp_path.iterdir())


def test_an_obj_that_cannot_be_written_leaves_the_one_before(textured, tmp_path, monkeypatch):
    save_obj(tmp_path / "figure.obj", textured)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    open_as = Path.open

    def full(path: Path, *rest: Any, **more: Any) -> Any:
        return open_as(Path("/dev/full") if path.suffix == ".obj" else path, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_obj(tmp_path / "figure.obj", dataclasses.replace(textured, texture=255 - textured.texture))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ply_read_by_its_header_has_each_vertex_in_its_color(textured, tmp_path):
    save_ply(tmp_path / "figure.ply", textured)
    data = (tmp_path / "figure.ply").read_bytes()
    head, _, body = data.partition(b"end_header\n")
    lines = [line.split() for line in head.decode().splitlines()]
    assert ["format", "binary_little_endian", "1.0"] in lines
    (count,) = (int(line[2]) for line in lines if line[:2] == ["element", "vertex"])
    start, end = (
        lines.index(next(ln for ln in lines if ln[:2] == ["element", n])) for n in ("vertex", "face")
    )
    types = {"float": "<f4", "uchar": "u1"}
    row = np.dtype([(line[2], types[line[1]]) for line in lines[start + 1 : end] if line[0] == "property"])
    vertices = np.frombuffer(body, row, count)
    points = np.stack([vertices[axis] for axis in "xyz"], 1)
    assert (points[:, 2].min(), points[:, 2].max()) == pytest.approx((-0.5, 0.5), abs=0.02)  # z up
    assert points[:, 0].max() == pytest.approx(0.6, abs=0.02)
    rgb = np.stack([vertices[name] for name in ("red", "green", "blue")], 1) / 255
    assert np.quantile(np.abs(rgb - (points + 1) / 2).max(1), 0.95) < 0.02
