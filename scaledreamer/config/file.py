"""Configuration files: YAML and `key.path=value` in, a `Config` or one clear message out. Needs no torch."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from scaledreamer.config.renamed import RENAMED
from scaledreamer.config.run import Config
from scaledreamer.config.types import KEY
from scaledreamer.home import expand_home
from scaledreamer.settings_text import Dumper, Loader, parse_setting

PACKAGE = Path(__file__).parent.parent
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where the shipped configurations are: installed from a wheel, or in the repository."""


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads an experiment file, applies `key.path=value` settings to it, and fills in the defaults.

    Args:
        path: YAML file, or the name of a shipped one ("tiny"); None is the defaults alone.
        overrides: such as `training.max_steps=20`, `priors.0.model=/path` (items of lists by number).
    Raises: ValueError with one message that names the key, what it got, and what is accepted.
    """
    data: dict[str, Any] = Config().model_dump()
    if path is not None:
        _merge(data, read_yaml(find_config(path)))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ValueError(f"{override!r}: expected key.path=value, for example training.max_steps=20.")
        try:
            value = parse_setting(text, **_kinds(key))
        except ValueError as error:
            raise ValueError(
                f"{key}: got {text!r}, {error}; quote it if it is a text ('{key}=\"...\"'), or each text if "
                f'it is a list (\'{key}=["...", "..."]\').'
            ) from None
        _set(data, key, value)
    return parse_config(data)


def find_config(name: str | Path) -> Path:
    """A file of this name, or else the shipped configuration "tiny" or "configs/tiny.yaml"."""
    path = Path(expand_home(name, "--config"))
    if not os.path.exists(path) and path.parent in (Path(), Path("configs")):
        for folder in SHIPPED:
            shipped = folder / f"{path.name.removesuffix('.yaml')}.yaml"
            if os.path.isfile(shipped):
                return shipped
    return path


def shipped_configs() -> list[str]:
    """Names of the shipped configurations."""
    return sorted({path.stem for folder in SHIPPED for path in folder.glob("*.yaml")})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises: ValueError if it is missing, not UTF-8, not YAML or not a mapping.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); a config is a YAML file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"{path}: cannot be read ({reason}); give a YAML file, or the name of a shipped one: "
            f"{', '.join(shipped_configs())}."
        ) from None
    try:
        data = yaml.load(text, Loader)  # noqa: S506, a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}: not valid YAML{line} ({error.problem}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({str(error).splitlines()[0]}).") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds a {type(data).__name__}, expected a mapping of settings.")
    return data


def parse_config(data: Mapping[str, Any]) -> Config:
    """Checks a mapping of settings.

    Raises: ValueError naming the first setting that is wrong.
    """
    try:
        # As JSON, in which a list may stand for a pair and nothing else is converted.
        return Config.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ValueError(_message(error)) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The configuration cannot be read ({str(error).splitlines()[0]}).") from None


def dump_config(config: Config) -> str:
    """The whole configuration as YAML."""
    return yaml.dump(config.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `{"training.max_steps": 20, "priors.0.name": ...}`; plain lists stay whole."""
    if isinstance(data, Mapping):
        items: Iterable[tuple[Any, Any]] = data.items()
    elif isinstance(data, list) and any(isinstance(item, Mapping) for item in data):
        items = enumerate(data)
    else:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat


# --- merging -----------------------------------------------------------------------------------------------


def _merge(data: dict[str, Any], changes: Mapping[Any, Any]) -> None:
    """Puts changes into nested mappings; lists and schedules are replaced whole."""
    for name, value in changes.items():
        old = data.get(name)
        if isinstance(old, dict) and isinstance(value, Mapping) and not _is_schedule(old):
            _merge(old, value)
        else:
            data[name] = value


def _is_schedule(value: Mapping[Any, Any]) -> bool:
    return "start" in value and "end" in value


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b.0.c`; a list may be set at its items and at one past its last."""
    *parents, last = key.split(".")
    place: Any = data
    for depth, name in enumerate(parents):
        path = ".".join(parents[: depth + 1])
        if isinstance(place, dict):
            if name not in place and _is_section(path):  # of a list's item, which holds no defaults
                place[name] = {}
            if name not in place:
                raise ValueError(_unknown(path))
            if not isinstance(place[name], dict | list):
                raise ValueError(f"{key}: no such setting; {path} is a single value ({place[name]!r}).")
            place = place[name]
        else:
            place = _list_item(place, name, path)
    if isinstance(place, list):
        index = _index(place, last, key)
        place[index : index + 1] = [value]
    elif isinstance(value, dict) and isinstance(place.get(last), dict):
        _merge(place, {last: value})
    else:
        place[last] = value


def _index(items: list[Any], name: str, path: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) <= len(items)):
        raise ValueError(f"{path}: no such item; the list has {len(items)}, numbered from 0.")
    return int(name)


def _list_item(items: list[Any], name: str, path: str) -> Any:
    index = _index(items, name, path)
    if index == len(items):
        items.append({})
    if not isinstance(items[index], dict | list):
        raise ValueError(f"{path}: a single value ({items[index]!r}), which has no settings of its own.")
    return items[index]


# --- messages ----------------------------------------------------------------------------------------------


def valid_keys(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its path, with its default and meaning; items of lists of sections by number 0."""
    keys: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        keys[path] = field
        section = _section(field)
        if section is not None:
            is_list = field.annotation is not section
            keys.update(valid_keys(section, f"{path}.0." if is_list else f"{path}."))
    return keys


def _kinds(key: str) -> dict[str, bool]:
    """What `parse_setting` asks of a setting: whether it takes texts and no numbers, and whether lists."""
    keys, name = valid_keys(), numbered_0(key)
    kinds = _alternatives(keys[name].annotation) if name in keys else []
    if not kinds and name.removesuffix(".0") in keys:  # an item of a list
        lists = _alternatives(keys[name.removesuffix(".0")].annotation)
        kinds = [item for kind in lists if get_origin(kind) is list for item in get_args(kind)]
    takes_list = any(get_origin(kind) is list for kind in kinds)
    return {"takes_text": str in kinds and not {int, float, bool} & set(kinds), "takes_list": takes_list}


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union one by one."""
    return [annotation] if get_origin(annotation) is list else [annotation, *get_args(annotation)]


def numbered_0(path: str) -> str:
    """A setting's path with every item of a list as number 0, as `valid_keys` has it."""
    return re.sub(r"\.\d+(?=\.|$)", ".0", path)


def _is_section(path: str) -> bool:
    field = valid_keys().get(numbered_0(path))
    return field is not None and _section(field) is field.annotation


def _section(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _unknown(path: str) -> str:
    """Message for a key that does not exist, with the nearest one that does."""
    if numbered_0(path) in RENAMED:
        number = next((part for part in path.split(".") if part.isdigit()), "0")
        new = RENAMED[numbered_0(path)].replace("priors.0.", f"priors.{number}.")
        return f"{path}: no such setting; it is now {new}."
    keys = list(valid_keys())
    *parents, name = numbered_0(path).split(".")
    siblings = {key.split(".")[-1]: key for key in keys if key.split(".")[:-1] == parents}
    ends = {key.split(".")[-1]: key for key in reversed(keys) if not path.startswith(f"{key}.")}
    for candidates, cutoff in ((siblings, 0.5), (ends, 0.6)):
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
        if near:
            return f"{path}: no such setting; did you mean {candidates[near[0]]}?"
    return f"{path}: no such setting; accepted here are {', '.join(siblings)}."


def _nested(path: str, value: Any) -> str:
    """A setting as a file has it, in one line."""
    for name in reversed(path.split(".")):
        value = [value] if name.isdecimal() else {name: value}
    return yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**6, allow_unicode=True).strip()[
        1:-1
    ]


def _message(error: ValidationError) -> str:
    """The first problem, in the user's words; unknown keys first, since they explain the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "json_invalid":  # what YAML can say and JSON cannot: half of a surrogate pair
        return f"The configuration holds a text that is not valid Unicode ({problem['msg']})."
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        if "." in name and numbered_0(path) in valid_keys():
            return (
                f"{path}: files nest sections; write {_nested(path, problem['input'])} in place of {name!r}."
            )
        return _unknown(path)
    if problem["type"] == "value_error":
        text = str(problem.get("ctx", {}).get("error", problem["msg"]))
        return text.replace(KEY, path)
    got = "nothing" if problem["type"] == "missing" else repr(problem["input"])
    quotes = ", in quotes" * (problem["type"] == "string_type" and isinstance(problem["input"], int | float))
    return f"{path}: got {got[:200]}; accepted is {_accepted(path, problem)}{quotes}."


def _accepted(path: str, problem: Any) -> str:
    context, kind = problem.get("ctx", {}), problem["type"]
    types = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_too_short": "a text that is not empty",
        "list_type": "a list",
        "model_type": "a mapping of settings",
        "model_attributes_type": "a mapping of settings",
        "finite_number": "a finite number",
    }
    if kind in types:
        return types[kind]
    if kind == "literal_error":
        return context["expected"]
    bounds = {
        "greater_than_equal": "at least",
        "greater_than": "above",
        "less_than_equal": "at most",
        "less_than": "below",
    }
    if kind in bounds:
        return f"a number {bounds[kind]} {next(iter(context.values()))}"
    if kind in ("too_short", "too_long"):
        words = (
            ("at least", context.get("min_length"))
            if kind == "too_short"
            else ("at most", context.get("max_length"))
        )
        return f"a list with {words[0]} {words[1]} item(s)"
    return problem["msg"][:1].lower() + problem["msg"][1:]
