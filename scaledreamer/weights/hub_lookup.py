"""Finding models on hubs, one after the other, and then in the local cache. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaledreamer.weights import hub, layout
from scaledreamer.weights.layout import PlaceError


@dataclass
class Access:
    """Access to hubs.

    Attributes:
        revision: branch, tag or commit; None is the newest.
        mirrors: addresses of hubs to try after the default one.
        offline: whether to contact no hub.
        unreachable: collects hubs that did not answer, with the reason; they are not tried again.
    """

    revision: str | None = None
    mirrors: Sequence[str] = ()
    offline: bool = False
    unreachable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What is needed of a model.

    Attributes:
        choose: selects the needed files from a list of names, given a function that reads a JSON file.
        check_folder: the variant of which a folder has all files. Raises PlaceError if some are missing.
    """

    choose: Callable[[Collection[str], layout.Read], layout.Files]
    check_folder: Callable[[Path], str | None]


@dataclass(frozen=True)
class Found:
    """A model on a hub.

    Attributes:
        folder: the local folder; None if files have to be downloaded.
        variant: variant of its weights, "fp16" or None.
        missing_files, num_bytes: what has to be downloaded.
    """

    folder: Path | None
    variant: str | None
    missing_files: tuple[str, ...] = ()
    num_bytes: int = 0


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a model id: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def find_model(name: str, wanted: Wanted, access: Access, *, is_download: bool) -> Found:
    """A model by its id; falls back on the local cache if no hub helps.

    Args:
        is_download: whether to download missing files, or only count them.

    Raises: PlaceError.
    """
    is_commit = re.fullmatch(r"[0-9a-f]{40}", access.revision or "") is not None
    is_offline = access.offline or hub.is_offline()
    problems: list[PlaceError] = []
    if not is_offline and not (is_commit and _is_cached(name, wanted, access)):
        hubs = hub.hubs(access.mirrors)
        seconds = min(hub.SECONDS, hub.SECONDS_FOR_ALL / len(hubs))
        for place in hubs:
            if place.address in access.unreachable:
                problems.append(hub.UnreachableError(access.unreachable[place.address], hub.PATIENCE))
                continue
            try:
                return _find_at(place, name, wanted, access, seconds, is_download)
            except hub.HubError as problem:
                if isinstance(problem, hub.UnreachableError):
                    access.unreachable[place.address] = problem.reason
                problems.append(problem)
    folder = hub.cached_folder(name, access.revision)
    try:
        if folder is not None:
            return Found(folder, wanted.check_folder(folder))
        on_disk = f"nothing of it is in {hub.cache_folder()}"
    except PlaceError as problem:
        on_disk = f"{folder} {problem.reason}"
    if is_offline:
        why, how = "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"
        if access.offline:
            why, how = "weights.offline", "set weights.offline=false"
        raise hub.HubError(f"no hub is asked ({why}), and {on_disk}", f"{how}, or give a folder")
    reasons = "; ".join(problem.reason for problem in problems)
    partly = f"; {on_disk}" if folder is not None else ""
    # A hub's answer about the model is more helpful than another one's silence.
    hints = [problem.hint for problem in problems if not isinstance(problem, hub.UnreachableError)]
    hint = "; ".join(dict.fromkeys(hints)) or hub.PATIENCE
    raise hub.HubError(f"no such folder here, and {reasons}{partly}", hint)


def _is_cached(name: str, wanted: Wanted, access: Access) -> bool:
    folder = hub.cached_folder(name, access.revision)
    if folder is None:
        return False
    try:
        wanted.check_folder(folder)
    except PlaceError:
        return False
    return True


def _find_at(
    place: hub.Hub, name: str, wanted: Wanted, access: Access, seconds: float, is_download: bool
) -> Found:
    listing = hub.list_files(place, name, access.revision, seconds)
    snapshot = hub.cached_folder(name, listing.commit)
    answers: dict[str, Any] = {}

    def is_here(file: str) -> bool:
        return snapshot is not None and (snapshot / file).is_file()

    def read(file: str) -> Any:
        if snapshot is not None and is_here(file):
            return layout.read_json(snapshot / file, file)
        if file not in answers:
            content = hub.read_file(place, name, file, listing.commit, seconds)
            answers[file] = _parsed(content, file, place)
        return answers[file]

    files = wanted.choose(listing.sizes, read)
    missing = [file for file in files.present if not is_here(file)]
    num_bytes = sum(listing.sizes[file] for file in missing)
    if missing and not answers:  # access rights only show when a file is read
        small = min(missing, key=lambda file: listing.sizes[file])
        hub.read_file(place, name, small, listing.commit, seconds)
    hub.check_space(num_bytes)
    if missing and not is_download:
        return Found(None, files.variant, tuple(missing), num_bytes)
    folder = snapshot
    if is_download:  # even if nothing is missing: it records the revision's commit for offline use
        folder = hub.download(place, name, access.revision, files.present)
    assert folder is not None
    return Found(folder, wanted.check_folder(folder))


def _parsed(content: bytes, file: str, place: hub.Hub) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise hub.HubError(f"{place.address} has no JSON in {file}", "check the model there") from None
