"""Breaks the code in one place at a time and runs the nearest tests: which mistakes would nobody notice?

    python tools/mutate.py                              # every mutation of tools/mutations.toml
    python tools/mutate.py --only regularizer --list    # those with this word in their file or meaning

A mutation is a text that occurs exactly once in a file, and what takes its place, in a copy of the tree. It
is killed if one of its tests fails, and survives if all pass. Not part of CI: each takes a pytest of several
seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).parent / "mutations.toml"
COPIED = ("scaledreamer", "tests", "tools", "configs", "data", "pyproject.toml")
PLUGINS_OFF = ("-p", "no:cacheprovider", "-p", "no:xdist")
TIMEOUT_SECONDS = 600
"""Of one mutation's tests; a mutation that makes them hang is killed."""


@dataclass(frozen=True)
class Mutation:
    """One small mistake.

    Attributes:
        file: path from the root of the tree.
        old: text that occurs exactly once in it.
        new: what takes its place.
        meaning: the mistake in words.
        tests: what pytest is given, the likeliest to fail first.
    """

    file: str
    old: str
    new: str
    meaning: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation; `failed` names the first test that noticed, "" if none did."""

    mutation: Mutation
    failed: str
    seconds: float

    @property
    def is_killed(self) -> bool:
        return self.failed != ""


def read_table(path: Path) -> list[Mutation]:
    """The mutations of a table.

    Each `[[file]]` has a `path`, the `tests` nearest to it, and `mutations`: tables with `old`, `new` and
    `meaning`, perhaps with `tests` of their own.
    """
    table = tomllib.loads(path.read_text())
    return [
        Mutation(
            file["path"],
            entry["old"],
            entry["new"],
            entry["meaning"],
            tuple(entry.get("tests", file["tests"])),
        )
        for file in table["file"]
        for entry in file["mutations"]
    ]


def misplaced(mutations: Sequence[Mutation], root: Path) -> list[str]:
    """What is wrong with mutations whose text does not occur exactly once, or that change nothing."""
    problems = []
    for mutation in mutations:
        path = root / mutation.file
        count = path.read_text().count(mutation.old) if path.is_file() else None
        where = f"{mutation.file}: {mutation.meaning}"
        if count is None:
            problems.append(f"{where}: there is no such file.")
        elif count != 1:
            problems.append(f"{where}: {mutation.old!r} occurs {count} times; give a text that occurs once.")
        elif mutation.old == mutation.new:
            problems.append(f"{where}: changes nothing.")
    return problems


def copy_tree(root: Path, copy: Path) -> None:
    """The parts of a tree that tests need, without what Python has compiled."""
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, copy / name)


def run_tests(tree: Path, tests: Sequence[str]) -> str:
    """Runs pytest in a tree until a test fails: its name, "" if none does."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"more than {TIMEOUT_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].partition(" ")[2].partition(" - ")[0] if lines else f"pytest ended with {done.returncode}"


def try_mutation(mutation: Mutation, tree: Path) -> Outcome:
    """Applies a mutation in a copy of the tree, runs its tests, and puts the file back."""
    path = tree / mutation.file
    original, start = path.read_text(), time.perf_counter()
    _write_source(path, original.replace(mutation.old, mutation.new))
    try:
        failed = run_tests(tree, mutation.tests)
    finally:
        _write_source(path, original)
    return Outcome(mutation, failed, time.perf_counter() - start)


def _write_source(path: Path, text: str) -> None:
    """Writes a module and removes its compiled code, which Python tells apart by size and whole seconds."""
    path.write_text(text)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def try_all(mutations: Sequence[Mutation], root: Path, jobs: int = 1) -> list[Outcome]:
    """Tries every mutation, several at once in copies of their own, and prints what became of each.

    Raises: ValueError if tests fail in a tree without any mutation.
    """
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        trees = [Path(folder) / str(number) for number in range(jobs)]
        for tree in trees:
            tree.mkdir()
            copy_tree(root, tree)
        tests = list(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
        failed = run_tests(trees[0], tests)
        if failed:
            raise ValueError(f"{failed} fails without any mutation: mend it first.")

        def work(mutation: Mutation) -> Outcome:
            tree = trees.pop()
            try:
                outcome = try_mutation(mutation, tree)
            finally:
                trees.append(tree)
            print(line_of(outcome), flush=True)
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(work, mutations))


def line_of(outcome: Outcome) -> str:
    """One line of the table."""
    fate = "killed  " if outcome.is_killed else "SURVIVED"
    mutation = outcome.mutation
    by = f"  {outcome.failed.rpartition('/')[2]}" if outcome.is_killed else ""
    return f"{fate} {outcome.seconds:5.1f} s  {mutation.file}: {mutation.meaning}{by}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns: 0, or 2 if the table has mistakes or tests fail without a mutation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="mutations with this word in file or meaning"
    )
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="copies of the tree at once (default 1)"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="another table of mutations")
    parser.add_argument("--root", type=Path, default=ROOT, help="another tree")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: got {options.jobs}; give at least 1.")
    mutations = [m for m in read_table(options.table) if options.only in f"{m.file}: {m.meaning}"]
    if not mutations:
        parser.error(f"--only: no mutation has {options.only!r} in its file or meaning; see --list.")
    problems = misplaced(mutations, options.root)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{mutation.file}: {mutation.meaning}" for mutation in mutations))
        return 0
    try:
        outcomes = try_all(mutations, options.root, options.jobs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    num_killed = sum(outcome.is_killed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    share = num_killed / len(outcomes)
    print(
        f"\n{num_killed} of {len(outcomes)} mutations were killed ({share:.1%}), in {seconds:.0f} s of tests."
    )
    for outcome in outcomes:
        if not outcome.is_killed:
            print(f"  survived: {outcome.mutation.file}: {outcome.mutation.meaning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
