"""Textures: every texel's colour is the scene's at that place of the surface, and islands do not bleed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scaledreamer.fields.sdf import volsdf_depths
from scaledreamer.meshing.isosurface import extract_surface
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.texture import (
    Atlas,
    bake_texture,
    rasterize_atlas,
    texture_mesh,
    unwrap,
)
from tests.support.analytic_scenes import AnalyticScene, ball, box, position_color, union

SHAPE = union(ball((0.0, 0.0, 0.2), 0.4), box((0, 0, -0.5), (0.5, 0.4, 0.2)))


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_surface(AnalyticScene(SHAPE), resolution=64, max_faces=1000)


def bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] as a GPU samples them: v up, texel centres at half integers, clamped to the edge."""
    size = len(texture)
    x, y = uv[:, 0] * size - 0.5, (1 - uv[:, 1]) * size - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return texture[row.clip(0, size - 1), column.clip(0, size - 1)] / 255

    top = at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx
    bottom = at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy


def test_unwrapping_keeps_the_surface_and_gives_every_face_its_own_place(mesh):
    atlas = unwrap(mesh, 256)
    np.testing.assert_allclose(atlas.vertices[atlas.faces], mesh.vertices[mesh.faces], atol=1e-7)
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1
    corners = atlas.uv[atlas.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    assert 0.3 < areas.sum() < 1
    points = np.c_[np.random.default_rng(0).random((2000, 2)), np.ones(2000)]
    to_weights = np.linalg.pinv(np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=2))
    inside = (np.einsum("pi,fic->fpc", points, to_weights) > 1e-4).all(axis=2).sum(axis=0)
    assert inside.max() <= 1  # islands do not overlap
    assert inside.mean() == pytest.approx(areas.sum(), abs=0.04)


def test_rasterizing_one_triangle_agrees_with_solving_for_every_texel():
    uv = np.array([[0.1, 0.15], [0.9, 0.3], [0.4, 0.85]], np.float32)
    atlas = Atlas(
        np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), uv, np.array([[0, 1, 2]], np.int32)
    )
    face, weights, covered = rasterize_atlas(atlas, 32)
    assert (face == 0).all() and covered.sum() == len(weights)
    rows, columns = np.nonzero(covered)
    centers = np.stack([(columns + 0.5) / 32, 1 - (rows + 0.5) / 32, np.ones(len(rows))])
    expected = np.linalg.solve(np.vstack([uv.T, np.ones(3)]).astype(np.float64), centers).T
    inside = (expected >= 0).all(axis=1)
    np.testing.assert_allclose(weights[inside], expected[inside], atol=1e-4)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    grid = np.stack(np.meshgrid((np.arange(32) + 0.5) / 32, 1 - (np.arange(32) + 0.5) / 32), -1).reshape(
        -1, 2
    )
    everywhere = np.linalg.solve(
        np.vstack([uv.T, np.ones(3)]).astype(np.float64), np.c_[grid, np.ones(1024)].T
    ).T
    assert covered.ravel()[(everywhere >= 0).all(axis=1)].all()


def test_sampling_the_texture_anywhere_on_the_mesh_gives_the_scene_color_there(mesh):
    textured = texture_mesh(AnalyticScene(SHAPE, position_color), mesh, texture_size=512)
    atlas = textured.atlas
    rng = np.random.default_rng(0)
    faces = atlas.faces[rng.integers(len(atlas.faces), size=5000)]
    weights = rng.dirichlet((0.4, 0.4, 0.4), size=5000)  # many near edges, so on seams
    points = np.einsum("nc,nci->ni", weights, atlas.vertices[faces])
    colors = bilinear(textured.texture, np.einsum("nc,nci->ni", weights, atlas.uv[faces]))
    error = np.abs(colors - (points + 1) / 2).max(axis=1)
    assert np.quantile(error, 0.99) < 0.01 and error.max() < 0.03


def test_no_texel_keeps_the_color_of_nothing(mesh):
    def red(points: torch.Tensor) -> torch.Tensor:
        return points.new_tensor([1.0, 0.0, 0.0]).expand_as(points)

    texture = texture_mesh(AnalyticScene(SHAPE, red), mesh, texture_size=128).texture
    assert texture.dtype == np.uint8 and (texture == [255, 0, 0]).all()


def test_colors_outside_the_unit_range_are_clamped(mesh):
    atlas = unwrap(mesh, 64)
    texture = bake_texture(AnalyticScene(SHAPE, lambda points: torch.full_like(points, 7.0)), atlas, 64)
    assert (texture == 255).all()


def test_offsets_look_along_the_normal():
    atlas = unwrap(extract_surface(AnalyticScene(ball()), resolution=64, max_faces=3000), 128)

    def shells(points: torch.Tensor) -> torch.Tensor:
        return points.norm(dim=-1, keepdim=True).expand_as(points)

    for offset in (-0.1, 0.0, 0.2):
        texture = bake_texture(AnalyticScene(ball(), shells), atlas, 128, offsets=(offset,))
        np.testing.assert_allclose(texture.mean() / 255, 0.5 + offset, atol=0.01)


def test_volsdf_depths_are_quantiles_of_volume_rendering_weights():
    beta, num = 1 / 30, 5
    depth = np.linspace(-0.5, 0.8, 2_000_001)  # along a ray that meets a plane head-on, positive below it
    u = depth / beta
    density = 1 / beta * np.where(u < 0, 0.5 * np.exp(np.minimum(u, 0)), 1 - 0.5 * np.exp(-np.maximum(u, 0)))
    ended = 1 - np.exp(-np.cumsum(density) * (depth[1] - depth[0]))
    expected = [-depth[np.searchsorted(ended, (i + 0.5) / num)] for i in range(num)]
    assert volsdf_depths(beta, num) == pytest.approx(expected, abs=1e-4)
    assert not math.isnan(sum(volsdf_depths(0.01)))


@pytest.mark.parametrize("size", [0, 63, 4097])
def test_texture_size_out_of_range_names_the_range(mesh, size):
    with pytest.raises(ValueError, match=f"texture_size is {size}; accepted are 64 to 4096"):
        bake_texture(AnalyticScene(SHAPE), unwrap(mesh, 64), size)
