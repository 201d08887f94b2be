"""Syntax of settings: the YAML of configuration files, and the values of `key.path=value`.

Files use the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3.2), in which `0123` is 123
rather than octal, and `1:30`, `yes` and `2026-01-31` are strings.

On a command line, YAML's comments, anchors, tags and blocks have no meaning. A value is a number, true,
false, null, a quoted string, a list or mapping in brackets, or otherwise the string as it was typed.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import yaml

_NULL = "tag:yaml.org,2002:null"
_CORE = (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)
"""Tags of plain scalars with the characters they may begin with; the first that matches applies."""
_DROPPED = {
    yaml.AnchorToken: "& names an anchor",
    yaml.AliasToken: "* refers to an anchor",
    yaml.TagToken: "! begins a tag",
}
"""What YAML would drop, besides comments."""


class Loader(yaml.SafeLoader):
    """YAML of the core schema without duplicate keys or keys without a value."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        names = [key.value for key, _ in pairs]
        for number, (key, value) in enumerate(pairs):
            problem = None
            if key.value in names[:number] and key.value != "<<":
                problem = f"{key.value!r} is set twice; keep one"
            elif value.tag == _NULL and value.value == "":
                problem = f"{key.value!r} has no value; write null, or quote a text that begins with #"
            if problem is not None:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    def construct_yaml_int(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or the core schema would read as something else."""


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
for _tag, _pattern, _first in _CORE:
    for _kind in (Loader, Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_setting(text: str, *, takes_text: bool = False, takes_list: bool = False) -> Any:
    """The value in `key.path=value`; strings stay exactly as typed.

    Args:
        takes_text: the setting takes strings and no numbers, so that `007` and `true` are strings too.
        takes_list: it takes lists as well.

    Raises: ValueError with the reason if the text begins with a quote or a bracket but is not a complete
        value, or is one of which YAML would drop a part.
    """
    bare = text.strip()
    if bare == "null":
        return None
    if bare.startswith(('"', "'")):
        try:
            value = _flow_value(bare)
        except ValueError:
            if not takes_text:
                raise
        else:
            if isinstance(value, str) or not takes_text:
                return value
    elif bare.startswith(("[", "{")) and (takes_list or not takes_text):
        return _flow_value(bare)
    if takes_text or bare in ("", "~", "<<"):
        return text
    loader = Loader("")
    node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, bare, (True, False)), bare)
    try:
        value = loader.construct_object(node)
    except ValueError:
        raise ValueError("which has more digits than are read") from None
    return text if isinstance(value, str) else value


def _flow_value(text: str) -> Any:
    """A quoted string, list or mapping in YAML's flow style.

    Raises: ValueError with the reason if it is none of these, or contains a comment, an anchor or a tag.
    """
    try:
        tokens = list(yaml.scan(text, Loader))
        for token in tokens:
            if type(token) in _DROPPED:
                raise ValueError(f"in which {_DROPPED[type(token)]}")
        for before, after in itertools.pairwise(tokens):
            if "#" in text[before.end_mark.index : after.start_mark.index]:
                raise ValueError("in which # begins a comment")
        return yaml.load(text, Loader)  # noqa: S506, a SafeLoader
    except (yaml.YAMLError, RecursionError):
        raise ValueError("which is not a YAML value") from None
