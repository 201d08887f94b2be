"""Files: GLB, OBJ and PLY of a textured mesh, MP4 and GIF of frames, PNG sheets of views, and their names.

Every file is written under a temporary name and then renamed, so an interrupted or failed run never leaves a
partial file. glTF and OBJ are y up, front +z; the world, and PLY, are z up, front +x: (x, y, z) becomes (y,
z, x). One unit is one metre.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import trimesh
import trimesh.exchange.gltf
import trimesh.exchange.obj
import trimesh.exchange.ply
from jaxtyping import Float, UInt8
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from scaledreamer.files import replacing_file
from scaledreamer.meshing.texture import TexturedMesh
from scaledreamer.version import __version__

MAX_SLUG_LENGTH = 60


def file_stem(prompt: str, *identity: object) -> str:
    """A file name without extension: readable, at most 73 ASCII characters, valid on every system.

    Its twelve hexadecimal digits are a hash of the exact prompt and whatever else identifies the asset (seed,
    checkpoint), so different assets have different names and the same asset always has the same name.
    """
    digest = hashlib.sha256(repr((prompt, *identity)).encode()).hexdigest()[:12]
    return f"{slug(prompt)}-{digest}"


def slug(prompt: str) -> str:
    """A prompt in lower-case letters, digits and hyphens, at most MAX_SLUG_LENGTH; "prompt" if empty."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:MAX_SLUG_LENGTH].strip("-") or "prompt"


def place(mesh: TexturedMesh, *, ground: bool = False, scale: float | None = None) -> TexturedMesh:
    """Moves and scales a mesh, in world axes.

    Args:
        ground: move it vertically until its lowest point is at height 0 (y = 0 in glTF).
        scale: length in metres of the longest side of its bounding box; None keeps the size of the scene
            cube, 2 units per side.
    Raises: ValueError if `scale` is not a positive number.
    """
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; accepted are metres above 0, or None")
    vertices = mesh.atlas.vertices.astype(np.float64)
    if scale is not None:
        vertices *= scale / np.ptp(vertices, axis=0).max()
    if ground:
        vertices[:, 2] -= vertices[:, 2].min()
    return dataclasses.replace(
        mesh, atlas=dataclasses.replace(mesh.atlas, vertices=vertices.astype(np.float32))
    )


def to_gltf_axes(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rotates from world axes (z up, front +x) to glTF axes (y up, front +z)."""
    return vectors[:, [1, 2, 0]]


def to_trimesh(mesh: TexturedMesh, *, gltf_axes: bool = False) -> trimesh.Trimesh:
    """A `trimesh.Trimesh` with UV, normals and a matt PBR material; in world axes unless `gltf_axes`."""
    turn = to_gltf_axes if gltf_axes else np.asarray
    material = PBRMaterial(
        name="baked",
        baseColorTexture=Image.fromarray(mesh.texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    return trimesh.Trimesh(
        vertices=turn(mesh.atlas.vertices),
        faces=mesh.atlas.faces,
        vertex_normals=turn(mesh.atlas.normals),
        visual=TextureVisuals(uv=mesh.atlas.uv, material=material),
        process=False,
    )


def save_glb(
    path: Path | str,
    mesh: TexturedMesh,
    extras: dict[str, Any] | None = None,
    *,
    name: str = "asset",
    terms_of_use: str | None = None,
) -> None:
    """Binary glTF 2.0, y up, front +z.

    Args:
        extras: JSON values for the file's `asset.extras`.
        name: of the mesh and its node, as shown by importers.
        terms_of_use: stored as `asset.copyright`.
    """

    def describe(tree: dict[str, Any]) -> None:
        tree["asset"]["generator"] = f"scaledreamer {__version__}"
        if terms_of_use:
            tree["asset"]["copyright"] = terms_of_use
        if extras:
            tree["asset"]["extras"] = extras

    scene = trimesh.Scene()
    scene.add_geometry(to_trimesh(mesh, gltf_axes=True), geom_name=name, node_name=name)
    data = trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=describe)
    save_bytes(path, bytes(data))


def obj_companions(path: Path | str) -> tuple[Path, Path]:
    """The material file and the texture of an OBJ."""
    path = Path(path)
    return path.with_suffix(".mtl"), path.with_name(f"{path.stem}-texture.png")


def save_obj(path: Path | str, mesh: TexturedMesh) -> None:
    """Wavefront OBJ, y up, front +z, with material and texture: all three files appear, or none."""
    material, texture = obj_companions(path)
    text = trimesh.exchange.obj.export_obj(
        to_trimesh(mesh, gltf_axes=True),
        include_normals=True,
        mtl_name=material.name,
        header=f"scaledreamer {__version__}",
        digits=6,
    )
    lines = ["newmtl baked", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {texture.name}", ""]
    new = [companion for companion in (material, texture) if not os.path.lexists(companion)]
    try:
        # Nothing is renamed until everything is written; then texture, material, and the OBJ last.
        with (
            replacing_file(path, is_synced=False) as new_path,
            replacing_file(material, is_synced=False) as new_material,
            replacing_file(texture, is_synced=False) as new_texture,
        ):
            new_texture.write_bytes(_png(mesh.texture))
            new_material.write_bytes("\n".join(lines).encode())
            new_path.write_bytes(text.encode())
    except OSError:
        for companion in new:
            companion.unlink(missing_ok=True)
        raise


def save_ply(path: Path | str, mesh: TexturedMesh) -> None:
    """Binary PLY in world axes (z up, front +x), with a normal and a texel colour for each vertex."""
    size = np.array(mesh.texture.shape[1::-1])
    column, row = (mesh.atlas.uv * size).astype(int).clip(0, size - 1).T
    colored = trimesh.Trimesh(
        vertices=mesh.atlas.vertices,
        faces=mesh.atlas.faces,
        vertex_normals=mesh.atlas.normals,
        vertex_colors=mesh.texture[mesh.texture.shape[0] - 1 - row, column],
        process=False,
    )
    save_bytes(path, trimesh.exchange.ply.export_ply(colored, vertex_normal=True))


def save_png(path: Path | str, image: UInt8[np.ndarray, "h w channel"]) -> None:
    """One image, RGB or RGBA."""
    save_bytes(path, _png(image))


def _png(image: UInt8[np.ndarray, "h w channel"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def save_gif(path: Path | str, frames: UInt8[np.ndarray, "frame h w 3"], fps: int) -> None:
    """Looping animation with one palette of 256 colours."""
    palette = Image.fromarray(np.concatenate(list(frames[:: max(1, len(frames) // 6)]))).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
    buffer = io.BytesIO()
    duration = round(1000 / fps)
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:], loop=0, duration=duration)
    save_bytes(path, buffer.getvalue())


def save_mp4(path: Path | str, frames: UInt8[np.ndarray, "frame h w 3"], fps: int) -> None:
    """H.264 video that browsers can play; height and width must be even.

    Raises: ValueError if ffmpeg is missing or fails.
    """
    height, width = frames.shape[1:3]
    assert height % 2 == 0 and width % 2 == 0, (height, width)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    codec = ["-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "15", "-preset", "veryfast"]
    codec += ["-threads", "1"]  # the output bytes depend on the number of threads
    with replacing_file(path, is_synced=False) as temporary:
        try:
            # imageio_ffmpeg.write_frames does not notice a video that a full disk cut short.
            ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
            command = [*ffmpeg, *raw, *codec, "-movflags", "+faststart", str(temporary)]
            done = subprocess.run(command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True)
            said = done.stderr.decode(errors="replace").strip() or f"ffmpeg ended with {done.returncode}"
            is_whole = done.returncode == 0 and temporary.stat().st_size > 0
        except (RuntimeError, OSError) as error:
            said, is_whole = str(error).strip() or type(error).__name__, False
        if not is_whole:
            raise ValueError(
                f"could not write the video {path}: {said.splitlines()[-1]} (is there space left? ffmpeg "
                "comes with imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE; --formats glb,png needs none)"
            )


def contact_sheet(
    images: UInt8[np.ndarray, "n h w channel"], columns: int = 4
) -> UInt8[np.ndarray, "height width channel"]:
    """Images side by side in rows of `columns`; empty places are white."""
    missing = -len(images) % min(columns, len(images))
    images = np.concatenate([images, np.full((missing, *images.shape[1:]), 255, np.uint8)])
    rows = images.reshape(-1, min(columns, len(images)), *images.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def save_json(path: Path | str, value: dict[str, Any]) -> None:
    """Indented JSON, with non-ASCII characters as they are."""
    save_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def save_bytes(path: Path | str, data: bytes) -> None:
    """Writes a file completely or not at all."""
    with replacing_file(path, is_synced=False) as temporary:
        temporary.write_bytes(data)
