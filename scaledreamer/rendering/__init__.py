"""From a Scene and Cameras to images. Knows scenes by their protocol only, and no network."""

from scaledreamer.rendering.volume import Rendering, VolumeRenderer

__all__ = ["Rendering", "VolumeRenderer"]
