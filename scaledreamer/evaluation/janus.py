"""Second faces and missing ones: which of an object's front and back shows a face.

Cameras around the front and around the back look at an object; `faces.FaceProbe` says of each image how
surely it shows a face, and the mean over a side's images is that side's score. An object is

- two-faced if both of its sides score above a threshold,
- faceless if its front does not, whether or not its back does,
- a Janus if it is either: it is not right from all sides.

Probe, threshold and validation come from three splits: the probe from `seen` objects, the threshold from
`validation` ones, and `unseen` ones, which had no part in either, say how often the test is right. Each
split's objects are taken as they are (true), united with themselves after half a turn, and without the parts
that make their face. Asked are the kinds that can have a face (`faces.KINDS`). Axes: `prompt` objects, `side`
front and back.
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
from scaledreamer.tinyworld.shapes import WorldScene, primitives_of, two_faced, without_face

SIDE_AZIMUTHS_DEG = (-25.0, 0.0, 25.0)
"""Of the cameras around a side, from its middle."""
SORTS = {"true": primitives_of, "united": two_faced, "faceless": without_face}
"""Objects whose answer is known, by name: the union of parts that a meaning stands for."""
SHARES: tuple[str, ...] = ("two_faced", "faceless", "janus")
MAX_TRUE_RATE, MIN_FOUND_RATE = 0.05, 0.95
"""What the test has to reach to be believed: in each share on true objects, in their own on faulty ones."""
NUM_OBJECTS = 88
"""Of each sort and split, from which the test is made: eight of each kind on average."""

Rates = dict[str, dict[str, float]]


@dataclass(frozen=True)
class JanusTest:
    """A probe with its threshold, and what they say of objects that had no part in choosing them.

    Attributes:
        probe: of faces in images.
        threshold: of the mean log odds of a side's images.
        rates: for each of `SORTS`, the share that is called each of `SHARES`.
        num_objects: of each sort.
    """

    probe: FaceProbe
    threshold: float
    rates: Rates
    num_objects: int

    @property
    def is_valid(self) -> bool:
        """Whether the test tells the sorts apart well enough."""
        return (
            max(self.rates["true"].values()) <= MAX_TRUE_RATE
            and self.rates["united"]["two_faced"] >= MIN_FOUND_RATE
            and self.rates["faceless"]["faceless"] >= MIN_FOUND_RATE
        )

    @property
    def summary(self) -> dict[str, object]:
        """For reports: threshold, rates, number of objects, and whether they make the test valid."""
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
        """Whether scenes that should be `meanings` are one of `SHARES`: 1 or 0. See `side_scores`."""
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
    """How surely front and back show a face: mean log odds over each side's cameras.

    Args:
        make: scenes of some of the meanings, given by their indices.
        batch_size: scenes that `make` is asked for at once.
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
    """Which of `SHARES` objects are, by the scores of their sides: 1 or 0."""
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
    """Fits the probe, chooses the threshold and measures what the test is worth.

    Args:
        num_objects: of each sort, in the validation split (threshold) and in the unseen one (rates).
        probe: None fits one to the encoder.
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
    """Scores of the sides of objects whose answer is known, for each of `SORTS`."""
    found = {}
    for sort, parts in SORTS.items():

        def make(rows: Sequence[int], parts: Callable = parts) -> Scene:
            return WorldScene([meanings[row] for row in rows], observer.device, parts=parts)

        size = observer.true_batch
        found[sort] = side_scores(encoder, probe, observer, make, meanings, batch_size=size)
    return found


def choose_threshold(scores: Mapping[str, Float[Tensor, "prompt side"]]) -> float:
    """The middle of the thresholds for which the largest share of wrong answers is the smallest.

    Answers are those that `JanusTest.is_valid` asks about: two-faced and faceless among true objects, those
    missed among united and faceless ones.
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
    """Those around the front, then those around the back."""
    offsets = torch.tensor(SIDE_AZIMUTHS_DEG)
    azimuth = torch.cat([offsets, 180 + offsets]).deg2rad().expand(batch, -1)
    one = torch.ones_like(azimuth)
    elevation, fov = math.radians(ELEVATION_DEG) * one, math.radians(FOV_DEG) * one
    return Cameras(elevation, azimuth, DISTANCE * one, fov).to(device)
