"""Settings of cameras and of the renderer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scaledreamer.config.types import KEY, Pair, Section, Size, range_from, schedule


class CameraSettings(Section):
    """Training cameras, which all look at the origin."""

    num_views: Annotated[int, Field(ge=1, le=256)] = 1
    """Views of one prompt in a step, spread around it."""
    elevation_deg: Annotated[Pair, range_from(-90, 90)] = [-10.0, 45.0]
    """Above the ground plane."""
    elevation_on_sphere: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of cameras drawn evenly over the sphere within elevation_deg, the others evenly in degrees."""
    azimuth_deg: Annotated[Pair, range_from(-360, 360)] = [-180.0, 180.0]
    """0 is the front."""
    distance: Annotated[Pair, range_from(0.1, 4)] = [2.5, 2.7]
    """From the origin; from farther away rays would end before the scene does."""
    fov_deg: Annotated[Pair, range_from(1, 170)] = [38.0, 44.0]
    """Vertical field of view."""


class VolumeSettings(Section):
    """Volume rendering with VolSDF's density."""

    near: Annotated[float, Field(ge=0)] = 0.1
    """Distance from the camera at which rays begin."""
    far: Annotated[float, Field(gt=0)] = 6.0
    """Distance from the camera at which rays end, if they have not left the scene cube before."""
    num_proposals: Annotated[int, Field(ge=2, le=4096)] = 32
    """Equal intervals of a ray in the proposal pass, which has no gradients."""
    num_resampled: Annotated[int, Field(ge=1, le=4096)] = 16
    """Intervals of a ray that are resampled by the proposals' weights."""
    rendered: Literal["resampled", "union"] = "resampled"
    """What is rendered, with gradients: the resampled intervals, or both kinds, proposals + resampled + 1."""
    lattice_resolution: Annotated[int, Field(ge=4, le=256)] = 20
    """Points a side of the coarse pass' lattice."""
    min_opacity: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Coarse opacity below which a ray counts as empty, or the rest of its samples as hidden."""
    beta: Annotated[float, Field(gt=0)] = 1 / 30
    """VolSDF's beta in scene units: how far the density reaches around the surface."""
    memory_gib: Annotated[float | None, Field(gt=0)] = None
    """Render chunks whose samples fit into it, recomputed in the backward pass; None is all at once."""

    @model_validator(mode="after")
    def _near_before_far(self) -> VolumeSettings:
        if self.near >= self.far:
            raise ValueError(
                f"{KEY}.near: got {self.near:g}, which is not before {KEY}.far, {self.far:g}; lower it or "
                f"raise {KEY}.far."
            )
        return self


class RendererSettings(Section):
    """How scenes become images while training."""

    name: Literal["volume"] = "volume"
    """Renderer."""
    image_size: Size = schedule(32)
    """Pixels a side; priors see it scaled up to their size. A Schedule grows it, in steps of 4."""
    random_background: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a random colour as background."""
    volume: VolumeSettings = VolumeSettings()
    """Settings of volume."""

    @property
    def chosen(self) -> VolumeSettings:
        """The subsection of its name."""
        return getattr(self, self.name)

    @property
    def largest_image_size(self) -> int:
        """Pixels a side when they are most: what memory has to be there for."""
        return round(max(self.image_size.start, self.image_size.end))
