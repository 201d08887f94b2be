"""Requests to a model hub: file lists, small files, downloads. Needs no torch.

Every look-up ends within a time limit, whatever the network does. The user's token is only sent to the
default hub (`HF_ENDPOINT`), never to a mirror. Downloads use huggingface_hub, which locks each file
(`WeakFileLock` in `file_download.py`): one of several processes on a machine downloads it, and the others
wait.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scaledreamer.home import is_home
from scaledreamer.weights.layout import PlaceError

T = TypeVar("T")
SECONDS = 3.0
"""Longest wait for one answer; shorter if there are many hubs."""
SECONDS_FOR_ALL = 4.5
"""Longest total wait if no hub answers."""
REMOVED = "stabilityai/stable-diffusion-2"
PATIENCE = "try again later, give a mirror in weights.mirrors, or give a folder that holds the weights"


class HubError(PlaceError):
    """An error of one hub; another one may work."""


class UnreachableError(HubError):
    """No answer, or one that says nothing about the model."""


@dataclass(frozen=True)
class Hub:
    """The address of a hub, and whether it gets the user's token."""

    address: str
    has_token: bool


@dataclass(frozen=True)
class Listing:
    """Files of a repository at a commit, with their sizes in bytes."""

    commit: str
    sizes: dict[str, int]


def hubs(mirrors: Collection[str]) -> list[Hub]:
    """The default hub and the mirrors, in order.

    Raises: PlaceError for a mirror that is no address.
    """
    from huggingface_hub import constants

    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://")):
            raise PlaceError(f"mirror {mirror!r} is no address", "write https:// and the name of a hub")
    addresses = [mirror.rstrip("/") for mirror in mirrors]
    return [Hub(constants.ENDPOINT, True), *(Hub(address, False) for address in addresses)]


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Where downloads are kept.

    Raises: PlaceError if that is in the home folder, and there is none.
    """
    from huggingface_hub import constants

    if is_home(constants.HF_HUB_CACHE):  # huggingface_hub has left it as it is
        reason = f"there is no home folder, and downloads are kept in {constants.HF_HUB_CACHE}"
        raise PlaceError(reason, "set HF_HOME or HOME to a folder that may be written")
    return Path(constants.HF_HUB_CACHE)


def cached_folder(model: str, revision: str | None) -> Path | None:
    """The local folder of a revision as last downloaded; files may be missing.

    Raises: PlaceError as `cache_folder`.
    """
    from huggingface_hub import snapshot_download

    cache_folder()
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=[]))
    except (OSError, ValueError):
        return None


def list_files(hub: Hub, model: str, revision: str | None, seconds: float) -> Listing:
    """The files of a model on a hub.

    Raises: HubError if there is no such model, or no access to it; UnreachableError.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.address, token=None if hub.has_token else False)
    info = _within(
        hub,
        model,
        seconds,
        lambda: api.model_info(model, revision=revision, timeout=2 * seconds, files_metadata=True),
    )
    if info.sha is None or info.siblings is None:
        raise UnreachableError(f"{hub.address} lists no files of it", PATIENCE)
    return Listing(info.sha, {file.rfilename: file.size or 0 for file in info.siblings})


def read_file(hub: Hub, model: str, name: str, commit: str, seconds: float) -> bytes:
    """A small file of a model, which is not cached.

    Raises: as `list_files`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(model, name, revision=commit, endpoint=hub.address)
    headers = build_hf_headers(token=None if hub.has_token else False)

    def get() -> bytes:
        answer = get_session().get(url, headers=headers, timeout=2 * seconds)
        hf_raise_for_status(answer)
        return answer.content

    return _within(hub, model, seconds, get)


def download(hub: Hub, model: str, revision: str | None, names: Sequence[str]) -> Path:
    """Downloads files of a model into huggingface_hub's cache; returns the folder of its revision there.

    Interrupted downloads are resumed.

    Raises: HubError.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            model,
            revision=revision,
            endpoint=hub.address,
            token=None if hub.has_token else False,
            allow_patterns=list(names),
        )
    except Exception as error:  # from several libraries; in any case the next hub may work
        raise _explained(error, hub, model, "download") from None
    return Path(folder)


def check_space(num_bytes: int) -> None:
    """Checks that the disk of the cache has enough space for a download.

    Raises: PlaceError with the folder.
    """
    folder = cache_folder().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        raise PlaceError(
            f"{num_bytes / 2**30:.2f} GiB are to be downloaded to {folder}, with {free / 2**30:.2f} free",
            "make room, or set HF_HOME to a folder on another disk",
        )


def _within(hub: Hub, model: str, seconds: float, function: Callable[[], T]) -> T:
    """The result of a request, with a limit on the total wait, which includes slow name servers.

    The request's own time limit should be longer, so that only this one determines the error.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((True, function()))
        except BaseException as error:  # passed to the caller's thread
            results.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise UnreachableError(f"{hub.address} does not answer within {seconds:.1f} s", PATIENCE)
    is_answer, result = results[0]
    if is_answer:
        return result
    if not isinstance(result, Exception):
        raise result
    raise _explained(result, hub, model, "answer") from None


def _explained(error: Exception, hub: Hub, model: str, what: str) -> HubError:
    """Translates an error of huggingface_hub, or of the libraries below it, for the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{hub.address} has no such revision of it", "set revision to one that it has")
    if isinstance(error, GatedRepoError) or status == 403:
        login = "log in (`hf auth login`, or HF_TOKEN)"
        if not hub.has_token:
            login = "set HF_ENDPOINT to this hub, since mirrors are asked without your token"
        return HubError(
            f"{hub.address} gives it only to those who have accepted its licence ({status or 'gated'})",
            f"accept the licence at {hub.address}/{model} and {login}",
        )
    if isinstance(error, RepositoryNotFoundError) and status in (401, 404):
        hint = "check the id, or log in (`hf auth login`, or HF_TOKEN) if it is private"
        if model.startswith(REMOVED):
            hint = "it left the hub in November 2025: give a folder with a copy, or the id of another copy"
        kind = "has no such model" if status == 404 else "has no such model, or a private one"
        return HubError(f"{hub.address} {kind} ({status})", hint)
    if status == 401:
        return HubError(f"{hub.address} refuses access (401)", "log in (`hf auth login`, or HF_TOKEN)")
    if status == 404:
        return HubError(f"{hub.address} lacks a file of it (404)", "check the id and the revision")
    if status is not None:
        return UnreachableError(f"{hub.address} answers {status}", PATIENCE)
    reason = " ".join(str(error).split())[:160]
    text = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if what == "download":
        return HubError(
            f"the download from {hub.address} broke off ({text})",
            "run the same command again, which goes on where it stopped",
        )
    return UnreachableError(f"{hub.address} cannot be reached ({text})", PATIENCE)
