"""Checks of what a configuration reads and writes: weights, prompts, folders, disk space. Needs no torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledreamer import generators
from scaledreamer.config import Config, PromptSettings
from scaledreamer.doctor.findings import Section, one_line, size
from scaledreamer.exported import check_generator
from scaledreamer.home import expand_home
from scaledreamer.priors import prior_places
from scaledreamer.prompts.assembly import make_prompts
from scaledreamer.prompts.remote import shard_files
from scaledreamer.prompts.shard_format import MANIFEST
from scaledreamer.training.output import check_output
from scaledreamer.weights.find import Availability, Weights, WeightsError, check_weights, find_weights
from scaledreamer.weights.places import conditioner_places, hub_access

SHARD_BYTES_PER_PROMPT = 1100
"""Bytes per record: a tar member with a header and padded text; 1,048 measured, with the index."""
EXPORTS = 2
"""Number of exports: `generator/` and `best/`."""
MOMENTS = {"adam": 2, "adamw": 2, "adan": 4, "sgd": 0}
"""Tensors of each parameter's size that an optimizer keeps; sgd keeps one if it has momentum."""


@dataclass(frozen=True)
class Model:
    """One model of a configuration, and where it is.

    Attributes:
        key: its key in the configuration, "priors.0".
        name: the configured location that was found, or the first one.
        here: its local weights, if they are complete.
        found: None if it was not found anywhere.
    """

    key: str
    name: str
    here: Weights | None = None
    found: Availability | None = None


def num_moments(config: Config) -> int:
    """Tensors of each parameter's size that the configured optimizer keeps."""
    optimizer = config.optimizer
    return MOMENTS[optimizer.name] + (optimizer.name == "sgd" and optimizer.momentum > 0)


def check_models(config: Config) -> tuple[Section, list[Model]]:
    """Whether the weights of the conditioner and of each prior are reachable, complete, and of the right
    family; nothing is downloaded."""
    section, models = Section("Weights"), []
    places: dict[str, Callable[[], dict[str, Any]]] = {
        "conditioner": lambda: conditioner_places(config.conditioner, config.weights)
    }
    for i, prior in enumerate(config.priors):
        places[f"priors.{i}"] = lambda prior=prior: prior_places(prior, config.weights)
    unreachable: dict[str, str] = {}
    num_bytes = 0
    for key, places_of in places.items():
        try:
            asked = places_of()
        except ValueError as error:
            section.add("error", str(error).rstrip("."))
            models.append(Model(key, "none"))
            continue
        shown = asked["models"][0]
        try:
            found = check_weights(**asked, unreachable=unreachable)
        except WeightsError as error:
            section.add("error", f"{key}.model: {str(error).rstrip('.')}")
            models.append(Model(key, shown))
            continue
        here = None
        if not found.missing_files:
            here = find_weights(**asked | {"models": [found.name], "offline": True})
        models.append(Model(key, found.name, here, found))
        variant = f", {found.variant}" if found.variant else ""
        if found.missing_files:
            num_bytes += found.num_bytes
            section.add(
                "ok",
                f"{key}.model: {found.name} ({found.kind}{variant}): {len(found.missing_files)} files, "
                f"{size(found.num_bytes)}, are to be downloaded",
            )
        else:
            section.add("ok", f"{key}.model: {found.name} ({found.kind}{variant}): all files are here")
    num_bytes += _check_start(section, config, unreachable)
    section.numbers["download_bytes"] = num_bytes
    return section, models


def _check_start(section: Section, config: Config, unreachable: dict[str, str]) -> int:
    """Checks the generator whose weights training starts from; returns the bytes to be downloaded."""
    place = config.generator.start
    if place is None:
        return 0
    try:
        found = check_generator(place, hub_access(config.weights, unreachable))
    except ValueError as error:
        section.add("error", f"generator.start: {str(error).rstrip('.')}")
        return 0
    if found is None or not found.missing_files:
        section.add("ok", f"generator.start: {place}: all files are here")
        return 0
    files = f"{len(found.missing_files)} files, {size(found.num_bytes)}"
    section.add("ok", f"generator.start: {place}: {files}, are to be downloaded")
    return found.num_bytes


def check_prompts(config: Config) -> Section:
    """Whether the corpus can be read. Remote shards are located, but not copied."""
    section, prompts = Section("Prompts"), config.prompts
    try:
        if prompts.shards is None:
            texts = make_prompts(prompts)
            section.numbers |= {"num_prompts": len(texts), "num_distinct": len(set(texts))}
            if not texts:
                raise ValueError("prompts: none to train on; give at least one")
            generators.check_num_prompts(config.generator, len(set(texts)))
            section.add("ok", f"{len(texts):,} prompts, such as {texts[0][:60]!r}")
        elif "://" in prompts.shards or prompts.shards.startswith("pipe:"):
            shard_files(prompts.shards, cache=prompts.cache, cache_gib=prompts.cache_gib)
            section.add(
                "warning",
                f"prompts.shards: {prompts.shards} lies elsewhere and is not read before training",
                "`scaledreamer make-shards` checks it",
            )
        else:
            shard_files(prompts.shards, cache=prompts.cache)
            manifest = json.loads(
                (Path(expand_home(prompts.shards, "prompts.shards")) / MANIFEST).read_text("utf-8")
            )
            count = manifest["num_prompts"]
            section.numbers |= {"num_prompts": count, "num_distinct": count}
            generators.check_num_prompts(config.generator, count)
            section.add("ok", f"prompts.shards: {count:,} prompts in shards")
    except (OSError, ValueError, KeyError) as error:
        section.add("error", one_line(error).rstrip("."))
    return section


def check_disk(config: Config, *, num_parameters: int, download_bytes: int, num_prompts: int) -> Section:
    """Whether folders are writable, with enough space for weights, shards, checkpoints and exports."""
    section, needs = Section("Disk"), []
    output, prompts, keep = Path(config.training.output), config.prompts, config.training.keep_checkpoints
    try:
        check_output(output)
        section.add("ok", f"training.output: {output} can be written")
    except ValueError as error:
        section.add("error", str(error).rstrip("."))
    # While a checkpoint is written, the oldest one still exists.
    checkpoint = 4 * num_parameters * (2 + num_moments(config))
    needs.append((output, f"{keep} + 1 checkpoints of {size(checkpoint)}", (keep + 1) * checkpoint))
    needs.append((output, "exported generators", EXPORTS * 4 * num_parameters))
    _check_cache(section, prompts, num_prompts, needs)
    if download_bytes:
        from scaledreamer.weights.hub import cache_folder

        hub = cache_folder()
        needs.append((hub, "weights to be downloaded", download_bytes))
        if not _is_writable(hub):
            section.add("error", f"{hub} cannot be written, and weights go there", "set HF_HOME")
    _check_room(section, needs)
    return section


def _check_cache(
    section: Section, prompts: PromptSettings, num_prompts: int, needs: list[tuple[Path, str, int]]
) -> None:
    """Checks the folder for shards, if it will be used."""
    shards = prompts.shards or ""
    if prompts.shard_size is None and "://" not in shards and not shards.startswith("pipe:"):
        return
    try:
        cache = Path(expand_home(prompts.cache, "prompts.cache"))
    except ValueError as error:
        section.add("error", str(error).rstrip("."))
        return
    if prompts.shard_size is not None:
        needs.append((cache, f"shards of {num_prompts:,} prompts", SHARD_BYTES_PER_PROMPT * num_prompts))
    else:
        section.add("ok", f"prompts.cache: up to {prompts.cache_gib:g} GiB of shards are kept in {cache}")
    if not _is_writable(cache):
        section.add("error", f"prompts.cache: {cache} cannot be written", "choose another folder")


def _check_room(section: Section, needs: list[tuple[Path, str, int]]) -> None:
    """Checks that everything on the same disk fits there together."""
    disks: dict[int, list[tuple[Path, str, int]]] = {}
    for place, what, num_bytes in needs:
        disks.setdefault(os.stat(_existing(place)).st_dev, []).append((place, what, num_bytes))
    for listed in disks.values():
        free = shutil.disk_usage(_existing(listed[0][0])).free
        needed = sum(num_bytes for *_, num_bytes in listed)
        parts = ", ".join(f"{what} ({size(num_bytes)})" for _, what, num_bytes in listed)
        text = f"{listed[0][0]}: {size(needed)} needed, {size(free)} free: {parts}"
        if needed > free:
            todo = "free space, lower training.keep_checkpoints, or choose other folders"
            section.add("error", text, todo)
        else:
            section.add("ok", text)
        section.numbers[str(listed[0][0])] = {"needed": needed, "free": free}


def _existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _is_writable(folder: Path) -> bool:
    existing = _existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
