"""Second faces: objects of kinds with a front that look no less like a front from the back.

From cameras around the front and around the back, the caption with ", front view" is set against the one with
", back view": the difference of their cosines, averaged over the cameras, says how much of a front CLIP sees
there. An asset is a Janus if its back comes so close to its front in this that the difference exceeds a
threshold. The threshold is chosen, and the test validated, on objects whose answer is known: true objects and
true objects united with themselves after half a turn. An object without any face, or with its face at the
back only, counts as a Janus too, so the rate is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.evaluation.clip_scores import ImageTextEncoder
from scaledreamer.evaluation.ground_truth import DISTANCE, ELEVATION_DEG, FOV_DEG, Observer
from scaledreamer.prompts.views import BACK, FRONT, with_view
from scaledreamer.scene import Scene
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.shapes import WorldScene

FRONT_AZIMUTHS_DEG, BACK_AZIMUTHS_DEG = (-20.0, 20.0), (160.0, 200.0)
MAX_TRUE_RATE, MIN_UNITED_RATE = 0.05, 0.95
"""What the test has to reach on true and on united objects to be believed."""


@dataclass(frozen=True)
class HalfTurnUnion:
    """A scene united with itself after half a turn about the vertical: the perfect Janus. A `Scene` too."""

    scene: Scene

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """The smaller of both distances."""
        return torch.minimum(self.scene.sdf(points), self.scene.sdf(_half_turn(points)))

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n feature"]]:
        """Distance and features of whichever is nearer."""
        here, there = self.scene.query(points), self.scene.query(_half_turn(points))
        is_here = here[0] <= there[0]
        return torch.where(is_here, here[0], there[0]), torch.where(is_here[..., None], here[1], there[1])

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """That of the scene."""
        return self.scene.background(directions)


def _half_turn(points: Tensor) -> Tensor:
    return points * points.new_tensor([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class JanusTest:
    """A threshold, and what it does to objects whose answer is known and which had no part in choosing it.

    Attributes:
        threshold: of `front_margin`.
        true_rate: true objects called Janus.
        united_rate: united objects called Janus.
        num_objects: of either sort.
    """

    threshold: float
    true_rate: float
    united_rate: float
    num_objects: int

    @property
    def is_valid(self) -> bool:
        """Whether the test tells both sorts apart well enough."""
        return self.true_rate <= MAX_TRUE_RATE and self.united_rate >= MIN_UNITED_RATE


def has_front(meaning: Meaning) -> bool:
    """Whether the kind looks different from the front and from the back."""
    return grammar.KINDS[meaning.kind].has_front


def front_margin(
    encoder: ImageTextEncoder,
    observer: Observer,
    make: Callable[[Sequence[int]], Scene],
    meanings: Sequence[Meaning],
    *,
    batch_size: int,
) -> Float[Tensor, " prompt"]:
    """How much more of a front the back has than the front itself, in cosines; negative for most true
    objects.

    Args:
        make: scenes of some of the meanings, given by their indices.
        batch_size: scenes that `make` is asked for at once.
    """
    margins = []
    for first in range(0, len(meanings), batch_size):
        rows = range(first, min(first + batch_size, len(meanings)))
        images, _ = observer.render(make(rows), _cameras(len(rows), observer.device))
        embedded = encoder.embed_images(images.flatten(0, 1)).unflatten(0, (len(rows), 2, -1)).mean(2)
        captions = [grammar.caption(meanings[row]) for row in rows]
        front, back = (
            encoder.embed_texts([with_view(caption, view) for caption in captions]) for view in (FRONT, BACK)
        )
        of_front, of_back = (embedded * (front - back)[:, None]).sum(-1).unbind(1)
        margins.append(of_back - of_front)
    return torch.cat(margins)


def validate_janus(encoder: ImageTextEncoder, observer: Observer, meanings: Sequence[Meaning]) -> JanusTest:
    """Chooses the threshold on the first half of some validation meanings, and tries it on the second.

    The threshold lies midway between the 95th percentile of true objects' margins and the 5th of united ones.

    Raises: ValueError if there are not at least four meanings with a front.
    """
    chosen = [meaning for meaning in meanings if has_front(meaning)]
    half = len(chosen) // 2
    if half < 2:
        raise ValueError(
            f"Janus validation: needs 4 objects of kinds with a front or more, got {len(chosen)}."
        )

    def true(rows: Sequence[int]) -> Scene:
        return WorldScene([chosen[row] for row in rows], observer.device)

    size = observer.true_batch
    true_margin = front_margin(encoder, observer, true, chosen, batch_size=size)
    united_margin = front_margin(
        encoder, observer, lambda rows: HalfTurnUnion(true(rows)), chosen, batch_size=size
    )
    threshold = (true_margin[:half].quantile(0.95) + united_margin[:half].quantile(0.05)).item() / 2
    return JanusTest(
        threshold=threshold,
        true_rate=(true_margin[half:] > threshold).float().mean().item(),
        united_rate=(united_margin[half:] > threshold).float().mean().item(),
        num_objects=len(chosen) - half,
    )


def _cameras(batch: int, device: torch.device | str) -> Cameras:
    """Those around the front, then those around the back."""
    azimuth = torch.tensor([*FRONT_AZIMUTHS_DEG, *BACK_AZIMUTHS_DEG]).deg2rad().expand(batch, -1)
    one = torch.ones_like(azimuth)
    elevation, fov = math.radians(ELEVATION_DEG) * one, math.radians(FOV_DEG) * one
    return Cameras(elevation, azimuth, DISTANCE * one, fov).to(device)
