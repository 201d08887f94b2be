"""Exported generators: locating them, locally or on a hub, and reading `model_index.json`.

Needs no torch until weights are read, so that commands can refuse a wrong folder at once. Layout:
    model_index.json      class, format version, generator's name and settings, cameras, renderer, step, and
                          the SHA-256 of all other files
    generator/model.safetensors
    text_encoder/  tokenizer/
    trained_on.json       summary of the training's prompts; missing in older exports
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.config import GeneratorSettings, free_settings
from scaledreamer.home import expand_home
from scaledreamer.weights.hub import PATIENCE
from scaledreamer.weights.hub_lookup import Access, Found, Wanted, find_model, is_hub_id
from scaledreamer.weights.layout import Files, PlaceError, Read, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from scaledreamer.contracts import Generator

CLASS_NAME = "TextTo3D"
FORMAT_VERSION = 1
INDEX = "model_index.json"
WEIGHTS = Path("generator") / "model.safetensors"
PLACES = ("generator/best/", "best/", "", "generator/")
"""Where an export may be in a folder, in order of preference."""
SHIPPED = Path(__file__).parent / "assets" / "tiny_generator"
ACCEPTED = "a run's folder, an exported generator or the hub id of one (owner/name)"


def find_generator(place: Path | str | None, access: Access | None = None) -> Path:
    """The folder of an exported generator.

    Args:
        place: a run's folder (its `best/` if there is one), an export, the id of one on a hub (owner/name),
            which is downloaded if necessary, or None for the shipped one.
        access: access to hubs; None without a configuration.

    Raises: ValueError that says what was found instead.
    """
    if place is None:
        if not (SHIPPED / INDEX).is_file():
            raise ValueError(
                f"the shipped generator is missing from this installation ({SHIPPED}); reinstall the "
                f"package, or give {ACCEPTED} (--checkpoint)"
            )
        return SHIPPED
    folder = Path(expand_home(place, "checkpoint"))
    if not os.path.exists(folder):  # unlike Path.exists, it is False for invalid names
        found = _find_on_hub(str(place), access, is_download=True).folder
        assert found is not None
        return found / str(_folder_in(found))
    if not folder.is_dir():
        raise ValueError(f"checkpoint {folder}: is a file; give {ACCEPTED}")
    inside = _folder_in(folder)
    if inside is not None:
        return folder / inside
    if (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir():
        raise ValueError(
            f"checkpoint {folder}: a run that has not exported a generator yet; train it further"
        )
    raise ValueError(f"checkpoint {folder}: no {INDEX} in it; give {ACCEPTED}")


def check_generator(place: str, access: Access | None = None) -> Found | None:
    """What has to be downloaded for a generator, as far as is known in advance; None for a local folder.

    Raises: ValueError as `find_generator` and `read_index`.
    """
    if os.path.exists(expand_home(place, "checkpoint")):
        read_index(find_generator(place))
        return None
    return _find_on_hub(place, access, is_download=False)


def _folder_in(place: Path) -> str | None:
    """The path of an export in a folder."""
    return next((name for name in PLACES if (place / name / INDEX).is_file()), None)


def _find_on_hub(name: str, access: Access | None, *, is_download: bool) -> Found:
    """An exported generator on a hub; the files listed in its index are downloaded."""
    if not is_hub_id(name):
        raise ValueError(f"checkpoint {name}: there is no such folder; give {ACCEPTED}")

    def choose(names: Collection[str], read: Read) -> Files:
        files = _needed_files(names, read, name)
        if files.missing:
            raise PlaceError(f"no {files.missing[0]} in it", f"give {ACCEPTED}")
        return files

    def check_folder(folder: Path) -> None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        files = _needed_files(names, lambda file: read_json(folder / file, file), name)
        if files.missing:
            raise PlaceError(f"lacks {files.missing[0]}", "download it again")

    try:
        return find_model(name, Wanted(choose, check_folder), access or Access(), is_download=is_download)
    except PlaceError as problem:
        hint = problem.hint
        if access is None and hint == PATIENCE:
            hint = f"try again later, set HF_ENDPOINT to a mirror, or give {ACCEPTED}"
        raise ValueError(f"checkpoint {name}: {problem.reason}; {hint}") from None


def _needed_files(names: Collection[str], read: Read, model: str) -> Files:
    """The files of a model that belong to an export: those in its index, or all in its folders."""
    place = next((place for place in PLACES if f"{place}{INDEX}" in names), None)
    if place is None:
        return Files((), (INDEX,), None)
    index = check_index(read(f"{place}{INDEX}"), model)
    inside = [name.removeprefix(place) for name in names if name.startswith(place)]
    parts = [name for name in inside if name.startswith(("generator/", "text_encoder/", "tokenizer/"))]
    needed = dict.fromkeys((INDEX, WEIGHTS.as_posix(), *(index.get("sha256") or parts)))
    missing = tuple(f"{place}{name}" for name in needed if name not in inside)
    return Files(tuple(f"{place}{name}" for name in needed if name in inside), missing, None)


def read_index(folder: Path) -> dict[str, Any]:
    """The validated contents of `model_index.json`.

    Raises: ValueError if it is damaged, or was written by another program or a newer version of this one.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"checkpoint {folder}: {INDEX} cannot be read ({error}); export the generator again"
        ) from None
    index = check_index(content, folder)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"checkpoint {folder}: {WEIGHTS} is missing; copy the whole folder or export it again"
        )
    return index


def check_index(index: Any, folder: Path | str) -> dict[str, Any]:
    """The contents of `model_index.json`, if they are an exported generator's.

    Raises: ValueError with the name of the folder, or of the hub's model.
    """
    if not isinstance(index, dict) or index.get("_class_name") != CLASS_NAME:
        found = index.get("_class_name", "something unnamed") if isinstance(index, dict) else "something else"
        raise ValueError(
            f"checkpoint {folder}: holds {found}, not a generator of this package ({CLASS_NAME})"
        )
    version = index.get("format_version")
    if version != FORMAT_VERSION:
        writer = index.get("_scaledreamer_version", "of an unknown version")
        raise ValueError(
            f"checkpoint {folder}: format_version is {version!r}; accepted is {FORMAT_VERSION}. It was "
            f"exported by scaledreamer {writer}: use that version"
        )
    generator = index.get("generator")
    if not isinstance(generator, dict) or not isinstance(generator.get("name"), str):
        generator = {}
    if not isinstance(generator.get("settings"), dict):
        raise ValueError(
            f"checkpoint {folder}: {INDEX} lacks the generator's name and settings; export it again"
        )
    for section in ("cameras", "renderer"):
        if not isinstance(index.setdefault(section, {}), dict):
            raise ValueError(
                f"checkpoint {folder}: {section} in {INDEX} is not a section; export the generator again"
            )
    positive = [("cameras", "distance"), ("cameras", "fov_deg")]
    positive += [("renderer", "beta"), ("renderer", "inverse_deviation")]
    for section, name in positive:
        if not _is_positive(index[section].get(name, 1.0)):
            raise ValueError(
                f"checkpoint {folder}: {section}.{name} in {INDEX} is {index[section][name]!r}; accepted is "
                "a number above 0, or a range of two; export the generator again"
            )
    if "name" not in index["renderer"]:
        index["renderer"] = _named_renderer(index["renderer"])
    hashes = index.get("sha256", {})
    if not isinstance(index.get("step"), int | None) or not isinstance(hashes, dict):
        raise ValueError(
            f"checkpoint {folder}: step or sha256 in {INDEX} is damaged; export the generator again"
        )
    return index


def _named_renderer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The section of today for that of earlier exports, which knew the volume renderer alone."""
    renamed = {"name": "volume", **settings}
    if "inverse_deviation" in renamed:
        renamed["beta"] = 1 / renamed.pop("inverse_deviation")
    return renamed


def _is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0, or a range of two."""
    numbers: list[Any] = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(number) in (int, float) and 0 < number < 1e6 for number in numbers)


def check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raises ValueError unless all files match their hashes; an export without hashes is accepted."""
    for name, expected in index.get("sha256", {}).items():
        try:
            found = _hash(folder / name)
        except (OSError, ValueError):
            raise ValueError(
                f"checkpoint {folder}: {name} is missing or cannot be read; copy the whole folder or export "
                "it again"
            ) from None
        if found != expected:
            raise ValueError(
                f"checkpoint {folder}: {name} is damaged, or of another generator: it is not what was "
                "exported with the rest; copy the whole folder or export it again"
            )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files of an export by relative path, except its index and README.md."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _hash(path) for name, path in names.items() if name not in (INDEX, "README.md")}


def weights_hash(folder: Path) -> str:
    """SHA-256 of the generator's weights, in hexadecimal."""
    return _hash(folder / WEIGHTS)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(generator: nn.Module, folder: Path) -> None:
    """Loads an exported generator's weights into one with the same settings.

    Raises: ValueError if they are damaged, or belong to other settings.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {folder}: {WEIGHTS} is damaged or truncated ({error}); copy it or export it again"
        ) from None
    wrong = differences(generator, weights)
    if wrong is not None:
        raise ValueError(
            f"checkpoint {folder}: {WEIGHTS} does not belong to its {INDEX}: {wrong}; export it again"
        )
    generator.load_state_dict(weights)


def start_from(
    generator: Generator, settings: GeneratorSettings, place: str, access: Access | None = None
) -> None:
    """Gives a new generator the weights of a run or of an exported generator (a warm restart: no optimizer).

    Args:
        settings: those that the generator was made with.
        place, access: as of `find_generator`.

    Raises: ValueError if there is none, or one of other settings.
    """
    free = free_settings(type(settings.chosen))
    try:
        found = find_generator(place, access)
        index = read_index(found)
        check_files(found, index)
        theirs = {"name": index["generator"]["name"]} | index["generator"]["settings"]
        ours = {"name": settings.name} | settings.chosen.model_dump() | generator.config
        wrong = [key for key in ours if key not in free and ours[key] != theirs.get(key)]
        if wrong:
            raise ValueError(
                f"{found} has {wrong[0]} {theirs.get(wrong[0])!r}, this configuration {ours[wrong[0]]!r}; "
                "set the same, or generator.start=null"
            )
        load_weights(generator, found)
    except ValueError as error:
        raise ValueError(f"generator.start: {error}") from None


def differences(generator: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """Number of tensors whose names or shapes differ, and the first of them; None if there are none."""
    wanted = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if not wrong:
        return None
    expected = f"expected {wanted.get(wrong[0])}, found {found.get(wrong[0])}"
    return f"{len(wrong)} tensors differ, first {wrong[0]} ({expected})"
