"""How the tests share code: through `tests.support`, never through one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = [path.relative_to(FOLDER).as_posix() for path in sorted(FOLDER.rglob("*.py"))]


@pytest.mark.parametrize("name", FILES)
def test_no_test_imports_another(name: str) -> None:
    for node in ast.walk(ast.parse((FOLDER / name).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        for module in [*modules, *(f"{module}.{name}" for module in modules for name in names)]:
            assert not module.removeprefix("tests.").startswith("test_"), f"{name} imports {module}"
