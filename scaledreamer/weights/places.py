"""From settings to where weights are looked for. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaledreamer.config import ConditionerSettings, WeightSettings
from scaledreamer.weights.hub_lookup import Access
from scaledreamer.weights.layout import TEXT_ENCODER

ASSETS = Path(__file__).parent.parent / "assets"
TINY_PRIOR = ASSETS / "tiny_prior"
SHIPPED_PLACES = {"models": [str(TINY_PRIOR)], "variant": "auto"}
"""Of the shipped prior and text encoder: `weights.variant` chooses among files of other models."""


def hub_access(weights: WeightSettings, unreachable: dict[str, str] | None = None) -> Access:
    """How hubs are asked, as configured; those in `unreachable` are not asked again."""
    known = {} if unreachable is None else unreachable
    return Access(mirrors=weights.mirrors, offline=weights.offline, unreachable=known)


def places(weights: WeightSettings, models: list[str], **wanted: Any) -> dict[str, Any]:
    """Arguments of `check_weights` and `find_weights`.

    Args:
        models: hub ids, folders and files, of which the first that is found is taken; empty is the shipped
            one.
        wanted: the other arguments, such as `parts` and `revision`.
    """
    return wanted | weights.model_dump() | ({"models": models} if models else SHIPPED_PLACES)


def conditioner_places(settings: ConditionerSettings, weights: WeightSettings) -> dict[str, Any]:
    """Arguments of `check_weights` and `find_weights` for the generator's text encoder.

    Raises: ValueError if no model is given where one has to be.
    """
    if settings.name == "clip" and not settings.models:
        raise ValueError("conditioner.model: missing; clip needs a folder or a hub id.")
    return places(weights, settings.models, parts=TEXT_ENCODER, revision=settings.revision)
