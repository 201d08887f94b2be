"""The volume renderer with everything that it can be asked for, and jitter as a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.contracts import Scene
from scaledreamer.draws import GivenDraws
from scaledreamer.rendering.volume import VolumeRenderer


class Images(NamedTuple):
    """A rendering that has its depth."""

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None


@dataclass(frozen=True)
class FullRenderer:
    renderer: VolumeRenderer

    def __call__(
        self,
        scene: Scene,
        cameras: Cameras,
        height: int,
        width: int,
        *,
        jitter: Tensor | None = None,
        with_normal: bool = False,
        **call: Any,
    ) -> Images:
        needs = frozenset({"depth", "normal"} if with_normal else {"depth"})
        draws = None if jitter is None else GivenDraws({"jitter": jitter})
        out = self.renderer(scene, cameras, height, width, draws=draws, needs=needs, **call)
        assert out.depth is not None
        return Images(out.rgb, out.opacity, out.depth, out.normal)


def volume_renderer(**settings: Any) -> FullRenderer:
    return FullRenderer(VolumeRenderer(**settings))
