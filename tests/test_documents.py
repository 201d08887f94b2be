"""Documents name only files, functions and pages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/experiments/*.md")]
LIVING = [page for page in PAGES if page.name not in ("LOG.md", "BENCHMARKS.md", "published_settings.md")]
"""Without pages that record the past, or name files of other projects."""


def names_defined_in(path: Path) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        for target in getattr(node, "targets", []):
            found.add(getattr(target, "id", ""))
    return found


def references(text: str) -> list[tuple[str, str]]:
    """File and name (perhaps none) of each `folder/file.py:name`."""
    return re.findall(r"`([\w/]+\.py)(?::(\w+))?`", text)


def test_references_are_read():
    assert references("`a/b.py:c` and `d.py`, not `e` or f.py") == [("a/b.py", "c"), ("d.py", "")]


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_files_and_functions_that_a_page_names_exist(page: Path):
    wrong = []
    for file, name in references(page.read_text(encoding="utf-8")):
        found = [folder / file for folder in (ROOT / "scaledreamer", ROOT) if (folder / file).is_file()]
        if not found or (name and name not in names_defined_in(found[0])):
            wrong.append(f"{file}:{name}")
    assert wrong == []


def paths_of_the_tree() -> list[str]:
    """Paths of CONTRIBUTING's file tree, from the repository's root."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.findall(
        r"^    ( *)(\S.*)$", text.partition("## Where things are")[2].partition("\n## ")[0], re.M
    )
    found = []
    for indent, line in tree:
        names = [part for part in re.split(r" {2,}", line) if re.fullmatch(r"[\w./]+(/|\.py)", part)]
        found += [("scaledreamer/" if indent else "") + name for name in names]
    return found


def test_the_file_tree_is_that_of_the_repository():
    paths = paths_of_the_tree()
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = [path for path in (ROOT / "scaledreamer").iterdir() if any(path.glob("*.py"))]
    assert {f"scaledreamer/{folder.name}/" for folder in folders} <= set(paths)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
