"""A generated object: its field, its mesh, its images, and its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8

from scaledreamer import rendering
from scaledreamer.cameras import orbit_cameras
from scaledreamer.contracts import Renderer, Scene
from scaledreamer.meshing import MAX_FACES, RENDERERS, RESOLUTION, TEXTURE_SIZE, backdrop, export, preview
from scaledreamer.meshing.isosurface import (
    EmptySurfaceError,
    Lattice,
    Mesh,
    drop_chips,
    march,
    sample_near_surface,
)
from scaledreamer.meshing.simplify import simplify
from scaledreamer.meshing.texture import TexturedMesh, texture_mesh

FRAMES_PER_SECOND = 12
MESHES, VIDEOS = (".glb", ".obj", ".ply"), (".mp4", ".gif")
SUFFIXES = (*MESHES, *VIDEOS, ".png")


class Asset:
    """One generated object.

    Attributes:
        prompt: its prompt.
        seed: seed of its noise; None if there is no noise.
        scene: the field, a `Scene` of one prompt.
        notes: notes for the user, for example about unknown words.
        terms_of_use: of its files; a GLB has them as its copyright.

    Args:
        renderer: the renderer of the training; None is the default one.
    """

    def __init__(
        self,
        prompt: str,
        seed: int | None,
        scene: Scene,
        *,
        notes: list[str] | None = None,
        terms_of_use: str | None = None,
        renderer: Renderer | None = None,
        distance: float = 2.6,
        fov_deg: float = 41.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prompt, self.seed, self.scene, self.notes = prompt, seed, scene, list(notes or [])
        self.terms_of_use = terms_of_use
        self._renderer = renderer or rendering.make()
        self._distance, self._fov_deg = distance, fov_deg
        self._device = device
        self._lattices: dict[int, Lattice] = {}
        self._surfaces: dict[int, Mesh] = {}
        self._lit: preview.Lit | None = None
        self._meshes: dict[tuple[int, int, int], TexturedMesh] = {}

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The textured mesh with default settings, in world axes."""
        return export.to_trimesh(self.textured_mesh())

    def textured_mesh(
        self, *, resolution: int = RESOLUTION, max_faces: int = MAX_FACES, texture_size: int = TEXTURE_SIZE
    ) -> TexturedMesh:
        """The isosurface, cleaned, simplified, unwrapped and baked; cached for the same settings.

        The texture has the colours that the renderer shows to a camera looking straight at the surface.

        Raises: EmptySurfaceError if there is no surface; ValueError naming a setting that is out of range.
        """
        key = (resolution, max_faces, texture_size)
        if key not in self._meshes:
            mesh = simplify(self._surface(resolution), max_faces)
            if len(mesh.faces) > max_faces:
                self.notes.append(
                    f"the mesh has {len(mesh.faces):,} faces, more than the {max_faces:,} asked for: fewer "
                    "would tear its bodies and handles apart"
                )
            self._meshes[key] = texture_mesh(
                self.scene,
                mesh,
                texture_size=texture_size,
                offsets=self._renderer.surface_offsets(),
                device=self._device,
            )
        return self._meshes[key]

    @property
    def has_surface(self) -> bool:
        """Whether there is a surface, at the default resolution."""
        try:
            self.check_surface()
        except EmptySurfaceError:
            return False
        return True

    def check_surface(self) -> None:
        """Raises EmptySurfaceError if there is no surface, at the default resolution."""
        self._surface(RESOLUTION)

    def turntable(
        self,
        num_frames: int = 24,
        size: int = 192,
        *,
        elevation_deg: float = 15.0,
        renderer: str = "mesh",
        background: str = backdrop.DEFAULT,
    ) -> UInt8[np.ndarray, "frame h w channel"]:
        """Frames from the front, counter-clockwise seen from above; blank if there is no surface.

        Args:
            renderer: "mesh" shows the surface before simplification, lit, as large as fits; "volume" shows
                the field as rendered in training, without light, from the training's distance.
            background: studio (a light gradient), transparent (rgba), or a colour (`make_backdrop`).
        Raises: ValueError naming the wrong argument.
        """
        numbers = range(num_frames)
        return self._pictures(numbers, num_frames, size, elevation_deg, renderer, background, (self,))

    def frame(
        self,
        number: int,
        num_frames: int,
        size: int = 192,
        *,
        elevation_deg: float = 15.0,
        renderer: str = "mesh",
        background: str = backdrop.DEFAULT,
        fit: Sequence[Asset] | None = None,
    ) -> UInt8[np.ndarray, "h w channel"]:
        """One frame of a turntable; number 0 is the front.

        Args:
            fit: assets that have to fit into the image, instead of this one; with the same assets for many
                images, all have the same scale. Only for renderer "mesh".
        """
        fit = (self,) if fit is None else tuple(fit)
        return self._pictures([number], num_frames, size, elevation_deg, renderer, background, fit)[0]

    def views(
        self,
        num_views: int = 4,
        size: int = 256,
        *,
        renderer: str = "mesh",
        background: str = backdrop.DEFAULT,
    ) -> UInt8[np.ndarray, "view h w channel"]:
        """Images around the object; four of them show its front, left, back and right."""
        return self.turntable(num_views, size, renderer=renderer, background=background)

    def export(
        self,
        path: str | Path,
        *,
        renderer: str | None = None,
        background: str | None = None,
        ground: bool = False,
        scale: float | None = None,
        **mesh_settings: int,
    ) -> Path:
        """Writes .glb, .obj (with its .mtl and texture) or .ply; .mp4 or .gif (turntable) or .png (views side
        by side). Returns the path.

        Every file appears completely or not at all; the folder is created if missing. Images need no
        simplified mesh and no texture.

        Args:
            renderer, background: for images, as in `turntable`; a video cannot be transparent.
            ground, scale: for meshes, as in `export.place`: lowest point at height 0; longest side in metres.
            mesh_settings: for meshes, as in `textured_mesh`.
        Raises: ValueError for another extension, or for an argument that is wrong or does not apply;
            EmptySurfaceError; OSError if it cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            accepted = ", ".join(SUFFIXES)
            raise ValueError(f"cannot export {path.name}: accepted are names ending in {accepted}")
        given = {"renderer": renderer, "background": background}
        of_pictures: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        placed = {"ground": ground or None, "scale": scale}
        of_meshes = mesh_settings | {name: value for name, value in placed.items() if value is not None}
        foreign = of_pictures if kind in MESHES else of_meshes
        if foreign:
            owners = ".mp4, .gif and .png" if kind in MESHES else ".glb, .obj and .ply"
            raise ValueError(f"cannot export {path.name} with {', '.join(foreign)}: these belong to {owners}")
        if kind in VIDEOS and background == backdrop.TRANSPARENT:
            raise ValueError(f"cannot export {path.name}: a video is not transparent; take .png, or a colour")
        # Everything is computed before the folder is created, so that an empty surface leaves nothing behind.
        if kind in MESHES:
            mesh = export.place(self.textured_mesh(**mesh_settings), ground=ground, scale=scale)
            path.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case ".glb":
                    extras = {"prompt": self.prompt, "seed": self.seed, "ground": ground, "scale": scale}
                    extras["mesh"] = dataclasses.asdict(mesh.report)
                    export.save_glb(
                        path, mesh, extras, name=export.slug(self.prompt), terms_of_use=self.terms_of_use
                    )
                case ".obj":
                    export.save_obj(path, mesh)
                case ".ply":
                    export.save_ply(path, mesh)
            return path
        self.check_surface()
        frames = self.views(**of_pictures) if kind == ".png" else self.turntable(**of_pictures)
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case ".mp4":
                export.save_mp4(path, frames, FRAMES_PER_SECOND)
            case ".gif":
                export.save_gif(path, frames, FRAMES_PER_SECOND)
            case ".png":
                export.save_png(path, export.contact_sheet(frames))
        return path

    def _pictures(
        self,
        numbers: Sequence[int],
        num_frames: int,
        size: int,
        elevation_deg: float,
        renderer: str,
        background: str,
        fit: Sequence[Asset],
    ) -> UInt8[np.ndarray, "picture h w channel"]:
        """Some frames of a turntable; arguments as in `turntable` and `frame`."""
        if renderer not in RENDERERS:
            raise ValueError(f"renderer {renderer!r}: accepted are {' and '.join(RENDERERS)}")
        if size < 1:
            raise ValueError(f"size is {size}: a picture has at least 1 pixel a side")
        behind = backdrop.make_backdrop(background, size)
        cameras = orbit_cameras(
            num_frames, elevation_deg=elevation_deg, distance=self._distance, fov_deg=self._fov_deg
        )
        if renderer == "volume":
            some = cameras.select(list(numbers)).to(self._device)
            distances = self._lattice(RESOLUTION).values
            images = self._renderer.frames(self.scene, some, size, distances).cpu().numpy()
        elif self.has_surface:
            shown = [asset._surface(RESOLUTION).vertices for asset in fit if asset.has_surface]
            vertices = np.concatenate(shown or [self._surface(RESOLUTION).vertices])
            cameras, target = preview.framed(vertices, cameras)
            images = preview.render(self._lit_mesh(), cameras.select(list(numbers)), target, size)
        else:
            images = np.zeros((len(numbers), size, size, 4), np.float32)
        return backdrop.lay_over(images, behind)

    def _lit_mesh(self) -> preview.Lit:
        """The lit mesh for images; cached."""
        if self._lit is None:
            mesh = self._surface(RESOLUTION)
            painted = preview.paint(self.scene, mesh, self._renderer.surface_offsets(), self._device)
            self._lit = preview.light(painted)
        return self._lit

    def _lattice(self, resolution: int) -> Lattice:
        """The lattice at a resolution; cached."""
        if resolution not in self._lattices:
            self._lattices[resolution] = sample_near_surface(self.scene, resolution, self._device)
        return self._lattices[resolution]

    def _surface(self, resolution: int) -> Mesh:
        """The mesh before simplification; cached for each resolution."""
        if resolution not in self._surfaces:
            self._surfaces[resolution] = drop_chips(march(self._lattice(resolution)))
        return self._surfaces[resolution]
