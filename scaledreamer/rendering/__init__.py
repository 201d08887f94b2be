"""From a Scene and Cameras to images. Knows scenes by their protocol only, and no network."""

from scaledreamer.contracts import Rendering
from scaledreamer.rendering.volume import VolumeRenderer

__all__ = ["Rendering", "VolumeRenderer"]
