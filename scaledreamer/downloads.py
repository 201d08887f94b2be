"""What a run downloads before it trains. Needs no torch."""

from __future__ import annotations

from scaledreamer.config import Config
from scaledreamer.exported import check_generator
from scaledreamer.priors import prior_places
from scaledreamer.weights.find import Availability, WeightsError, check_weights
from scaledreamer.weights.hub_lookup import Found
from scaledreamer.weights.places import conditioner_places, hub_access


def check_models(config: Config) -> list[str]:
    """A line for each model that is to be downloaded before the training; nothing is downloaded yet.

    Raises: ValueError, in less than 10 seconds, with the key of a model that cannot be had.
    """
    unreachable: dict[str, str] = {}
    keys = [("conditioner", conditioner_places(config.conditioner, config.weights))]
    keys += [(f"priors.{i}", prior_places(prior, config.weights)) for i, prior in enumerate(config.priors)]
    lines = []
    for key, places in keys:
        try:
            found = check_weights(**places, unreachable=unreachable)
        except WeightsError as error:
            tiny = "`train.py --config configs/tiny.yaml` needs no weights"
            raise ValueError(f"{key}.model: {str(error).removesuffix('.')}; {tiny}.") from None
        if found.num_bytes:
            lines.append(f"{key}.model: {found.name}: {_download_size(found)} are to be downloaded")
    if config.generator.start is not None:
        try:
            start = check_generator(config.generator.start, hub_access(config.weights, unreachable))
        except ValueError as error:
            raise ValueError(f"generator.start: {error}") from None
        if start is not None and start.num_bytes:
            size = _download_size(start)
            lines.append(f"generator.start: {config.generator.start}: {size} are to be downloaded")
    return lines


def _download_size(found: Availability | Found) -> str:
    return f"{len(found.missing_files)} files, {found.num_bytes / 2**30:.2f} GiB"
