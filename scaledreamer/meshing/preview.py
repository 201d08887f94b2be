"""Images of a mesh: lit first hits with antialiased edges, without a background (premultiplied rgba).

World axes. The lighting is simple and preserves the object's colours: a sky that is brighter above and is
occluded by the object (ambient occlusion, and a shadow on the ground), and a lamp over the camera's left
shoulder. Everything that does not depend on the camera is computed once per vertex.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, minimum_filter

from scaledreamer.cameras import Cameras
from scaledreamer.contracts import Scene
from scaledreamer.meshing.first_hits import FirstHits, make_first_hits
from scaledreamer.meshing.mesh import Mesh
from scaledreamer.meshing.texture import surface_colors

NUM_SKY_DIRECTIONS = 40
GROUND_CELLS = 48
GROUND_REACH = 1.5
"""Side of the ground plane that receives shadows, in diagonals of the object."""

AMBIENT, SKY, LAMP, GLOSS = 0.40, 0.38, 0.28, 0.08
"""Amount of each kind of light; a surface that gets all of it is slightly brighter than its own colour."""

LAMP_DIRECTION = np.array([-0.45, 0.55, 0.70]) / np.linalg.norm([-0.45, 0.55, 0.70])
"""In the camera's axes."""

DARKEST = 0.06
"""Black is raised to this value, so that its shape is visible."""

SHADOW = 0.75
"""Opacity of the shadow where the sky is fully occluded."""

MARGIN = 0.9
"""Share of half the image that the object may fill."""

SMALLEST_DISTANCE = 0.6
"""Minimum distance of the camera."""

CONTRAST = 0.06
"""Pixels that differ from a neighbour by more than this are supersampled."""

SUBSAMPLES = 3
"""Samples per side of such a pixel."""


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh with the colours of its vertices, rgb in [0, 1]."""

    mesh: Mesh
    normals: Float[np.ndarray, "vertex 3"]
    colors: Float[np.ndarray, "vertex 3"]


@dataclass(frozen=True)
class Lit:
    """A painted mesh with its camera-independent lighting.

    Attributes:
        sky: sky light that reaches each vertex; 1 for an unoccluded vertex that faces up.
        shadow: share of light that the object blocks at each cell of the ground, from -x, -y on.
        ground: lowest corner and side of the square of these cells.
    """

    painted: PaintedMesh
    first_hits: FirstHits = field(repr=False)
    sky: Float[np.ndarray, " vertex"]
    shadow: Float[np.ndarray, "x y"]
    ground: tuple[Float[np.ndarray, " 3"], float]


def paint(
    scene: Scene, mesh: Mesh, offsets: tuple[float, ...] = (0.0,), device: torch.device | str = "cpu"
) -> PaintedMesh:
    """Adds the colours that a texture of the mesh would have; `offsets` as for `texture.bake_texture`."""
    normals = mesh.vertex_normals().astype(np.float32)
    return PaintedMesh(mesh, normals, surface_colors(scene, mesh.vertices, normals, offsets, device))


def light(painted: PaintedMesh, first_hits: FirstHits | None = None) -> Lit:
    """Computes the sky light on the mesh, and on the ground below it."""
    vertices, normals = painted.mesh.vertices, painted.normals
    first_hits = first_hits or make_first_hits(vertices, painted.mesh.faces)
    lowest, highest = vertices.min(axis=0), vertices.max(axis=0)
    side = GROUND_REACH * float(np.linalg.norm(highest - lowest))
    corner = np.append(((lowest + highest) / 2)[:2] - side / 2, lowest[2])
    cell = (np.stack(np.meshgrid(*[np.arange(GROUND_CELLS)] * 2, indexing="ij"), -1) + 0.5) * (
        side / GROUND_CELLS
    )
    floor = np.concatenate([corner[:2] + cell.reshape(-1, 2), np.full((cell[..., 0].size, 1), lowest[2])], 1)

    # Slightly off the surface, so that no triangle occludes itself.
    starts = np.concatenate([vertices + 2e-3 * normals, floor + [0, 0, 1e-4]]).astype(np.float32)
    facing = np.concatenate([normals, np.broadcast_to([0, 0, 1], floor.shape)]).astype(np.float32)
    received, possible = np.zeros(len(starts)), np.zeros(len(starts))
    for direction in _sphere(NUM_SKY_DIRECTIONS):
        slant = (facing @ direction).clip(min=0)
        turned = slant.nonzero()[0]
        face, _ = first_hits(starts[turned], np.broadcast_to(direction, (len(turned), 3)))
        radiance = 0.7 + 0.3 * direction[2]
        possible[turned] += radiance * slant[turned]
        received[turned] += radiance * slant[turned] * (face < 0)
    count = len(vertices)
    kept_out = (1 - received[count:] / possible[count:]).reshape(GROUND_CELLS, GROUND_CELLS)
    return Lit(
        painted,
        first_hits,
        (received[:count] / possible[count:].mean()).astype(np.float32),
        gaussian_filter(kept_out, 1.2, mode="nearest"),
        (corner, side),
    )


def framed(points: Float[np.ndarray, "point 3"], cameras: Cameras) -> tuple[Cameras, Float[np.ndarray, " 3"]]:
    """Moves the cameras (of one prompt) along their axes, to one distance from which all see all points.

    Returns: the cameras, and the point they look at: the centre of the points' bounds.
    """
    target = (points.min(axis=0) + points.max(axis=0)) / 2
    axes = cameras.camera_to_world[0, :, :3, :3].double().cpu().numpy()
    seen = np.einsum("pj,vji->vpi", points - target, axes)
    reach = MARGIN * np.tan(0.5 * cameras.fov[0].double().cpu().numpy())[:, None]
    needed = seen[..., 2] + np.abs(seen[..., :2]).max(axis=-1) / reach
    distance = torch.full_like(cameras.distance, max(float(needed.max()), SMALLEST_DISTANCE))
    return Cameras(cameras.elevation, cameras.azimuth, distance, cameras.fov), target


def render(
    lit: Lit, cameras: Cameras, target: Float[np.ndarray, " 3"], size: int
) -> Float[np.ndarray, "view {size} {size} 4"]:
    """Square images, premultiplied rgba in [0, 1]: the object above its shadow on the ground.

    Args:
        cameras: of one prompt; they look at `target` instead of the origin.
    """
    transforms = cameras.camera_to_world[0].double().cpu().numpy()
    half = np.tan(0.5 * cameras.fov[0].double().cpu().numpy())
    return np.stack(
        [
            _render_one(lit, _Eye(axes[:3, :3], axes[:3, 3] + target, tangent / size * 2, size))
            for axes, tangent in zip(transforms, half, strict=True)
        ]
    )


@dataclass(frozen=True)
class _Eye:
    """A camera with square pixels: columns are right, up, backward; `pixel` is a pixel's size at depth 1."""

    axes: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, " 3"]
    pixel: float
    size: int

    def directions(
        self, row: Float[np.ndarray, " ray"], column: Float[np.ndarray, " ray"]
    ) -> Float[np.ndarray, "ray 3"]:
        """Unit directions; integers are pixel centres, row 0 is at the top."""
        middle = (self.size - 1) / 2
        across = np.stack([(column - middle) * self.pixel, (middle - row) * self.pixel], axis=-1)
        rays = across @ self.axes[:, :2].T - self.axes[:, 2]
        return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)


def _render_one(lit: Lit, eye: _Eye) -> Float[np.ndarray, "h w 4"]:
    size = eye.size
    shaded = _shade(lit, eye)
    row, column = (index.ravel() for index in np.indices((size, size), dtype=np.float32))
    directions = eye.directions(row, column)
    image = _cast(lit, eye, shaded, directions).reshape(size, size, 4)
    reach = (3, 3, 1)
    differs = (maximum_filter(image, reach) - minimum_filter(image, reach)).max(axis=-1) > CONTRAST
    row, column = (index.astype(np.float32) for index in differs.nonzero())
    if len(row):
        offsets = (np.arange(SUBSAMPLES, dtype=np.float32) + 0.5) / SUBSAMPLES - 0.5
        down, right = (each.reshape(-1, 1) for each in np.meshgrid(offsets, offsets, indexing="ij"))
        fine = eye.directions((row + down).ravel(), (column + right).ravel())
        image[differs] = _cast(lit, eye, shaded, fine).reshape(SUBSAMPLES**2, -1, 4).mean(axis=0)
    image[..., 3] += (1 - image[..., 3]) * _shadow(lit, eye, directions).reshape(size, size)
    return image


def _shade(lit: Lit, eye: _Eye) -> Float[np.ndarray, "vertex 3"]:
    """The vertices' colours as the camera sees them."""
    normals = lit.painted.normals
    lamp = eye.axes @ LAMP_DIRECTION
    to_eye = eye.position - lit.painted.mesh.vertices
    halfway = to_eye / np.linalg.norm(to_eye, axis=-1, keepdims=True) + lamp
    halfway /= np.linalg.norm(halfway, axis=-1, keepdims=True)
    gloss = GLOSS * np.einsum("vi,vi->v", normals, halfway).clip(min=0) ** 24
    matt = AMBIENT + SKY * lit.sky + LAMP * (normals @ lamp).clip(min=0)
    color = DARKEST + (1 - DARKEST) * lit.painted.colors
    return (matt[:, None] * color + gloss[:, None]).clip(0, 1).astype(np.float32)


def _cast(
    lit: Lit, eye: _Eye, shaded: Float[np.ndarray, "vertex 3"], directions: Float[np.ndarray, "ray 3"]
) -> Float[np.ndarray, "ray 4"]:
    """Colour and opacity along rays; 0 where they miss the object."""
    face, weights = lit.first_hits(np.broadcast_to(eye.position, directions.shape), directions)
    hit = (face >= 0).nonzero()[0]
    corners = lit.painted.mesh.faces[face[hit]]
    result = np.zeros((len(directions), 4), np.float32)
    result[hit, :3] = np.einsum("rc,rci->ri", weights[hit], shaded[corners])
    result[hit, 3] = 1
    return result


def _shadow(lit: Lit, eye: _Eye, directions: Float[np.ndarray, "ray 3"]) -> Float[np.ndarray, " ray"]:
    """Opacity of the shadow where rays hit the ground from above."""
    corner, side = lit.ground
    height = eye.position[2] - corner[2]
    opacity = np.zeros(len(directions), np.float32)
    down = (directions[:, 2] < -1e-3).nonzero()[0]
    rays = directions[down]
    place = (eye.position[:2] - corner[:2] + rays[:, :2] * (height / -rays[:, 2:])) / side
    fade = (4 * np.minimum(place, 1 - place).min(axis=-1)).clip(0, 1)  # fades out at the edge of the square
    cells = place.T * GROUND_CELLS - 0.5
    opacity[down] = SHADOW * fade * map_coordinates(lit.shadow, cells, order=1, mode="nearest")
    return opacity


def _sphere(count: int) -> Float[np.ndarray, "direction 3"]:
    """Evenly distributed unit vectors (Fibonacci spiral)."""
    number = np.arange(count) + 0.5
    height, turn = 1 - 2 * number / count, np.pi * (1 + 5**0.5) * number
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1).astype(np.float32)
