"""Converts ScaleDreamer's released checkpoints into generators of this package.

    scaledreamer convert-official hyper_iNGP.pth --out outputs/mg15 --conditioner stable-diffusion-2-1-base
    scaledreamer infer --checkpoint outputs/mg15 --prompt "..."
    scaledreamer train --config configs/mg15.yaml generator.start=outputs/mg15 ...

The architecture is recognised from the names of the weights. Settings that the weights do not determine
(radius, heads, levels of the hash grid) are the published ones, or those of the official configuration
(--config). The conditioner is the text encoder of the training, Stable Diffusion 2.1-base's; without it the
result can only be used as `generator.start`.

A checkpoint is a pickle, which can run arbitrary code. Only tensors, numbers and strings are read (torch.load
with weights_only=True); files with anything else are refused. Lengths are halved, because the official scene
is a cube of half-width 2 and ours has half-width 1. Backgrounds are not converted but become white.
Exit status: 0 converted; 2 bad input, nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledreamer.cli import Parser, fail, program
from scaledreamer.official.checkpoint import (
    CAMERAS,
    RENDERER,
    architecture,
    converter,
    read_settings,
    read_state,
)

if TYPE_CHECKING:
    from scaledreamer.prompts.conditioner import TextConditioner


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = Parser(
        prog="scaledreamer convert-official",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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

    from scaledreamer import generators
    from scaledreamer.exported import differences
    from scaledreamer.pipeline import TextTo3D
    from scaledreamer.prompts.conditioner import TextConditioner

    class NoText(TextConditioner):
        """Replaces the text encoder, and writes nothing."""

        def __init__(self) -> None:
            pass

        def save_pretrained(self, folder: str | Path) -> None:
            del folder

    try:
        found, weights = converter(name)(state, settings)
        generator = generators.make(name, found)
        wrong = differences(generator, weights)
        if wrong is not None:
            raise ValueError(f"its weights do not fit together ({wrong}); they are damaged, or of a variant.")
    except ValueError as error:
        raise ValueError(f"{arguments.checkpoint}: {error}") from None
    except (RuntimeError, LookupError, TypeError, ArithmeticError) as error:  # from mismatched shapes
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
    """The text encoder in a folder or on the hub, located as in a training.

    Raises: ValueError, within seconds, if it is not available.
    """
    from transformers.utils import logging

    from scaledreamer import config
    from scaledreamer.prompts.conditioner import make_conditioner
    from scaledreamer.weights.find import WeightsError, check_weights
    from scaledreamer.weights.places import conditioner_places

    logging.disable_progress_bar()
    section, weights = config.ConditionerSettings(name="clip", model=place), config.WeightSettings()
    try:
        check_weights(**conditioner_places(section, weights))
        return make_conditioner(section, weights, "cpu")
    except WeightsError as error:
        raise ValueError(f"--conditioner {error}") from None
    except ValueError as error:
        raise ValueError(f"--conditioner {place}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
