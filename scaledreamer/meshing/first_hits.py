"""Which triangle of a mesh a ray meets first: by Embree, or by numpy alone where there is no Embree.

Wheels of Embree (embreex) exist for x86-64 and for macOS, not for Linux on ARM. There `PlainHits` takes its
place, a twin with the same signature. It takes several times as long, and needs rays that come from one point
or go in one direction.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

Hits = tuple[Int[np.ndarray, " ray"], Float[np.ndarray, "ray 3"]]
"""The face that each ray first meets, from either side, -1 for none; and the weights of its corners there."""


def make_first_hits(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> EmbreeHits | PlainHits:
    """By Embree where it is installed, otherwise by numpy."""
    try:
        return EmbreeHits(vertices, faces)
    except ImportError:
        return PlainHits(vertices, faces)


class EmbreeHits:
    """Rays of any kind.

    Raises: ImportError where embreex is not installed.
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
    """Rays that share their origin (a face that is not wholly before it is left out), or their direction.

    The triangles are projected onto a plane across the rays, so each ray becomes a point. The plane has a
    grid: a point is compared with the triangles whose bounds touch its cell.
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
        # Of everything on a line of sight, what has the greatest closeness comes first; it is affine on the
        # plane. `behind` is the closeness of the ray's origin.
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
        met = met[np.argsort(close[met], kind="stable")]  # the first one is written last
        pair = np.full(len(origins), -1)
        pair[ray[met]] = met
        is_hit = pair >= 0
        pair = pair[is_hit]
        face[is_hit] = number[candidate[pair]]
        on_face = share[pair]
        if np.isinf(behind).all():  # perspective: equal steps on the plane are longer far away
            on_face = on_face * closeness[faces[candidate[pair]]]
        weights[is_hit] = on_face / on_face.sum(axis=-1, keepdims=True)
        return face, weights


def _axes_towards(forward: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Columns: two axes across a unit direction, and itself."""
    helper = np.eye(3)[np.abs(forward).argmin()]
    across = np.cross(forward, helper)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(forward, across), forward], axis=-1)


def _pairs_by_cell(
    points: Float[np.ndarray, "point 2"], corners: Float[np.ndarray, "face 3 2"]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Points and faces that may meet: those of one cell of a grid over all faces, about a face a cell."""
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
    face = face[np.argsort(cell, kind="stable")]  # those of a cell beside each other
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
    """Each index as often as its count says, and the number of the repetition."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def _barycentric(
    points: Float[np.ndarray, "pair 2"], corners: Float[np.ndarray, "pair 3 2"]
) -> Float[np.ndarray, "pair 3"]:
    """Weights of the corners, negative outside; not finite for a triangle without area."""
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
