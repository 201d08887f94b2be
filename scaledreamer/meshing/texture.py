"""Texture of a mesh: a UV atlas, and the scene's colour at the surface point of every texel.

UV: u to the right, v up, both in [0, 1] (as in trimesh and OBJ; the GLB writer flips v). Images are (row,
column, rgb), row 0 at the top, so texel (row, column) of a size-n texture is centred at u = (column + .5) /
n, v = 1 - (row + .5) / n. World axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xatlas
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

from scaledreamer.contracts import Scene
from scaledreamer.meshing import MAX_TEXTURE_SIZE, MIN_TEXTURE_SIZE, TEXTURE_SIZE
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.topology import MeshReport, inspect


@dataclass(frozen=True)
class Atlas:
    """A mesh cut open along the seams of its UV islands: vertices on a seam occur once per island."""

    vertices: Float[np.ndarray, "vertex 3"]
    normals: Float[np.ndarray, "vertex 3"]
    uv: Float[np.ndarray, "vertex 2"]
    faces: Int[np.ndarray, "face 3"]


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with its texture; `report` describes the mesh before it was cut open for the atlas."""

    atlas: Atlas
    texture: UInt8[np.ndarray, "h w 3"]
    report: MeshReport


def texture_mesh(
    scene: Scene,
    mesh: Mesh,
    *,
    texture_size: int = TEXTURE_SIZE,
    offsets: tuple[float, ...] = (0.0,),
    device: torch.device | str = "cpu",
) -> TexturedMesh:
    """Unwraps `mesh` and bakes the colours of `scene`; arguments as in `bake_texture`."""
    atlas = unwrap(mesh, texture_size)
    return TexturedMesh(atlas, bake_texture(scene, atlas, texture_size, offsets, device), inspect(mesh))


def unwrap(mesh: Mesh, texture_size: int, padding: int = 2) -> Atlas:
    """UV islands by xatlas, `padding` texels apart."""
    generator = xatlas.Atlas()
    generator.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution = texture_size
    packing.padding = padding
    generator.generate(pack_options=packing)
    original, faces, uv = generator.get_mesh(0)
    uv = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=-1).astype(np.float32)
    normals = mesh.vertex_normals()[original].astype(np.float32)
    return Atlas(mesh.vertices[original], normals, uv, faces.astype(np.int32))


@torch.no_grad()
def bake_texture(
    scene: Scene,
    atlas: Atlas,
    texture_size: int,
    offsets: tuple[float, ...] = (0.0,),
    device: torch.device | str = "cpu",
    chunk_size: int = 1 << 16,
) -> UInt8[np.ndarray, "h w 3"]:
    """The scene's rgb at each texel's surface point, averaged over `offsets` along the normal.

    Texels between the islands take the colour of the nearest island's edge, so that neither bilinear
    filtering nor mipmaps blend in other colours at the seams.

    Args:
        offsets: distances from the surface, positive outside; see `Renderer.surface_offsets`.
        chunk_size: points per call of `scene.query`.
    Raises: ValueError if `texture_size` is out of range.
    """
    if not MIN_TEXTURE_SIZE <= texture_size <= MAX_TEXTURE_SIZE:
        raise ValueError(
            f"texture_size is {texture_size}; accepted are {MIN_TEXTURE_SIZE} to {MAX_TEXTURE_SIZE} texels"
        )
    face, weights, covered = rasterize_atlas(atlas, texture_size)
    corners = atlas.faces[face]
    points = np.einsum("tc,tci->ti", weights, atlas.vertices[corners])
    normals = np.einsum("tc,tci->ti", weights, atlas.normals[corners])
    rgb = surface_colors(scene, points, normals, offsets, device, chunk_size)
    texture = np.zeros((texture_size, texture_size, 3), np.uint8)
    texture[covered] = (rgb * 255).round().astype(np.uint8)
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    assert isinstance(nearest, np.ndarray)
    return texture[nearest[0], nearest[1]]


@torch.no_grad()
def surface_colors(
    scene: Scene,
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    offsets: tuple[float, ...],
    device: torch.device | str = "cpu",
    chunk_size: int = 1 << 16,
) -> Float[np.ndarray, "n 3"]:
    """The scene's rgb in [0, 1] at points of a surface, averaged over `offsets` along its normals.

    Args:
        normals: of any length.
        offsets, chunk_size: as in `bake_texture`.
    """
    places = torch.from_numpy(points.astype(np.float32)).to(device)
    outward = torch.nn.functional.normalize(torch.from_numpy(normals.astype(np.float32)).to(device), dim=-1)
    rgb = []
    for place, normal in zip(places.split(chunk_size), outward.split(chunk_size), strict=True):
        samples = [scene.query((place + offset * normal)[None])[1][0, :, :3].float() for offset in offsets]
        rgb.append(torch.stack(samples).mean(0).clamp(0, 1))
    return torch.cat(rgb).cpu().numpy()


def rasterize_atlas(
    atlas: Atlas, size: int
) -> tuple[Int[np.ndarray, " texel"], Float[np.ndarray, "texel 3"], Bool[np.ndarray, "h w"]]:
    """Face and barycentric weights for every texel whose centre is in a face or within a texel of one.

    Returns: faces and barycentric weights (clamped to the face) of the covered texels in row-major order, and
        which texels are covered.
    """
    corners = (
        atlas.uv[atlas.faces].astype(np.float64) * size - 0.5
    )  # face corner xy, texel centres at integers
    corners[..., 1] = size - 1 - corners[..., 1]
    # Signed distance to each edge's line, positive inside, is affine: normal . (position - lowest) + level.
    lowest = np.clip(np.floor(corners.min(axis=1)), 0, size - 1)
    highest = np.clip(np.ceil(corners.max(axis=1)), 0, size - 1)
    along = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)  # the edge opposite each corner
    length = np.maximum(np.linalg.norm(along, axis=-1), 1e-9)
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1) / length[..., None]
    mirrored = along[:, 1, 0] * along[:, 2, 1] < along[:, 1, 1] * along[:, 2, 0]
    normal[mirrored] *= -1
    level = np.einsum("fci,fci->fc", normal, lowest[:, None] - np.roll(corners, -1, axis=1))
    height = np.maximum(np.einsum("fci,fci->fc", normal, corners - np.roll(corners, -1, axis=1)), 1e-9)
    slope_x, slope_y, level = (
        values.astype(np.float32) for values in (normal[..., 0], normal[..., 1], level)
    )

    width, rows = (highest - lowest + 1).astype(np.int64).T
    count = width * rows
    face = np.repeat(np.arange(len(corners)), count)
    rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    y, x = np.divmod(rank, width[face])
    worst = np.full(len(face), np.inf, np.float32)
    for edge in range(3):
        distance = slope_x[face, edge] * x + slope_y[face, edge] * y + level[face, edge]
        worst = np.minimum(worst, distance.astype(np.float32))
        near = worst > -1
        face, x, y, worst = face[near], x[near], y[near], worst[near]

    order = np.argsort(
        worst, kind="stable"
    )  # if several faces cover a texel, the one it is deepest in is written last
    first_column, first_row = lowest.astype(np.int64).T
    texel = (first_row[face] + y) * size + first_column[face] + x
    winner = np.full(size * size, -1, np.int64)
    winner[texel[order]] = order
    covered = winner >= 0
    winner = winner[covered]
    face, x, y = face[winner], x[winner, None], y[winner, None]
    weights = np.clip((slope_x[face] * x + slope_y[face] * y + level[face]) / height[face], 0, None)
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)
    return face, weights.astype(np.float32), covered.reshape(size, size)
