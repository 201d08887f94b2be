"""What settings are made of: the base of all sections, checks, and annotated types.

A check raises ValueError with a message in which `KEY` stands for the setting's own path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
)

from scaledreamer.home import expand_home
from scaledreamer.prompt_text import check_prompt
from scaledreamer.schedules import RelativeSchedule, parse_schedule

KEY = "<key>"  # stands for the setting's own path in the messages of validators
MAX_WHOLE = 2**31 - 1


def schedule(value: Any) -> RelativeSchedule:
    """A schedule from what a file or the command line gives: a number, a list or a mapping."""
    return value if isinstance(value, RelativeSchedule) else parse_schedule(value, key=KEY)


def schedule_from(low: float, high: float) -> AfterValidator:
    """A check that a schedule stays within two limits."""

    def check(value: RelativeSchedule) -> RelativeSchedule:
        if not all(low <= end <= high for end in (value.start, value.end)):
            accepted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ValueError(f"{KEY}: got {value.as_written()!r}; accepted are values {accepted}.")
        return value

    return AfterValidator(check)


def check_size(value: RelativeSchedule) -> RelativeSchedule:
    accepted, step = "whole numbers from 4 to 1024", 1
    if not value.is_constant:
        accepted, step = f"{accepted}, in a schedule multiples of 4", 4
    if not all(4 <= end <= 1024 and end % step == 0 for end in (value.start, value.end)):
        raise ValueError(f"{KEY}: got {value.as_written()!r}; accepted are {accepted}.")
    return value


def range_from(low: float, high: float) -> AfterValidator:
    def check(value: list[float]) -> list[float]:
        if not low <= value[0] <= value[1] <= high:
            raise ValueError(
                f"{KEY}: got {value!r}; accepted is [lowest, highest] "
                f"with {low:g} <= lowest <= highest <= {high:g}."
            )
        return value

    return AfterValidator(check)


def check_betas(value: list[float]) -> list[float]:
    if not all(0 <= beta < 1 for beta in value):
        count = "two" if len(value) == 2 else "three"
        raise ValueError(f"{KEY}: got {value!r}; accepted are {count} numbers from 0 to below 1.")
    return value


def check_weights(value: list[float]) -> list[float]:
    if not all(weight >= 0 for weight in value):
        raise ValueError(f"{KEY}: got {value!r}; accepted are three numbers of at least 0.")
    return value


def check_optional_betas(value: list[float] | None) -> list[float] | None:
    return None if value is None else check_betas(value)


def check_texts(value: list[str] | None) -> list[str] | None:
    for text in value or []:
        try:
            check_prompt(text)
        except ValueError as error:
            raise ValueError(f"{KEY}: {error}.") from None
    return value


def check_text(value: str | None) -> str | None:
    return None if value is None else (check_texts([value]) or [""])[0]


def expand(value: str | None) -> str | None:
    return value if value is None else expand_home(value, KEY)


def check_model(value: str | list[str] | None) -> str | list[str] | None:
    places = value if isinstance(value, list) else [] if value is None else [value]
    if value == [] or not all(place.strip() for place in places):
        raise ValueError(f"{KEY}: got {value!r}; accepted are hub ids, folders and .safetensors files.")
    expanded = [expand(place) or place for place in places]
    return expanded if isinstance(value, list) else expanded[0] if expanded else None


def check_negative(value: str) -> str:
    return value if value == "" else (check_texts([value]) or [""])[0]


Schedule = Annotated[RelativeSchedule, PlainValidator(schedule), PlainSerializer(RelativeSchedule.as_written)]
"""A number that may change over the training; written back as it was given."""
Positive = Annotated[Schedule, schedule_from(0.0, float("inf"))]
Fraction = Annotated[Schedule, schedule_from(0.0, 1.0)]
Size = Annotated[Schedule, AfterValidator(check_size)]
"""A schedule of whole numbers of pixels."""


@dataclass(frozen=True)
class MayChange:
    """Marks a setting, or a section, that may differ between a checkpoint and the run that goes on from it.

    A generator's marked settings are those that its weights do not depend on: they may also differ between a
    run and the generator whose weights it starts from (`generator.start`).

    Attributes:
        on_resume: False where only the latter holds: the weights fit, and the training would be another one.
    """

    on_resume: bool = True


Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
ExpandHome = AfterValidator(expand)
"""Of files and folders: a leading ~ is the home folder. No hub id begins with it."""
Model = Annotated[str | list[str] | None, AfterValidator(check_model)]
"""Where weights are, or several places of which the first that is found is taken."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and types are not converted behind the user's back."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _fits_a_whole_number(cls, value: Any) -> Any:
        given = value.written if isinstance(value, RelativeSchedule) else value
        if isinstance(given, int) and given > MAX_WHOLE:
            raise ValueError(f"{KEY}: got {str(given)[:40]}; accepted are whole numbers up to {MAX_WHOLE}.")
        return value
