"""Writes docs/configuration.md, the table of all settings, from `scaledreamer/config/`. Needs no torch.

    python -m tools.docs.configuration [--check]

--check writes nothing. Exit status: 0 done, or the page is up to date; 1 it is not (--check).
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scaledreamer import config as cfg
from scaledreamer.cli import program
from scaledreamer.config import may_change, types, valid_keys
from scaledreamer.schedules import RelativeSchedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

HEAD = """# Configuration

Every setting of a training run, with its default. This page is made from `scaledreamer/config/` by

    python -m tools.docs.configuration

Do not edit it: change the setting's type, default or docstring there, and run the command again. A test
holds the two together.

## How settings are given

`train.py --config FILE` reads a YAML file that holds only what differs from the defaults. Settings after it
on the command line are `key.path=value` and go before the file's:

    python train.py --config configs/tiny.yaml training.max_steps=4000 priors.0.guidance_scale=5
    python train.py --config configs/tiny.yaml evaluation.every=null "optimizer.lr={start: 2e-3, end: 4e-4}"

- A setting of a file is merged into its section. A list, a Schedule or a Range is replaced as a whole; what
  an item of a list leaves out has its default.
- Items of lists are counted from 0. `priors.0` is the first prior; `priors.1.model=...` with only one prior
  there adds a second. `cameras.elevation_deg.0=-20` sets one end of a Range.
- `null` is YAML's word for what is called None below. On the command line, settings with braces, brackets,
  blanks or `#` need the shell's quotes.
- Files are read by YAML 1.2's core schema: `0123` is 123, and `yes`, `off`, `1:30`, `2026-01-31` are texts. A
  file nests sections (`training: {max_steps: 3}`, not `training.max_steps: 3`), and every key has a value.
- On the command line a text is taken as typed, with `#`, `&`, `:` and all: `"prompts.text=a lamp #3d"`. Lists
  and mappings are YAML in brackets, in which a text with such characters is quoted: `'["a #1", b]'`. An empty
  value is an empty text; `null` alone unsets.
- In files and folders (`training.output`, `generator.start`, `model`, and `file`, `shards` and `cache` of
  `prompts`) a leading `~` is the home folder. A user without one (no HOME, no entry in the list of users) is
  told so; set HOME, or give paths without `~`, `prompts.cache` among them.
- Types are checked, not converted: `batch_size: "4"` in a file is refused, since "4" is a text. A wrong
  setting ends the program at once with one line: the key, what it got, what is accepted, and for an unknown
  key the nearest one that exists.
- A section named after an architecture or a prior (`generator.hyper_ingp`, `priors.0.stable_diffusion`)
  counts only while the `name` beside it chooses it.
- `--dry-run` prints the whole configuration, the number of parameters and the first batch, and stops. A run
  writes its whole configuration to `config.yaml` in its folder; that is a valid file for `--config`.

A **Schedule** is a number that may change over the training, along a straight line. Places are fractions of
the training, 0 its start and 1 its end (`training.max_steps`), so that they hold for a run of any length:

| written as | meaning |
|---|---|
| `6.0` | constant |
| `{start: 5, end: 2}` or `[5, 2]` | from 5 to 2 over the whole training |
| `{start: 5, end: 2, from: 0.1, to: 0.4}` or `[5, 2, 0.1, 0.4]` | 5 until .1, a line until .4, then 2 |

`from` and `to` may be left out: they are 0 and 1 then.

A **Range** is `[lowest, highest]`; each camera draws its value evenly from it. Both numbers may be the same.

Some rules concern several settings:

- `prompts.name`, `prompts.text`, `prompts.file` and `prompts.shards` exclude each other.
- `prompts.file` excludes `prompts.kinds`, `prompts.max_extras` and `prompts.extras`, which choose from the
  tinyworld, and `evaluation.every`, since only prompts of the tinyworld have a ground truth.
- `prompts.holdout` needs `prompts.file`.
- `conditioner.name: clip` needs `conditioner.model`, and `priors.N.name: stable_diffusion` or `sdxl` needs
  `priors.N.model`.
- `distillation.t_min` may at no time be above `distillation.t_max`.
- `optimizer.momentum` belongs to `optimizer.name: sgd`.
- `training.batch_size` is a multiple of the number of ranks times `training.accumulation_steps`.
- `generator.hyper_ingp`: `base_resolution` times `growth` to the power of `num_levels - 1` is at most 65,536.
- `generator.conv3d_net`: `channel_base` is at least `resolution`.
- `generator.triplane_transformer`: `width` is a multiple of `num_heads`.
- `generator.name: field` is trained on one prompt: `prompts.text`, or a file with one.
- A run that goes on from a checkpoint may change the settings marked ↻ below. Everything else has to stay as
  it was, the prompts too. Another `training.max_steps` stretches the schedules.
"""

LIST_NOTE = (
    "A list of such sections, at least one. These are the first one's keys; those of the next have a 1."
)


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## Settings", "", *_table(_leaves(cfg.Config, ""))]
    for path, field, section in _sections(cfg.Config, ""):
        title = path.removesuffix(".0")
        level = "##" if title in cfg.Config.model_fields else "###"
        lines += ["", f"{level} `{title}`", "", " ".join((section.__doc__ or "").split())]
        if field.annotation is not section:
            lines += [LIST_NOTE]
        lines += ["", *_table(_leaves(section, f"{path}."))]
    return "\n".join(lines) + "\n"


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    """All sections below one, each before its own; path, field and class. A list's items have number 0."""
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is not None:
            path = f"{prefix}{name}" if field.annotation is section else f"{prefix}{name}.0"
            yield path, field, section
            yield from _sections(section, f"{path}.")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _leaves(model: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
    """A section's own settings, without its sections."""
    keys = valid_keys(model, prefix)
    own = (f"{prefix}{name}" for name in model.model_fields)
    return {path: keys[path] for path in own if _section_of(keys[path]) is None}


def _table(fields: dict[str, FieldInfo]) -> list[str]:
    if not fields:
        return ["Only sections."]
    rows = ["| key | default | accepted | meaning |", "|---|---|---|---|"]
    for path, field in fields.items():
        key = f"`{path}`" + " ↻" * may_change(path)
        cells = (key, f"`{_value(field.get_default())}`", accepted(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _value(value: Any) -> str:
    """As it would stand in a YAML file."""
    if isinstance(value, RelativeSchedule):
        return json.dumps(value.as_written())
    return value if isinstance(value, str) and value else json.dumps(value)


# --- what is accepted, in words ----------------------------------------------------------------------------


def accepted(field: FieldInfo) -> str:
    """Type and bounds of a setting in plain words.

    Raises: TypeError for a type that this script has no words for.
    """
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not NoneType]
    if kinds == [str, list[str]]:
        return "`null`, text or list of texts"
    if len(kinds) != 1:
        raise TypeError(f"{field.annotation}: no words for it; add them here")
    null_or = "`null` or " if NoneType in _alternatives(field.annotation) else ""
    return null_or + _words(kinds[0], field.metadata)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _words(kind: Any, metadata: list[Any]) -> str:
    functions = [item.func for item in metadata if hasattr(item, "func")]
    # The limits that `schedule_from` and `range_from` have given their checks.
    closures = [inspect.getclosurevars(inspect.unwrap(function)).nonlocals for function in functions]
    limits = next(((each["low"], each["high"]) for each in closures if "low" in each), None)
    if types.check_size in functions:
        return "Schedule, whole numbers from 4 to 1024"
    if kind is RelativeSchedule:
        return "Schedule" + (f", {_between(*limits)}" if limits else "")
    if types.check_betas in functions or types.check_optional_betas in functions:
        return "two numbers, each from 0 to below 1"
    if types.check_weights in functions:
        return "three numbers, each at least 0"
    if kind == list[float] and limits:
        return f"Range, within {_between(*limits)}"
    if get_origin(kind) is Literal:
        return _either([f"`{_value(value)}`" for value in get_args(kind)])
    shortest = next((item.min_length for item in metadata if hasattr(item, "min_length")), 0)
    if kind is str:
        return "text, not empty" if shortest else "text"
    if kind == list[str]:
        return "list of texts, not empty" if shortest else "list of texts"
    if kind is bool:
        return "`true` or `false`"
    if kind in (int, float):
        return ("whole number" if kind is int else "number") + _bounds(metadata)
    raise TypeError(f"{kind}: no words for it; add them here")


def _bounds(metadata: list[Any]) -> str:
    found = {name: getattr(item, name) for item in metadata for name in _BOUNDS if hasattr(item, name)}
    if found.keys() == {"ge", "le"}:
        return f", {found['ge']:g} to {found['le']:g}"
    words = [f"{word} {found[name]:g}" for name, word in _BOUNDS.items() if name in found]
    return f", {' and '.join(words)}" if words else ""


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _between(low: float, high: float) -> str:
    return f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


# --- command line ------------------------------------------------------------------------------------------


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    is_check = parser.parse_args(argv).check
    text = page()
    if not is_check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
        print(PAGE)
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        command = "python -m tools.docs.configuration"
        print(f"error: {PAGE} differs from scaledreamer/config/; run {command}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
