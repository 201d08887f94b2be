"""Anything at all as configuration, prompt or checkpoint index: it is taken, or refused with one short line.

The examples are the same in every run: 1,700 configurations, 1,000 prompts, 400 damaged indices.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scaledreamer.config import Config, dump_config, flatten, load_config, valid_keys
from scaledreamer.exported import INDEX, WEIGHTS, read_index
from scaledreamer.meshing.export import file_stem
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompt_text import check_prompt
from scaledreamer.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from tests.support.tiny_export import tiny_pipeline

KEYS = sorted(valid_keys())
DEFAULTS = flatten(Config().model_dump())


def examples(number: int) -> settings:
    shared = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
    return settings(max_examples=number, derandomize=True, deadline=None, suppress_health_check=shared)


def jsonable(value: Any) -> Any:
    """The value with texts in place of what JSON has no words for."""
    return json.loads(json.dumps(value, default=str, skipkeys=True))


def is_one_line(message: str) -> bool:
    """Whether a message can be shown to a user as one line: the command lines join its white space."""
    return 0 < len(" ".join(message.split())) < 1500 and "Traceback" not in message


def assert_taken_or_refused(path: Path | None, overrides: list[str]) -> None:
    """`load_config` gives a configuration that survives being written and read, or one line."""
    try:
        config = load_config(path, overrides)
    except ValueError as error:
        assert is_one_line(str(error)), str(error)
    else:
        again = path or Path("config.yaml")
        again.write_text(dump_config(config), encoding="utf-8")
        assert load_config(again) == config


# --- configurations ----------------------------------------------------------------------------------------

numbers = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 0.5, 2**31, 2**63, 10**400, 1e308, 1e-320])
words = st.text(max_size=8) | st.sampled_from(
    ["tinyworld", "auto", "cat", "sgd", "none", "1e3", "~", "\0", "\ud800"]
)
scalars = st.none() | st.booleans() | numbers | words | st.dates() | st.binary(max_size=4)
names = st.sampled_from([key.rsplit(".", 1)[-1] for key in KEYS] + ["start", "end", "from", "to"])
keys = names | st.text(max_size=8) | st.none() | st.booleans() | st.integers() | st.dates()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=6,
)


near = st.sampled_from(list(DEFAULTS.values())) | st.integers(0, 5) | st.floats(0, 1)
"""Values that are right for some setting or other."""
set_keys = st.dictionaries(st.sampled_from(list(DEFAULTS)), near | near | values, min_size=1, max_size=5)
"""Settings that exist, by their paths."""


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """The structure of a file that sets these paths."""
    data: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, last = path.replace("priors.0", "priors").split(".")
        place = data
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return data | ({"priors": [data["priors"]]} if "priors" in data else {})


@examples(300)
@given(content=st.binary(max_size=60) | st.text("{}[]:,&*!|>'\"-# \n\tabc01.~<", max_size=40).map(str.encode))
@example(content=b"\xef\xbb\xbfseed: 3")
@example(content=b"training: &a {x: *a}")
@example(content=b"a: &a [*a]")
@example(content=b"!!map 3")
@example(content=b"training: !!set {a, b}")
@example(content=b"seed: !!int x")
@example(content=b"seed: !!timestamp 2026-13-45")
def test_any_bytes_as_a_file(content: bytes, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert_taken_or_refused(path, [])


@examples(500)
@given(changes=set_keys)
def test_any_values_of_settings_in_a_file(changes: dict[str, Any], tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump(nested(changes), allow_unicode=False), encoding="utf-8")
    assert_taken_or_refused(path, [])


@examples(300)
@given(changes=set_keys)
def test_any_values_of_settings_on_the_command_line(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert_taken_or_refused(
        None, [f"{path}={json.dumps(jsonable(value))}" for path, value in changes.items()]
    )


@examples(200)
@given(data=st.dictionaries(st.sampled_from(list(Config.model_fields)) | keys, values, max_size=4))
def test_any_structure_in_a_file(data: dict[Any, Any], tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump(data, allow_unicode=False), encoding="utf-8")
    assert_taken_or_refused(path, [])


paths = st.lists(
    names | st.sampled_from(list(Config.model_fields)) | st.sampled_from(["0", "1", "", "²"]), max_size=5
)
texts = st.text(max_size=20) | st.text("{}[]:,&*!'\"-# \n01.e~", max_size=15) | scalars.map(str)


@examples(300)
@given(
    overrides=st.lists(
        st.builds("{}={}".format, st.sampled_from(KEYS) | paths.map(".".join), texts) | st.text(max_size=30),
        min_size=1,
        max_size=3,
    )
)
@example(overrides=["priors.0=null", "priors.0.model=x"])
@example(overrides=["priors.1=3", "priors.1.model=x"])
@example(overrides=["optimizer.lr={start: 1, end: 2}", "optimizer.lr.start=x"])
@example(overrides=["prompts.kinds=[cat]", "prompts.kinds.1=3"])
@example(overrides=["distillation.t_min.start=1"])
def test_any_text_on_the_command_line(overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert_taken_or_refused(None, overrides)


@examples(100)
@given(start=numbers, end=numbers, first=st.floats(0, 1), last=st.floats(0, 1), steps=st.integers(1, 10**6))
def test_timesteps_that_are_taken_are_in_order_at_every_step(
    start: float, end: float, first: float, last: float, steps: int
):
    low = {"start": start, "end": end, "from": min(first, last), "to": max(first, last)}
    high = {"start": 0.9, "end": 0.4, "from": first, "to": 1.0}
    lines = [f"{name}={json.dumps(line)}" for name, line in (("t_min", low), ("t_max", high))]
    try:
        config = load_config(
            None, [f"training.max_steps={steps}", *(f"distillation.{line}" for line in lines)]
        )
    except ValueError as error:
        assert is_one_line(str(error))
        return
    t_min, t_max = (line.over(steps) for line in (config.distillation.t_min, config.distillation.t_max))
    for step in {round(steps * part / 997) for part in range(997)}:
        assert t_min.value_at(step) <= t_max.value_at(step)


# --- prompts -----------------------------------------------------------------------------------------------

SAFE = set(string.ascii_lowercase + string.digits + "-")
letters = st.characters(codec=None, categories=None)  # any code point, half surrogate pairs as well
known = st.sampled_from(
    ["frog", "a", "red", "../", "/", "\\", "\n", "\0", "🐸", "..", "CON", ".", "~", "%s", "{}"]
)
any_prompt = st.text(letters, max_size=80) | st.lists(known | st.text(letters, max_size=5), max_size=12).map(
    " ".join
)


@pytest.fixture(scope="module")
def pipe() -> TextTo3D:
    return tiny_pipeline()


def is_safe(stem: str) -> bool:
    """Whether a name is good on every system, with the longest suffix and the prefix of a temporary file."""
    longest = f".writing-{stem}-texture.png0123456789"
    return set(stem) <= SAFE and not stem.startswith("-") and len(longest.encode()) <= 255


@examples(700)
@given(prompt=any_prompt)
@example(prompt="frog" * 2500)
@example(prompt="\u200d" * 10_000)
@example(prompt="a frog" + "\u0301" * 9000)
@example(prompt="İ" * 5000 + " frog")
def test_any_prompt_is_refused_with_one_line_or_becomes_a_scene(prompt: str, pipe: TextTo3D):
    assert is_safe(file_stem(prompt, 0, None))
    try:
        check_prompt(prompt)
        notes = pipe.check(prompt)
    except ValueError as error:
        assert is_one_line(str(error))
        return
    assert all(is_one_line(note) for note in notes)
    scene = pipe.generator(pipe.conditioner([prompt]))
    assert scene.sdf(torch.zeros(1, 1, 3)).isfinite().all()


@examples(300)
@given(one=any_prompt, other=any_prompt, seed=st.integers(0, 3), other_seed=st.integers(0, 3))
@example("a frog", "a frog ", 0, 0)
@example("a frog", "A frog", 0, 0)
@example("é", "e\u0301", 0, 0)
@example("\ud800", "\udfff", 0, 0)
def test_different_prompts_have_different_files(one: str, other: str, seed: int, other_seed: int):
    is_same = (one, seed) == (other, other_seed)
    assert (file_stem(one, seed, "hash") == file_stem(other, other_seed, "hash")) == is_same


# --- indices of checkpoints --------------------------------------------------------------------------------


@examples(200)
@given(data=st.data())
def test_any_damage_to_the_index_of_an_export(data: st.DataObject, tmp_path: Path):
    index, damaged = sound_index(), tmp_path / INDEX
    (tmp_path / WEIGHTS).parent.mkdir(exist_ok=True)
    (tmp_path / WEIGHTS).touch()
    damaged.write_bytes(damage(json.dumps(index), data))
    try:
        read_index(tmp_path)
    except ValueError as error:
        assert is_one_line(str(error))


@examples(200)
@given(data=st.data())
def test_any_damage_to_the_index_of_a_training_checkpoint(data: st.DataObject, tmp_path: Path):
    index = tmp_path / "step-00000003" / "checkpoint.json"
    if not index.exists():
        tensors = {"a": torch.ones(2)}
        save_checkpoint(
            tmp_path, Checkpoint(3, tensors, tensors, {"a": {"m": torch.ones(2)}}, {"seed": 1}), keep=1
        )
        (tmp_path / "sound").write_bytes(index.read_bytes())
    index.write_bytes(damage((tmp_path / "sound").read_text(), data))
    try:
        checkpoint, problems = load_newest(tmp_path)
    except ValueError as error:
        assert is_one_line(str(error))
    else:
        assert checkpoint is not None and checkpoint.step == 3 and not problems


def sound_index() -> dict[str, Any]:
    return {
        "_class_name": "TextTo3D",
        "format_version": 1,
        "generator": {"name": "hyper_ingp", "settings": {"condition_dim": 16}},
        "cameras": {"distance": [2.5, 2.7]},
        "renderer": {"name": "volume", "beta": 1 / 30},
        "step": 7,
        "sha256": {str(WEIGHTS): "0" * 64},
    }


def damage(text: str, data: st.DataObject) -> bytes:
    """A bit flipped, the end lost, or a value replaced by any other."""
    tree, raw = json.loads(text), bytearray(text.encode())
    places = [(part, key) for part in (tree, *tree.values()) if isinstance(part, dict) for key in part]
    kind, where = data.draw(st.integers(0, 9)), data.draw(st.integers(0, len(raw) - 1))
    if kind < 2:
        return bytes(raw[:where])
    if kind < 6:
        raw[where] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(raw)
    part, key = data.draw(st.sampled_from(places))
    part[key] = data.draw(json_values)
    return json.dumps(tree).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
