"""Who may import whom, held by reading the imports.

Every import counts: at the head of a module, inside a function, and under `TYPE_CHECKING`. Left out is only
what Python does by itself: before a module it runs the `__init__` of each folder above it. An `__init__`
gathers names of its own folder, so with those imports every such folder would be a circle of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "scaledreamer"
LOW = (
    "distillation",
    "fields",
    "cameras",
    "draws",
    "texts",
    "schedules",
    "contracts",
    "memory",
    "rendering.sampling",
)
"""Import nothing of the package above them: only each other, of their own folder or of this list."""
FAMILIES = ("generators", "rendering", "priors", "methods")
"""Do not import each other."""
EVERYTHING = ("assemble", "training", "pipeline", "evaluation", "cli", "doctor", "__main__")
"""Only these, and the package's own front, may see everything."""
JOINT = "assemble"
"""Makes the parts of a run, and is called by what starts one: it is on both sides of `training`."""

Graph = Mapping[str, Iterable[str]]


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """Dotted, from the package's folder; the package's own front is ""."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, modules: Iterable[str]) -> set[str]:
    """Modules of the package that a text imports anywhere in it."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix("scaledreamer.") in modules
                named.add(whole if is_module else node.module or "")
        elif isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # of `import_module`
            is_module = node.value.removeprefix("scaledreamer.") in modules
            assert not (is_module and node.value.startswith("scaledreamer.")), (
                f"import {node.value} in the open"
            )
    ours = {name for name in named if name == "scaledreamer" or name.startswith("scaledreamer.")}
    return {name.removeprefix("scaledreamer").removeprefix(".") for name in ours}


def shortest_circle(graph: Graph) -> list[str]:
    """A circle with its first module again at its end; empty if there is none."""
    circles = [circle for name in graph if (circle := way_back(graph, name))]
    return min(circles, key=len, default=[])


def way_back(graph: Graph, start: str) -> list[str]:
    """The shortest way from a module to itself, both ends included; empty if there is none."""
    ways, seen = [[start]], set()
    for way in ways:  # grows while it is read: breadth first
        for name in graph.get(way[-1], ()):
            if name == start:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def by_folder(graph: Graph) -> dict[str, set[str]]:
    """The same imports between the package's folders, with the modules beside them."""
    folders: dict[str, set[str]] = {}
    for name, imported in graph.items():
        folder = name.split(".")[0]
        folders.setdefault(folder, set()).update(
            other for other in (it.split(".")[0] for it in imported) if other != folder
        )
    return folders


def belongs(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name: imports_of(path.read_text(encoding="utf-8"), FILES) for name, path in FILES.items()}


def test_the_reader_sees_every_import():
    source = """
from typing import TYPE_CHECKING
import scaledreamer.cameras
if TYPE_CHECKING:
    from scaledreamer.contracts import Scene
def function():
    from scaledreamer import TextTo3D, schedules
    from scaledreamer.weights import hub, layout
"""
    seen = imports_of(
        source, ("cameras", "contracts", "schedules", "weights", "weights.hub", "weights.layout")
    )
    assert seen == {"cameras", "contracts", "", "schedules", "weights.hub", "weights.layout"}
    with pytest.raises(AssertionError, match="in the open"):
        imports_of("importlib.import_module('scaledreamer.cameras')", ("cameras",))


def test_the_reader_sees_the_package():
    assert "contracts" in MODULES["generators.hyper_ingp"] and "pipeline" in MODULES[""]
    assert {name for imported in MODULES.values() for name in imported} <= set(MODULES)
    assert belongs("rendering.volume", ("rendering",)) and not belongs("renderings", ("rendering",))


def test_the_shortest_circle_is_found():
    graph = {"a": ["b"], "b": ["c"], "c": ["d", "e"], "d": ["a"], "e": ["c"], "f": ["a"]}
    assert shortest_circle(graph) == ["c", "e", "c"]
    assert shortest_circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_module_imports_itself_through_others():
    assert " -> ".join(shortest_circle(MODULES)) == ""


def test_no_folder_imports_itself_through_others():
    folders = {name: others - {JOINT} for name, others in by_folder(MODULES).items() if name != JOINT}
    assert " -> ".join(shortest_circle(folders)) == ""


@pytest.mark.parametrize("module", [name for name in MODULES if belongs(name, LOW)])
def test_low_modules_import_nothing_above_them(module: str):
    assert [name for name in MODULES[module] if not belongs(name, LOW)] == []


@pytest.mark.parametrize("module", [name for name in MODULES if belongs(name, FAMILIES)])
def test_families_do_not_import_each_other(module: str):
    others = tuple(place for place in FAMILIES if not belongs(module, (place,)))
    forbidden = [name for name in MODULES[module] if belongs(name, others) and not belongs(name, LOW)]
    assert forbidden == []


@pytest.mark.parametrize("module", [name for name in MODULES if name and not belongs(name, EVERYTHING)])
def test_only_the_top_sees_everything(module: str):
    assert [name for name in MODULES[module] if belongs(name, EVERYTHING)] == []


def test_contracts_know_cameras_draws_and_texts_alone():
    assert MODULES["contracts"] == {"cameras", "draws", "texts"}
