"""Checkpoints in a format of our own: whole tensors by name, for any number of ranks and any ZeRO stage.

    checkpoints/
      latest                       name of the newest complete checkpoint
      step-00000500/
        parameters.safetensors     float32, by name
        averaged.safetensors       their moving averages
        optimizer.safetensors      "<parameter>/<state>", e.g. "grid.table/exp_avg"
        checkpoint.json            format_version, step, configuration, best score, hashes of the files above

A checkpoint is written under a temporary name, synced, and renamed, so under its own name it is complete. No
pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scaledreamer.files import remove, replace_text, replacing_folder
from scaledreamer.launch.engine import State
from scaledreamer.os_errors import advice, reason

FORMAT_VERSION = 1
INDEX = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """Every stateful object of a run after `step` steps.

    Attributes:
        step: finished steps, which is the number of the next one.
        config: the run's complete configuration.
        best: score and step of the best validation so far, or empty.
        methods: for each prior of the run, the state of its distillation method.
    """

    step: int
    parameters: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    optimizer: State
    config: Mapping[str, Any]
    best: Mapping[str, float] = field(default_factory=dict)
    methods: Sequence[Mapping[str, Tensor]] = ()

    def method(self, number: int) -> Mapping[str, Tensor]:
        """The state of the method of prior `number`; empty if it had none."""
        return self.methods[number] if number < len(self.methods) else {}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes `folder/step-<n>` atomically, and removes all but the `keep` newest.

    Raises: ValueError if it cannot be written; earlier checkpoints are not affected.
    """
    name = f"step-{checkpoint.step:08d}"
    tensors = {
        "parameters": checkpoint.parameters,
        "averaged": checkpoint.averaged,
        "optimizer": {
            f"{p}/{key}": value for p, state in checkpoint.optimizer.items() for key, value in state.items()
        },
        "methods": {
            f"{number}/{key}": value
            for number, state in enumerate(checkpoint.methods)
            for key, value in state.items()
        },
    }
    if not tensors["methods"]:
        del tensors["methods"]
    try:
        with replacing_folder(folder / name) as new:  # perhaps one of an earlier try
            hashes = {}
            for stem, values in tensors.items():
                path = new / f"{stem}.safetensors"
                save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
                hashes[path.name] = _hash(path)
            index = {
                "format_version": FORMAT_VERSION,
                "step": checkpoint.step,
                "best": dict(checkpoint.best),
                "sha256": hashes,
                "config": checkpoint.config,
            }
            (new / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        replace_text(folder / "latest", name + "\n")
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder / name}: cannot be written ({reason(error)}); earlier checkpoints are untouched: "
            f"{advice(error)}, and run the same command again."
        ) from None
    for old in _steps(folder)[keep:]:
        remove(old)
    return folder / name


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a message for each damaged one that was skipped.

    Raises: ValueError if there are checkpoints but none is intact.
    """
    problems = []
    for path in _steps(folder):
        try:
            return load_checkpoint(path), problems
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            f"{problems[0]} No other checkpoint in {folder} can be used; choose another training.output."
        )
    return None, []


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint and verifies its contents.

    Raises: ValueError if it is incomplete, damaged, or of another format.
    """
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        version = index["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path}: not a checkpoint of this package, or a damaged one ({INDEX} cannot be read)."
        ) from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: has format_version {version!r}; this version of the package reads {FORMAT_VERSION}."
        )
    try:
        step, best, config = index["step"], index["best"], index["config"]
        are_numbers = all(type(value) in (int, float) for value in best.values())
        if path.name != f"step-{step:08d}" or not are_numbers or not isinstance(config, dict):
            raise ValueError(f"step, best or config in its {INDEX} is not what was written")
        tensors = {}
        for name, expected in index["sha256"].items():
            if _hash(path / name) != expected:
                raise ValueError("does not have the contents that were written")
            tensors[Path(name).stem] = load_file(path / name)
        optimizer: State = {name: {} for name in tensors["parameters"]}
        for key, value in tensors["optimizer"].items():
            parameter, _, state = key.rpartition("/")
            optimizer.setdefault(parameter, {})[state] = value
        methods: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.get("methods", {}).items():
            number, _, name = key.partition("/")
            methods.setdefault(int(number), {})[name] = value
        return Checkpoint(
            step=step,
            parameters=tensors["parameters"],
            averaged=tensors["averaged"],
            optimizer=optimizer,
            config=config,
            best=best,
            methods=[methods.get(number, {}) for number in range(max(methods, default=-1) + 1)],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged ({reason(error)}).") from None


def _steps(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
