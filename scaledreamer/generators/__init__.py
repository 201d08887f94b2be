"""Generators: text, and noise where they have any, to scenes, in one forward pass for a batch of prompts.

A new one is a module here with a subclass of `contracts.Generator`, a class of settings in
`scaledreamer.config.generators`, and a line in `class_of`. Importing this module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from scaledreamer import memory
from scaledreamer.config import GeneratorSettings

if TYPE_CHECKING:
    import torch

    from scaledreamer.contracts import Generator

NAMES: tuple[str, ...] = get_args(GeneratorSettings.model_fields["name"].annotation)
"""Of all architectures of the package."""


def class_of(name: str) -> type[Generator]:
    """The class of an architecture.

    Raises: ValueError for an unknown name.
    """
    match name:
        case "hyper_ingp":
            from scaledreamer.generators.hyper_ingp import HyperINGP as Architecture
        case "conv3d_net":
            from scaledreamer.generators.conv3d_net import Conv3DNet as Architecture
        case "triplane_transformer":
            from scaledreamer.generators.triplane_transformer import TriplaneTransformer as Architecture
        case "field":
            from scaledreamer.generators.field import Field as Architecture
        case _:
            raise ValueError(f"generator.name: got {name!r}; accepted are {', '.join(map(repr, NAMES))}.")
    return Architecture


def make(name: str, settings: Mapping[str, Any]) -> Generator:
    """A generator from its name and constructor settings, as `model_index.json` holds them.

    Raises: ValueError for an unknown name, or settings that the generator does not take or there is no memory
        for; RuntimeError if allocating its weights fails.
    """
    architecture = class_of(name)
    try:
        missing = _missing_memory(architecture, settings)
        if missing is None:
            return architecture(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        if "allocate memory" in str(error):  # these settings are good, on a larger machine
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"generator {name}: does not take these settings ({reason}).") from None
    sizes = ", ".join(
        key for key, value in settings.items() if type(value) is int and not key.endswith("_dim")
    )
    raise ValueError(
        f"generator {name}: {missing}: lower its sizes ({sizes}). Training takes about five times that."
    )


def constructor_settings(
    settings: GeneratorSettings, *, condition_dim: int, token_dim: int | None = None
) -> dict[str, Any]:
    """All constructor settings of the chosen architecture.

    Args:
        condition_dim: length of the conditioner's pooled vector.
        token_dim: of its token vectors; None is the same.
    """
    token_dim = condition_dim if token_dim is None else token_dim
    return settings.chosen.model_dump() | class_of(settings.name).text_settings(condition_dim, token_dim)


def backend_line(settings: GeneratorSettings, device: torch.device) -> str | None:
    """One line on what computes the generator's hash grid on a device; None for generators without one.

    Raises: ValueError if the setting's choice does not work there, with how to get it.
    """
    try:
        return class_of(settings.name).backend_line(settings.chosen.model_dump(), device)
    except ValueError as error:
        raise ValueError(f"generator.{settings.name}.{error}") from None


def check_repeats(settings: GeneratorSettings, device: torch.device) -> None:
    """Raises ValueError on a GPU for an architecture whose gradients torch cannot repeat there."""
    if device.type == "cuda" and not class_of(settings.name).repeats_on_gpu:
        others = " or ".join(repr(name) for name in NAMES if class_of(name).repeats_on_gpu)
        raise ValueError(
            f"training.deterministic: got true, and gradients of generator.name={settings.name} do not "
            f"repeat on a GPU; set it to false, or training.device to cpu, or take {others}."
        )


def check_num_prompts(settings: GeneratorSettings, num_distinct: int) -> None:
    """Raises ValueError for more than one prompt if the architecture holds one scene only. Needs no torch."""
    if settings.chosen.holds_one_scene and num_distinct > 1:
        raise ValueError(
            f"generator.name: {settings.name!r} is one scene, whatever the prompt says, and there are "
            f'{num_distinct} prompts; give one (prompts.text="a red-eyed tree frog"), or take another '
            "generator."
        )


def _missing_memory(architecture: type[Generator], settings: Mapping[str, Any]) -> str | None:
    """What a generator's weights take, if that is more than is free; None if there is room.

    Asked before they are allocated: a system that promises more than it has would kill the process.
    """
    import torch

    if torch.get_default_device().type != "cpu":
        return None
    with torch.device("meta"):
        sketch = architecture(**settings)
    num_bytes = sum(value.numel() * value.element_size() for value in sketch.state_dict().values())
    free = memory.memory_bytes()[0]
    if num_bytes <= free:
        return None
    taken, left = f"{num_bytes / 2**30:.1f}", f"{free / 2**30:.1f}"
    return f"its weights take {taken} GiB, and {left} GiB of memory are free"
