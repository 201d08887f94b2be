"""The folder of an exported generator (DESIGN, section 6): where it is, and what its `model_index.json` says.

Needs no torch until weights are read, so that command lines can refuse a wrong folder at once. Layout:
    model_index.json      class, format version, generator's name and settings, cameras, renderer, step, and
                          the SHA-256 of all other files
    generator/model.safetensors
    text_encoder/  tokenizer/
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.home import expand_home

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

CLASS_NAME = "TextTo3D"
FORMAT_VERSION = 1
INDEX = "model_index.json"
WEIGHTS = Path("generator") / "model.safetensors"
SHIPPED = Path(__file__).parent / "assets" / "tiny_generator"


def find_generator(folder: Path | str | None) -> Path:
    """The exported generator in a run's folder (its best where kept apart), in an export, or shipped (None).

    Raises: ValueError that says what the folder is instead.
    """
    if folder is None:
        if not (SHIPPED / INDEX).is_file():
            raise ValueError(
                f"the shipped generator is missing from this installation ({SHIPPED}); reinstall the "
                "package, or give the folder of a run or of an exported generator (--checkpoint)"
            )
        return SHIPPED
    folder = Path(expand_home(folder, "checkpoint"))
    if not os.path.exists(folder):  # unlike Path.exists False for names that no file can have
        raise ValueError(
            f"checkpoint {folder}: there is no such folder; give a run's folder or an exported generator"
        )
    if not folder.is_dir():
        raise ValueError(
            f"checkpoint {folder}: is a file; give the folder of a run or of an exported generator"
        )
    for place in (folder / "generator" / "best", folder / "best", folder, folder / "generator"):
        if (place / INDEX).is_file():
            return place
    if (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir():
        raise ValueError(
            f"checkpoint {folder}: a run that has not exported a generator yet; train it further"
        )
    raise ValueError(
        f"checkpoint {folder}: no {INDEX} in it; give a run's folder (outputs/<run>) or an exported generator"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """The validated contents of `model_index.json`.

    Raises: ValueError if it is damaged, of another program, or of a newer version of this one.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"checkpoint {folder}: {INDEX} cannot be read ({error}); export the generator again"
        ) from None
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
    for section, name in (("cameras", "distance"), ("cameras", "fov_deg"), ("renderer", "inverse_deviation")):
        if not _is_positive(index[section].get(name, 1.0)):
            raise ValueError(
                f"checkpoint {folder}: {section}.{name} in {INDEX} is {index[section][name]!r}; accepted is "
                "a number above 0, or a range of two; export the generator again"
            )
    hashes = index.get("sha256", {})
    if not isinstance(index.get("step"), int | None) or not isinstance(hashes, dict):
        raise ValueError(
            f"checkpoint {folder}: step or sha256 in {INDEX} is damaged; export the generator again"
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"checkpoint {folder}: {WEIGHTS} is missing; copy the whole folder or export it again"
        )
    return index


def _is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0, or a range of two."""
    numbers: list[Any] = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(number) in (int, float) and 0 < number < 1e6 for number in numbers)


def check_files(folder: Path, index: dict[str, Any]) -> None:
    """Raises ValueError unless all files are what was exported; one without hashes is taken as it is."""
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
    """SHA-256 of all files of an export by their path in it, apart from its index and README.md."""
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
    """Reads an exported generator's weights into one of the same settings.

    Raises: ValueError if they are damaged, or of other settings.
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


def differences(generator: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """How many tensors a generator and weights have of other names or shapes, and the first; None if none."""
    wanted = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if not wrong:
        return None
    expected = f"expected {wanted.get(wrong[0])}, found {found.get(wrong[0])}"
    return f"{len(wrong)} tensors differ, first {wrong[0]} ({expected})"
