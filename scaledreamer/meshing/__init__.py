"""From a `Scene` to a file: isosurface, texture, GLB, images. Independent of the generators.

Meshes are in world axes (z up, front +x) until `export.py` rotates them. The user's settings are defined
here, so that reading them needs no other library; with the defaults a mesh takes about 2 s on one core.
"""

RESOLUTION, MIN_RESOLUTION, MAX_RESOLUTION = 128, 16, 512
"""Marching cubes cells per side of the scene cube."""

TEXTURE_SIZE, MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 512, 64, 4096
"""Texels per side of the texture."""

MAX_FACES, MIN_MAX_FACES, MAX_MAX_FACES = 6000, 50, 1_000_000
"""Triangles to which a mesh is simplified."""

RENDERERS = ("mesh", "volume")
"""What images show: the lit mesh with sharp edges, or the field, volume-rendered as in training."""

BACKGROUND, TRANSPARENT = "studio", "transparent"
"""Backgrounds other than plain colours: a light gradient, and none."""
