"""Topology of a triangle mesh: whether it bounds solid bodies, and how many.

Everything is combinatorial: vertices are equal if they have the same index, wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scaledreamer.meshing.mesh import Mesh

SIDES = ("-x", "+x", "-y", "+y", "-z", "+z")
"""The faces of the scene cube, in world axes."""


@dataclass(frozen=True)
class MeshReport:
    """Topology report for the sidecar, about the mesh before UV islands cut it open.

    Attributes:
        watertight: every edge belongs to exactly two faces, which traverse it in opposite directions.
        edge_manifold: no edge belongs to more than two faces.
        vertex_manifold: in addition, the faces around each vertex form a single fan, so no two sheets touch
            at a point.
        bodies: number of edge-connected pieces.
        euler_number: vertices - edges + faces; 2 per closed body, minus 2 per handle.
        cut_at: faces of the scene cube where the surface was cut and closed with a flat lid, such as "+x";
            the object is larger than the cube there.
    """

    vertices: int
    faces: int
    watertight: bool
    edge_manifold: bool
    vertex_manifold: bool
    bodies: int
    euler_number: int
    cut_at: tuple[str, ...]

    @property
    def is_manifold(self) -> bool:
        """Whether it bounds solids: watertight, and a manifold everywhere."""
        return self.watertight and self.vertex_manifold


def inspect(mesh: Mesh) -> MeshReport:
    """Inspects the whole mesh; 25 ms for 6,000 faces."""
    num_vertices = len(np.unique(mesh.faces))
    edge, runs_up = _edges(mesh.faces)
    num_edges = int(edge.max(initial=-1)) + 1
    count = np.bincount(edge, minlength=num_edges)
    upward = np.bincount(edge, runs_up, num_edges)
    edge_manifold = bool((count <= 2).all())
    return MeshReport(
        vertices=num_vertices,
        faces=len(mesh.faces),
        watertight=bool((count == 2).all() and (upward == 1).all()),
        edge_manifold=edge_manifold,
        vertex_manifold=edge_manifold and count_fans(mesh.faces) == num_vertices,
        bodies=label_bodies(mesh.faces)[0],
        euler_number=num_vertices - num_edges + len(mesh.faces),
        cut_at=sides_with_lids(mesh),
    )


def count_fans(faces: Int[np.ndarray, "face 3"]) -> int:
    """Number of fans of faces around vertices; equals the number of vertices if no two sheets touch."""
    # A node is a corner of a face, with index 3 * face + corner. Faces that share an edge connect their
    # corners at both ends of it. Half-edge 3 * face + corner runs from this corner to the next.
    one, other = _shared_sides(faces)
    start, end = np.arange(faces.size), np.roll(np.arange(faces.size).reshape(-1, 3), -1, axis=1).ravel()
    is_up = _edges(faces)[1]
    low, high = np.where(is_up, start, end), np.where(is_up, end, start)
    joined = np.concatenate([low[one], high[one]]), np.concatenate([low[other], high[other]])
    return _components(*joined, faces.size)[0]


def label_bodies(faces: Int[np.ndarray, "face 3"]) -> tuple[int, Int[np.ndarray, " face"]]:
    """Number of edge-connected pieces, and the piece of each face."""
    one, other = _shared_sides(faces)
    return _components(one // 3, other // 3, len(faces))


def signed_volumes(mesh: Mesh, label: Int[np.ndarray, " face"], count: int) -> Float[np.ndarray, " body"]:
    """Volume enclosed by each closed piece; negative if its faces point inwards, as in a cavity."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    six_volumes = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return np.bincount(label, six_volumes, count) / 6


def is_inside(point: Float[np.ndarray, " 3"], mesh: Mesh) -> bool:
    """Whether a closed mesh contains a point, by its winding number: the sum of the solid angles of the faces
    (Van Oosterom and Strackee, 1983)."""
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(np.float64) - point, 1, 0)
    length_a, length_b, length_c = (np.linalg.norm(corner, axis=-1) for corner in (a, b, c))
    dot_ab, dot_bc, dot_ca = ((p * q).sum(axis=-1) for p, q in ((a, b), (b, c), (c, a)))
    above = (a * np.cross(b, c)).sum(axis=-1)
    below = length_a * length_b * length_c + dot_ab * length_c + dot_bc * length_a + dot_ca * length_b
    return bool(abs(np.arctan2(above, below).sum() / (2 * np.pi)) > 0.5)


def sides_with_lids(mesh: Mesh) -> tuple[str, ...]:
    """The faces of the scene cube [-1, 1]^3 on which the mesh has lids."""
    corners = mesh.vertices[mesh.faces]
    lowest, highest = ((corners == side).all(axis=1).any(axis=0) for side in (-1, 1))
    is_touched = np.stack([lowest, highest], axis=1).ravel()
    return tuple(side for side, is_on in zip(SIDES, is_touched, strict=True) if is_on)


def _edges(faces: Int[np.ndarray, "face 3"]) -> tuple[np.ndarray, np.ndarray]:
    """For each half-edge, from a corner to the next: the index of its edge, and whether it runs from the
    lower to the higher vertex index."""
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    key = np.minimum(start, end) * (int(faces.max(initial=0)) + 1) + np.maximum(start, end)
    return np.unique(key, return_inverse=True)[1].ravel(), start < end


def _shared_sides(faces: Int[np.ndarray, "face 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of half-edges on the same edge; if there are more than two, each with the next."""
    edge, _ = _edges(faces)
    order = np.argsort(edge, kind="stable")
    is_same = np.flatnonzero(edge[order][1:] == edge[order][:-1])
    return order[is_same], order[is_same + 1]


def _components(rows: np.ndarray, columns: np.ndarray, size: int) -> tuple[int, np.ndarray]:
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    count, label = connected_components(graph, directed=False)
    return int(count), label
