"""Simplification: manifolds stay manifolds, whatever their shape; distances; lids stay flat; same bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import trimesh

from scaledreamer.meshing.isosurface import Lattice, extract_surface, march
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.simplify import collapse_short_edges, simplify
from scaledreamer.meshing.topology import inspect, signed_volumes
from tests.support.analytic_scenes import AnalyticScene, ball, box, union


def volume(mesh: Mesh) -> float:
    return float(signed_volumes(mesh, np.zeros(len(mesh.faces), np.int32), 1)[0])


def noise(seed: int, size: int, smooth: int) -> Mesh:
    """The surface of smoothed noise: many bodies, tunnels and thin necks."""
    values = torch.randn(1, 1, size + 1, size + 1, size + 1, generator=torch.Generator().manual_seed(seed))
    for _ in range(smooth):
        values = torch.nn.functional.avg_pool3d(values, 3, stride=1, padding=1)
    values = values[0, 0] / values.std()
    return march(Lattice(values, torch.ones(size, size, size, dtype=torch.bool)))


@pytest.mark.parametrize(("seed", "smooth"), [(0, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("share", [0.7, 0.3, 0.0])
def test_surface_of_noise_stays_a_manifold_with_its_bodies_and_handles(seed, smooth, share):
    full = noise(seed, 12, smooth)
    before = inspect(full)
    assert before.is_manifold
    mesh = simplify(full, max(int(share * len(full.faces)), 50))
    after = inspect(mesh)
    assert after.is_manifold and after.faces < before.faces
    assert (after.bodies, after.euler_number) == (before.bodies, before.euler_number)
    if share > 0:
        assert after.faces <= share * before.faces
    elsewhere = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)  # which joins equal vertices
    assert elsewhere.is_watertight and elsewhere.is_winding_consistent
    assert len(elsewhere.vertices) == after.vertices


def test_simplify_goes_no_further_than_bodies_and_handles_allow():
    torus = trimesh.creation.torus(0.6, 0.2, major_sections=48, minor_sections=24)
    spheres = [trimesh.creation.icosphere(subdivisions=1, radius=0.05) for _ in range(40)]
    for index, sphere in enumerate(spheres):
        sphere.apply_translation([0.12 * (index % 8) - 0.5, 0.12 * (index // 8) - 0.5, 0.6])
    joined = trimesh.util.concatenate([torus, *spheres])
    assert isinstance(joined, trimesh.Trimesh)
    full = Mesh(np.asarray(joined.vertices, np.float32), np.asarray(joined.faces, np.int32))
    mesh = simplify(full, 50)
    report = inspect(mesh)
    assert report.is_manifold and report.bodies == 41 and report.euler_number == 80
    assert 40 * 4 + 14 <= report.faces < 300  # tetrahedra, and the least that a torus can have


def test_a_ball_of_few_faces_is_as_near_as_an_even_one():
    # Flat triangles with sides a on a ball of radius r: their middles lie a^2 / 6 r below their corners.
    full = extract_surface(AnalyticScene(ball(radius=0.6)), resolution=64)
    for num_faces in (200, 600):
        mesh = simplify(full, num_faces)
        assert len(mesh.faces) == num_faces
        corners = mesh.vertices[mesh.faces]
        middles = (corners + np.roll(corners, 1, axis=1)) / 2
        places = np.concatenate([mesh.vertices, corners.mean(axis=1), *np.moveaxis(middles, 1, 0)])
        squared_side = 4 / 3**0.5 * 4 * np.pi * 0.6**2 / num_faces
        assert np.abs(np.linalg.norm(places, axis=1) - 0.6).max() < 2 * squared_side / 6 / 0.6
        inscribed = 1 - squared_side / 4 / 0.6**2  # the share of the ball's volume if all corners were on it
        assert inscribed < volume(mesh) / volume(full) < 1.005


def test_a_box_keeps_its_edges_and_corners_with_few_faces():
    full = extract_surface(AnalyticScene(box((0.1, 0, 0), (0.5, 0.3, 0.2))), resolution=64)
    mesh = simplify(full, 100)
    cell = 2 / 64  # marching cubes cuts corners off by up to one of them
    corners = np.array([[x, y, z] for x in (-0.4, 0.6) for y in (-0.3, 0.3) for z in (-0.2, 0.2)])
    nearest = np.linalg.norm(mesh.vertices - corners[:, None], axis=-1).min(axis=1)
    assert nearest.max() < 1.5 * cell
    outside = np.abs(mesh.vertices - [0.1, 0, 0]) - [0.5, 0.3, 0.2]
    assert np.abs(outside.max(axis=1)).max() < cell / 2
    assert volume(mesh) == pytest.approx(volume(full), rel=0.02)


def test_normals_keep_looking_outwards():
    distance = union(ball((0.3, 0.3, 0.3), 0.25), ball(radius=0.4), box((0, 0, -0.6), (0.5, 0.5, 0.05)))
    mesh = simplify(extract_surface(AnalyticScene(distance), resolution=48), 800)
    centers = torch.from_numpy(mesh.vertices[mesh.faces].mean(axis=1)).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(centers).sum(), centers)
    normals = mesh.face_normals()
    area = np.linalg.norm(normals, axis=1)
    outward = (normals * gradient.numpy()).sum(axis=1) / area
    assert area[outward < 0].sum() < 0.005 * area.sum()  # a few slivers at creases look aside


def test_lids_stay_flat_on_the_faces_of_the_cube_and_keep_their_area():
    full = extract_surface(AnalyticScene(ball((0.9, 0.9, 0.0), 0.5)), resolution=48)
    mesh = simplify(full, 300)
    assert inspect(mesh).cut_at == ("+x", "+y")
    for axis in (0, 1):
        areas = []
        for each in (full, mesh):
            is_lid = (each.vertices[each.faces][..., axis] == 1).all(axis=1)
            areas.append(np.linalg.norm(each.face_normals()[is_lid], axis=1).sum() / 2)
        assert areas[1] == pytest.approx(areas[0], rel=0.01)
    assert np.abs(mesh.vertices).max() == 1


def test_the_same_mesh_gives_the_same_bytes_and_small_ones_are_left_alone():
    full = extract_surface(AnalyticScene(ball()), resolution=32)
    one, two = simplify(full, 500), simplify(dataclasses.replace(full), 500)
    assert one.vertices.tobytes() == two.vertices.tobytes() and one.faces.tobytes() == two.faces.tobytes()
    assert simplify(full, len(full.faces)) is full


def test_short_edges_are_joined_and_others_left():
    full = extract_surface(AnalyticScene(ball()), resolution=32)
    split = trimesh.remesh.subdivide(full.vertices, full.faces)
    doubled = Mesh(np.asarray(split[0], np.float32), np.asarray(split[1], np.int32))
    length = np.linalg.norm(np.diff(doubled.vertices[doubled.faces][:, :2], axis=1), axis=-1)
    joined = collapse_short_edges(doubled, float(np.quantile(length, 0.1)))
    assert inspect(joined).is_manifold and len(joined.faces) < len(doubled.faces)
    assert collapse_short_edges(doubled, 1e-9).faces.shape == doubled.faces.shape


@pytest.mark.parametrize("max_faces", [3, 49])
def test_too_few_faces_to_make_anything_are_refused(max_faces):
    mesh = extract_surface(AnalyticScene(ball()), resolution=32)
    with pytest.raises(ValueError, match=f"max_faces is {max_faces}; accepted are at least 50"):
        simplify(mesh, max_faces)
