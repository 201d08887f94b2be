"""Who may import whom, held by reading the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "scaledreamer"
LOW = ("distillation", "fields", "cameras", "schedules", "contracts", "memory", "rendering.sampling")
"""Import nothing of the package above them: only each other, of their own folder or of this list."""
APART = ("generators", "rendering", "priors")
"""Do not import each other."""
EVERYTHING = ("build", "training", "pipeline", "evaluation", "cli", "doctor")
"""Only these, and the package's own front, may see everything."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere in it, without the package's own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # `from package import module` names modules too; a name that is no module does no harm here.
            found.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("scaledreamer.") for name in found if name.startswith("scaledreamer.")}


def belongs(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


MODULES = {module_name(path): imports_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def test_the_reader_sees_the_imports():
    assert "contracts" in MODULES["generators.hyper_ingp"]
    assert belongs("rendering.volume", ("rendering",)) and not belongs("renderings", ("rendering",))


@pytest.mark.parametrize("module", [name for name in MODULES if belongs(name, LOW)])
def test_low_modules_import_nothing_above_them(module: str):
    assert [name for name in MODULES[module] if not belongs(name, LOW)] == []


@pytest.mark.parametrize("module", [name for name in MODULES if belongs(name, APART)])
def test_generators_rendering_and_priors_do_not_import_each_other(module: str):
    others = tuple(place for place in APART if not belongs(module, (place,)))
    forbidden = [name for name in MODULES[module] if belongs(name, others) and not belongs(name, LOW)]
    assert forbidden == []


@pytest.mark.parametrize("module", [n for n in MODULES if n and not belongs(n, (*EVERYTHING, "__init__"))])
def test_only_the_top_sees_everything(module: str):
    assert [name for name in MODULES[module] if belongs(name, EVERYTHING)] == []


def test_contracts_import_nothing_of_the_package():
    assert MODULES["contracts"] == set()
