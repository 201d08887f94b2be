"""The short evaluation that selects the best generator of a run, in seconds on a few validation prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from scaledreamer import rendering
from scaledreamer.config import Config
from scaledreamer.contracts import Renderer
from scaledreamer.evaluation.clip_scores import (
    ImageTextEncoder,
    TinyClip,
    hard_retrieval,
    plain_retrieval,
    pool_views,
)
from scaledreamer.evaluation.draws import draw_prompts
from scaledreamer.evaluation.ground_truth import (
    MakeScene,
    Observation,
    Observer,
    silhouette_iou,
    volume_iou,
)
from scaledreamer.tinyworld import grammar

SCORES = ("score", "hard_r1", "plain_r1", "iou", "silhouette_iou")
"""Names of the scores of a validation; `score` is the mean of hard R@1, plain R@1 and IoU."""


class ValidationScore:
    """Scores on fixed prompts of the validation split from fixed cameras, so that steps can be compared.

    True objects are rendered at the first call and cached.

    Args:
        num_prompts: number of prompts, and gallery size of plain R@1; fewer if the part of the world is
            smaller.
        kinds, max_extras: the part of the world that is trained on, as in `prompts` of the configuration.
        encoder: None is the shipped CLIP.
        renderer: renderer of the images; None is the default one.
        device: device of the scenes.
    Raises: ValueError if the shipped CLIP is missing or damaged, or there are no such prompts.
    """

    def __init__(
        self,
        *,
        num_prompts: int = 64,
        kinds: Sequence[str] | None = None,
        max_extras: int = grammar.MAX_EXTRAS,
        encoder: ImageTextEncoder | None = None,
        renderer: Renderer | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._encoder = encoder or TinyClip.from_pretrained(device=device)
        self._observer = Observer(renderer or rendering.make(), device, num_views=2, lattice=32)
        part = {"kinds": kinds, "max_extras": max_extras}
        self._draw = draw_prompts(0, "validation", max(num_prompts, 2), **part, or_fewer=True)

    def __call__(self, make_scene: MakeScene, step: int) -> dict[str, float]:
        """Scores of a generator; `score` is the mean of hard R@1, plain R@1 and IoU; higher is better.

        Args:
            make_scene: makes the scenes of prompts.
            step: step of the weights; it does not affect the prompts.
        """
        draw = self._draw
        with torch.no_grad():
            seen = self._observer.observe(make_scene, draw.prompts, start_azimuth_deg=draw.start_azimuth_deg)
            pooled = pool_views(self._encoder, seen.images)
            scores = {
                "hard_r1": hard_retrieval(self._encoder, pooled, draw.meanings).overall,
                "plain_r1": plain_retrieval(self._encoder, pooled, draw.meanings, len(draw.meanings)),
                "iou": volume_iou(seen, self._true),
                "silhouette_iou": silhouette_iou(seen, self._true),
            }
        means = {name: values.float().mean().item() for name, values in scores.items()}
        return {"score": (means["hard_r1"] + means["plain_r1"] + means["iou"]) / 3} | means

    @cached_property
    def _true(self) -> Observation:
        draw = self._draw
        return self._observer.observe_truth(draw.meanings, start_azimuth_deg=draw.start_azimuth_deg)


def make_validation(config: Config, device: torch.device) -> ValidationScore:
    """The scores by which a run chooses its best generator, on the part of the tinyworld that is trained.

    Raises: ValueError for prompts of a file, whose meaning nobody knows, or if the evaluator is missing.
    """
    if not config.prompts.is_tinyworld:
        raise ValueError(
            "evaluation.every: only prompts of the tinyworld have a ground truth to validate by; set "
            "evaluation.every=null."
        )
    if config.evaluation.metric not in SCORES:
        accepted = ", ".join(map(repr, SCORES))
        raise ValueError(f"evaluation.metric: got {config.evaluation.metric!r}; accepted are {accepted}.")
    return ValidationScore(
        num_prompts=config.evaluation.num_prompts,
        kinds=config.prompts.kinds,
        max_extras=config.prompts.max_extras,
        renderer=rendering.configured(config.renderer).for_scores(),
        device=device,
    )
