"""From a `Scene` to a file: isosurface, texture, GLB, pictures. Knows nothing of generators.

Meshes are in world axes (z up, front +x) until `export.py` turns them. The settings that users choose stand
here, where reading them needs no other library; with the defaults a mesh takes about 2 s on one core.
"""

RESOLUTION, MIN_RESOLUTION, MAX_RESOLUTION = 128, 16, 512
"""Cells of marching cubes along a side of the scene cube."""

TEXTURE_SIZE, MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 512, 64, 4096
"""Texels along a side of the texture."""

MAX_FACES, MIN_MAX_FACES, MAX_MAX_FACES = 6000, 50, 1_000_000
"""Triangles to which a mesh is simplified."""

RENDERERS = ("mesh", "volume")
"""What pictures are made of: the mesh, lit and with sharp edges, or the field, as the training saw it."""

BACKGROUND, TRANSPARENT = "studio", "transparent"
"""Names of backgrounds of pictures that are no colours: a light gradient, and none."""
