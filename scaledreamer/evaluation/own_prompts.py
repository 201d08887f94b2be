"""Scores of a user's own prompts: tinyworld captions get all scores, other prompts those of the CLIP alone.

For other prompts no true object is known, so there is no ceiling: the scores are whether CLIP finds the
prompt's own text closest to the asset, and how close. Axes: `prompt` assets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scaledreamer.evaluation.clip_scores import ImageTextEncoder, pool_views
from scaledreamer.evaluation.draws import Draw, draw_partners
from scaledreamer.evaluation.ground_truth import MakeScene, Observer
from scaledreamer.evaluation.report import Measurement, Values, clustered_mean
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.grammar import Meaning


@dataclass(frozen=True)
class OwnPrompts:
    """Prompts by the scores they get, in their original order.

    Attributes:
        world: captions of the tinyworld, each meaning once.
        others: all others, including paraphrases of earlier ones.
    """

    world: dict[str, Meaning]
    others: list[str]

    @property
    def all(self) -> list[str]:
        """All prompts, those of the world first."""
        return [*self.world, *self.others]

    def draw(self, seed: int) -> Draw:
        """The prompts of the world, with cameras and floor partners drawn from the seed."""
        rng = random.Random(f"own prompts|{seed}")
        return Draw(
            seed=seed,
            meanings=tuple(self.world.values()),
            prompts=tuple(self.world),
            start_azimuth_deg=rng.uniform(-45.0, 45.0),
            partners=draw_partners(rng, len(self.world)),
        )


def sort_prompts(prompts: Sequence[str]) -> OwnPrompts:
    """Separates captions of the tinyworld from other prompts."""
    world: dict[Meaning, str] = {}
    others = []
    for prompt in dict.fromkeys(prompts):
        meaning = grammar.parse(prompt)
        if meaning is None or meaning in world:
            others.append(prompt)
        else:
            world[meaning] = prompt
    return OwnPrompts({prompt: meaning for meaning, prompt in world.items()}, others)


@torch.no_grad()
def measure_by_clip(
    make_scene: MakeScene, own: OwnPrompts, encoder: ImageTextEncoder, observer: Observer, draw: Draw
) -> dict[str, Float[Tensor, " prompt"]]:
    """`similarity` and `plain_r1` of the prompts outside the world, and the `floor` of similarity.

    Plain R@1 is 1 if the asset is closer to its own prompt than to every other prompt, including those of the
    world. The floor is the mean similarity to these other prompts; NaN if there are none.
    """
    images = observer.images(make_scene, own.others, start_azimuth_deg=draw.start_azimuth_deg)
    pooled = pool_views(encoder, images)
    texts = encoder.embed_texts([*own.others, *own.world]).to(pooled)
    cosines = pooled @ texts.T
    right = cosines.diagonal()
    is_own = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    wrong = cosines.masked_fill(is_own, -torch.inf).amax(1)
    found = {
        "similarity": right,
        "plain_r1": (right > wrong).float(),
        "floor": cosines.masked_fill(is_own, torch.nan).nanmean(1),
    }
    return {name: value.float().cpu() for name, value in found.items()}


def summarise_others(own: OwnPrompts, measured: Sequence[Values]) -> dict[str, Any]:
    """Means over all draws, as in `report.summarise`; the standard error counts each prompt once."""
    clusters = own.others * len(measured)

    def entry(name: str, floor: str | None = None) -> dict[str, float | None]:
        value, error = clustered_mean(torch.cat([draw[name] for draw in measured]), clusters)
        low = clustered_mean(torch.cat([draw[floor] for draw in measured]), clusters)[0] if floor else None
        return {"value": value, "standard_error": error, "ceiling": None, "floor": low, "normalised": None}

    return {
        "similarity": entry("similarity", "floor"),
        "plain_r1": entry("plain_r1"),
        "gallery_size": len(own.all),
        "num_prompts": len(own.others),
    }


def by_prompt(
    own: OwnPrompts, world: Sequence[Measurement], others: Sequence[Values]
) -> list[dict[str, Any]]:
    """The scores of each prompt, averaged over the draws, without those that do not apply to it."""
    rows = []
    for index, prompt in enumerate(own.world):
        rows.append({"prompt": prompt, "is_in_world": True, **_row([m.value for m in world], index)})
    for index, prompt in enumerate(own.others):
        columns = [{name: value for name, value in draw.items() if name != "floor"} for draw in others]
        rows.append({"prompt": prompt, "is_in_world": False, **_row(columns, index)})
    return rows


def _row(draws: Sequence[Values], index: int) -> dict[str, float]:
    means = {name: torch.stack([draw[name][index] for draw in draws]).mean() for name in draws[0]}
    return {name: value.item() for name, value in means.items() if not value.isnan()}
