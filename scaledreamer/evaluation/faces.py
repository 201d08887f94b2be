"""Detects whether a side of an object shows a face: a linear probe on the evaluator CLIP's image embeddings.

The probe is fitted on objects of the `seen` split for which the answer is known: true objects show a face at
the front and none at the back, two-faced ones show one on both sides, and those without the parts of a face
(`objects.without_face`) show none at all. Each geometry is traced once and painted in the colours of several
meanings. Axes: `view` images of one side of one object, `d` the embedding.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scaledreamer.cameras import Cameras
from scaledreamer.evaluation.clip_scores import ImageTextEncoder
from scaledreamer.evaluation.ground_truth import BACKGROUND, DISTANCE, FOV_DEG, IMAGE_SIZE
from scaledreamer.tinyworld import dataset, grammar, objects
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.objects import primitives_of, two_faced, without_face

KINDS = tuple(name for name, kind in grammar.KINDS.items() if kind.has_front and objects.has_face(name))
"""Kinds that can have a face. A chair has a front, but united with its half-turn it shows two backs."""
NUM_PAINTED = 8
"""Number of meanings in whose colours each traced view is painted."""
VIEWS_PER_SIDE = 2
SPREAD_DEG = 70.0
ELEVATIONS_DEG = (5.0, 25.0)
SCALE, DECAY = 10.0, 0.01
"""Factor that is applied to the (small) entries of unit embeddings before the fit, and the weight of the
squared norm of their coefficients relative to the mean cross-entropy."""
SHARED = "all"


@dataclass(frozen=True)
class FaceProbe:
    """Log odds that an image shows a face, linear in its unit embedding.

    The appearance of a face depends on the kind, and a scarf is easily mistaken for one. So the weights are
    the sum of those for all objects, for the kind, for what is worn, and for both together.

    Attributes:
        weights: by `names_of` objects: d numbers for the embedding, then the bias.
    """

    weights: dict[str, tuple[float, ...]]

    def __call__(
        self, embedded: Float[Tensor, "prompt *view d"], meanings: Sequence[Meaning]
    ) -> Float[Tensor, "prompt *view"]:
        """Log odds for images of objects that should have the given meanings; missing weights count as 0."""
        none = (0.0,) * (embedded.shape[-1] + 1)
        rows = [[self.weights.get(name, none) for name in names_of(meaning)] for meaning in meanings]
        weight = torch.tensor(rows).to(embedded).sum(1)
        spread = weight[:, *[None] * (embedded.ndim - 2), :]
        return (embedded * spread[..., :-1]).sum(-1) + spread[..., -1]


def names_of(meaning: Meaning) -> list[str]:
    """The names under which an object's weights are stored."""
    worn = meaning.wear or "nothing"
    return [SHARED, meaning.kind, worn, f"{meaning.kind}, {worn}"]


@torch.no_grad()
def training_embeddings(
    encoder: ImageTextEncoder, geometries: Sequence[Meaning] | None = None, *, seed: int = 0
) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"], list[Meaning]]:
    """Embeddings of views of objects of the `seen` split, whether they show a face, and their meanings.

    Args:
        geometries: meanings, with arbitrary colours; None is all geometries of the kinds with a face.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    embedded, has_face, meanings = [], [], []
    for meaning in all_geometries() if geometries is None else geometries:
        for parts, start_deg, shows_face in (
            (primitives_of, 0.0, True),
            (primitives_of, 180.0, False),
            (two_faced, 0.0, True),
            (without_face, 0.0, False),
            (without_face, 180.0, False),
        ):
            cameras = _cameras(start_deg, generator)
            views = dataset.trace_views(
                [meaning] * VIEWS_PER_SIDE, cameras, IMAGE_SIZE, supersampling=1, parts=parts
            )
            painted = [dataset.recolor(meaning, rng) for _ in range(NUM_PAINTED)]
            images = torch.cat([_painted(views, each) for each in painted])
            soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            images = images.lerp(soft, torch.rand(len(images), 1, 1, 1, generator=generator))
            embedded.append(encoder.embed_images(images).cpu())
            has_face.append(torch.full((len(images),), shows_face))
            meanings += [meaning] * len(images)
    return torch.cat(embedded), torch.cat(has_face), meanings


def fit_probe(
    embedded: Float[Tensor, "n d"], has_face: Bool[Tensor, " n"], meanings: Sequence[Meaning]
) -> FaceProbe:
    """Logistic regression with balanced classes and weight decay `DECAY`; deterministic."""
    names = sorted({name for meaning in meanings for name in names_of(meaning)})
    chosen = torch.tensor([[name in names_of(meaning) for name in names] for meaning in meanings]).double()
    x, y = torch.cat([embedded, torch.full((len(embedded), 1), 1 / SCALE)], 1).double(), has_face.double()
    share = torch.where(has_face, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    weight = torch.zeros(len(names), x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = SCALE * (x * (chosen @ weight)).sum(1)
        loss = (F.binary_cross_entropy_with_logits(logits, y, reduction="none") * share).sum()
        loss = loss + DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    scale = torch.full((x.shape[1],), SCALE, dtype=torch.float64)
    scale[-1] = 1.0  # the bias, whose input is 1 / SCALE
    rows = (weight.detach() * scale).tolist()
    return FaceProbe({name: tuple(_rounded(row)) for name, row in zip(names, rows, strict=True)})


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def all_geometries() -> Iterator[Meaning]:
    """One meaning for each combination of kind with a face, wear and support in the seen split."""
    for name in KINDS:
        kind = grammar.KINDS[name]
        wears = (None, *grammar.WEARS) if kind.is_creature else (None,)
        for wear, support in itertools.product(wears, (None, *grammar.SUPPORTS)):
            said = (("wear", wear), ("support", support))
            if any(value and grammar.is_unseen_pair(name, what, value) for what, value in said):
                continue  # the seen split has no object of this geometry
            color: Any = {"wear_color": wear and "red", "support_color": support and "red"}
            yield Meaning(name, kind.color, kind.part_color, None, wear, support=support, **color)


def _cameras(start_deg: float, generator: torch.Generator) -> Cameras:
    """One random camera per row around a side."""
    uniform = torch.rand(3, VIEWS_PER_SIDE, 1, generator=generator)
    low, high = ELEVATIONS_DEG
    return Cameras(
        elevation=(low + (high - low) * uniform[0]).deg2rad(),
        azimuth=(start_deg + SPREAD_DEG * (uniform[1] - 0.5)).deg2rad(),
        distance=torch.full_like(uniform[0], DISTANCE),
        fov=torch.full_like(uniform[0], FOV_DEG).deg2rad(),
    )


def _painted(views: dataset.Views, meaning: Meaning) -> Float[Tensor, "view 3 h w"]:
    background = torch.tensor(BACKGROUND).expand(len(views), 3)
    return dataset.paint_views(views.surface, views.light, [meaning] * len(views), background, IMAGE_SIZE)[0]
