"""Prompts in, textured 3D assets out: amortized text-to-3D by score distillation.

Importing the package is cheap: torch is loaded when `TextTo3D`, or a submodule that needs it, is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaledreamer.version import __version__

if TYPE_CHECKING:
    from scaledreamer.pipeline import TextTo3D

__all__ = ["TextTo3D", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "TextTo3D":
        from scaledreamer.pipeline import TextTo3D

        return TextTo3D
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
