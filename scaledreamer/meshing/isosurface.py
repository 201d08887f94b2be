"""Triangle meshes of the zero level of a scene's signed distance, cleaned and simplified.

Axes: world, z up, front +x, scene cube [-1, 1]^3. sdf > 0 is outside; faces wind counter-clockwise seen from
outside. Lattices are indexed [x, y, z]. `cell` is one step of the fine lattice, `block` is BLOCK cells a
side.
"""

from __future__ import annotations

from dataclasses import dataclass

import fast_simplification
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes
from torch import Tensor

from scaledreamer.meshing import MAX_RESOLUTION, MIN_MAX_FACES, MIN_RESOLUTION, RESOLUTION
from scaledreamer.scene import Scene

BLOCK = 4


class EmptySurfaceError(ValueError):
    """The scene has no surface inside its cube, so there is no mesh to make."""


@dataclass(frozen=True)
class Lattice:
    """The signed distance on a lattice over the scene cube, both ends included.

    Attributes:
        values: n + 1 points a side, n a multiple of BLOCK.
        near: for each cell whether the surface may be in it; only there are `values` exact, elsewhere
        interpolated.
    """

    values: Float[Tensor, "x y z"]
    near: Bool[Tensor, "cx cy cz"]


@dataclass(frozen=True)
class Mesh:
    """Triangles in world axes, counter-clockwise from outside."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    def vertex_normals(self) -> Float[np.ndarray, "vertex 3"]:
        """Unit normals: mean of the adjacent faces' normals, weighted by area."""
        face_normals = _face_normals(self.vertices, self.faces)
        normals = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(normals, self.faces[:, corner], face_normals)
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)

    def is_watertight(self) -> bool:
        """Every edge belongs to exactly two faces, which run along it in opposite directions."""
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]]).astype(
            np.int64
        )
        num_vertices = len(self.vertices)
        forward = edges[:, 0] * num_vertices + edges[:, 1]
        backward = edges[:, 1] * num_vertices + edges[:, 0]
        unique = np.unique(forward)
        return len(unique) == len(forward) and np.array_equal(unique, np.unique(backward))


@torch.no_grad()
def extract_surface(
    scene: Scene,
    *,
    resolution: int = RESOLUTION,
    max_faces: int | None = None,
    min_component: float = 0.005,
    device: torch.device | str = "cpu",
    chunk_size: int = 1 << 17,
) -> Mesh:
    """Mesh of the surface of a scene of one prompt.

    Args:
        resolution: cells along a side of the scene cube, rounded up to a multiple of BLOCK.
        max_faces: simplified by quadric error to at most this many faces; None keeps all.
        min_component: pieces with a smaller share of the whole area are dropped as floaters.
        chunk_size: points a call of `scene.sdf`.
    Raises: EmptySurfaceError if the field has one sign everywhere; ValueError if it is not finite or if the
        resolution is out of range.
    """
    lattice = sample_near_surface(scene, resolution, device, chunk_size)
    mesh = drop_small_components(march(lattice), min_component)
    return mesh if max_faces is None else simplify(mesh, max_faces)


@torch.no_grad()
def sample_near_surface(
    scene: Scene, resolution: int, device: torch.device | str = "cpu", chunk_size: int = 1 << 17
) -> Lattice:
    """The SDF on a lattice, exact wherever the surface may be; arguments and errors as `extract_surface`.

    A coarse lattice, one point every BLOCK cells, is evaluated first. A block is skipped if the surface
    cannot reach into it: all eight corners have one sign and lie further from zero than the field can fall on
    the way to the farthest point of the block. How fast it falls is measured on the coarse lattice around the
    block, and is taken as at least 1, so nothing is lost of a true distance; skipped blocks are interpolated
    (their sign is right).
    """
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise ValueError(
            f"resolution is {resolution}; accepted are {MIN_RESOLUTION} to {MAX_RESOLUTION} cells a side"
        )
    num_blocks = -(-resolution // BLOCK)
    resolution = num_blocks * BLOCK
    axis = torch.linspace(-1, 1, num_blocks + 1, device=device)
    coarse_points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    coarse = _evaluate(scene, coarse_points, chunk_size).reshape(
        num_blocks + 1, num_blocks + 1, num_blocks + 1
    )
    near_blocks = _blocks_near_surface(coarse, spacing=2 / num_blocks)
    near = near_blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)

    size = (resolution + 1,) * 3
    values = F.interpolate(coarse[None, None], size=size, mode="trilinear", align_corners=True)[
        0, 0
    ].contiguous()
    wanted = F.pad(near, (0, 1, 0, 1, 0, 1))  # a point is wanted if any of its eight cells is near
    for dim in range(3):
        wanted = wanted | wanted.roll(1, dim)
    index = wanted.nonzero()
    if len(index):
        values[wanted] = _evaluate(scene, index.float() * (2 / resolution) - 1, chunk_size)
    return Lattice(values, near)


def march(lattice: Lattice) -> Mesh:
    """Marching cubes of a lattice over the scene cube; a surface that leaves the cube is closed on its sides.

    Raises: EmptySurfaceError if there is none.
    """
    values = lattice.values.cpu().numpy()
    if not (values.min() < 0 < values.max()):
        where = "outside (positive)" if values.min() >= 0 else "inside (negative)"
        raise EmptySurfaceError(
            f"the signed distance is {where} everywhere in the scene cube, there is no surface"
        )
    cell = 2 / (values.shape[0] - 1)
    values = values.copy()
    mask = np.zeros(values.shape, dtype=bool)
    mask[1:, 1:, 1:] = lattice.near.cpu().numpy()  # scikit-image looks at the far corner of a cell
    for dim in range(3):
        for point_layer, cell_layer in ((0, 1), (-1, -1)):
            layer = np.moveaxis(values, dim, 0)[point_layer]
            np.maximum(layer, 0, out=layer)
            np.moveaxis(mask, dim, 0)[cell_layer] = True
    # Vertices that all but coincide on a lattice point would make collapsed triangles.
    touching = np.abs(values) < 1e-3 * cell
    values[touching] = np.where(values[touching] < 0, -1e-3 * cell, 1e-3 * cell)
    if values.min() > 0:
        raise EmptySurfaceError("nothing but the faces of the scene cube is inside, there is no surface")
    vertices, faces, _, _ = marching_cubes(values, 0.0, mask=mask)
    return Mesh((vertices * cell - 1).astype(np.float32), faces.astype(np.int32))


def drop_small_components(mesh: Mesh, min_share: float = 0.005) -> Mesh:
    """Without floaters (less than `min_share` of the whole area) and without cavities nobody can see into."""
    count, label = _components(mesh)
    if count > 1:
        corners = mesh.vertices[mesh.faces].astype(np.float64)
        face_label = label[mesh.faces[:, 0]]
        area = np.bincount(
            face_label, 0.5 * np.linalg.norm(_face_normals(mesh.vertices, mesh.faces), axis=-1), count
        )
        six_volumes = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
        volume = np.bincount(face_label, six_volumes, count)
        keep = (area >= min_share * area.sum()) & (volume > 0)
        keep[area.argmax()] = True
        mesh = _compact(mesh.vertices, mesh.faces[keep[face_label]])
    return mesh


def simplify(mesh: Mesh, max_faces: int) -> Mesh:
    """At most `max_faces` faces, by quadric edge collapse; watertight where one of its settings keeps it."""
    if max_faces < MIN_MAX_FACES:
        raise ValueError(f"max_faces is {max_faces}; accepted are at least {MIN_MAX_FACES} triangles")
    first = None
    for aggressiveness in (5, 7, 6, 4):
        if len(mesh.faces) <= max_faces:
            return mesh
        vertices, faces, *_ = fast_simplification.simplify(
            mesh.vertices, mesh.faces, target_count=max_faces, agg=aggressiveness
        )
        result = _compact(np.asarray(vertices, np.float32), _without_folds(np.asarray(faces, np.int32)))
        if len(result.faces) <= max_faces:
            if result.is_watertight():
                return result
            first = first or result
    return first or mesh


def _blocks_near_surface(coarse: Float[Tensor, "x y z"], spacing: float) -> Bool[Tensor, "bx by bz"]:
    """Blocks, given by their corners' values, into which the zero level may reach."""
    grid = coarse[None, None]
    lowest = -F.max_pool3d(-grid, 2, stride=1)[0, 0]
    highest = F.max_pool3d(grid, 2, stride=1)[0, 0]
    squared_slope = torch.zeros_like(lowest)
    for dim in range(3):
        window = [2, 2, 2]
        window[dim] = 1
        steepest = F.max_pool3d((grid.diff(dim=dim + 2) / spacing).abs(), window, stride=1)
        squared_slope += F.max_pool3d(steepest, 3, stride=1, padding=1)[0, 0] ** 2
    slope = (1.25 * squared_slope.sqrt()).clamp(min=1.0)
    reach = slope * spacing * 3**0.5 / 2  # no point is further from its nearest corner than half a diagonal
    return (lowest <= reach) & (highest >= -reach)


def _evaluate(scene: Scene, points: Float[Tensor, "n 3"], chunk_size: int) -> Float[Tensor, " n"]:
    values = torch.cat([scene.sdf(chunk[None])[0].float() for chunk in points.split(chunk_size)])
    if not bool(values.isfinite().all()):
        raise ValueError(
            "the generator's signed distance is not finite (NaN or infinity): its training diverged or the "
            "checkpoint is damaged; use an earlier or another checkpoint"
        )
    return values


def _face_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float[np.ndarray, "face 3"]:
    """Outward normals whose length is twice the area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _components(mesh: Mesh) -> tuple[int, Int[np.ndarray, " vertex"]]:
    num_vertices = len(mesh.vertices)
    rows = mesh.faces[:, [0, 1]].ravel()
    columns = mesh.faces[:, [1, 2]].ravel()
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(num_vertices, num_vertices))
    count, label = connected_components(graph, directed=False)
    return int(count), label


def _without_folds(faces: Int[np.ndarray, "face 3"]) -> Int[np.ndarray, "more 3"]:
    """Without pairs of faces on the same three vertices: paper-thin folds that edge collapse leaves."""
    _, group, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return faces[count[group.ravel()] == 1]


def _compact(vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> Mesh:
    """Only the vertices in use."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return Mesh(vertices[used], renumbered.reshape(-1, 3).astype(np.int32))
