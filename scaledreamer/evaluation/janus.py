"""Detection of second and missing faces: whether an object shows a face at its front and its back.

Cameras look at the front and at the back. `faces.FaceProbe` gives log odds that an image shows a face, and
the mean over a side's images is that side's score. An object is

- two-faced if both of its sides score above a threshold,
- faceless if its front does not, whether or not its back does,
- a Janus if it is either: it is not right from all sides.

Probe, threshold and validation use three splits: the probe `seen` objects, the threshold `validation`
objects, and independent `unseen` objects measure how often the test is right. The objects of each split are
used as they are (true), united with a copy rotated by 180 degrees, and without the parts of their face. The
test applies to kinds that can have a face (`faces.KINDS`). Axes: `prompt` objects, `side` front and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.contracts import Scene
from scaledreamer.evaluation import faces
from scaledreamer.evaluation.clip_scores import ImageTextEncoder
from scaledreamer.evaluation.draws import draw_prompts
from scaledreamer.evaluation.faces import FaceProbe
from scaledreamer.evaluation.ground_truth import DISTANCE, ELEVATION_DEG, FOV_DEG, Observer
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.objects import primitives_of, two_faced, without_face
from scaledreamer.tinyworld.scene import WorldScene

SIDE_AZIMUTHS_DEG = (-25.0, 0.0, 25.0)
"""Azimuths of the cameras of a side, relative to its middle."""
SORTS = {"true": primitives_of, "united": two_faced, "faceless": without_face}
"""Objects for which the answer is known, by name: the union of parts of a meaning."""
SHARES: tuple[str, ...] = ("two_faced", "faceless", "janus")
MAX_TRUE_RATE, MIN_FOUND_RATE = 0.05, 0.95
"""Limits for a valid test: for each share on true objects, and for the matching share on faulty ones."""
NUM_OBJECTS = 88
"""Objects of each sort and split from which the test is made: eight of each kind on average."""

Rates = dict[str, dict[str, float]]


@dataclass(frozen=True)
class JanusTest:
    """A probe with its threshold, and their results on independent objects.

    Attributes:
        probe: face probe for images.
        threshold: threshold for the mean log odds of a side's images.
        rates: for each of `SORTS`, the share of objects classified as each of `SHARES`.
        num_objects: objects of each sort.
    """

    probe: FaceProbe
    threshold: float
    rates: Rates
    num_objects: int

    @property
    def is_valid(self) -> bool:
        """Whether the test separates the sorts well enough."""
        return (
            max(self.rates["true"].values()) <= MAX_TRUE_RATE
            and self.rates["united"]["two_faced"] >= MIN_FOUND_RATE
            and self.rates["faceless"]["faceless"] >= MIN_FOUND_RATE
        )

    @property
    def summary(self) -> dict[str, object]:
        """For reports: threshold, rates, number of objects, and whether the test is valid."""
        return {
            "threshold": self.threshold,
            "rates": self.rates,
            "num_objects": self.num_objects,
            "is_valid": self.is_valid,
        }

    def verdicts(
        self,
        encoder: ImageTextEncoder,
        observer: Observer,
        make: Callable[[Sequence[int]], Scene],
        meanings: Sequence[Meaning],
        *,
        batch_size: int,
    ) -> dict[str, Float[Tensor, " prompt"]]:
        """Which of `SHARES` apply to scenes that should have the given meanings: 1 or 0. See
        `side_scores`."""
        scores = side_scores(encoder, self.probe, observer, make, meanings, batch_size=batch_size)
        return judge(scores, self.threshold)


def side_scores(
    encoder: ImageTextEncoder,
    probe: FaceProbe,
    observer: Observer,
    make: Callable[[Sequence[int]], Scene],
    meanings: Sequence[Meaning],
    *,
    batch_size: int,
) -> Float[Tensor, "prompt side"]:
    """Mean log odds, over each side's cameras, that front and back show a face.

    Args:
        make: makes the scenes of some of the meanings, given by their indices.
        batch_size: number of scenes per call of `make`.
    """
    scores = []
    for first in range(0, len(meanings), batch_size):
        rows = range(first, min(first + batch_size, len(meanings)))
        images, _ = observer.render(make(rows), _cameras(len(rows), observer.device))
        embedded = encoder.embed_images(images.flatten(0, 1)).unflatten(0, (len(rows), 2, -1))
        odds = probe(embedded, [meanings[row] for row in rows])
        scores.append(odds.mean(-1).cpu())
    return torch.cat(scores)


def judge(scores: Float[Tensor, "prompt side"], threshold: float) -> dict[str, Float[Tensor, " prompt"]]:
    """Which of `SHARES` apply to objects, by the scores of their sides: 1 or 0."""
    front, back = (scores > threshold).unbind(1)
    verdict = {"two_faced": front & back, "faceless": ~front, "janus": back | ~front}
    return {name: value.float() for name, value in verdict.items()}


def make_janus_test(
    encoder: ImageTextEncoder,
    observer: Observer,
    *,
    num_objects: int = NUM_OBJECTS,
    probe: FaceProbe | None = None,
) -> JanusTest:
    """Fits the probe, chooses the threshold and measures how reliable the test is.

    Args:
        num_objects: objects of each sort, in the validation split (threshold) and in the unseen one (rates).
        probe: None fits one for the encoder.
    """
    probe = probe or faces.fit_probe(*faces.training_embeddings(encoder))
    scores = {}
    for split in ("validation", "unseen"):
        meanings = draw_prompts(0, split, num_objects, kinds=faces.KINDS).meanings
        scores[split] = known_scores(encoder, probe, observer, meanings)
    threshold = choose_threshold(scores["validation"])
    rates = {sort: _means(judge(values, threshold)) for sort, values in scores["unseen"].items()}
    return JanusTest(probe, threshold, rates, num_objects)


def known_scores(
    encoder: ImageTextEncoder, probe: FaceProbe, observer: Observer, meanings: Sequence[Meaning]
) -> dict[str, Float[Tensor, "prompt side"]]:
    """Scores of both sides of objects for which the answer is known, for each of `SORTS`."""
    found = {}
    for sort, parts in SORTS.items():

        def make(rows: Sequence[int], parts: Callable = parts) -> Scene:
            return WorldScene([meanings[row] for row in rows], observer.device, parts=parts)

        size = observer.true_batch
        found[sort] = side_scores(encoder, probe, observer, make, meanings, batch_size=size)
    return found


def choose_threshold(scores: Mapping[str, Float[Tensor, "prompt side"]]) -> float:
    """The middle of the thresholds that minimize the largest error rate.

    The error rates are those of `JanusTest.is_valid`: true objects classified as two-faced or faceless, and
    united or faceless objects that are missed.
    """
    values = torch.cat([value.flatten() for value in scores.values()]).double().unique()
    candidates = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    worst = torch.stack([_largest_error(scores, threshold) for threshold in candidates.tolist()])
    best = (worst == worst.min()).nonzero().flatten()
    return candidates[best[len(best) // 2]].item()


def _largest_error(scores: Mapping[str, Tensor], threshold: float) -> Tensor:
    true, united, faceless = (
        {name: value.mean() for name, value in judge(scores[sort].double(), threshold).items()}
        for sort in ("true", "united", "faceless")
    )
    wrong = [true["two_faced"], true["faceless"], 1 - united["two_faced"], 1 - faceless["faceless"]]
    return torch.stack(wrong).max()


def _means(verdict: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.mean().item() for name, value in verdict.items()}


def _cameras(batch: int, device: torch.device | str) -> Cameras:
    """Cameras around the front, then around the back."""
    offsets = torch.tensor(SIDE_AZIMUTHS_DEG)
    azimuth = torch.cat([offsets, 180 + offsets]).deg2rad().expand(batch, -1)
    one = torch.ones_like(azimuth)
    elevation, fov = math.radians(ELEVATION_DEG) * one, math.radians(FOV_DEG) * one
    return Cameras(elevation, azimuth, DISTANCE * one, fov).to(device)
