"""Schedules are values: ends, monotone in between, and a configuration's mistakes named by key."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.schedules import Constant, Linear, parse_schedule

numeric = settings(deadline=None, derandomize=True)  # a busy machine is no failure
VALUES = st.floats(-1e3, 1e3)


@numeric
@given(VALUES, st.integers(0, 10**6))
def test_constant_is_the_same_at_every_step(value, step):
    assert Constant(value).value_at(step) == value


@numeric
@given(VALUES, VALUES, st.integers(0, 100), st.integers(0, 100), st.integers(0, 300))
def test_linear_holds_its_ends_exactly_and_stays_between_them(start, end, first, length, step):
    schedule = Linear(start, end, first, first + length)
    if step >= first + length:
        assert schedule.value_at(step) == end
    elif step <= first:
        assert schedule.value_at(step) == start
    else:
        assert min(start, end) - 1e-9 <= schedule.value_at(step) <= max(start, end) + 1e-9


def test_linear_has_equal_increments():
    values = [Linear(0.5, 0.02, 10, 110).value_at(step) for step in range(10, 111)]
    increments = [b - a for a, b in zip(values, values[1:], strict=False)]
    assert increments == pytest.approx([-0.48 / 100] * 100)


def test_linear_without_length_jumps_to_its_end():
    schedule = Linear(0.0, 10.0, 5, 5)
    assert [schedule.value_at(step) for step in (4, 5, 6)] == [0.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (6, Constant(6.0)),
        (0.1, Constant(0.1)),
        ({"start": 0.5, "end": 0.02}, Linear(0.5, 0.02, 0, 2000)),
        ({"start": 100, "end": 1, "from": 0.0, "to": 0.1}, Linear(100.0, 1.0, 0, 200)),
        ({"start": 0, "end": 10, "from": 0.8}, Linear(0.0, 10.0, 1600, 2000)),
        ([0.5, 0.02], Linear(0.5, 0.02, 0, 2000)),
        ((0.0, 10.0, 0.8, 1), Linear(0.0, 10.0, 1600, 2000)),
    ],
)
def test_parse_schedule_reads_every_form(value, expected):
    assert parse_schedule(value, key="regularizers.eikonal").over(2000) == expected


def test_parse_schedule_places_are_fractions_whatever_the_number_of_steps():
    form = {"start": 1.0, "end": 0.0, "from": 0.25, "to": 0.75}
    for max_steps in (4, 400, 100_000):
        line = parse_schedule(form, key="k").over(max_steps)
        assert line.value_at(max_steps // 2) == pytest.approx(0.5)


def test_parse_schedule_works_for_a_run_of_one_step():
    assert parse_schedule([3.0, 1.0, 0.0, 0.1], key="k").over(1).value_at(0) == 1.0
    assert parse_schedule([3.0, 1.0], key="k").over(1).value_at(0) == 3.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("6.0", r"optimizer\.lr='6\.0'.*expected a number"),
        (True, r"optimizer\.lr=True.*expected a number"),
        (None, r"optimizer\.lr=None.*expected a number"),
        (float("nan"), r"optimizer\.lr=nan.*finite"),
        ([1.0, 2.0, 3.0], r"optimizer\.lr=\[1\.0, 2\.0, 3\.0\].*list"),
        ({"start": 1.0}, r"optimizer\.lr.*'end' is missing"),
        ({"start": 1.0, "end": "x"}, r"optimizer\.lr\.end='x'.*finite number"),
        ({"start": 1.0, "end": 2.0, "until": 1.0}, r"optimizer\.lr\.until.*from and to"),
        ({"start": 1.0, "end": 2.0, "to": 500}, r"optimizer\.lr: from=0\.0 and to=500\.0.*fractions"),
        ({"start": 1.0, "end": 2.0, "from": 0.5, "to": 0.1}, r"optimizer\.lr: from=0\.5 and to=0\.1"),
    ],
)
def test_parse_schedule_names_the_key_and_what_is_accepted(value, message):
    with pytest.raises(ValueError, match=message):
        parse_schedule(value, key="optimizer.lr")


@pytest.mark.parametrize("form", [6, 0.1, [0.5, 0.02], {"start": 1, "end": 2, "to": 0.5}])
def test_a_schedule_is_written_as_it_was_given_and_changing_that_changes_no_schedule(form):
    line = parse_schedule(form, key="k")
    written = line.as_written()
    assert written == form and type(written) is type(form)
    if isinstance(written, dict | list):
        written.clear()
        assert line.as_written() == form


def test_schedules_that_mean_the_same_are_equal_and_a_line_is_no_constant():
    line = parse_schedule([0.5, 0.02], key="k")
    assert line == parse_schedule({"start": 0.5, "end": 0.02, "from": 0, "to": 1}, key="k")
    assert line != parse_schedule([0.5, 0.02, 0.0, 0.5], key="k")
    assert parse_schedule([2, 2], key="k") != parse_schedule(2, key="k")


def test_schedules_need_no_torch():
    code = "import sys, scaledreamer.schedules; sys.exit('torch' in sys.modules)"
    repository = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0
