"""Locates weights: a folder, a .safetensors file, or a model on a hub. Needs no torch and no diffusers.

Several locations may be given; the first that works is used. `check_weights` downloads nothing,
`find_weights` downloads what is missing. Both say in one line what is wrong with each location and what to do
next.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from scaledreamer.weights import hub, layout
from scaledreamer.weights.hub_lookup import Access, Wanted, find_model, is_hub_id
from scaledreamer.weights.layout import PlaceError
from scaledreamer.weights.scheduler import CONFIG as SCHEDULER
from scaledreamer.weights.scheduler import check_edm, check_marks, check_scheduler, read_marks

CONFIGURATIONS = {
    "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "xl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Models that provide configurations and tokenizers for single-file checkpoints, which have none."""
LIST = "`model` may also be a list of places, of which the first that works is taken"


class WeightsError(ValueError):
    """No location has the weights; the message gives a reason for each, and what to do next."""


@dataclass(frozen=True)
class Weights:
    """Local weights.

    Attributes:
        name: the location, as configured.
        folder: in the diffusers layout; for a single file, the folder of its configurations and tokenizers.
        single_file: a .safetensors checkpoint.
        variant: "fp16" or None, for `from_pretrained`.
    """

    name: str
    folder: Path | None
    single_file: Path | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Availability:
    """A location that works, and what has to be downloaded.

    Attributes:
        name: the location, as configured.
        missing_files: files to be downloaded.
        num_bytes: bytes to be downloaded; 0 if nothing is missing.
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
    """The first location that works; downloads nothing.

    Args:
        models: folders, .safetensors files, or ids `owner/name` on a hub.
        parts: the parts that are needed: `layout.STABLE_DIFFUSION`, `layout.SDXL` or `layout.TEXT_ENCODER`.
        revision: branch, tag or commit of ids.
        mirrors: addresses of hubs to try after the default one.
        offline: whether to contact no hub.
        variant: "auto", "fp16" or "none", as `weights.variant` in the configuration.
        is_half: whether the requested dtype is float16 or bfloat16.
        unreachable: collects hubs that did not answer, with the reason; they are not tried again.

    Raises: WeightsError, in less than 10 seconds.
    """
    access = Access(revision, mirrors, offline, {} if unreachable is None else unreachable)
    return _first(models, _Request(parts, access, variant, is_half), is_download=False)[0]


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
    """The weights from the first location that works; downloads what is missing of `parts`, and nothing else.

    Several processes may call it at once: each file is downloaded by one of them.

    Args: as in `check_weights`.

    Raises: WeightsError.
    """
    access = Access(revision, mirrors, offline, {} if unreachable is None else unreachable)
    return _first(models, _Request(parts, access, variant, is_half), is_download=True)[1]


@dataclass
class _Request:
    parts: Sequence[str]
    access: Access
    variant: str
    is_half: bool
    has_weights: bool = True
    variants: tuple[str | None, ...] = field(init=False)

    def __post_init__(self) -> None:
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
            return _find_at(name, request, is_download)
        except PlaceError as problem:
            problems.append((name, problem))
    names: dict[str, list[str]] = {}  # by reason, since an unreachable hub affects all of its models
    for name, problem in problems:
        names.setdefault(problem.reason, []).append(name)
    reasons = "; ".join(f"{', '.join(same)}: {reason}" for reason, same in names.items())
    hints = list(dict.fromkeys(problem.hint for _, problem in problems))
    if len(models) == 1 and isinstance(problems[0][1], hub.HubError):
        hints.append(LIST)
    many = f"none of {len(models)} places works: " if len(models) > 1 else ""
    raise WeightsError(f"{many}{reasons}; {'; '.join(hints)}.")


def _find_at(name: str, request: _Request, is_download: bool) -> _Found:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        found = _check_folder(path, request)
        return Availability(name, "folder", variant=found), Weights(name, path, variant=found)
    if os.path.isfile(path):
        return _find_file(name, path, request, is_download)
    if name.endswith((".safetensors", *layout.PICKLED)):
        raise PlaceError(f"no such file{_where_it_ends(path)}", "check the path")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        hint = "check the path, or give a hub id (owner/name)"
        raise PlaceError(f"no such folder or file{_where_it_ends(path)}", hint)
    if not is_hub_id(name):
        raise PlaceError(
            "neither a folder nor a file here, nor a hub id (owner/name)",
            "check its spelling, or give a path",
        )
    return _find_on_hub(name, request, is_download)


def _where_it_ends(path: Path) -> str:
    """How much of a nonexistent path exists."""
    there = next((parent for parent in path.parents if os.path.isdir(parent)), None)
    if there is None or str(there) in (".", "/") or there == path.parent:
        return ""
    return f" ({there} is there, {path.relative_to(there).parts[0]} in it is not)"


# --- folders -----------------------------------------------------------------------------------------------


def _check_folder(folder: Path, request: _Request, *, is_snapshot: bool = False) -> str | None:
    """The variant in a folder whose needed files are all present and intact.

    Raises: PlaceError.
    """
    names = layout.list_folder(folder)

    def read(name: str) -> Any:
        return layout.read_json(folder / name, name)

    _check_family(names, request, read)
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


def _check_family(names: Collection[str], request: _Request, read: layout.Read) -> None:
    layout.check_family(names, request.parts, read)
    if "scheduler" in request.parts and SCHEDULER in names:
        check_scheduler(layout.read_mapping(read, SCHEDULER))


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


# --- checkpoints in one file -------------------------------------------------------------------------------


def _find_file(name: str, path: Path, request: _Request, is_download: bool) -> _Found:
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
    header, metadata = layout.read_header(path, path.name)
    family = layout.single_file_family(header, path.name)
    marks = read_marks(header, metadata)
    check_edm(marks)
    is_sdxl_wanted = "text_encoder_2" in request.parts
    if (family == "xl") != is_sdxl_wanted:
        theirs = "Stable Diffusion 1.x or 2.x, load it with name stable_diffusion"
        theirs = "SDXL, load it with name sdxl" if not is_sdxl_wanted else theirs
        kind, _, hint = theirs.partition(", ")
        raise PlaceError(f"is {kind}", hint)
    parts = dict.fromkeys(("model_index.json", *request.parts))
    access = replace(request.access, revision=None)  # shares the record of unreachable hubs
    configurations = _Request(tuple(parts), access, "auto", is_half=False, has_weights=False)
    beside = path.with_suffix("")
    for folder in (beside, path.parent):
        if os.path.isdir(folder / "unet"):
            try:
                _check_folder(folder, configurations)
            except PlaceError as problem:
                raise PlaceError(f"its configurations in {folder}: {problem.reason}", problem.hint) from None
            check_marks(marks, layout.read_json(folder / SCHEDULER, SCHEDULER), folder)
            return Availability(name, "file"), Weights(name, folder, path)
    put = (
        f"put model_index.json, tokenizer/ and the other parts' JSON files of its pipeline into {beside}, "
        "or give the whole pipeline as a folder"
    )
    if family not in CONFIGURATIONS or not marks.is_plain:
        kind = {"xl": "SDXL", "v1": "Stable Diffusion 1.x", "v2": "Stable Diffusion 2.x"}[family]
        kind += " that predicts v" * marks.predicts_v
        raise PlaceError(f"is {kind}, which needs the settings of its own scheduler", put)
    model = CONFIGURATIONS[family]
    try:
        found, weights = _find_on_hub(model, configurations, is_download)
    except PlaceError as problem:
        reason = f"needs the configurations and tokenizers of {model}, which are not on this disk"
        raise PlaceError(f"{reason} ({problem.reason})", f"{problem.hint}; or {put}") from None
    return (
        Availability(name, "file", found.missing_files, found.num_bytes),
        Weights(name, weights.folder, path),
    )


# --- models of a hub ---------------------------------------------------------------------------------------


def _find_on_hub(name: str, request: _Request, is_download: bool) -> _Found:
    def choose(names: Collection[str], read: layout.Read) -> layout.Files:
        _check_family(names, request, read)
        files = layout.needed_files(
            names, request.parts, request.variants, read, has_weights=request.has_weights
        )
        if files.missing:
            hint = "give a model whose files are in the diffusers layout"
            raise PlaceError(f"no {_joined(files.missing)} in it", hint)
        return files

    wanted = Wanted(choose, lambda folder: _check_folder(folder, request, is_snapshot=True))
    found = find_model(name, wanted, request.access, is_download=is_download)
    available = Availability(name, "hub", found.missing_files, found.num_bytes, found.variant)
    return available, Weights(name, found.folder, variant=found.variant)
