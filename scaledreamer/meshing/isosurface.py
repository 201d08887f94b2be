"""Triangle meshes of the zero level of a scene's signed distance, closed and cleaned.

Axes: world, z up, front +x, scene cube [-1, 1]^3. sdf > 0 is outside; faces wind counter-clockwise seen from
outside. Lattices are indexed [x, y, z]. `cell` is one step of the fine lattice, `block` is BLOCK cells a
side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from skimage.measure import marching_cubes
from torch import Tensor

from scaledreamer.contracts import Scene
from scaledreamer.meshing import MAX_RESOLUTION, MIN_RESOLUTION, RESOLUTION
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.simplify import collapse_short_edges, simplify
from scaledreamer.meshing.topology import is_inside, label_bodies, signed_volumes

BLOCK = 4

MIN_VOLUME_SHARE = 0.001
"""Share of the enclosed volume below which a piece is dropped; a ball a tenth as wide as another just
stays."""


class EmptySurfaceError(ValueError):
    """The scene has no surface inside its cube, so there is no mesh to make."""


@dataclass(frozen=True)
class Lattice:
    """The signed distance on a lattice over the scene cube, both ends included.

    Attributes:
        values: n + 1 points per side, n a multiple of BLOCK.
        near: whether the surface may pass through each cell; only there `values` are exact, elsewhere they
            are interpolated.
    """

    values: Float[Tensor, "x y z"]
    near: Bool[Tensor, "cx cy cz"]


@torch.no_grad()
def extract_surface(
    scene: Scene,
    *,
    resolution: int = RESOLUTION,
    max_faces: int | None = None,
    min_volume_share: float = MIN_VOLUME_SHARE,
    device: torch.device | str = "cpu",
    chunk_size: int = 1 << 17,
) -> Mesh:
    """The surface mesh of a scene of one prompt.

    Args:
        resolution: cells per side of the scene cube, rounded up to a multiple of BLOCK.
        max_faces: simplified to at most this many faces (see `simplify`); None keeps all.
        min_volume_share: see `drop_chips`.
        chunk_size: points per call of `scene.sdf`.
    Raises: EmptySurfaceError if the field has one sign everywhere; ValueError if it is not finite or if the
        resolution is out of range.
    """
    lattice = sample_near_surface(scene, resolution, device, chunk_size)
    mesh = drop_chips(march(lattice), min_volume_share)
    return mesh if max_faces is None else simplify(mesh, max_faces)


@torch.no_grad()
def sample_near_surface(
    scene: Scene, resolution: int, device: torch.device | str = "cpu", chunk_size: int = 1 << 17
) -> Lattice:
    """The SDF on a lattice, exact wherever the surface may be; arguments and errors as `extract_surface`.

    A coarse lattice, with one point every BLOCK cells, is evaluated first. A block is skipped if the surface
    cannot reach into it: all eight corners have the same sign, and a magnitude larger than the field can drop
    on the way to the farthest point of the block. The slope is measured on the coarse lattice around the
    block and is taken to be at least 1, so nothing is lost for a true distance. Skipped blocks are
    interpolated (with the right sign).
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
    wanted = F.pad(near, (0, 1, 0, 1, 0, 1))  # a point is needed if any of its eight cells is near
    for dim in range(3):
        wanted = wanted | wanted.roll(1, dim)
    index = wanted.nonzero()
    if len(index):
        values[wanted] = _evaluate(scene, index.float() * (2 / resolution) - 1, chunk_size)
    return Lattice(values, near)


def march(lattice: Lattice) -> Mesh:
    """Marching cubes of a lattice over the scene cube: a closed manifold.

    A surface that leaves the cube is cut there and closed with a flat lid, whose vertices have a coordinate
    of exactly -1 or 1.

    Raises: EmptySurfaceError if there is none.
    """
    values = lattice.values.cpu().numpy()
    if not (values.min() < 0 < values.max()):
        where = "outside (positive)" if values.min() >= 0 else "inside (negative)"
        raise EmptySurfaceError(
            f"the signed distance is {where} everywhere in the scene cube, there is no surface"
        )
    if values[1:-1, 1:-1, 1:-1].min() >= 0:
        raise EmptySurfaceError("nothing but the faces of the scene cube is inside, there is no surface")
    cell = 2 / (values.shape[0] - 1)
    # Vertices that nearly coincide at a lattice point would make degenerate triangles.
    least = np.float32(1e-3 * cell)
    values = np.where(np.abs(values) < least, np.where(values < 0, -least, least), values)
    # An extra layer outside produces the lid, which is then projected onto the cube.
    values = np.pad(values, 1, constant_values=cell)
    mask = np.ones(values.shape, dtype=bool)
    mask[2:-1, 2:-1, 2:-1] = lattice.near.cpu().numpy()  # scikit-image looks at the far corner of a cell
    points, faces, _, _ = marching_cubes(values, 0.0, mask=mask)
    vertices = ((points.astype(np.float64) - 1) * cell - 1).clip(-1, 1).astype(np.float32)
    mesh = Mesh(vertices, faces.astype(np.int32))
    # Along an edge of the cube two lids are projected onto the same line, and one of them has to go.
    meets_edge = ((np.abs(vertices) == 1).sum(axis=1) >= 2).any()
    return collapse_short_edges(mesh, 1e-6 * cell) if meets_edge else mesh


def drop_chips(mesh: Mesh, min_volume_share: float = MIN_VOLUME_SHARE) -> Mesh:
    """Removes small floating pieces, and everything hidden inside the object.

    A piece is dropped if it has less than `min_volume_share` of the total volume. Cavities are filled and
    pieces inside them dropped: they are invisible, and a printer would trap resin in them. The largest piece
    is always kept.
    """
    count, label = label_bodies(mesh.faces)
    if count == 1:
        return mesh
    volumes = signed_volumes(mesh, label, count)
    is_kept = volumes >= min_volume_share * volumes.clip(min=0).sum()
    is_kept &= volumes > 0
    is_kept[volumes.argmax()] = True
    bodies = {index: mesh.keep(label == index) for index in np.flatnonzero(is_kept)}
    for index, body in bodies.items():
        others = (other for number, other in bodies.items() if volumes[number] > volumes[index])
        is_kept[index] = not any(is_inside(body.vertices[0], other) for other in others)
    return mesh if is_kept.all() else mesh.keep(is_kept[label])


def _blocks_near_surface(coarse: Float[Tensor, "x y z"], spacing: float) -> Bool[Tensor, "bx by bz"]:
    """Blocks, given by the values at their corners, that the zero level may reach."""
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
    reach = slope * spacing * 3**0.5 / 2  # every point is within half a diagonal of a corner
    return (lowest <= reach) & (highest >= -reach)


def _evaluate(scene: Scene, points: Float[Tensor, "n 3"], chunk_size: int) -> Float[Tensor, " n"]:
    values = torch.cat([scene.sdf(chunk[None])[0].float() for chunk in points.split(chunk_size)])
    if not bool(values.isfinite().all()):
        raise ValueError(
            "the generator's signed distance is not finite (NaN or infinity): its training diverged or the "
            "checkpoint is damaged; use an earlier or another checkpoint"
        )
    return values
