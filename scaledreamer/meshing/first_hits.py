"""The first triangle of a mesh that each ray hits, by Embree, or by numpy if Embree is not installed.

There are wheels of Embree (embreex) for x86-64 and for macOS, but not for Linux on ARM. `PlainHits` replaces
it there, with the same signature. It takes several times as long, and needs rays that share their origin or
their direction.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

Hits = tuple[Int[np.ndarray, " ray"], Float[np.ndarray, "ray 3"]]
"""The face that each ray hits first, from either side, -1 for none; and the barycentric weights there."""


def make_first_hits(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> EmbreeHits | PlainHits:
    """Embree if it is installed, otherwise numpy."""
    try:
        return EmbreeHits(vertices, faces)
    except ImportError:
        return PlainHits(vertices, faces)


class EmbreeHits:
    """First hits of arbitrary rays.

    Raises: ImportError if embreex is not installed.
    """

    def __init__(self, vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        self._geometry = TriangleMesh(self._scene, vertices.astype(np.float32), faces.astype(np.int32))

    def __call__(self, origins: Float[np.ndarray, "ray 3"], directions: Float[np.ndarray, "ray 3"]) -> Hits:
        """See `Hits`."""
        if not len(origins):
            return np.zeros(0, np.int32), np.zeros((0, 3), np.float32)
        rays = (np.ascontiguousarray(each, np.float32) for each in (origins, directions))
        found = self._scene.run(*rays, output=True)
        u, v = found["u"], found["v"]
        return found["primID"], np.stack([1 - u - v, u, v], axis=-1)


class PlainHits:
    """First hits of rays that share their origin (faces not entirely in front of it are skipped) or
    direction.

    The triangles are projected onto a plane across the rays, so each ray becomes a point. A grid on the plane
    limits the tests: a point is compared with the triangles whose bounds touch its cell.
    """

    def __init__(self, vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> None:
        self._vertices, self._faces = vertices.astype(np.float64), faces

    def __call__(self, origins: Float[np.ndarray, "ray 3"], directions: Float[np.ndarray, "ray 3"]) -> Hits:
        """See `Hits`.

        Raises: ValueError if the rays share neither origin nor direction.
        """
        face, weights = np.full(len(origins), -1, np.int32), np.zeros((len(origins), 3), np.float32)
        if not len(origins):
            return face, weights
        faces, number = self._faces, np.arange(len(self._faces))
        forward = directions.mean(axis=0, dtype=np.float64)
        axes = _axes_towards(forward / np.linalg.norm(forward))
        # On a line of sight, the largest closeness comes first; closeness is affine on the plane. `behind` is
        # the closeness of the ray's origin.
        if (origins == origins[0]).all():
            seen = (self._vertices - origins[0]) @ axes
            is_before = (seen[:, 2] > 1e-6)[faces].all(axis=-1)
            faces, number = faces[is_before], number[is_before]
            place, closeness = seen[:, :2] / seen[:, 2:], 1 / seen[:, 2]
            heading = directions @ axes
            point, behind = heading[:, :2] / heading[:, 2:], np.full(len(origins), np.inf)
        elif np.allclose(directions, directions[0]):
            seen, start = self._vertices @ axes, origins @ axes
            place, closeness, point, behind = seen[:, :2], -seen[:, 2], start[:, :2], -start[:, 2]
        else:
            raise ValueError("without embreex rays must share their origin or their direction")
        if not len(faces):
            return face, weights
        corners = place[faces]
        ray, candidate = _pairs_by_cell(point, corners)
        share = _barycentric(point[ray], corners[candidate])
        close = np.einsum("pc,pc->p", share, closeness[faces[candidate]])
        met = ((share >= -1e-12).all(axis=-1) & (close < behind[ray])).nonzero()[0]
        met = met[np.argsort(close[met], kind="stable")]  # so that the first hit is written last
        pair = np.full(len(origins), -1)
        pair[ray[met]] = met
        is_hit = pair >= 0
        pair = pair[is_hit]
        face[is_hit] = number[candidate[pair]]
        on_face = share[pair]
        if np.isinf(behind).all():  # perspective correction
            on_face = on_face * closeness[faces[candidate[pair]]]
        weights[is_hit] = on_face / on_face.sum(axis=-1, keepdims=True)
        return face, weights


def _axes_towards(forward: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Columns: two axes perpendicular to a unit direction, and the direction."""
    helper = np.eye(3)[np.abs(forward).argmin()]
    across = np.cross(forward, helper)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(forward, across), forward], axis=-1)


def _pairs_by_cell(
    points: Float[np.ndarray, "point 2"], corners: Float[np.ndarray, "face 3 2"]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Candidate pairs of points and faces that share a grid cell; there is about one face per cell."""
    lowest, highest = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    size = max(16, int(len(corners) ** 0.5))
    scale = size / np.maximum(highest - lowest, 1e-12)

    def cell_of(places: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"]:
        return ((places - lowest) * scale).astype(np.int64).clip(0, size - 1)

    first = cell_of(corners.min(axis=1))
    width, height = (cell_of(corners.max(axis=1)) - first + 1).T
    face, rank = _repeat(width * height)
    column, row = first[face, 0] + rank % width[face], first[face, 1] + rank // width[face]
    cell = column * size + row
    face = face[np.argsort(cell, kind="stable")]  # faces of a cell are adjacent
    count = np.bincount(cell, minlength=size * size)
    start = np.cumsum(count) - count

    inside = ((points >= lowest) & (points <= highest)).all(axis=-1).nonzero()[0]
    column, row = cell_of(points[inside]).T
    cell = column * size + row
    index, rank = _repeat(count[cell])
    return inside[index], face[start[cell[index]] + rank]


def _repeat(
    counts: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Each index repeated `count` times, with the number of the repetition."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def _barycentric(
    points: Float[np.ndarray, "pair 2"], corners: Float[np.ndarray, "pair 3 2"]
) -> Float[np.ndarray, "pair 3"]:
    """Barycentric weights, negative outside; not finite for a degenerate triangle."""
    to_corner = corners - points[:, None]
    twice_areas = np.stack(
        [
            to_corner[:, 1, 0] * to_corner[:, 2, 1] - to_corner[:, 2, 0] * to_corner[:, 1, 1],
            to_corner[:, 2, 0] * to_corner[:, 0, 1] - to_corner[:, 0, 0] * to_corner[:, 2, 1],
            to_corner[:, 0, 0] * to_corner[:, 1, 1] - to_corner[:, 1, 0] * to_corner[:, 0, 1],
        ],
        axis=-1,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return twice_areas / twice_areas.sum(axis=-1, keepdims=True)


FirstHits = EmbreeHits | PlainHits
