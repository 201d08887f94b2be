"""One generated object: its field, its mesh, its pictures, and how they become files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.meshing import MAX_FACES, RESOLUTION, TEXTURE_SIZE, export
from scaledreamer.meshing.isosurface import (
    Lattice,
    drop_small_components,
    march,
    sample_near_surface,
    simplify,
)
from scaledreamer.meshing.texture import TexturedMesh, texture_mesh
from scaledreamer.meshing.turntable import Space, render_frames
from scaledreamer.scene import Scene

FRAMES_PER_SECOND = 12
SUFFIXES = (".glb", ".obj", ".ply", ".mp4", ".gif", ".png")


class Asset:
    """One generated object.

    Attributes:
        prompt, seed: what it was made from.
        scene: the field itself, a `Scene` of one prompt.
        notes: what the user should know, such as words that the generator does not know.
    """

    def __init__(
        self,
        prompt: str,
        seed: int,
        scene: Scene,
        *,
        notes: list[str] | None = None,
        inverse_deviation: float = 30.0,
        distance: float = 2.6,
        fov_deg: float = 41.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prompt, self.seed, self.scene, self.notes = prompt, seed, scene, list(notes or [])
        self._inverse_deviation, self._distance, self._fov_deg = inverse_deviation, distance, fov_deg
        self._device = device
        self._lattices: dict[int, Lattice] = {}
        self._meshes: dict[tuple[int, int, int], TexturedMesh] = {}

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The textured mesh with default settings, in world axes."""
        return export.to_trimesh(self.textured_mesh())

    def textured_mesh(
        self, *, resolution: int = RESOLUTION, max_faces: int = MAX_FACES, texture_size: int = TEXTURE_SIZE
    ) -> TexturedMesh:
        """Isosurface, cleaned, simplified, unwrapped and baked; computed once for the same settings.

        The texture is what a camera looking straight at the surface sees in volume rendering.

        Raises: EmptySurfaceError if there is no surface; ValueError naming a setting that is out of range.
        """
        key = (resolution, max_faces, texture_size)
        if key not in self._meshes:
            mesh = simplify(drop_small_components(march(self._lattice(resolution))), max_faces)
            self._meshes[key] = texture_mesh(
                self.scene,
                mesh,
                texture_size=texture_size,
                inverse_deviation=self._inverse_deviation,
                device=self._device,
            )
        return self._meshes[key]

    @property
    def has_surface(self) -> bool:
        """Whether there is anything to see and to make a mesh of, at the default resolution."""
        values = self._lattice(RESOLUTION).values
        return bool((values < 0).any() and (values > 0).any())

    def turntable(
        self, num_frames: int = 24, size: int = 192, *, elevation_deg: float = 15.0
    ) -> UInt8[np.ndarray, "frame h w 3"]:
        """Volume-rendered frames on white, from the front counter-clockwise seen from above."""
        return self._render(self._orbit(num_frames, elevation_deg), size)

    def frame(
        self, number: int, num_frames: int, size: int = 192, *, elevation_deg: float = 15.0
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One of the frames of a turntable; number 0 is the front."""
        orbit = vars(self._orbit(num_frames, elevation_deg))
        one = Cameras(**{name: value[:, number : number + 1] for name, value in orbit.items()})
        return self._render(one, size)[0]

    def views(self, num_views: int = 4, size: int = 256) -> UInt8[np.ndarray, "view h w 3"]:
        """Still images around the object; of four the front, its left side, back and right side."""
        return self.turntable(num_views, size)

    def export(self, path: str | Path, **mesh_settings: int) -> Path:
        """Writes .glb, .obj (with its .mtl and texture), .ply, .mp4 or .gif (turntable) or .png (views side
        by side); meshes with settings as of `textured_mesh`. Returns the path.

        Every file appears whole or not at all; the folder is made if missing.

        Raises: ValueError for another suffix; EmptySurfaceError; OSError if it cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            accepted = ", ".join(SUFFIXES)
            raise ValueError(f"cannot export {path.name}: accepted are names ending in {accepted}")
        if kind in (".glb", ".obj", ".ply"):
            mesh = self.textured_mesh(**mesh_settings)
        elif mesh_settings:
            listed = ", ".join(mesh_settings)
            raise ValueError(f"cannot export {path.name} with {listed}: these belong to .glb, .obj and .ply")
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case ".glb":
                export.save_glb(path, mesh, {"prompt": self.prompt, "seed": self.seed})
            case ".obj":
                export.save_obj(path, mesh)
            case ".ply":
                export.save_ply(path, mesh)
            case ".mp4":
                export.save_mp4(path, self.turntable(), FRAMES_PER_SECOND)
            case ".gif":
                export.save_gif(path, self.turntable(), FRAMES_PER_SECOND)
            case ".png":
                export.save_png(path, export.contact_sheet(self.views()))
        return path

    def _orbit(self, num_frames: int, elevation_deg: float) -> Cameras:
        return orbit_cameras(
            num_frames, elevation_deg=elevation_deg, distance=self._distance, fov_deg=self._fov_deg
        )

    def _render(self, cameras: Cameras, size: int) -> UInt8[np.ndarray, "frame h w 3"]:
        space = Space.from_lattice(self._lattice(RESOLUTION), self._inverse_deviation)
        frames = render_frames(
            self.scene, space, cameras.to(self._device), size, inverse_deviation=self._inverse_deviation
        )
        return (frames * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _lattice(self, resolution: int) -> Lattice:
        """Sampled once for each resolution."""
        if resolution not in self._lattices:
            self._lattices[resolution] = sample_near_surface(self.scene, resolution, self._device)
        return self._lattices[resolution]
