"""Scalar schedules as values: `value_at(step)` returns the value at a step; there is no state.

In a configuration, positions in a schedule are fractions of training, so that they apply to any `max_steps`:

    6.0                                             constant
    {start: 0.5, end: 0.02}                         linear over the whole training
    {start: 100.0, end: 1.0, from: 0.0, to: 0.1}    linear over its first tenth, constant before and after
    [0.5, 0.02]  and  [100.0, 1.0, 0.0, 0.1]        short forms of the same two

Steps count from 0; the position 1.0 is step `max_steps`, one after the last.
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACCEPTED = (
    "a number, {start: a, end: b} or {start: a, end: b, from: p, to: q}, where from and to are fractions of "
    "training in [0, 1] (also as a list: [a, b] or [a, b, p, q])"
)


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def value_at(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """`start` up to `first_step`, `end` from `last_step` on, linear in between.

    If the two steps are equal, the value jumps to `end` there.
    """

    start: float
    end: float
    first_step: int
    last_step: int

    def __post_init__(self) -> None:
        assert self.first_step <= self.last_step, (self.first_step, self.last_step)

    def value_at(self, step: int) -> float:
        if step >= self.last_step:
            return self.end
        if step <= self.first_step:
            return self.start
        progress = (step - self.first_step) / (self.last_step - self.first_step)
        return self.start + progress * (self.end - self.start)


Schedule = Constant | Linear
"""A schedule in absolute steps."""


@dataclass(frozen=True)
class RelativeSchedule:
    """A schedule from a configuration, for a training of any length; `over` converts it to absolute steps.

    Attributes:
        start, end: its values before and after the linear part; equal for a constant.
        first, last: where the linear part begins and ends, as fractions of training.
        is_constant: whether it was given as one number.
        written: the original form, see `as_written`; ignored in comparisons.
    """

    start: float
    end: float
    first: float = 0.0
    last: float = 1.0
    is_constant: bool = False
    written: object = field(default=None, repr=False, compare=False)

    def over(self, max_steps: int) -> Schedule:
        """The schedule in a training of `max_steps` steps, at least 1."""
        assert max_steps >= 1, max_steps
        if self.is_constant:
            return Constant(self.start)
        return Linear(
            self.start,
            self.end,
            first_step=round(self.first * max_steps),
            last_step=round(self.last * max_steps),
        )

    def as_written(self) -> Any:
        """The number, list or mapping that it was parsed from, as a copy."""
        return copy.deepcopy(self.written)


def parse_schedule(value: Any, *, key: str) -> RelativeSchedule:
    """Parses a schedule in one of the forms above.

    Args:
        value: a number, a mapping with start, end and optionally from and to, or a list of two or four
            numbers.
        key: the configuration key, for messages.
    Raises: ValueError naming the key, the value and what is accepted.
    """
    if _is_number(value):
        number = _finite(value, key)
        return RelativeSchedule(number, number, is_constant=True, written=value)
    if isinstance(value, Mapping):
        parts = _parts_of_mapping(value, key)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) in (2, 4):
        parts = dict(zip(("start", "end", "from", "to"), value, strict=False))
    else:
        raise ValueError(f"{key}={value!r}: expected {_ACCEPTED}")
    start, end = _finite(parts["start"], f"{key}.start"), _finite(parts["end"], f"{key}.end")
    first, last = _finite(parts.get("from", 0.0), f"{key}.from"), _finite(parts.get("to", 1.0), f"{key}.to")
    if not 0 <= first <= last <= 1:
        raise ValueError(
            f"{key}: from={first} and to={last}: expected fractions of training, 0 <= from <= to <= 1"
        )
    return RelativeSchedule(start, end, first, last, written=copy.deepcopy(value))


def _parts_of_mapping(value: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    unknown = [name for name in value if name not in ("start", "end", "from", "to")]
    if unknown:
        raise ValueError(f"{key}.{unknown[0]}: no such setting of a schedule; expected {_ACCEPTED}")
    for name in ("start", "end"):
        if name not in value:
            raise ValueError(f"{key}: {name!r} is missing in {dict(value)!r}; expected {_ACCEPTED}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any, key: str) -> float:
    if not _is_number(value) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{key}={repr(value)[:40]}: expected a finite number; a schedule is {_ACCEPTED}")
    return float(value)
