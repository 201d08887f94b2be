"""Mesh simplification by edge collapse with the quadric error (Garland and Heckbert, SIGGRAPH 1997).

A closed manifold stays one at any number of faces. An edge is collapsed only if its ends have exactly two
common neighbours (the link condition of Dey et al., 1999), no face flips, and none becomes a sliver. Vertices
on a face of the scene cube stay on it, so flat lids stay flat.

Many edges are collapsed at a time, in rounds: of the cheapest edges, those that no cheaper one touches. The
ends of two of them are never neighbours, so the checks of each still hold. Everything is float64 and
independent of the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from scaledreamer.meshing import MIN_MAX_FACES
from scaledreamer.meshing.mesh import Mesh

CHEAPEST_SHARE = 0.15
"""Share of all edges considered in a round: a smaller one is closer to one collapse at a time, and slower."""

COST_CLASSES = 4
"""Ratio of costs within which a round takes edges in any order."""

PASSES = 3
"""Passes of a round in search of edges that are independent of those already chosen."""

PULL_TO_MIDDLE = 1e-3
"""Weight of the squared distance to the edge's midpoint, relative to the planes: where they do not determine
the position, as in a plane or along a crease, triangles become even."""

MIN_COSINE, MIN_ROUNDNESS = 0.2, 1e-4
"""Limits for the cosine of a face's normals before and after, and its area by its squared longest side."""


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """At most `max_faces` faces, or the fewest that this can reach.

    More than `max_faces` remain only if there are too many bodies and handles, which need at least 4 and
    about 14 faces each. `mesh` must be a closed manifold, as from `march`; bodies and handles are preserved.

    Raises: ValueError if `max_faces` is less than MIN_MAX_FACES.
    """
    if max_faces < MIN_MAX_FACES:
        raise ValueError(f"max_faces is {max_faces}; accepted are at least {MIN_MAX_FACES} triangles")
    if len(mesh.faces) <= max_faces:
        return mesh
    state = _State.of(mesh)
    while len(state.faces) > max_faces and _collapse_round(state, (len(state.faces) - max_faces + 1) // 2):
        if len(state.faces) < state.vertices.shape[1]:  # at first twice as many
            state = state.compacted()
    return state.to_mesh()


def collapse_short_edges(mesh: Mesh, max_length: float) -> Mesh:
    """Merges vertices that are at most this far apart, if the mesh stays manifold."""
    state = _State.of(mesh)
    while _collapse_round(state, len(state.faces), max_length):
        pass
    return state.to_mesh()


@dataclass
class _State:
    """Columns are vertices.

    Attributes:
        quadrics: xx, xy, xz, yy, yz, zz of A; b; c of the area-weighted squared distances x'Ax + 2 b'x + c to
            the planes accumulated so far.
        planes: on which of x = -1, x = 1, y = -1, ... a vertex lies; it never leaves them.
        refused: keys of edges that failed a check, sorted.
    """

    vertices: Float[np.ndarray, "3 vertex"]
    faces: Int[np.ndarray, "face 3"]
    quadrics: Float[np.ndarray, "10 vertex"]
    planes: Bool[np.ndarray, "6 vertex"]
    refused: Int[np.ndarray, " edge"] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, mesh: Mesh) -> _State:
        faces = mesh.faces.astype(np.int64)
        vertices = np.ascontiguousarray(mesh.vertices.T, np.float64)
        a, b, c = (vertices[:, faces[:, corner]] for corner in range(3))
        normal = np.cross(b - a, c - a, axis=0)
        double_area = np.linalg.norm(normal, axis=0)
        x, y, z = normal / np.maximum(double_area, 1e-30)
        d = -(x * a[0] + y * a[1] + z * a[2])
        products = (x * x, x * y, x * z, y * y, y * z, z * z, x * d, y * d, z * d, d * d)
        of_face = np.sqrt(double_area) * np.stack(products)
        quadrics = np.zeros((10, vertices.shape[1]))
        for row, weights in zip(quadrics, of_face, strict=True):
            for corner in range(3):
                row += np.bincount(faces[:, corner], weights, len(row))
        planes = np.stack([vertices == -1, vertices == 1], axis=1).reshape(6, -1)
        return cls(vertices, faces, quadrics, planes)

    def compacted(self) -> _State:
        """Drops removed vertices, so that the cost of a round follows the current size."""
        used, renumbered = np.unique(self.faces, return_inverse=True)
        faces = renumbered.reshape(-1, 3)
        return _State(self.vertices[:, used], faces, self.quadrics[:, used], self.planes[:, used])

    def to_mesh(self) -> Mesh:
        """The remaining vertices, in their original order."""
        mesh = Mesh(self.vertices.T.astype(np.float32), self.faces.astype(np.int32))
        return mesh.keep(np.ones(len(mesh.faces), bool))


@dataclass(frozen=True)
class _Edges:
    """The edges of a closed mesh, sorted by key.

    Attributes:
        low, high: their ends; key = low * vertices + high.
        neighbors, first: neighbours of vertex v are neighbors[first[v] : first[v + 1]].
    """

    low: Int[np.ndarray, " edge"]
    high: Int[np.ndarray, " edge"]
    key: Int[np.ndarray, " edge"]
    neighbors: Int[np.ndarray, " side"]
    first: Int[np.ndarray, " more"]

    @classmethod
    def of(cls, faces: Int[np.ndarray, "face 3"], num_vertices: int) -> _Edges:
        # Each edge has a half-edge in either direction, so half-edges sorted by (start, end) form neighbour
        # lists, and those with start < end are the edges.
        start, end = faces.T.ravel(), np.roll(faces, -1, axis=1).T.ravel()
        side = np.sort(start * num_vertices + end)
        start, end = np.divmod(side, num_vertices)
        is_up = start < end
        first = np.zeros(num_vertices + 1, np.int64)
        np.cumsum(np.bincount(start, minlength=num_vertices), out=first[1:])
        return cls(start[is_up], end[is_up], side[is_up], end, first)

    def around(
        self, vertices: Int[np.ndarray, " chosen"]
    ) -> tuple[Int[np.ndarray, " side"], Int[np.ndarray, " side"]]:
        """Neighbours of vertices: for each, the index of its vertex and its position in `neighbors`."""
        count = self.first[vertices + 1] - self.first[vertices]
        owner = np.repeat(np.arange(len(vertices)), count)
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return owner, self.first[vertices][owner] + rank

    def is_first_around(self, candidates: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " chosen"]:
        """Which of these edges come before all others that share an end, or a neighbour of an end, with
        them."""
        low, high, rank = self.low[candidates], self.high[candidates], np.arange(len(candidates))
        num_vertices = len(self.first) - 1
        first = np.full(num_vertices, len(candidates))
        np.minimum.at(first, low, rank)
        np.minimum.at(first, high, rank)
        used = np.flatnonzero(self.first[1:] > self.first[:-1])
        around = first.copy()
        around[used] = np.minimum(first[used], np.minimum.reduceat(first[self.neighbors], self.first[used]))
        return np.minimum(around[low], around[high]) == rank


def _collapse_round(state: _State, num_wanted: int, max_length: float = np.inf) -> bool:
    """Collapses at most `num_wanted` independent edges; False if none is left to try.

    With `max_length`, only edges up to this length are collapsed, to their midpoint.
    """
    num_vertices = state.vertices.shape[1]
    edges = _Edges.of(state.faces, num_vertices)
    cost, place = _price(state, edges)
    if max_length < np.inf:
        low, high = state.vertices[:, edges.low], state.vertices[:, edges.high]
        place = (low + high) / 2
        cost[((high - low) ** 2).sum(axis=0) > max_length**2] = np.inf
    cost[np.isin(edges.key, state.refused, assume_unique=True)] = np.inf
    num_possible = int(np.isfinite(cost).sum())
    if not num_possible:
        return False
    count = min(num_possible, max(int(CHEAPEST_SHARE * len(cost)), 16))
    candidates = np.argpartition(cost, count - 1)[:count]
    candidates = candidates[np.lexsort((candidates, cost[candidates]))]
    # Costs rise along chains of edges, of which only the first would be chosen, so costs are put into
    # classes.
    cost_class = np.arange(count) * COST_CLASSES // count
    candidates = candidates[np.lexsort((_scramble(edges.key[candidates]), cost_class))]
    is_free = np.ones(num_vertices, bool)
    chosen: list[np.ndarray] = []
    for _ in range(PASSES):
        candidates = candidates[is_free[edges.low[candidates]] & is_free[edges.high[candidates]]]
        is_winner = edges.is_first_around(candidates)
        winners = candidates[is_winner]
        is_good = _keeps_manifold(edges, winners) & _keeps_shape(state, edges, winners, place[:, winners])
        state.refused = np.union1d(state.refused, edges.key[winners[~is_good]])
        good = winners[is_good]
        taken = np.concatenate([edges.low[good], edges.high[good]])
        is_free[taken] = False
        is_free[edges.neighbors[edges.around(taken)[1]]] = False
        chosen.append(good)
        candidates = candidates[~is_winner]
    done = np.concatenate(chosen)
    done = done[np.lexsort((done, cost[done]))][:num_wanted]
    # A failed check holds until something around the edge moves.
    low, high = np.divmod(state.refused, num_vertices)
    state.refused = state.refused[is_free[low] & is_free[high]]
    low, high = edges.low[done], edges.high[done]
    state.vertices[:, low] = place[:, done]
    state.quadrics[:, low] += state.quadrics[:, high]
    state.planes[:, low] |= state.planes[:, high]
    renumbered = np.arange(num_vertices)
    renumbered[high] = low
    faces = renumbered[state.faces]
    is_left = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    state.faces = faces[is_left]
    return True


def _price(state: _State, edges: _Edges) -> tuple[Float[np.ndarray, " edge"], Float[np.ndarray, "3 edge"]]:
    """Quadric error of each edge's collapse, infinite if not allowed, and the position of the remaining
    vertex."""
    xx, xy, xz, yy, yz, zz, bx, by, bz, c = state.quadrics[:, edges.low] + state.quadrics[:, edges.high]
    low, high = state.vertices[:, edges.low], state.vertices[:, edges.high]
    middle = (low + high) / 2
    pull = PULL_TO_MIDDLE * (xx + yy + zz) + 1e-30
    # (A + pull I) x = pull middle - b, by Cramer's rule; the pull keeps it well conditioned.
    ax, ay, az = xx + pull, yy + pull, zz + pull
    rx, ry, rz = (pull * m - b for m, b in zip(middle, (bx, by, bz), strict=True))
    xi, yi, zi = ay * az - yz * yz, ax * az - xz * xz, ax * ay - xy * xy
    xyi, xzi, yzi = xz * yz - xy * az, xy * yz - xz * ay, xy * xz - ax * yz
    determinant = ax * xi + xy * xyi + xz * xzi
    place_x, place_y = xi * rx + xyi * ry + xzi * rz, xyi * rx + yi * ry + yzi * rz
    place = np.stack([place_x, place_y, xzi * rx + yzi * ry + zi * rz]) / determinant
    planes_low, planes_high = state.planes[:, edges.low], state.planes[:, edges.high]
    planes = planes_low | planes_high
    for index, plane in enumerate(planes):
        place[index // 2, plane] = 2 * (index % 2) - 1
    x, y, z = place
    cost = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
    cost += 2 * (bx * x + by * y + bz * z) + c + pull * ((place - middle) ** 2).sum(axis=0)
    # The remaining vertex lies on all planes of both; a corner or crease of a lid does not absorb another
    # one.
    is_allowed = (planes == planes_low).all(axis=0) | (planes == planes_high).all(axis=0)
    return np.where(is_allowed, cost, np.inf), place


def _keeps_manifold(edges: _Edges, index: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " chosen"]:
    """The link condition: the ends have exactly two common neighbours, each with more than three
    neighbours."""
    owner_low, sides_low = edges.around(edges.low[index])
    owner_high, sides_high = edges.around(edges.high[index])
    num_vertices = len(edges.first) - 1
    pair = np.concatenate([owner_low, owner_high]) * num_vertices
    pair += edges.neighbors[np.concatenate([sides_low, sides_high])]
    pair.sort()
    owner, common = np.divmod(pair[1:][pair[1:] == pair[:-1]], num_vertices)
    has_three = edges.first[common + 1] - edges.first[common] == 3
    return np.bincount(owner, 1 + has_three, len(index)) == 2


def _keeps_shape(
    state: _State, edges: _Edges, index: Int[np.ndarray, " chosen"], place: Float[np.ndarray, "3 chosen"]
) -> Bool[np.ndarray, " chosen"]:
    """Whether no face flips or becomes a sliver; the edges must be independent."""
    owner = np.full(state.vertices.shape[1], -1)
    owner[edges.low[index]] = owner[edges.high[index]] = np.arange(len(index))
    owners = owner[state.faces]
    touched = np.flatnonzero(((owners >= 0).sum(axis=1)) == 1)  # faces at both ends vanish
    owners = owners[touched]
    before = state.vertices[:, state.faces[touched]]
    after = np.where(owners >= 0, place[:, owners], before)
    (normal_before, area_before, round_before), (normal_after, area_after, round_after) = (
        _shape(corners) for corners in (before, after)
    )
    cosine_enough = (normal_before * normal_after).sum(axis=0) >= MIN_COSINE * area_before * area_after
    is_good = cosine_enough & (round_after >= np.minimum(MIN_ROUNDNESS, round_before))
    return np.bincount(owners.max(axis=1)[~is_good], minlength=len(index)) == 0


def _scramble(key: Int[np.ndarray, " edge"]) -> Int[np.ndarray, " edge"]:
    """A pseudo-random order, the same on every machine (multiplicative hash)."""
    return ((key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)).astype(np.int64)


def _shape(
    corners: Float[np.ndarray, "3 face 3"],
) -> tuple[Float[np.ndarray, "3 face"], Float[np.ndarray, " face"], Float[np.ndarray, " face"]]:
    """For triangles: normals of length twice the area, this length, and the area by the squared longest
    side."""
    a, b, c = np.moveaxis(corners, -1, 0)
    normal = np.cross(b - a, c - a, axis=0)
    double_area = np.linalg.norm(normal, axis=0)
    longest = np.max([((p - q) ** 2).sum(axis=0) for p, q in ((a, b), (b, c), (c, a))], axis=0)
    return normal, double_area, double_area / np.maximum(2 * longest, 1e-30)
