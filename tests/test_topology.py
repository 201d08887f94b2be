"""What meshes are: against closed forms, against trimesh, and two solids that touch in an edge or a point."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import trimesh

from scaledreamer.meshing.isosurface import extract_surface
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.topology import inspect, is_inside, label_bodies, signed_volumes
from tests.support.analytic_scenes import AnalyticScene, ball, box

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
CORNER = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def from_trimesh(mesh: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))


def two_tetrahedra(num_shared: int) -> Mesh:
    """With as many vertices in common: none, a point, or both ends of an edge."""
    more = [[-1, -1, -1], [-2, -1, -1], [-1, -2, -1], [-1, -1, -2]][num_shared:]
    numbers = np.array([*range(num_shared), *range(4, 8 - num_shared)])
    faces = np.concatenate([TETRAHEDRON, numbers[TETRAHEDRON]])
    return Mesh(np.array([*CORNER, *more], np.float32), faces.astype(np.int32))


SOLIDS = {
    "cube": (trimesh.creation.box(), 2),
    "ball": (trimesh.creation.icosphere(subdivisions=2), 2),
    "torus": (trimesh.creation.torus(0.6, 0.2), 0),
    "tube": (trimesh.creation.annulus(0.3, 0.6, 1.0), 0),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_inspect_agrees_with_closed_forms_and_with_trimesh(name):
    solid, euler_number = SOLIDS[name]
    report = inspect(from_trimesh(solid))
    assert report.watertight and report.edge_manifold and report.vertex_manifold and report.is_manifold
    assert (report.bodies, report.euler_number) == (1, euler_number)
    assert report.euler_number == solid.euler_number and report.bodies == solid.body_count
    assert (report.vertices, report.faces) == (len(solid.vertices), len(solid.faces))
    assert report.cut_at == ()


def test_inspect_sees_a_hole_and_a_face_the_wrong_way_round():
    cube = from_trimesh(SOLIDS["cube"][0])
    holed = inspect(dataclasses.replace(cube, faces=cube.faces[1:]))
    assert not holed.watertight and not holed.is_manifold
    assert holed.edge_manifold and holed.vertex_manifold and holed.euler_number == 1
    turned = inspect(dataclasses.replace(cube, faces=np.concatenate([cube.faces[:1, ::-1], cube.faces[1:]])))
    assert not turned.watertight and turned.edge_manifold


@pytest.mark.parametrize(
    ("shared", "watertight", "edge_manifold", "vertex_manifold", "bodies", "euler_number"),
    [(0, True, True, True, 2, 4), (1, True, True, False, 2, 3), (2, False, False, False, 1, 3)],
    ids=["apart", "a vertex in common", "an edge in common"],
)
def test_inspect_of_two_tetrahedra(shared, watertight, edge_manifold, vertex_manifold, bodies, euler_number):
    report = inspect(two_tetrahedra(shared))
    found = (report.watertight, report.edge_manifold, report.vertex_manifold, report.bodies)
    assert found == (watertight, edge_manifold, vertex_manifold, bodies)
    assert report.euler_number == euler_number
    assert report.is_manifold == (shared == 0)


def test_inspect_counts_only_vertices_in_use():
    cube = from_trimesh(SOLIDS["cube"][0])
    more = dataclasses.replace(cube, vertices=np.concatenate([cube.vertices, np.ones((5, 3), np.float32)]))
    assert inspect(more) == inspect(cube)


def test_signed_volumes_are_those_of_the_solids_and_negative_inside_out():
    cube, sphere = SOLIDS["cube"][0], trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    sphere.invert()
    joined = trimesh.util.concatenate([cube, sphere])
    assert isinstance(joined, trimesh.Trimesh)
    both = from_trimesh(joined)
    count, label = label_bodies(both.faces)
    volumes = sorted(signed_volumes(both, label, count))
    assert volumes == pytest.approx([-4 / 3 * math.pi * 0.3**3, 1.0], rel=0.01)


def test_is_inside_agrees_with_a_torus_closed_form():
    torus = from_trimesh(trimesh.creation.torus(0.6, 0.25, major_sections=48, minor_sections=48))
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (60, 3))
    distance = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.6, points[:, 2]) - 0.25
    clear = np.abs(distance) > 0.01
    assert [is_inside(point, torus) for point in points[clear]] == list(distance[clear] < 0)


def test_a_ball_that_leaves_the_cube_says_where_it_was_cut():
    report = inspect(extract_surface(AnalyticScene(ball((0.8, 0.0, -0.9), 0.4)), resolution=32))
    assert report.cut_at == ("+x", "-z") and report.is_manifold and report.euler_number == 2
    assert inspect(extract_surface(AnalyticScene(ball()), resolution=32)).cut_at == ()
    room = inspect(extract_surface(AnalyticScene(box((0, 0, 0), (2, 2, 0.3))), resolution=32))
    assert room.cut_at == ("-x", "+x", "-y", "+y")
