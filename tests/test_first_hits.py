"""First hits of rays: both ways of finding them against each other and against balls in closed form."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh

from scaledreamer.meshing.first_hits import EmbreeHits, PlainHits, make_first_hits

BALL = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
BOTH = BALL + trimesh.creation.box([0.3, 0.2, 1.2]).apply_translation([0.5, 0.1, 0])
EYE = np.array([2.2, 0.5, 0.7])


def rays(kind: str, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """From one eye, some past the mesh, or in one direction, some from inside of it."""
    random = np.random.default_rng(0)
    if kind == "eye":
        directions = random.uniform(-1, 1, (count, 3)) - EYE
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return np.broadcast_to(EYE, directions.shape), directions
    direction = np.array([0.48, -0.6, 0.64])
    return random.uniform(-0.8, 0.8, (count, 3)), np.broadcast_to(direction, (count, 3))


@pytest.mark.parametrize("make", [EmbreeHits, PlainHits])
@pytest.mark.parametrize("kind", ["eye", "parallel"])
def test_hits_lie_on_the_ray_and_first_on_a_ball(make, kind):
    origins, directions = rays(kind)
    face, weights = make(BALL.vertices, BALL.faces)(origins, directions)
    half_b = (origins * directions).sum(-1)
    root = half_b**2 - (origins**2).sum(-1) + 0.25
    near, far = (-half_b + sign * np.sqrt(root.clip(min=0)) for sign in (-1, 1))
    expected = np.where(near > 0, near, far)
    is_clear = np.abs(root) > 0.02  # rays that graze may miss the polyhedron
    is_clear &= np.abs(np.linalg.norm(origins, axis=-1) - 0.5) > 0.02
    assert ((face >= 0) == ((root > 0) & (expected > 0)))[is_clear].all()
    hit = is_clear & (face >= 0)
    assert hit.sum() > 300
    place = np.einsum("rc,rci->ri", weights[hit], BALL.vertices[BALL.faces[face[hit]]])
    on_ray = origins[hit] + expected[hit, None] * directions[hit]
    assert np.abs(place - on_ray).max() < 0.02
    across = np.cross(place - origins[hit], directions[hit])
    assert np.abs(across).max() < 1e-5 and (weights[hit] > -1e-5).all()


@pytest.mark.parametrize("kind", ["eye", "parallel"])
def test_numpy_finds_what_embree_finds(kind):
    origins, directions = rays(kind, 20_000)
    ours, our_weights = PlainHits(BOTH.vertices, BOTH.faces)(origins, directions)
    theirs, their_weights = EmbreeHits(BOTH.vertices, BOTH.faces)(origins, directions)
    same = ours == theirs
    assert same.mean() > 0.999 and (theirs >= 0).mean() > 0.1  # a ray along an edge may take either side
    assert np.abs(our_weights - their_weights)[same & (ours >= 0)].max() < 1e-3


@pytest.mark.parametrize("make", [EmbreeHits, PlainHits])
def test_from_within_rays_meet_what_is_before_them(make):
    origins = np.full((20, 3), 0.1)
    directions = np.random.default_rng(0).normal([2, 0, 0], 0.1, (20, 3))
    face, weights = make(BALL.vertices, BALL.faces)(origins, directions)
    assert (face >= 0).all()
    place = np.einsum("rc,rci->ri", weights, BALL.vertices[BALL.faces[face]])
    assert (place[:, 0] > 0.4).all()
    behind, _ = make(BALL.vertices, BALL.faces)(np.full((20, 3), 1.1), directions)
    assert (behind == -1).all()


@pytest.mark.parametrize("make", [EmbreeHits, PlainHits])
def test_no_rays_give_no_hits(make):
    face, weights = make(BALL.vertices, BALL.faces)(np.zeros((0, 3)), np.zeros((0, 3)))
    assert face.shape == (0,) and weights.shape == (0, 3)


def test_numpy_refuses_rays_without_order():
    origins = np.eye(3)
    with pytest.raises(ValueError, match="share their origin or their direction"):
        PlainHits(BALL.vertices, BALL.faces)(origins, origins[::-1])


def test_embree_is_taken_where_it_is_installed(monkeypatch):
    assert isinstance(make_first_hits(BALL.vertices, BALL.faces), EmbreeHits)
    monkeypatch.setitem(sys.modules, "embreex", None)
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    assert isinstance(make_first_hits(BALL.vertices, BALL.faces), PlainHits)
