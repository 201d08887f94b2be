"""Converts ScaleDreamer's released checkpoints into generators of this package.

    python tools/convert_official.py hyper_iNGP.pth --out outputs/mg15 --conditioner stable-diffusion-2-1-base
    python infer.py --checkpoint outputs/mg15 --prompt "..."
    python train.py --config configs/mg15.yaml generator.start=outputs/mg15 ...

Which of the three architectures it is shows in the names of the weights; what no weight shows (radius, heads,
levels of the hash grid) are the published settings, or those of the official configuration (--config). The
conditioner is the text encoder that it was trained with, Stable Diffusion 2.1-base's; without it the result
serves `generator.start` alone.

A checkpoint is a pickle, which can run any program. Only tensors, numbers and texts are read (torch.load with
weights_only=True); a file that holds anything else is refused. Lengths are halved: the official scene is a
cube of half-width 2, ours has 1. Backgrounds are not converted, they become white.
Exit status: 0 converted; 2 bad input, nothing was written.
"""

from __future__ import annotations

import argparse
import errno
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledreamer.cli import Parser, fail, program

if TYPE_CHECKING:
    from torch import Tensor

    from scaledreamer.prompts.conditioner import TextConditioner

SIGNS = {
    "hyper_ingp": "geometry.hypernet.",
    "triplane_transformer": "geometry.space_generator.pos_embed",
    "conv3d_net": "geometry.space_generator.synthesis.",
}
"""What the name of some weight begins with in each architecture."""
SECTIONS = ("pos_encoding_config", "hypernet_config", "space_generator_config")
"""Of `system.geometry` those of which settings are read."""
CAMERAS: dict[str, dict[str, Any]] = {
    "hyper_ingp": {"distance": [0.5, 0.75], "fov_deg": [40.0, 70.0]},
    "triplane_transformer": {"distance": [1.5, 1.5], "fov_deg": [40.0, 40.0]},
    "conv3d_net": {"distance": [0.5, 0.75], "fov_deg": [40.0, 70.0]},
}
"""Distances of the published configurations, halved; of the triplanes those of their evaluation."""
RENDERER: dict[str, Any] = {
    "inverse_deviation": 60.0,
    "num_proposals": 128,
    "num_resampled": 64,
    "rendered": "union",
}


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = Parser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="More in the head of this file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="a released .pth or .ckpt")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the converted generator")
    add("--config", type=Path, metavar="FILE", help="the official YAML that it was trained with (published)")
    add("--conditioner", metavar="DIR", help="folder or hub id of the text encoder that it was trained with")
    arguments = parser.parse_args(argv)
    try:
        _convert(arguments)
    except ValueError as error:
        return fail(error)
    return 0


def _convert(arguments: argparse.Namespace) -> None:
    settings = read_settings(arguments.config) if arguments.config is not None else {}
    state, step = read_state(arguments.checkpoint)
    try:
        name = architecture(state)
    except ValueError as error:
        raise ValueError(f"{arguments.checkpoint}: {error}") from None
    print(f"{arguments.checkpoint}: {name}, {len(state)} tensors")

    import torch

    from scaledreamer.build import make_generator
    from scaledreamer.exported import differences
    from scaledreamer.pipeline import TextTo3D
    from scaledreamer.prompts.conditioner import TextConditioner

    class NoText(TextConditioner):
        """In the place of a text encoder: writes nothing."""

        def __init__(self) -> None:
            pass

        def save_pretrained(self, folder: str | Path) -> None:
            del folder

    try:
        found, weights = converter(name)(state, settings)
        generator = make_generator(name, found)
        wrong = differences(generator, weights)
        if wrong is not None:
            raise ValueError(f"its weights do not fit together ({wrong}); they are damaged, or of a variant.")
    except ValueError as error:
        raise ValueError(f"{arguments.checkpoint}: {error}") from None
    except (RuntimeError, LookupError, TypeError, ArithmeticError) as error:  # of shapes that do not fit
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{arguments.checkpoint}: its weights do not fit together ({reason}); they are damaged, or of a "
            "variant."
        ) from None
    conditioner: TextConditioner = NoText()
    if arguments.conditioner is not None:
        conditioner = load_conditioner(arguments.conditioner)
        wanted = found.get("condition_dim", found.get("token_dim"))
        if conditioner.condition_dim != wanted:
            raise ValueError(
                f"--conditioner {arguments.conditioner}: gives {conditioner.condition_dim} numbers, this "
                f"generator reads {wanted}; give the text encoder that it was trained with."
            )
    generator.load_state_dict(weights)
    pipe = TextTo3D(
        conditioner,
        generator,
        generator_name=name,
        cameras=CAMERAS[name],
        renderer=RENDERER,
        step=step,
    )
    pipe.save_pretrained(arguments.out, dtype=torch.float32)
    print(f"wrote {arguments.out}" + (" (no text encoder)" if arguments.conditioner is None else ""))


def load_conditioner(place: str) -> TextConditioner:
    """The text encoder in a folder or on the hub, looked for as a training does.

    Raises: ValueError, within seconds, if it cannot be had.
    """
    from transformers.utils import logging

    from scaledreamer import build, config
    from scaledreamer.weights.find import WeightsError, check_weights

    logging.disable_progress_bar()
    section, weights = config.ConditionerSettings(name="clip", model=place), config.WeightSettings()
    try:
        check_weights(**build.conditioner_places(section, weights))
        return build.build_conditioner(section, weights, "cpu")
    except WeightsError as error:
        raise ValueError(f"--conditioner {error}") from None
    except ValueError as error:
        raise ValueError(f"--conditioner {place}: {error}") from None


def read_state(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """All tensors of a checkpoint by name, and the step they are of, if it is written in it.

    Raises: ValueError if it is no checkpoint, or holds more than tensors, numbers and texts.
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
        if path.is_file() and error.errno == errno.EINVAL:  # torch seeks in vain in a file that was cut off
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
    """The generator's name by the names of its weights.

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
    """The section `system.geometry` of an official configuration; references to other settings are left out.

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


if __name__ == "__main__":
    sys.exit(main())
