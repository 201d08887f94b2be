"""Pictures of meshes: where things are, what colour they have, and that both black and white are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scaledreamer.asset import Asset
from scaledreamer.cameras import orbit_cameras
from scaledreamer.meshing import backdrop, preview
from scaledreamer.meshing.first_hits import PlainHits
from scaledreamer.meshing.isosurface import Mesh, extract_surface
from tests.support.analytic_scenes import AnalyticScene, ball, box, position_color, union

ORBIT = orbit_cameras(8, elevation_deg=15, distance=2.6, fov_deg=41)
SHAPE = union(ball((0.3, -0.2, 0.1), 0.3), box((0.2, 0.3, -0.2), (0.1, 0.4, 0.1)))


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_surface(AnalyticScene(SHAPE), resolution=48)


def plain(value: float, distance=SHAPE) -> Asset:
    return Asset("plain", 0, AnalyticScene(distance, lambda points: torch.full_like(points, value)))


def lit(mesh: Mesh, color: float = 0.5) -> preview.Lit:
    colors = np.full_like(mesh.vertices, color)
    return preview.light(preview.PaintedMesh(mesh, mesh.vertex_normals(), colors))


def luminance(image: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB, as WCAG's contrast takes it."""
    value = image[..., :3] / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    low, high = sorted([float(np.median(luminance(one))), float(np.median(luminance(other)))])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("value", "least"), [(0.0, 5.0), (1.0, 1.4)])
def test_black_and_white_objects_stand_out_from_the_default_background(value, least):
    pictures = plain(value).views(4, 96)
    alpha = plain(value).views(4, 96, background="transparent")[..., 3]
    assert contrast(pictures[alpha == 255], pictures[alpha == 0]) > least


def test_black_has_shape_and_colours_stay_near_their_own():
    black = plain(0.0).views(4, 96, background="transparent")
    inside = black[..., 3] == 255
    assert np.ptp(luminance(black)[inside]) > 0.003 and black[inside].min() > 3
    for value in (0.3, 0.6, 0.9):
        picture = plain(value).views(4, 96, background="transparent")
        shown = picture[picture[..., 3] == 255][:, :3] / 255
        assert abs(np.median(shown) - value) < 0.15 * value + 0.02 and shown.min() > 0.35 * value


def test_all_frames_hold_the_whole_object_at_one_scale(mesh):
    cameras, target = preview.framed(mesh.vertices, ORBIT)
    assert target == pytest.approx((mesh.vertices.min(0) + mesh.vertices.max(0)) / 2)
    assert len(cameras.distance.unique()) == 1
    _, row, column = np.nonzero(preview.render(lit(mesh), cameras, target, 64)[..., 3] > 0.9)
    assert min(row.min(), column.min()) > 1 and max(row.max(), column.max()) < 62
    assert max(np.ptp(row), np.ptp(column)) > 48


def test_small_objects_far_from_the_middle_are_framed_too():
    small = plain(0.2, ball((0.7, -0.6, 0.6), 0.15)).turntable(4, 64, background="transparent")
    for frame in small[..., 3]:
        columns = np.unique(np.nonzero(frame > 250)[1])
        assert columns.mean() == pytest.approx(31.5, abs=1.5) and len(columns) > 25


def test_the_silhouette_is_the_projected_ball_with_a_smooth_edge():
    mesh = extract_surface(AnalyticScene(ball(radius=0.5)), resolution=64)
    camera = orbit_cameras(1, elevation_deg=0, distance=2.6, fov_deg=41)
    image = preview.render(lit(mesh), camera, np.zeros(3), 64)[0]
    radius = np.tan(np.arcsin(0.5 / 2.6)) / np.tan(np.radians(20.5)) * 32
    row, column = np.indices((64, 64)) - 31.5
    away = np.hypot(row, column) - radius
    above = row < 0  # no shadow there
    assert (image[..., 3][(away < -1) & above] == 1).all() and not image[..., 3][(away > 1) & above].any()
    part = image[..., 3][above & (np.abs(away) < 0.6)]
    assert ((part > 0.05) & (part < 0.95)).mean() > 0.5
    assert image[..., 3][above].sum() == pytest.approx(np.pi * radius**2 / 2, rel=0.01)


def test_colours_are_where_the_field_has_them():
    asset = Asset("position", 0, AnalyticScene(ball(radius=0.5), position_color))
    picture = asset.turntable(1, 96, elevation_deg=0, background="transparent")[0] / 255
    strongest = picture[..., :3].max(axis=-1, keepdims=True).clip(min=0.1)
    red, green, blue = (picture[..., :3] / strongest).transpose(2, 0, 1)
    right, left, top = (48, 87), (48, 8), (8, 48)  # the image's right is +y
    assert green[right] == 1 and green[left] < 0.6 and blue[top] == 1 and blue[right] < 0.8
    assert red[48, 48] == 1


def test_the_mesh_is_neither_simplified_nor_baked_for_a_picture(monkeypatch, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("scaledreamer.asset.simplify", refuse)
    monkeypatch.setattr("scaledreamer.asset.texture_mesh", refuse)
    full = Asset.turntable
    monkeypatch.setattr(Asset, "turntable", lambda self, *_, **rest: full(self, 2, 32, **rest))
    asset = plain(0.5)
    assert all(asset.export(tmp_path / f"views{kind}").stat().st_size for kind in (".png", ".gif", ".mp4"))


def test_folds_and_the_ground_below_are_darker(mesh):
    box_on_ground = extract_surface(AnalyticScene(box((0, 0, 0), (0.4, 0.4, 0.4))), resolution=48)
    light = lit(box_on_ground)
    middle = preview.GROUND_CELLS // 2
    assert light.shadow[middle, middle] > 0.9 and light.shadow[0, 0] < 0.2
    assert light.shadow[middle, middle] > light.shadow[middle, middle + 15] > light.shadow[0, 0]
    top = box_on_ground.vertices[:, 2] > 0.399
    assert light.sky[top].min() > 0.95
    dented = extract_surface(
        AnalyticScene(
            lambda p: torch.maximum(box((0, 0, 0), (0.5, 0.5, 0.5))(p), -ball((0, 0, 0.5), 0.35)(p))
        ),
        resolution=48,
    )
    sky = lit(dented).sky
    bottom = (np.linalg.norm(dented.vertices[:, :2], axis=1) < 0.05) & (dented.vertices[:, 2] > 0)
    assert sky[bottom].mean() < 0.8


def test_without_embree_the_picture_is_the_same(mesh):
    cameras, target = preview.framed(mesh.vertices, ORBIT)
    ours = preview.light(lit(mesh).painted, PlainHits(mesh.vertices, mesh.faces))
    some = cameras.select([0, 3])
    difference = np.abs(preview.render(ours, some, target, 48) - preview.render(lit(mesh), some, target, 48))
    assert difference.mean() < 2e-3


def test_the_ground_seen_from_below_has_no_shadow(mesh):
    below = orbit_cameras(2, elevation_deg=-30, distance=2.6, fov_deg=41)
    cameras, target = preview.framed(mesh.vertices, below)
    image = preview.render(lit(mesh), cameras, target, 48)
    assert (image[..., :3].sum(-1)[image[..., 3] > 0] > 0).all()


def test_pictures_without_a_surface_are_blank():
    nothing = Asset("nothing", 0, AnalyticScene(lambda points: torch.ones_like(points[..., 0])))
    assert (nothing.turntable(2, 16, background="#102030") == [16, 32, 48]).all()
    assert not nothing.frame(0, 1, 16, background="transparent", fit=[nothing]).any()


def test_other_assets_set_the_scale_of_a_frame():
    small, large = plain(0.5, ball(radius=0.3)), plain(0.5, ball(radius=0.6))

    def area(fit: list[Asset] | None) -> float:
        return float((small.frame(0, 4, 64, background="transparent", fit=fit)[..., 3] == 255).mean())

    assert area(None) == area([small]) and area([small, large]) < 0.4 * area(None)


def test_the_volume_renderer_is_an_option_with_the_same_backgrounds():
    asset = plain(0.2, ball(radius=0.4))
    mesh, volume = (asset.frame(0, 1, 48, renderer=name, background="white") for name in ("mesh", "volume"))
    assert (volume[0, 0] == 255).all() and (mesh[0, 0] == 255).all()
    assert volume[24, 24] == pytest.approx(51, abs=2)  # no light
    alpha = asset.frame(0, 1, 48, renderer="volume", background="transparent")
    assert alpha.shape == (48, 48, 4) and alpha[24, 24] == pytest.approx([51, 51, 51, 255], abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"renderer": "raster"}, "renderer 'raster': accepted are mesh and volume"),
        ({"background": "blurple"}, "background 'blurple': accepted are studio, transparent, and colours"),
        ({"background": ""}, "background ''"),
        ({"size": 0}, "size is 0: a picture has at least 1 pixel"),
        ({"num_frames": 0}, "num_views is 0"),
    ],
)
def test_bad_arguments_of_pictures_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plain(0.5).turntable(**arguments)


def test_export_refuses_what_belongs_to_other_files(tmp_path):
    with pytest.raises(ValueError, match="renderer, background: these belong to .mp4, .gif and .png"):
        plain(0.5).export(tmp_path / "a.glb", renderer="mesh", background="white")
    for kind in ("mp4", "gif"):
        with pytest.raises(ValueError, match="a video is not transparent"):
            plain(0.5).export(tmp_path / f"a.{kind}", background="transparent")
    assert not list(tmp_path.iterdir())


def test_a_transparent_sheet_keeps_its_opacity(monkeypatch, tmp_path):
    full = Asset.turntable
    monkeypatch.setattr(Asset, "turntable", lambda self, *_, **rest: full(self, 2, 32, **rest))
    path = plain(0.5).export(tmp_path / "views.png", background="transparent")
    image = Image.open(path)
    assert image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 255)


def test_lay_over_undoes_premultiplication():
    half = np.array([0.25, 0.5, 0.0, 0.5], np.float32).reshape(1, 1, 1, 4)
    assert backdrop.lay_over(half, None).ravel().tolist() == [128, 255, 0, 128]
    white = backdrop.make_backdrop("#fff", 1)
    assert backdrop.lay_over(half, white).ravel().tolist() == [191, 255, 128]
