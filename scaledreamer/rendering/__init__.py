"""From scenes and cameras to images. Renderers use scenes through their protocol and know no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaledreamer.config import RendererSettings

if TYPE_CHECKING:
    from scaledreamer.contracts import Renderer


def make(name: str = "volume", settings: Mapping[str, Any] | None = None) -> Renderer:
    """A renderer by its name in the configuration, with its settings or the defaults.

    Raises: ValueError for another name, or settings that are unknown or out of range.
    """
    settings = settings or {}
    match name:
        case "volume":
            from scaledreamer.rendering.volume import VolumeRenderer as Renderer
        case _:
            raise ValueError(f"renderer {name!r}: accepted is 'volume'.")
    unknown = sorted(settings.keys() - Renderer.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(f"renderer {name}: no such setting: {', '.join(unknown)}.")
    return Renderer(**settings)


def configured(settings: RendererSettings) -> Renderer:
    """The renderer of a configuration."""
    return make(settings.name, settings.chosen.model_dump())


def index_section(settings: RendererSettings) -> dict[str, Any]:
    """Name and settings of a configuration's renderer, as `model_index.json` holds them."""
    return {"name": settings.name} | settings.chosen.model_dump()
