"""Where weights come from: a folder, a .safetensors file, or a model of a hub. Needs no torch, no diffusers.

Several places may be given, of which the first that works is taken. `check_weights` looks and downloads
nothing; `find_weights` looks and downloads what is missing. Both say in one line what is wrong with each
place and what to do next.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scaledreamer.priors import hub, layout
from scaledreamer.priors.layout import PlaceError

CONFIGURATIONS = {
    "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "xl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Models whose configurations and tokenizers belong to checkpoints in one file, which have none."""
LIST = "`model` may also be a list of places, of which the first that works is taken"


class WeightsError(ValueError):
    """No place has the weights: each with the reason, and what to do next."""


@dataclass(frozen=True)
class Weights:
    """Weights on this disk.

    Attributes:
        name: the place, as configured.
        folder: of the diffusers layout; beside a single file, the one with its configurations and tokenizers.
        single_file: a .safetensors checkpoint.
        variant: "fp16", or None: for `from_pretrained`.
    """

    name: str
    folder: Path | None
    single_file: Path | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Availability:
    """A place that works, and what it takes.

    Attributes:
        name: the place, as configured.
        missing_files: to be downloaded.
        num_bytes: to be downloaded; 0 if all is here.
        variant: "fp16" or None.
    """

    name: str
    kind: Literal["folder", "file", "hub"]
    missing_files: tuple[str, ...] = ()
    num_bytes: int = 0
    variant: str | None = None


def check_weights(
    models: Sequence[str],
    *,
    parts: Sequence[str],
    revision: str | None = None,
    mirrors: Sequence[str] = (),
    offline: bool = False,
    variant: str = "auto",
    is_half: bool = False,
    unreachable: dict[str, str] | None = None,
) -> Availability:
    """The first place that works; downloads nothing.

    Args:
        models: folders, .safetensors files, or ids `owner/name` of a hub.
        parts: what of it is needed: `layout.STABLE_DIFFUSION`, `layout.SDXL` or `layout.TEXT_ENCODER`.
        revision: branch, tag or commit of ids.
        mirrors: addresses of hubs to ask after the default one.
        offline: asks no hub.
        variant: "auto", "fp16" or "none", as `weights.variant` of the configuration.
        is_half: the wanted dtype is float16 or bfloat16.
        unreachable: hubs that did not answer, with the reason, are noted here and not asked again.

    Raises: WeightsError, in less than 10 seconds.
    """
    return _first(
        models, _Request(parts, revision, mirrors, offline, variant, is_half, unreachable), is_download=False
    )[0]


def find_weights(
    models: Sequence[str],
    *,
    parts: Sequence[str],
    revision: str | None = None,
    mirrors: Sequence[str] = (),
    offline: bool = False,
    variant: str = "auto",
    is_half: bool = False,
    unreachable: dict[str, str] | None = None,
) -> Weights:
    """The weights of the first place that works; downloads what is missing of `parts`, and nothing else.

    Several processes may call it at once: each file is downloaded by one of them.

    Args: as of `check_weights`.

    Raises: WeightsError.
    """
    return _first(
        models, _Request(parts, revision, mirrors, offline, variant, is_half, unreachable), is_download=True
    )[1]


@dataclass
class _Request:
    parts: Sequence[str]
    revision: str | None
    mirrors: Sequence[str]
    offline: bool
    variant: str
    is_half: bool
    unreachable: dict[str, str] | None
    has_weights: bool = True
    variants: tuple[str | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.unreachable is None:
            self.unreachable = {}
        try:
            self.variants = layout.wanted_variants(self.variant, self.is_half)
        except PlaceError as problem:
            raise WeightsError(f"{problem.reason}; {problem.hint}.") from None


_Found = tuple[Availability, Weights]


def _first(models: Sequence[str], request: _Request, *, is_download: bool) -> _Found:
    if not models:
        raise WeightsError("no place is given; give a folder, a .safetensors file or a hub id.")
    problems = []
    for name in models:
        try:
            return _look(name, request, is_download)
        except PlaceError as problem:
            problems.append((name, problem))
    names: dict[str, list[str]] = {}  # by reason: a hub that does not answer lacks all of its models alike
    for name, problem in problems:
        names.setdefault(problem.reason, []).append(name)
    reasons = "; ".join(f"{', '.join(same)}: {reason}" for reason, same in names.items())
    hints = list(dict.fromkeys(problem.hint for _, problem in problems))
    if len(models) == 1 and isinstance(problems[0][1], hub.HubError):
        hints.append(LIST)
    many = f"none of {len(models)} places works: " if len(models) > 1 else ""
    raise WeightsError(f"{many}{reasons}; {'; '.join(hints)}.")


def _look(name: str, request: _Request, is_download: bool) -> _Found:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        found = _look_into(path, request)
        return Availability(name, "folder", variant=found), Weights(name, path, variant=found)
    if os.path.isfile(path):
        return _look_at_file(name, path, request, is_download)
    if name.endswith((".safetensors", *layout.PICKLED)):
        raise PlaceError(f"no such file{_where_it_ends(path)}", "check the path")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        hint = "check the path, or give a hub id (owner/name)"
        raise PlaceError(f"no such folder or file{_where_it_ends(path)}", hint)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise PlaceError(
            "neither a folder nor a file here, nor a hub id (owner/name)",
            "check its spelling, or give a path",
        )
    return _look_at_hub(name, request, is_download)


def _where_it_ends(path: Path) -> str:
    """Of a path that does not exist: how much of it does."""
    there = next((parent for parent in path.parents if os.path.isdir(parent)), None)
    if there is None or str(there) in (".", "/") or there == path.parent:
        return ""
    return f" ({there} is there, {path.relative_to(there).parts[0]} in it is not)"


# --- folders -----------------------------------------------------------------------------------------------


def _look_into(folder: Path, request: _Request, *, is_snapshot: bool = False) -> str | None:
    """The variant that a folder has; all of its needed files are there and whole.

    Raises: PlaceError.
    """
    names = layout.list_folder(folder)

    def read(name: str) -> Any:
        return layout.read_json(folder / name, name)

    layout.check_family(names, request.parts, read)
    files = layout.needed_files(names, request.parts, request.variants, read, has_weights=request.has_weights)
    if files.missing:
        missing = _joined(files.missing)
        if is_snapshot:
            raise PlaceError(f"lacks {missing}", "")
        if (folder / "snapshots").is_dir():
            hint = "give the hub id (owner/name), or a folder in its snapshots/"
            raise PlaceError("is a folder of the hub's cache, not a pipeline", hint)
        layout_text = ", ".join(part if "." in part else f"{part}/" for part in request.parts)
        hint = f"give a pipeline folder of the diffusers layout ({layout_text}) or a hub id"
        raise PlaceError(f"no {missing} in this folder", hint)
    for name in files.present:
        if name.endswith(".safetensors"):
            layout.read_header(folder / name, name)
    return files.variant


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


# --- checkpoints in one file -------------------------------------------------------------------------------


def _look_at_file(name: str, path: Path, request: _Request, is_download: bool) -> _Found:
    if path.suffix in layout.PICKLED:
        raise PlaceError(
            "is a pickled checkpoint, which can run code when it is loaded and is refused",
            "convert it where you trust it: StableDiffusionPipeline (or StableDiffusionXLPipeline)"
            ".from_single_file(FILE).save_pretrained(FOLDER), and give FOLDER",
        )
    if path.suffix != ".safetensors":
        raise PlaceError(
            "is a file, and no .safetensors", "give a checkpoint of that format, a folder or a hub id"
        )
    if "unet" not in request.parts:
        hint = "give a folder with text_encoder/ and tokenizer/, or a hub id"
        raise PlaceError("is a checkpoint in one file, and a text encoder is read from a folder", hint)
    header = layout.read_header(path, path.name)
    family = layout.single_file_family(header, path.name)
    is_sdxl_wanted = "text_encoder_2" in request.parts
    if family.startswith("xl") != is_sdxl_wanted:
        theirs = "Stable Diffusion 1.x or 2.x, load it with name stable_diffusion"
        theirs = "SDXL, load it with name sdxl" if not is_sdxl_wanted else theirs
        kind, _, hint = theirs.partition(", ")
        raise PlaceError(f"is {kind}", hint)
    parts = dict.fromkeys(("model_index.json", *request.parts))
    configurations = _Request(
        tuple(parts), None, request.mirrors, request.offline, "auto", False, request.unreachable, False
    )
    beside = path.with_suffix("")
    for folder in (beside, path.parent):
        if os.path.isdir(folder / "unet"):
            try:
                _look_into(folder, configurations)
            except PlaceError as problem:
                raise PlaceError(f"its configurations in {folder}: {problem.reason}", problem.hint) from None
            return Availability(name, "file"), Weights(name, folder, path)
    put = (
        f"put model_index.json, tokenizer/ and the other parts' JSON files of its pipeline into {beside}, "
        "or give the whole pipeline as a folder"
    )
    if family not in CONFIGURATIONS:
        kind = "SDXL that predicts v" if family == "xl_v" else "Stable Diffusion 2.x"
        raise PlaceError(f"is {kind}, which needs the settings of its own scheduler", put)
    model = CONFIGURATIONS[family]
    try:
        found, weights = _look_at_hub(model, configurations, is_download)
    except PlaceError as problem:
        reason = f"needs the configurations and tokenizers of {model}, which are not on this disk"
        raise PlaceError(f"{reason} ({problem.reason})", f"{problem.hint}; or {put}") from None
    return (
        Availability(name, "file", found.missing_files, found.num_bytes),
        Weights(name, weights.folder, path),
    )


# --- models of a hub ---------------------------------------------------------------------------------------


def _look_at_hub(name: str, request: _Request, is_download: bool) -> _Found:
    """Asks one hub after the other; what is on the disk is taken where none of them helps."""
    is_commit = re.fullmatch(r"[0-9a-f]{40}", request.revision or "") is not None
    is_offline = request.offline or hub.is_offline()
    problems: list[PlaceError] = []
    if not is_offline and not (is_commit and _is_cached(name, request)):
        hubs = hub.hubs(request.mirrors)
        seconds = min(hub.SECONDS, hub.SECONDS_FOR_ALL / len(hubs))
        for place in hubs:
            assert request.unreachable is not None
            if place.address in request.unreachable:
                problems.append(hub.UnreachableError(request.unreachable[place.address], hub.PATIENCE))
                continue
            try:
                return _look_at_one_hub(place, name, request, seconds, is_download)
            except hub.HubError as problem:
                if isinstance(problem, hub.UnreachableError):
                    request.unreachable[place.address] = problem.reason
                problems.append(problem)
    folder = hub.cached_folder(name, request.revision)
    try:
        if folder is not None:
            variant = _look_into(folder, request, is_snapshot=True)
            return Availability(name, "hub", variant=variant), Weights(name, folder, variant=variant)
        on_disk = f"nothing of it is in {hub.cache_folder()}"
    except PlaceError as problem:
        on_disk = f"{folder} {problem.reason}"
    if is_offline:
        why, how = "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"
        if request.offline:
            why, how = "weights.offline", "set weights.offline=false"
        raise hub.HubError(f"no hub is asked ({why}), and {on_disk}", f"{how}, or give a folder")
    reasons = "; ".join(problem.reason for problem in problems)
    partly = f"; {on_disk}" if folder is not None else ""
    # What a hub said about the model is of more help than that another one did not answer.
    hints = [problem.hint for problem in problems if not isinstance(problem, hub.UnreachableError)]
    hint = "; ".join(dict.fromkeys(hints)) or hub.PATIENCE
    raise hub.HubError(f"no such folder here, and {reasons}{partly}", hint)


def _is_cached(name: str, request: _Request) -> bool:
    folder = hub.cached_folder(name, request.revision)
    if folder is None:
        return False
    try:
        _look_into(folder, request, is_snapshot=True)
    except PlaceError:
        return False
    return True


def _look_at_one_hub(
    place: hub.Hub, name: str, request: _Request, seconds: float, is_download: bool
) -> _Found:
    listing = hub.list_files(place, name, request.revision, seconds)
    snapshot = hub.cached_folder(name, listing.commit)
    here = set(layout.list_folder(snapshot)) if snapshot is not None else set()
    answers: dict[str, Any] = {}

    def read(file: str) -> Any:
        if file in here and snapshot is not None:
            return layout.read_json(snapshot / file, file)
        if file not in answers:
            content = hub.read_file(place, name, file, listing.commit, seconds)
            answers[file] = _parsed(content, file, place)
        return answers[file]

    layout.check_family(listing.sizes, request.parts, read)
    files = layout.needed_files(
        listing.sizes, request.parts, request.variants, read, has_weights=request.has_weights
    )
    if files.missing:
        missing = _joined(files.missing)
        raise PlaceError(f"no {missing} in it", "give a model whose files are in the diffusers layout")
    missing = [file for file in files.present if file not in here]
    num_bytes = sum(listing.sizes[file] for file in missing)
    if missing and not answers:  # whether access is given shows in a file alone
        small = min(missing, key=lambda file: listing.sizes[file])
        hub.read_file(place, name, small, listing.commit, seconds)
    hub.check_space(num_bytes)
    if missing and not is_download:
        return Availability(name, "hub", tuple(missing), num_bytes, files.variant), Weights(name, None)
    folder = snapshot
    if is_download:  # with nothing missing too: it notes which commit the revision is, for a look-up offline
        folder = hub.download(place, name, request.revision, files.present)
    assert folder is not None
    variant = _look_into(folder, request)
    return Availability(name, "hub", variant=variant), Weights(name, folder, variant=variant)


def _parsed(content: bytes, file: str, place: hub.Hub) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise hub.HubError(f"{place.address} has no JSON in {file}", "check the model there") from None
