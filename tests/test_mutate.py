"""The mutation runner on a tiny tree: a mistake that tests notice, one that they do not, and bad tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.mutate import main

CODE = "def area(width, height):\n    return width * height\n\n\ndef name():\n    return 'square'\n"
TEST = "from scaledreamer.shapes import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n"
TABLE = """
[[file]]
path = "scaledreamer/shapes.py"
tests = ["tests/test_shapes.py"]
mutations = [
    { old = "width * height", new = "width + height", meaning = "sum for product" },
    { old = "'square'", new = "'circle'", meaning = "another name" },
]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in (("scaledreamer/shapes.py", CODE), ("tests/test_shapes.py", TEST)):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "tree" / "scaledreamer" / "__init__.py").touch()
    (tmp_path / "table.toml").write_text(TABLE)
    return tmp_path / "tree"


def run(tree: Path, *arguments: str) -> int:
    return main(["--root", str(tree), "--table", str(tree.parent / "table.toml"), *arguments])


def test_mistakes_are_killed_or_survive_and_the_tree_stays(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("killed") and "sum for product  test_shapes.py::test_area" in lines[0]
    assert lines[1].startswith("SURVIVED") and lines[1].endswith("another name")
    assert lines[3].startswith("1 of 2 mutations were killed (50.0%)")
    assert lines[4] == "  survived: scaledreamer/shapes.py: another name"
    assert (tree / "scaledreamer" / "shapes.py").read_text() == CODE


def test_some_are_listed_without_being_tried(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, "--only", "name", "--list") == 0
    assert capsys.readouterr().out == "scaledreamer/shapes.py: another name\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (CODE.replace("'square'", "'box'"), "another name: \"'square'\" occurs 0 times"),
        (CODE + CODE, "sum for product: 'width * height' occurs 2 times"),
        ("", "give a text that occurs once"),
    ],
    ids=["missing", "twice", "empty"],
)
def test_a_text_that_does_not_occur_exactly_once_is_refused(
    tree: Path, code: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "scaledreamer" / "shapes.py").write_text(code)
    assert run(tree, "--list") == 2
    assert message in capsys.readouterr().err


def test_tests_that_fail_without_a_mutation_are_named(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "tests" / "test_shapes.py").write_text(TEST.replace("6", "7"))
    assert run(tree) == 2
    assert "test_shapes.py::test_area fails without any mutation" in capsys.readouterr().err
