"""Nothing of a typed value is lost or converted unseen, in files and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaledreamer.config import dump_config, flatten, load_config, parse_config, read_yaml
from scaledreamer.settings_text import Dumper, Loader, parse_setting


def value_of(setting: str) -> object:
    return flatten(load_config("tiny", ["evaluation.every=null", setting]).model_dump())[
        setting.partition("=")[0]
    ]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=20) | st.text("#&*!|>%@`:-? ,[]{}'\"~<=ab01.\n", max_size=8))
@example("a brass lamp #lowpoly #3d")
@example("#1 trophy")
@example("&cat")
@example("*cat")
@example("!!int 3")
@example("a cat: the film")
@example("- a cat")
@example("| cat")
@example("2026-01-31")
@example("007")
@example("true")
@example("[draft] a lamp")
@example('"Hello" sign')
@example("~")
@example("")
def test_a_text_setting_is_taken_as_typed_or_unquoted(text: str) -> None:
    value = parse_setting(text, takes_text=True)
    bare = text.strip()
    if bare == "null":
        assert value is None
    elif value != text:
        assert bare[0] == bare[-1] and bare[0] in "\"'" and yaml.safe_load(bare) == value


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prompts.text=a brass lamp #lowpoly #3d", "a brass lamp #lowpoly #3d"),
        ("prompts.text=#1 trophy", "#1 trophy"),
        ("prompts.text=&cat", "&cat"),
        ("training.output=outputs/lamp #2", "outputs/lamp #2"),
        ("training.output=2024", "2024"),
        ("priors.0.negative_prompt=blurry, dark #nsfw", "blurry, dark #nsfw"),
        ("priors.0.negative_prompt=", ""),
        ("priors.0.revision=0123456", "0123456"),
        ("priors.0.model=[a, 'b #2']", ["a", "b #2"]),
        ("priors.0.model=2024", "2024"),
        ('prompts.text="quoted # text"', "quoted # text"),
        ("prompts.text=null", None),
        ("seed=0123", 123),
        ("seed=0x1F", 31),
        ("optimizer.lr=.5", 0.5),
        ("training.max_steps= 7 ", 7),
    ],
)
def test_value_on_the_command_line(setting: str, value: object) -> None:
    assert value_of(setting) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prompts.text=", r"prompts\.text: the prompt is empty"),
        ("training.sample_prompts=[a #1, b]", r"got '\[a #1, b\]', in which # begins a comment; quote it"),
        ("training.sample_prompts=[&a b]", r"in which & names an anchor; quote it .*\('training\.sample_pr"),
        ("training.sample_prompts=[!a b]", r"in which ! begins a tag"),
        ("training.sample_prompts=[*a]", r"in which \* refers to an anchor"),
        ("training.sample_prompts=[7, b]", r"sample_prompts\.0: got 7; accepted is a text, in quotes"),
        ("training.max_steps=3 # more", "got '3 # more'; accepted is a whole number"),
        ("training.max_steps=1_000", "got '1_000'; accepted is a whole number"),
        ("training.max_steps=" + "9" * 5000, "which has more digits than are read"),
        ("training.minutes=1:30", "got '1:30'; accepted is a number"),
        ("training.minutes=~", "got '~'; accepted is a number"),
        ("training.tensorboard=yes", "got 'yes'; accepted is true or false"),
        ("seed=2026-01-31", "got '2026-01-31'; accepted is a whole number"),
    ],
)
def test_what_cannot_be_the_value_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value_of(setting)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("training: {minutes: 1:30}", "got '1:30'; accepted is a number"),
        ("training: {minutes: 190:20:30}", "accepted is a number"),
        ("training: {tensorboard: off}", "got 'off'; accepted is true or false"),
        ("training: {max_steps: 1_000}", "got '1_000'; accepted is a whole number"),
        ("training: {output: 2026}", "training.output: got 2026; accepted is a text, in quotes"),
        (
            "prompts:\n  text: #1 trophy",
            "line 2 .'text' has no value; write null, or quote a text that begins wi",
        ),
        ("training:", "line 1 .'training' has no value"),
        (
            "training.max_steps: 3",
            r"files nest sections; write training: \{max_steps: 3\} in place of 'train",
        ),
        ("priors.0.weight: 0.2", r"write priors: \[\{weight: 0\.2\}\] in place of 'priors\.0\.weight'"),
        ("prompts: {name.x: 3}", r"prompts\.name\.x: no such setting"),
        (
            "generator: {field.mlp_width: 8}",
            r"write generator: \{field: \{mlp_width: 8\}\} in place of 'field\.ml",
        ),
        ("training.max_step: 3", r"did you mean training\.max_steps\?"),
    ],
)
def test_what_a_file_may_not_hold(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_a_file_reads_numbers_and_texts_by_the_core_schema(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "seed: 0123\ntraining: {max_steps: 010, output: yes, minutes: 1e1}\n"
        "prompts: {text: 2026-01-31}\noptimizer: {lr: &rate 1.e-3, background_lr: *rate}\non: 1"
    )
    data = read_yaml(path)
    assert data["on"] == 1
    del data["on"]
    config = parse_config(data)
    assert (config.seed, config.training.max_steps, config.training.output) == (123, 10, "yes")
    assert (config.training.minutes, config.prompts.text, config.optimizer.lr.start) == (
        10.0,
        "2026-01-31",
        1e-3,
    )
    assert config.optimizer.background_lr.start == 1e-3


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=6) | st.text("0123456789xoeE+-.:_~<=yn", max_size=5))
@example("1e3")
@example("0o17")
@example("0123")
@example("yes")
@example("1:30")
@example("2026-01-31")
@example("~")
@example("<<")
def test_a_text_is_written_so_that_it_is_read_as_one(text: str) -> None:
    written = yaml.dump({"text": text}, Dumper=Dumper, allow_unicode=True)
    assert yaml.load(written, Loader) == {"text": text}  # noqa: S506, a SafeLoader
    assert yaml.safe_load(written) == {"text": text}  # other programs read YAML 1.1


def test_a_written_configuration_keeps_a_text_that_looks_like_a_number(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = load_config("tiny", ["evaluation.every=null", "prompts.text=1e3"])
    path.write_text(dump_config(config))
    assert load_config(path) == config and config.prompts.text == "1e3"
