"""Isosurfaces: volumes against closed forms, coarse-to-fine against dense evaluation, laws of cleaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from scaledreamer.meshing.isosurface import (
    EmptySurfaceError,
    Lattice,
    drop_chips,
    extract_surface,
    march,
    sample_near_surface,
)
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.topology import inspect
from tests.support.analytic_scenes import AnalyticScene, ball, box, union


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def dense_values(scene: AnalyticScene, resolution: int) -> torch.Tensor:
    axis = torch.linspace(-1, 1, resolution + 1)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return scene.distance(grid)


def test_ball_has_its_volume_area_and_place():
    mesh = extract_surface(AnalyticScene(ball((0.2, -0.1, 0.3), 0.5)), resolution=64)
    reference = as_trimesh(mesh)
    assert reference.is_watertight and inspect(mesh).is_manifold
    assert reference.volume == pytest.approx(
        4 / 3 * math.pi * 0.5**3, rel=0.01
    )  # positive: faces wind outward
    assert reference.area == pytest.approx(4 * math.pi * 0.5**2, rel=0.01)
    np.testing.assert_allclose(reference.center_mass, [0.2, -0.1, 0.3], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - [0.2, -0.1, 0.3], axis=1), 0.5, atol=1e-3)


def test_vertex_normals_point_outward_and_have_length_one():
    mesh = extract_surface(AnalyticScene(ball()), resolution=32)
    directions = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert ((mesh.vertex_normals() * directions).sum(axis=1) > 0.97).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals(), axis=1), 1, atol=1e-5)


def wavy(points: torch.Tensor) -> torch.Tensor:
    """Not a distance: slopes from 0.3 to 6, as an untrained or regularised network has them."""
    waves = (9 * points + torch.tensor([0.3, 1.1, 2.0])).sin().prod(dim=-1)
    return (1.5 + points[..., 0]) * (points.norm(dim=-1) - 0.55) + 0.25 * waves


@pytest.mark.parametrize(
    "distance",
    [
        ball(),
        box((0.1, 0.0, 0.0), (0.7, 0.02, 0.3)),
        wavy,
        union(ball((0.5, 0.5, 0.5), 0.03), ball(radius=0.4)),
    ],
    ids=["ball", "thin plate", "wavy", "small and large"],
)
def test_coarse_to_fine_gives_the_same_mesh_as_evaluating_everything(distance):
    scene = AnalyticScene(distance)
    lattice = sample_near_surface(scene, 64)
    dense = dense_values(scene, 64)
    mesh = march(lattice)
    reference = march(Lattice(dense, torch.ones(64, 64, 64, dtype=torch.bool)))
    assert len(mesh.faces) == len(reference.faces)
    np.testing.assert_allclose(as_trimesh(mesh).volume, as_trimesh(reference).volume, rtol=1e-4)
    assert torch.equal(lattice.values.sign(), dense.sign())


def test_coarse_to_fine_saves_most_evaluations():
    scene = AnalyticScene(ball())
    extract_surface(scene, resolution=128)
    assert scene.num_sdf_points < 0.2 * 129**3


def test_chunks_do_not_change_the_mesh():
    one, many = (
        extract_surface(AnalyticScene(ball()), resolution=32, chunk_size=size) for size in (1 << 20, 777)
    )
    assert np.array_equal(one.vertices, many.vertices) and np.array_equal(one.faces, many.faces)


def test_a_surface_leaving_the_cube_is_closed_with_flat_lids():
    mesh = extract_surface(AnalyticScene(box((0, 0, -1.0), (0.5, 0.5, 0.6))), resolution=64)
    assert inspect(mesh).is_manifold and inspect(mesh).cut_at == ("-z",)
    assert as_trimesh(mesh).volume == pytest.approx(1.0 * 1.0 * 0.6, rel=0.01)
    bottom = mesh.vertices[:, 2].argsort()[:100]
    assert (mesh.vertices[bottom, 2] == -1).all() and np.abs(mesh.vertices).max() == 1


@pytest.mark.parametrize(
    ("center", "sides"), [((0.9, 0.0, 0.0), 1), ((0.9, -0.9, 0.0), 2), ((0.9, -0.9, 0.9), 3)]
)
def test_a_ball_cut_at_faces_edges_and_corners_of_the_cube_has_the_volume_that_is_left(center, sides):
    mesh = extract_surface(AnalyticScene(ball(center, 0.4)), resolution=64)
    report = inspect(mesh)
    assert report.is_manifold and report.euler_number == 2 and len(report.cut_at) == sides
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (400_000, 3)) + center
    is_left = (np.linalg.norm(points - center, axis=1) < 0.4) & (np.abs(points) < 1).all(axis=1)
    assert as_trimesh(mesh).volume == pytest.approx(0.8**3 * is_left.mean(), rel=0.01)
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


def test_floaters_and_inner_cavities_are_dropped_and_real_parts_stay():
    floater, eye = ball((0.8, 0.8, 0.8), 0.025), ball((0.0, 0.7, 0.0), 0.08)

    def hollow(points: torch.Tensor) -> torch.Tensor:
        return torch.maximum(ball(radius=0.5)(points), -ball(radius=0.2)(points))

    mesh = extract_surface(AnalyticScene(union(floater, hollow, eye)), resolution=96)
    parts = sorted(part.volume for part in as_trimesh(mesh).split(only_watertight=False))
    assert parts == pytest.approx([4 / 3 * math.pi * r**3 for r in (0.08, 0.5)], rel=0.05)


def test_chips_are_told_by_their_volume_not_by_their_area():
    # The plate has .3 of the ball's area and .006 of its volume; the chip 4e-5 of it.
    plate, chip = box((0.0, 0.0, 0.8), (0.3, 0.3, 0.02)), ball((0.8, 0.8, 0.0), 0.03)
    mesh = extract_surface(AnalyticScene(union(ball(radius=0.6), plate, chip)), resolution=96)
    assert inspect(mesh).bodies == 2
    all_of_it = extract_surface(
        AnalyticScene(union(ball(radius=0.6), plate, chip)), resolution=96, min_volume_share=0.0
    )
    assert inspect(all_of_it).bodies == 3
    assert inspect(drop_chips(all_of_it, 0.05)).bodies == 1


def test_pieces_locked_into_a_cavity_are_dropped_with_it_and_those_in_a_bowl_stay():
    def shell(points: torch.Tensor) -> torch.Tensor:
        return (points.norm(dim=-1) - 0.6).abs() - 0.1

    def bowl(points: torch.Tensor) -> torch.Tensor:
        return torch.maximum(shell(points), points[..., 2] - 0.3)

    for outer, bodies in ((shell, 1), (bowl, 2)):
        mesh = extract_surface(AnalyticScene(union(outer, ball(radius=0.3))), resolution=64)
        assert inspect(mesh).bodies == bodies
    solid = extract_surface(AnalyticScene(union(shell, ball(radius=0.3))), resolution=64)
    assert as_trimesh(solid).volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.01)


def test_a_mesh_of_one_piece_has_no_chips():
    mesh = extract_surface(AnalyticScene(ball()), resolution=32, min_volume_share=0.0)
    assert drop_chips(mesh, 0.5) is mesh


@pytest.mark.parametrize(("constant", "where"), [(0.4, "outside"), (-0.4, "inside")])
def test_a_field_of_one_sign_is_an_empty_surface(constant, where):
    scene = AnalyticScene(lambda points: torch.full_like(points[..., 0], constant))
    with pytest.raises(EmptySurfaceError, match=f"{where}.*no surface"):
        extract_surface(scene, resolution=32)


def test_a_field_that_is_not_finite_is_refused():
    scene = AnalyticScene(lambda points: points[..., 0] * float("nan"))
    with pytest.raises(ValueError, match="not finite.*checkpoint"):
        extract_surface(scene, resolution=32)


@pytest.mark.parametrize("resolution", [0, 15, 513])
def test_resolution_out_of_range_names_the_range(resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution}; accepted are 16 to 512"):
        extract_surface(AnalyticScene(ball()), resolution=resolution)
