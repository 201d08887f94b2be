"""What may differ between a checkpoint and the run that goes on from it: the settings marked `MayChange`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaledreamer.config.file import flatten, numbered_0, valid_keys
from scaledreamer.config.renamed import RENAMED
from scaledreamer.config.types import MayChange, Section


def may_change(key: str) -> bool:
    """Whether a setting may be another one on resume: its own mark, or that of a section around it.

    Args:
        key: such as "training.output"; also of what is no setting, which may not.
    """
    parts, fields = numbered_0(key).split("."), valid_keys()
    paths = (".".join(parts[: depth + 1]) for depth in range(len(parts)))
    marks = [mark for path in paths if path in fields for mark in fields[path].metadata]
    return any(isinstance(mark, MayChange) and mark.on_resume for mark in marks)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings of two configurations that differ and must not, as "key is new, was old"."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key} is {after[key]!r}, was {before[key]!r}"
        for key in after
        if key in before and before[key] != after[key] and not may_change(key)
    ]


def renamed_keys(old: Mapping[str, Any]) -> list[str]:
    """Settings of an older configuration that have another name now, as "old is now new"."""
    return [f"{key} is now {RENAMED[numbered_0(key)]}" for key in flatten(old) if numbered_0(key) in RENAMED]


def free_settings(section: type[Section]) -> frozenset[str]:
    """Settings of a generator that its weights do not depend on: all that are marked."""
    fields = section.model_fields.items()
    return frozenset(
        name for name, field in fields if any(isinstance(mark, MayChange) for mark in field.metadata)
    )
