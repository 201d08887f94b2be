"""Triangle meshes in world axes (z up, front +x), counter-clockwise seen from outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Mesh:
    """Triangles in world axes, counter-clockwise from outside."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    def vertex_normals(self) -> Float[np.ndarray, "vertex 3"]:
        """Unit normals: area-weighted mean of the adjacent faces' normals."""
        normals = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(normals, self.faces[:, corner], self.face_normals())
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)

    def face_normals(self) -> Float[np.ndarray, "face 3"]:
        """Outward normals whose length is twice the area."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return np.cross(b - a, c - a)

    def keep(self, is_kept: np.ndarray) -> Mesh:
        """The mesh of the selected faces and the vertices that they use."""
        used, renumbered = np.unique(self.faces[is_kept], return_inverse=True)
        return Mesh(self.vertices[used], renumbered.reshape(-1, 3).astype(np.int32))
