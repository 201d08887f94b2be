"""ScaleDreamer's released checkpoints: safe reading, architecture, and settings that no weight shows."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SIGNS = {
    "hyper_ingp": "geometry.hypernet.",
    "triplane_transformer": "geometry.space_generator.pos_embed",
    "conv3d_net": "geometry.space_generator.synthesis.",
}
"""A prefix of weight names that identifies each architecture."""
SECTIONS = ("pos_encoding_config", "hypernet_config", "space_generator_config")
"""The sections of `system.geometry` whose settings are read."""
CAMERAS: dict[str, dict[str, Any]] = {
    "hyper_ingp": {"distance": [0.5, 0.75], "fov_deg": [40.0, 70.0]},
    "triplane_transformer": {"distance": [1.5, 1.5], "fov_deg": [40.0, 40.0]},
    "conv3d_net": {"distance": [0.5, 0.75], "fov_deg": [40.0, 70.0]},
}
"""Camera distances of the published configurations, halved; for triplanes, those of their evaluation."""
RENDERER: dict[str, Any] = {
    "name": "volume",
    "beta": 1 / 60,
    "num_proposals": 128,
    "num_resampled": 64,
    "rendered": "union",
}


def read_state(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """All tensors of a checkpoint by name, and their training step if it is recorded.

    Raises: ValueError if it is not a checkpoint, or contains more than tensors, numbers and strings.
    """
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than plain tensors, or is no checkpoint at all; objects are not unpickled "
            "here, since that can run any program. Where you trust the file, keep its tensors alone: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)"
        ) from None
    except OSError as error:
        if path.is_file() and error.errno == errno.EINVAL:  # torch fails to seek in a truncated file
            raise ValueError(f"{path}: is damaged, or no checkpoint of torch; download it again") from None
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: is damaged, or no checkpoint of torch; download it again") from None
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(inner, dict) or not all(isinstance(key, str) for key in inner):
        raise ValueError(
            f"{path}: holds no weights by name; accepted are ScaleDreamer's .pth and .ckpt files"
        )
    step = loaded.get("global_step")
    state = {
        key.removeprefix("module."): value for key, value in inner.items() if isinstance(value, torch.Tensor)
    }
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{path}: {name} holds numbers that are not finite; the file is damaged, or the training "
                "diverged"
            )
    return state, step if type(step) is int else None


def architecture(state: Mapping[str, Tensor]) -> str:
    """The generator's name, determined from the names of its weights.

    Raises: ValueError if it is none of the three.
    """
    for name, sign in SIGNS.items():
        if any(key.startswith(sign) for key in state):
            return name
    example = f", such as {min(state)}" if state else ""
    raise ValueError(
        f"the checkpoint's {len(state)} tensors{example} are of none of ScaleDreamer's generators; accepted "
        f"are those with names that begin with {', '.join(SIGNS.values())}"
    )


def converter(
    name: str,
) -> Callable[[dict[str, Tensor], Mapping[str, Any]], tuple[dict[str, Any], dict[str, Tensor]]]:
    """The function that converts an architecture."""
    match name:
        case "hyper_ingp":
            from scaledreamer.official.hyper_ingp import convert
        case "triplane_transformer":
            from scaledreamer.official.triplane_transformer import convert
        case _:
            from scaledreamer.official.conv3d_net import convert
    return convert


def read_settings(path: Path) -> dict[str, Any]:
    """The section `system.geometry` of an official configuration, without references to other settings.

    Raises: ValueError if it cannot be read or has no such section.
    """
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: is no YAML ({str(error).partition(chr(10))[0]})") from None
    system = loaded.get("system") if isinstance(loaded, dict) else None
    geometry = system.get("geometry") if isinstance(system, dict) else None
    if not isinstance(geometry, dict):
        raise ValueError(f"--config {path}: has no section system.geometry; give ScaleDreamer's YAML file")
    for key in SECTIONS:
        if not isinstance(geometry.get(key), dict | None):
            value = geometry[key]
            raise ValueError(f"--config {path}: system.geometry.{key} is {value!r}; accepted is a section")
    return {key: value for key, value in geometry.items() if "${" not in str(value)}
