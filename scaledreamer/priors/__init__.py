"""Frozen diffusion priors behind the contract `scaledreamer.contracts.Prior`.

A new one is a module here, a class of settings in `scaledreamer.config.priors`, and a line in `make`.
Importing this module needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaledreamer.config import PriorSettings, WeightSettings
from scaledreamer.weights.find import WeightsError, find_weights
from scaledreamer.weights.layout import SDXL, STABLE_DIFFUSION
from scaledreamer.weights.places import places

if TYPE_CHECKING:
    import torch

    from scaledreamer.priors.sdxl import SDXLPrior
    from scaledreamer.priors.stable_diffusion import StableDiffusionPrior


def prior_places(settings: PriorSettings, weights: WeightSettings) -> dict[str, Any]:
    """Arguments of `check_weights` and `find_weights`."""
    return places(
        weights,
        settings.models,
        parts=SDXL if settings.name == "sdxl" else STABLE_DIFFUSION,
        revision=settings.revision,
        is_half=settings.networks.dtype != "float32",
    )


def make(
    settings: PriorSettings, weights: WeightSettings, device: torch.device | str, key: str = "priors.N"
) -> StableDiffusionPrior | SDXLPrior:
    """A frozen prior on a device, downloaded if need be, run as its settings say.

    Args:
        key: its place in the configuration, for messages.

    Raises: ValueError if it cannot be loaded, or not be run that way; the latter begins with the setting's
        key.
    """
    import torch

    from scaledreamer.priors.latent_diffusion import check_dtype

    execution = settings.networks.model_dump(exclude={"dtype", "drop_text_encoder"})
    key, dtype = f"{key}.{settings.name}", getattr(torch, settings.networks.dtype)
    check_dtype(settings.name, dtype, device, key)
    match settings.name:
        case "tinyworld" | "stable_diffusion":
            from scaledreamer.priors.stable_diffusion import StableDiffusionPrior as Prior
        case "sdxl":
            from scaledreamer.priors.sdxl import SDXLPrior as Prior
    try:
        found = find_weights(**prior_places(settings, weights))
    except WeightsError as error:
        raise ValueError(f"prior {error}") from None
    assert found.folder is not None
    prior = Prior.from_pretrained(
        found.folder,
        device=device,
        dtype=dtype,
        variant=found.variant,
        single_file=found.single_file,
    )
    prior.run_as(**execution, key=key)
    return prior
