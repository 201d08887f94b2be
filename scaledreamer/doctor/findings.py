"""The doctor's findings, formatted for a terminal of 100 columns. Needs no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warning", "error"]
WIDTH = 100
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: what was found, without a full stop.
        todo: what to do about it, or empty.
    """

    level: Level
    what: str
    todo: str = ""

    def __str__(self) -> str:
        text = f"{self.what}; {self.todo}" if self.todo else self.what
        return textwrap.fill(
            f"{self.level}: {text}",
            WIDTH,
            subsequent_indent="    ",
            break_on_hyphens=False,
            break_long_words=False,
        )


@dataclass
class Section:
    """Findings on one subject.

    Attributes:
        numbers: for programs; JSON types only.
    """

    title: str
    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)

    def add(self, level: Level, what: str, todo: str = "") -> None:
        self.findings.append(Finding(level, one_line(what), one_line(todo)))

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"{finding}" for finding in self.findings)])


def num_errors(sections: Iterable[Section]) -> int:
    """The number of errors."""
    return sum(finding.level == "error" for section in sections for finding in section.findings)


def summary(sections: list[Section]) -> str:
    """The report's last line."""
    levels = [finding.level for section in sections for finding in section.findings]
    errors, warnings = levels.count("error"), levels.count("warning")
    verdict = "nothing is in the way" if not errors else "the errors above are in the way"
    return f"{errors} error(s), {warnings} warning(s): {verdict}"


def one_line(text: object) -> str:
    """Any text without line breaks."""
    return " ".join(str(text).split())


def size(num_bytes: float) -> str:
    """Bytes in a suitable unit."""
    if num_bytes >= 0.995 * GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"
