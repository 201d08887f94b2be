"""Importing prompts: every format read, drops counted with their reasons, leakage counted, bad input refused.

The bad input is one table; each row compares its folder before and after.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import resource
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scaledreamer.cli import import_prompts as import_prompts_command
from scaledreamer.files import TEMPORARY
from scaledreamer.prompt_text import MAX_CHARACTERS, normalize_prompt
from scaledreamer.prompts import importing, prompt_file
from scaledreamer.prompts.corpus import comparison_key, read_prompts, split_prompts
from scaledreamer.prompts.foreign import entries, json_files
from scaledreamer.prompts.importing import (
    REASONS,
    Imported,
    Limits,
    import_prompts,
    report_json,
    write_corpus,
)
from tests.support.prompt_files import as_json, as_parquet, as_tar, imported

LIBRARIES = Path(__file__).parent.parent.parent / "shared" / "prompt_libraries"
PROMPTS = ["a red frog", "ein grüner Frosch", "青い蛙, two of them", 'a "big" cat, black']
PATH = Path("somewhere.csv")


def quoted(prompt: str) -> str:
    return '"' + prompt.replace('"', '""') + '"'


def dropped(result: Imported) -> dict[str, list[str]]:
    """Places of what was dropped, by reason."""
    found = importing.total_dropped(result.tallies)
    return {reason: [place for place, _ in about.examples] for reason, about in found.items()}


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# --- formats -----------------------------------------------------------------------------------------------

OTHERS = ["x", "a frog that is not meant", "y", "z"]
FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "text": (".txt", lambda: "\n".join(["# title", "", *PROMPTS, " "]).encode()),
    "text of Windows": (".txt", lambda: "\r\n".join(PROMPTS).encode("utf-8-sig")),
    "JSON list": (".json", lambda: as_json(PROMPTS)),
    "JSON with a mark": (".json", lambda: b"\xef\xbb\xbf" + as_json(PROMPTS)),
    "JSON mappings": (".json", lambda: as_json([{"id": 1, "caption": p} for p in PROMPTS])),
    "JSON sections": (".json", lambda: as_json({"train": PROMPTS[:2] + PROMPTS[2:], "val": []})),
    "JSONL texts": (".jsonl", lambda: b"\n".join(map(as_json, PROMPTS))),
    "JSONL mappings": (".jsonl", lambda: b"\n\n".join(as_json({"text": p, "id": 2}) for p in PROMPTS)),
    "CSV": (".csv", lambda: "".join(f"7,{quoted(p)}\r\n" for p in ["prompt", *PROMPTS]).encode()),
    "TSV": (".tsv", lambda: "".join(f"{quoted(p)}\t7\n" for p in ["caption", *PROMPTS]).encode()),
    "Parquet": (".parquet", lambda: as_parquet({"id": OTHERS, "text": PROMPTS})),
    "tar": (
        ".tar",
        lambda: as_tar(
            [
                *((f"{i:03d}.txt", p.encode()) for i, p in enumerate(PROMPTS)),
                ("000.json", b"{}"),
                ("000.other.txt", b"a frog that is not meant"),
                ("._000.txt", b"a frog that is not meant"),
            ]
        ),
    ),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_prompts(name: str, packed: str, tmp_path: Path):
    suffix, make = FORMATS[name]
    result = imported(tmp_path, f"a{suffix}{packed}", make())
    assert (result.train, result.held_out, dropped(result)) == (PROMPTS, [], {})
    assert [(t.num_read, t.num_kept, t.num_distinct) for t in result.tallies if t.num_read] == [(4, 4, 4)]


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        (".json", lambda: as_json([{"prompt": "x", "caption": "y", "chosen": p} for p in PROMPTS])),
        (".jsonl", lambda: b"\n".join(as_json({"prompt": "x", "chosen": p}) for p in PROMPTS)),
        (".csv", lambda: "".join(f"x,{quoted(p)}\n" for p in ["chosen", *PROMPTS]).encode()),
        (".tsv", lambda: "".join(f"{quoted(p)}\tx\n" for p in ["chosen", *PROMPTS]).encode()),
        (".parquet", lambda: as_parquet({"prompt": OTHERS, "chosen": PROMPTS})),
    ],
)
def test_the_column_asked_for_is_read(suffix: str, make: Callable[[], bytes], tmp_path: Path):
    assert imported(tmp_path, f"a{suffix}", make(), column="chosen").train == PROMPTS


def test_a_numbered_column_reads_a_table_without_header(tmp_path: Path):
    table = "".join(f"id{i},{quoted(p)}\n" for i, p in enumerate(PROMPTS)).encode()
    assert imported(tmp_path, "a.csv", table, column="2").train == PROMPTS


def test_a_quoted_field_may_have_lines_and_names_all_of_them(tmp_path: Path):
    table = b'prompt\n"a frog\nwith a hat"\n"' + b"word " * 40 + b"\n" + b"word " * 40 + b'"\na cat\n'
    result = imported(tmp_path, "a.csv", table)
    assert result.train == ["a frog with a hat", "a cat"]
    assert dropped(result) == {"too many words": ["lines 4-5"]}


def test_mappings_may_lack_the_column_here_and_there(tmp_path: Path):
    lines = [{"id": 0}, {"id": 1, "name": "a frog"}, {"name": None}]
    result = imported(tmp_path, "a.jsonl", b"\n".join(map(as_json, lines)), column="name")
    assert result.train == ["a frog"] and dropped(result) == {"not a text": ["line 1", "line 3"]}


def test_parquet_without_pyarrow_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "first.txt").write_text("a frog")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match="a.parquet: .* is not installed; run `pip install pyarrow`"):
        import_prompts([tmp_path / "first.txt", tmp_path / "a.parquet"])


def test_parquet_names_damage_columns_and_what_is_no_text(tmp_path: Path):
    whole = as_parquet({"text": ["a frog", None, "a cat"], "n": [1, 2, 3]})
    result = imported(tmp_path, "a.parquet", whole)
    assert result.train == ["a frog", "a cat"] and dropped(result) == {"not a text": ["row 2"]}
    with pytest.raises(
        ValueError, match=r"--column: got 'x'; accepted is one of the columns there: 'text', 'n'"
    ):
        imported(tmp_path, "a.parquet", whole, column="x")
    with pytest.raises(ValueError, match="no prompts left of 3: 3 not a text"):
        imported(tmp_path, "a.parquet", whole, column="n")
    for damaged in (whole[:-30], whole[: len(whole) // 2], b"", b"PAR1" * 4):
        with pytest.raises(ValueError, match=r"a.parquet: cannot be read \("):
            imported(tmp_path, "a.parquet", damaged)


def test_parquet_text_that_is_not_utf8_is_dropped_alone(tmp_path: Path):
    as_parquet({"text": ["skips where pyarrow is missing"]})
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    offsets, data = pyarrow.array([0, 6, 8, 13], pyarrow.int32()), pyarrow.py_buffer(b"a frog\xff\xfea cat")
    texts = pyarrow.StringArray.from_buffers(3, offsets.buffers()[1], data)
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    result = import_prompts([tmp_path / "a.parquet"])
    assert result.train == ["a frog", "a cat"] and dropped(result) == {"not UTF-8": ["row 2"]}


# --- what is dropped ---------------------------------------------------------------------------------------

LONG_LINE = b"x" * 1_000_000
DROPS: list[tuple[str, str, bytes, dict[str, list[str]]]] = [
    ("text that is not UTF-8", "a.txt", b"a frog\n\xff\xfe\n", {"not UTF-8": ["line 2"]}),
    ("JSONL that is not UTF-8", "a.jsonl", b'"a frog"\n"a \xff"\n', {"not UTF-8": ["line 2"]}),
    ("a broken line that is neither", "a.jsonl", b'"a frog"\n"a \xff\n', {"not UTF-8": ["line 2"]}),
    ("CSV that is not UTF-8", "a.csv", b"text,id\na \xff,1\na frog,2\n", {"not UTF-8": ["line 2"]}),
    (
        "a tar's member that is not UTF-8",
        "a.tar",
        as_tar([("1.txt", b"\xff"), ("2.txt", b"a frog")]),
        {"not UTF-8": ["1.txt"]},
    ),
    ("half a surrogate pair", "a.json", b'["a \\ud800", "a frog"]', {"not UTF-8": ["entry 0"]}),
    ("a JSONL line cut off", "a.jsonl", b'"a frog"\n{"text": "a c', {"not valid JSON": ["line 2"]}),
    ("5,000 digits", "a.jsonl", b'"a frog"\n' + b"1" * 5000, {"not valid JSON": ["line 2"]}),
    ("brackets without end", "a.jsonl", b'"a frog"\n' + b"[" * 100_000, {"not valid JSON": ["line 2"]}),
    ("letters after a quotation mark", "a.csv", b'text\n"a" cat\na frog\n', {"not valid CSV": ["line 2"]}),
    ("a comma too many", "a.csv", b"id,text\n1,a cat, black\n2,a frog\n", {"not valid CSV": ["line 2"]}),
    ("a row too short", "a.tsv", b"id\ttext\n1\n2\ta frog\n", {"not valid CSV": ["line 2"]}),
    (
        "null, a number, a list, a mapping",
        "a.json",
        as_json({"train": [None, 7, ["a"], {"x": 1, "text": 2}, "a frog"]}),
        {"not a text": [f"train, entry {i}" for i in range(4)]},
    ),
    (
        "nothing to read",
        "a.json",
        as_json(["", " \n", "\u200b\ufeff", "...", "\u00ad", "a frog"]),
        {"empty": [f"entry {i}" for i in range(5)]},
    ),
    ("78 words", "a.txt", b"a frog\n" + b"frog " * 78, {"too many words": ["line 2"]}),
    ("1,001 characters", "a.txt", b"a frog\n" + b"x" * 1001, {"too many characters": ["line 2"]}),
    ("a megabyte in a line", "a.txt", b"a frog\n" + LONG_LINE, {"too many characters": ["line 2"]}),
    (
        "a megabyte of JSON",
        "a.json",
        as_json(["a frog", LONG_LINE.decode()]),
        {"too many characters": ["entry 1"]},
    ),
    ("a megabyte of JSONL", "a.jsonl", b'"a frog"\n"%s"' % LONG_LINE, {"too many characters": ["line 2"]}),
    ("a megabyte of CSV", "a.csv", b"text\na frog\n%s\n" % LONG_LINE, {"too many characters": ["line 3"]}),
    (
        "a megabyte in a tar",
        "a.tar",
        as_tar([("1.txt", LONG_LINE), ("2.txt", b"a frog")]),
        {"too many characters": ["1.txt"]},
    ),
    (
        "the same again",
        "a.txt",
        "a frog\nA  Frog!\na\u00a0frog\nＡ ｆｒｏｇ\n".encode(),
        {"repeated": ["line 2", "line 3", "line 4"]},
    ),
    (
        "trained on",
        "a.json",
        as_json({"val": ["a frog"], "train": ["A frog."], "test": ["a frog."]}),
        {"also in train": ["val, entry 0", "test, entry 0"]},
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "expected"), [row[1:] for row in DROPS], ids=[r[0] for r in DROPS]
)
def test_what_cannot_be_a_prompt_is_dropped_with_place_and_reason(
    name: str, content: bytes, expected: dict[str, list[str]], tmp_path: Path
):
    result = imported(tmp_path, name, content)
    assert [comparison_key(prompt) for prompt in result.train] == ["a frog"] and not result.held_out
    assert dropped(result) == expected
    assert all(t.num_read == t.num_kept + sum(d.count for d in t.dropped.values()) for t in result.tallies)
    assert len(report_json(result)) < 3000


def test_too_few_words_and_every_other_reason_has_a_row():
    named = {reason for row in DROPS for reason in row[3]}
    assert importing.judge("a frog", Limits(min_words=3)) == ("", "too few words")
    assert set(REASONS) - named == {"too few words", "other section"}


def test_lines_beyond_the_longest_are_counted_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_file, "MAX_LINE", 50)
    long = b"x" * 173
    for name, content in {
        "a.txt": b"a cat\n%s\na frog\n" % long,
        "a.jsonl": b'"a cat"\n"%s"\n"a frog"' % long,
        "a.tar": as_tar([("1.txt", b"a cat"), ("line 2.txt", long), ("3.txt", b"a frog")]),
    }.items():
        result = imported(tmp_path, name, content)
        assert result.train == ["a cat", "a frog"]
        assert [p.removesuffix(".txt") for p in dropped(result)["too many characters"]] == ["line 2"]
    for content in (b"text\n%s\na frog" % long, b'text\n"' + b"y\n" * 40):
        with pytest.raises(ValueError, match="a.csv: line 2"):
            imported(tmp_path, "a.csv", content)


def test_a_huge_line_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_file, "MAX_LINE", 2**16)
    with gzip.open(tmp_path / "a.txt.gz", "wb", compresslevel=1) as packed:
        for _ in range(40):
            packed.write(b"x" * 1_000_000)
        packed.write(b"\na frog\n")
    tracemalloc.start()
    try:
        assert import_prompts([tmp_path / "a.txt.gz"]).train == ["a frog"]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_examples_are_the_first_five_and_counts_are_of_all(tmp_path: Path):
    result = imported(tmp_path, "a.txt", b"a frog\n" + b"frog " * 100 + b"\n" + b"A frog\n" * 30)
    (tally,) = result.tallies
    assert tally.dropped["repeated"].count == 30
    assert [place for place, _ in tally.dropped["repeated"].examples] == [f"line {i}" for i in range(3, 8)]
    assert tally.dropped["too many words"].examples == [("line 2", "frog " * 16 + "...")]


def test_limits_are_inclusive_and_count_what_is_stored():
    limits = Limits(min_words=2, max_words=3, max_characters=8)
    for text, stored in {"a  b": "a b", " a b\tc ": "a b c", "abcd efg\n": "abcd efg"}.items():
        assert importing.judge(text, limits) == (stored, "")
    assert importing.judge("abcd efgh", limits)[1] == "too many characters"
    assert importing.judge("a b c d", limits)[1] == "too many words"
    assert importing.judge("abc", limits)[1] == "too few words"


# --- splits and leakage ------------------------------------------------------------------------------------


def test_other_sections_are_held_out_and_no_prompt_is_on_both_sides(tmp_path: Path):
    (tmp_path / "a.json").write_bytes(as_json({"test": ["a cat", "a dog", "A dog"], "train": ["a frog"]}))
    (tmp_path / "b.txt").write_text("a cat\na frog\n")
    result = import_prompts([tmp_path / "a.json", tmp_path / "b.txt"])
    assert (result.train, result.held_out) == (["a frog", "a cat"], ["a dog"])
    assert [(t.section, t.num_read, t.num_kept) for t in result.tallies] == [
        ("test", 3, 1),
        ("train", 1, 1),
        ("train", 2, 1),
    ]
    found = {(leak.first.section, Path(leak.second.file).name): leak.num_shared for leak in result.leakage}
    assert found == {("test", "a.json"): 0, ("test", "b.txt"): 1, ("train", "b.txt"): 1}
    assert dropped(result)["repeated"] == [
        f"{tmp_path / 'a.json'}, test, entry 2",
        f"{tmp_path / 'b.txt'}, line 2",
    ]


def test_holdout_pools_all_and_splits_anew_and_leakage_stays(tmp_path: Path):
    prompts = [f"frog number {i}" for i in range(200)]
    content = as_json({"train": prompts[:150], "test": prompts[100:]})
    result = imported(tmp_path, "a.json", content, holdout=0.1)
    assert (result.train, result.held_out) == split_prompts(prompts, 0.1) and len(result.held_out) > 5
    assert [leak.num_shared for leak in result.leakage] == [50]
    assert [t.num_kept for t in result.tallies] == [150, 50] and len(dropped(result)) == 1


def test_one_section_alone_is_trained_on_and_the_others_only_count_for_leakage(tmp_path: Path):
    content = as_json({"train": ["a frog", "a cat"], "val": ["a cat", "a dog"]})
    result = imported(tmp_path, "a.json", content, section="val")
    assert (result.train, result.held_out) == (["a cat", "a dog"], [])
    assert dropped(result) == {"other section": ["train, entry 0", "train, entry 1"]}
    assert [leak.num_shared for leak in result.leakage] == [1]


@pytest.mark.skipif(not LIBRARIES.is_dir(), reason="the shared prompt libraries are not here")
@pytest.mark.parametrize(
    ("name", "distinct", "shared", "sizes"),
    [
        # of train, val, test; shared by train and val, train and test, val and test; kept in train, held out
        ("magic3d_15", [15, 15, 15], [15, 15, 15], (15, 0)),
        ("dreamfusion_415", [415, 16, 415], [16, 415, 16], (415, 0)),
        ("att3d_2520", [2520, 56, 2520], [0, 2520, 0], (2520, 56)),
        ("instant3d_17000", [13495, 100, 100], [36, 36, 100], (13495, 64)),
    ],
)
def test_leakage_of_the_real_libraries_is_counted_exactly(
    name: str, distinct: list[int], shared: list[int], sizes: tuple[int, int]
):
    path = LIBRARIES / f"{name}_prompt_library.json"
    result = import_prompts([path], limits=Limits(max_words=200))
    assert [(t.section, t.num_distinct) for t in result.tallies] == list(
        zip(("train", "val", "test"), distinct, strict=True)
    )
    assert [leak.num_shared for leak in result.leakage] == shared
    assert (len(result.train), len(result.held_out)) == sizes
    sections = [
        {comparison_key(normalize_prompt(p)) for p in texts}
        for texts in json.loads(path.read_text()).values()
    ]
    assert [len(section) for section in sections] == distinct
    assert [len(sections[i] & sections[j]) for i, j in ((0, 1), (0, 2), (1, 2))] == shared


@pytest.mark.skipif(not LIBRARIES.is_dir(), reason="the shared prompt libraries are not here")
def test_letter_by_letter_one_less_of_instant3d_is_leaked():
    path = LIBRARIES / "instant3d_17000_prompt_library.json"
    data = json.loads(path.read_text())
    train, test = set(data["train"]), set(data["test"])
    assert (len(train), len(test & train)) == (13551, 35)
    keys = {comparison_key(prompt) for prompt in train}
    assert {prompt for prompt in test - train if comparison_key(prompt) in keys} == {
        "A woman with long flowing hair is practicing yoga on a beach at sunset"
    }  # in train with a comma more
    (tally, *_) = import_prompts([path]).tallies
    assert tally.num_kept == 13494 and tally.dropped["too many words"].count == 1


TEXT = st.text(max_size=12) | st.sampled_from(
    ["a frog", "A frog!", "Å", "A\u030a", "ﬁsh", "\ud800", "\u2028x", "ß"]
)
SECTIONS = st.dictionaries(st.sampled_from(["train", "val", "test"]), st.lists(TEXT | st.none()), min_size=1)


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=SECTIONS, holdout=st.none() | st.floats(0, 0.9))
@example(data={"val": ["a frog"], "train": ["A frog", "a cat"]}, holdout=None)
def test_importing_again_changes_nothing_and_no_key_is_in_both(
    tmp_path: Path, data: dict[str, list[str | None]], holdout: float | None
):
    (tmp_path / "a.json").write_text(json.dumps(data))
    try:
        result = import_prompts([tmp_path / "a.json"], holdout=holdout)
    except ValueError:
        return  # nothing to train on
    write_corpus(tmp_path / "b.json.gz", result.train, result.held_out)
    again = import_prompts([tmp_path / "b.json.gz"])
    assert (again.train, again.held_out, dropped(again)) == (result.train, result.held_out, {})
    write_corpus(tmp_path / "c.json.gz", again.train, again.held_out)
    assert (tmp_path / "b.json.gz").read_bytes() == (tmp_path / "c.json.gz").read_bytes()
    keys = [{comparison_key(prompt) for prompt in side} for side in (result.train, result.held_out)]
    assert not keys[0] & keys[1] and [len(side) for side in keys] == [len(result.train), len(result.held_out)]
    assert read_prompts(tmp_path / "b.json.gz") == result.train
    for tally in result.tallies:
        assert tally.num_read == tally.num_kept + sum(found.count for found in tally.dropped.values())
    assert sum(tally.num_kept for tally in result.tallies) == len(result.train) + len(result.held_out)


SOUP = st.text('ab",\n\r\t{}[]:#\\ \x00', max_size=40).map(str.encode)


@settings(
    max_examples=400,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.binary(max_size=60) | SOUP,
    suffix=st.sampled_from([".txt", ".json", ".jsonl", ".csv", ".tsv", ".tar"]),
)
def test_any_bytes_are_read_or_refused_by_name(tmp_path: Path, content: bytes, suffix: str):
    (tmp_path / f"a{suffix}").write_bytes(content)
    try:
        found = list(entries(tmp_path / f"a{suffix}", "1" if suffix in (".csv", ".tsv") else None))
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / f'a{suffix}'}: ")
    else:
        assert all(entry.reason in ("", *REASONS) for entry in found)


# --- bad input ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row: files of the folder, arguments beside `--out new.json`, and what the one line contains."""

    name: str
    arguments: list[str]
    message: str
    files: dict[str, bytes] = field(default_factory=dict)
    patch: Callable[[pytest.MonkeyPatch], object] | None = None
    has_out: bool = True


def bad(name: str, file: str, content: bytes, message: str, *arguments: str) -> Case:
    return Case(name, [file, *arguments], message, {file: content})


def flag(*arguments: str, message: str, has_out: bool = True) -> Case:
    files = {"a.txt": b"a frog\n", "old.json": b"old", "folder/b.txt": b"a cat\n"}
    return Case(" ".join(arguments)[:80], list(arguments), message, files, has_out=has_out)


TAR = as_tar([("1.txt", b"a frog"), ("2.txt", b"a cat" * 200), ("3.txt", b"a dog")])
LIMITED = b"\n...\nfrog frog\n\xff\nfrog\n"
CASES = [
    # flags
    flag(message="the following arguments are required: INPUT (--help lists all options)"),
    flag("a.txt", message="the following arguments are required: --out", has_out=False),
    flag("a.txt", "--hold-out", "0.1", message="unrecognized arguments: --hold-out 0.1"),
    flag("a.txt", "--holdout", "1", message="--holdout: got '1'; accepted are numbers from 0 up to, not inc"),
    flag("a.txt", "--holdout", "nan", message="--holdout: got 'nan'; accepted are numbers from 0"),
    flag("a.txt", "--holdout", "few", message="--holdout: got 'few'; accepted are numbers from 0"),
    flag(
        "a.txt", "--holdout", "0.9999", message="a.txt: --holdout 0.9999 holds out all 1 prompts; lower it."
    ),
    flag("a.txt", "--min-words", "0", message="--min-words: got '0'; accepted are whole numbers from 1 to 1"),
    flag("a.txt", "--max-words", "many", message="--max-words: got 'many'; accepted are whole numbers from"),
    flag(
        "a.txt",
        "--min-words",
        "99",
        message="--min-words: got 99; accepted are numbers up to --max-words, 77",
    ),
    flag(
        "a.txt",
        "--max-characters",
        "10001",
        message="got '10001'; accepted are whole numbers from 1 to 10000",
    ),
    flag(
        "a.txt",
        "--section",
        "val",
        message="a.txt: --section: got 'val'; accepted is a section that is there: 't",
    ),
    flag("a.txt", "a.txt", message="INPUT a.txt: given twice, also as INPUT; name another file."),
    flag("a.txt", "--report", "a.txt", message="--report a.txt: given twice, also as INPUT; name another"),
    flag("a.txt", "--report", "new.json", message="--report new.json: is --out as well; name another file."),
    flag("a.txt", "--report", "old.json", message="--report old.json: is there already; choose another name"),
    flag(
        "a.txt",
        "--out",
        "old.json",
        message="--out old.json: is there already; choose another name, or give --f",
    ),
    flag(
        "a.txt", "--out", "new.txt", message="--out: got new.txt; accepted are names that end in .json or .j"
    ),
    flag(
        "a.txt",
        "--out",
        "none/new.json",
        message="--out none/new.json: there is no folder none; make it first.",
    ),
    flag(
        "a.txt", "--out", "a.txt/new.json", message="--out a.txt/new.json: there is no folder a.txt; make it"
    ),
    flag("a.txt", "--report", "folder", message="--report folder: is a folder; name a file in it."),
    flag(
        "a.txt",
        "--out",
        f"{'x' * 300}.json",
        message="cannot be written (File name too long); choose a shorter name.",
    ),
    # files that cannot be read
    flag("none.txt", message="none.txt: cannot be read (No such file or directory); check its name"),
    flag(
        "a.txt", "none.json", message="none.json: cannot be read (No such file or directory); check its name"
    ),
    flag(f"{'x' * 300}.txt", message="cannot be read (File name too long); check its name"),
    flag("folder", message="folder: is a folder; name the files in it."),
    bad(
        "unknown format",
        "a.xml",
        b"<x/>",
        "a.xml: the format '.xml' is not known; accepted are .txt, .json, .jsonl",
    ),
    bad("no format", "prompts.gz", b"", "prompts.gz: the format '' is not known; accepted are .txt, .json"),
    Case(
        "unreadable",
        ["a.txt"],
        "a.txt: cannot be read (Permission denied); check its name",
        {"a.txt": b"a frog"},
        lambda patch: patch.setattr(Path, "open", refuse(PermissionError(13, "Permission denied"))),
    ),
    bad("not gzip", "a.txt.gz", b"a frog", "a.txt.gz: cannot be read (Not a gzipped file (b'a '))"),
    bad(
        "gzip cut off",
        "a.txt.gz",
        gzip.compress(b"a frog" * 99)[:-9],
        "cannot be read (Compressed file ended",
    ),
    bad(
        "gzip's checksum",
        "a.txt.gz",
        gzip.compress(b"a frog")[:-8] + b"12345678",
        "cannot be read (CRC check",
    ),
    bad("gzip damaged", "a.json.gz", gzip.compress(b"")[:10] + b"\xff" * 9, "cannot be read (Error -3 while"),
    bad("gzip without .gz", "a.jsonl", gzip.compress(b'"a frog"'), "not UTF-8 text, but UTF-16 or a binary"),
    bad(
        "UTF-16",
        "a.csv",
        "prompt\na frog\n".encode("utf-16"),
        "a.csv: not UTF-8 text, but UTF-16 or a binary",
    ),
    bad("UTF-16 without a mark", "a.txt", "a frog".encode("utf-16-le"), "save it as UTF-8, or rename it"),
    # JSON
    bad(
        "JSON that is not UTF-8",
        "a.json",
        b'["a \xff"]',
        "a.json: not UTF-8 text (byte 4); save it as UTF-8.",
    ),
    bad(
        "JSON cut off",
        "a.json",
        b'["a frog", "a',
        "a.json: not valid JSON (Unterminated string starting at: l",
    ),
    bad(
        "JSON, empty file",
        "a.json",
        b"",
        "a.json: not valid JSON (Expecting value: line 1 column 1 (char 0)); mend",
    ),
    bad("JSON, nested", "a.json", b"[" * 100_000, "a.json: not valid JSON (maximum recursion depth exceeded"),
    bad(
        "JSON, a text",
        "a.json",
        b'"a frog"',
        "it is 'a frog', not a list; accepted are a list of prompts, lis",
    ),
    bad(
        "JSON, a section",
        "a.json",
        b'{"train": ["a"], "v": 1}',
        "'v' of it is 1, not a list; accepted are a list",
    ),
    bad(
        "JSON key twice",
        "a.json",
        b'{"train": ["a"], "train": []}',
        "a.json: the key 'train' stands in it twice",
    ),
    bad(
        "JSONL key twice",
        "a.jsonl",
        b'"a"\n{"text": 1, "text": 2}',
        "a.jsonl: line 2: the key 'text' stands in it",
    ),
    bad(
        "JSON, no such section",
        "a.json",
        b'{"train": ["a"], "val": ["b"]}',
        "--section: got 'vla'; accepted is a section that is there: 'train', 'val'.",
        "--section=vla",
    ),
    bad(
        "JSON, only others",
        "a.json",
        b'{"val": ["a"], "test": ["b"]}',
        "with --section (test, val), or split them a",
    ),
    Case(
        "JSON, too much",
        ["a.json"],
        "a.json: more than 9 bytes of JSON; save it as JSONL (.jsonl).",
        {"a.json": b'["a frog"]'},
        lambda patch: patch.setattr(json_files, "MAX_JSON_BYTES", 9),
    ),
    # columns
    bad(
        "CSV, no column",
        "a.csv",
        b"id,name\n1,a frog\n",
        "which column holds the prompts; name one of 'id', 'name'",
    ),
    bad(
        "CSV, two columns",
        "a.csv",
        b"text,prompt\na,b\n",
        "which column holds the prompts; name one of 'text', 'p",
    ),
    bad(
        "CSV, missing column",
        "a.csv",
        b"id,name\n1,a\n",
        "--column: got 'x'; accepted is one of the columns there: 'id'",
        "--column=x",
    ),
    bad(
        "CSV, column 3", "a.csv", b"1,a\n", "--column: got 3; accepted are numbers from 1 to 2", "--column=3"
    ),
    bad(
        "CSV column twice",
        "a.csv",
        b"id,text,id\n1,a,2\n",
        "a.csv: the column 'id' stands in its header row twice",
    ),
    bad(
        "CSV, header",
        "a.csv",
        b'"id"x,text\n1,a\n',
        "a.csv: line 1: not valid CSV (',' expected after '\"'); mend",
    ),
    bad(
        "CSV, open quotation",
        "a.csv",
        b'text\na\n"b\nc\n',
        "a.csv: line 3: a quotation mark opens a field there and do",
    ),
    bad(
        "JSONL, no column",
        "a.jsonl",
        b'{"id": 1, "name": "a"}',
        "which column holds the prompts; name one of 'id',",
    ),
    bad(
        "JSONL, missing column",
        "a.jsonl",
        b'{"id": 1}',
        "--column: got 'x'; accepted is one of the",
        "--column=x",
    ),
    bad(
        "JSON, missing column",
        "a.json",
        b'[{"id": 1}]',
        "--column: got 'x'; accepted is one of the",
        "--column=x",
    ),
    # tar
    bad(
        "tar, empty file",
        "a.tar",
        b"",
        "a.tar: cannot be read (empty file); check its name, or copy it here again",
    ),
    bad(
        "tar, something else",
        "a.tar",
        b"a frog" * 200,
        "a.tar: cannot be read (invalid header); check its name",
    ),
    bad("tar, cut off in a member", "a.tar", TAR[:1700], "a.tar: cannot be read (unexpected end of data)"),
    bad(
        "tar, cut off in a header",
        "a.tar",
        TAR[:600] + TAR[600:1124],
        "a.tar: damaged or cut off at byte 1024",
    ),
    bad(
        "tar, cut off between",
        "a.tar",
        TAR[:1024],
        "a.tar: damaged or cut off at byte 1024; copy it here again",
    ),
    bad(
        "tar, damaged header",
        "a.tar",
        TAR[:1030] + b"?" + TAR[1031:],
        "a.tar: damaged or cut off at byte 1024",
    ),
    bad("tar.gz, cut off", "a.tar.gz", gzip.compress(TAR)[:90], "a.tar.gz: cannot be read (Compressed file"),
    bad("tar.gz, checksum", "a.tar.gz", gzip.compress(TAR)[:-8] + b"12345678", "cannot be read (CRC check"),
    bad(
        "tar, key twice",
        "a.tar",
        as_tar([("x/1.txt", b"a"), ("x/1.txt", b"b")]),
        "the key 'x/1' stands in it twice",
    ),
    # nothing left
    bad("empty text", "a.txt", b"", "a.txt: no prompts in it; give at least one."),
    bad("comments", "a.txt", b"# a frog\n\n", "a.txt: no prompts in it; give at least one."),
    bad("empty CSV", "a.csv", b"", "a.csv: no prompts in it; give at least one."),
    bad("header alone", "a.csv", b"prompt\n", "a.csv: no prompts in it; give at least one."),
    bad("empty list", "a.json", b"[]", "a.json: no prompts in it; give at least one."),
    bad("empty mapping", "a.json", b"{}", "a.json: no prompts in it; give at least one."),
    bad("empty tar", "a.tar", as_tar([]), "a.tar: no prompts in it; give at least one."),
    bad(
        "all dropped",
        "a.txt",
        LIMITED,
        "a.txt: no prompts left of 4: 1 not UTF-8 (first line 4: '\ufffd'), 1 empty (first line 2: '...'), "
        "2 too few words (first line 3: 'frog frog'); mend the file or widen the limits.",
        "--min-words=3",
    ),
    bad(
        "a megabyte alone",
        "a.txt",
        LONG_LINE,
        f"1 too many characters (first line 1: '{'x' * 80}...'); mend the file",
    ),
]


def refuse(error: BaseException) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name, content in case.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        if case.patch is not None:
            case.patch(patch)
        status = run(*(["--out", "new.json"] if case.has_out else []), *case.arguments)
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and printed.out == ""
    assert case.message in printed.err and len(printed.err) < 700
    assert status == 2 and tree(tmp_path) == before


def run(*arguments: object) -> int:
    try:
        return import_prompts_command.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's way
        return int(stop.code or 0)


# --- what is written ---------------------------------------------------------------------------------------


def test_the_tool_writes_corpus_report_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out, report = tmp_path / "a.json", tmp_path / "new.json.gz", tmp_path / "report.json"
    source.write_bytes(as_json({"train": ["a frog", "a  frog", "青い 蛙"], "test": ["A frog", "a dog"]}))
    assert run(source, "--out", out, "--report", report) == 0
    assert gzip.decompress(out.read_bytes()).decode() == (
        '{"train": [\n"a frog",\n"青い 蛙"\n],\n"held_out": [\n"a dog"\n]}\n'
    )
    assert read_prompts(out) == ["a frog", "青い 蛙"] and read_prompts(out, "held_out") == ["a dog"]
    data = json.loads(report.read_text(encoding="utf-8"))
    assert (data["num_train"], data["num_held_out"], data["num_read"]) == (2, 1, 5)
    assert data["sections"][0] == {
        "file": str(source),
        "section": "train",
        "num_read": 3,
        "num_kept": 2,
        "num_distinct": 2,
        "dropped": {"repeated": {"count": 1, "examples": [{"place": "train, entry 1", "text": "a frog"}]}},
    }
    assert list(data["dropped"]) == ["repeated", "also in train"]
    assert [leak["num_shared"] for leak in data["leakage"]] == [1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[1:] == ["train", "3", "2", "2", "1"]
    assert lines[2].split()[1:] == ["test", "2", "2", "1", "1"]
    assert "dropped, also in train: 1" in lines and "  test, entry 0: 'A frog'" in lines
    assert f"  train and test of {source}: 1" in lines
    assert lines[-1] == f"{out}: 2 training and 1 held-out prompts"


def test_a_table_of_many_files_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number in range(15):
        (tmp_path / f"{number}.txt").write_text(f"a frog\na frog number {number}\n")
    assert run(*sorted(tmp_path.glob("*.txt")), "--out", tmp_path / "new.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  ... 55 more in --report" in lines and len(lines) < 90
    assert f"  train of {tmp_path / '0.txt'} and train of {tmp_path / '1.txt'}: 1" in lines


def test_the_same_input_gives_the_same_bytes_under_any_name(tmp_path: Path):
    for name in ("a.json.gz", "b.json.gz"):
        write_corpus(tmp_path / name, PROMPTS, [])
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_an_existing_corpus_is_replaced_only_when_forced_and_may_be_the_input(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(as_json(["a frog", "A frog"]))
    assert run(path, "--out", path) == 2
    assert run(path, "--out", path, "--force") == 0
    assert json.loads(path.read_text()) == {"train": ["a frog"], "held_out": []}


@contextlib.contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """While it lasts the kernel refuses to write more than so many bytes of any file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.parametrize("name", ["new.json", "new.json.gz"])
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text("\n".join(f"frog number {i * 7919 % 1000}" for i in range(1000)))
    (tmp_path / name).write_bytes(b"old")
    before = tree(tmp_path)
    with largest_file(1000):
        status = run(tmp_path / "a.txt", "--out", tmp_path / name, "--force")
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and printed.err.count("\n") == 1
    assert (
        "cannot be written (File too large); the file system or `ulimit -f` allows no larger file; "
        "choose another place. What was there" in printed.err
    )
    assert tree(tmp_path) == before


def test_a_full_disk_at_the_report_says_that_the_corpus_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.txt").write_text("a frog")
    out, report = tmp_path / "new.json", tmp_path / "report.json"
    with largest_file(100):
        status = run(tmp_path / "a.txt", "--out", out, "--report", report)
    error = capsys.readouterr().err
    assert (
        status == 2 and f"--report {report}: cannot be written (" in error and "new.json is whole." in error
    )
    assert read_prompts(out) == ["a frog"] and {path.name for path in tmp_path.iterdir()} == {
        "a.txt",
        "new.json",
    }


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it for good."""


@pytest.mark.parametrize("moment", ["scaledreamer.files.os.replace", "scaledreamer.files.sync"])
def test_a_kill_before_the_last_step_leaves_the_old_file(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "new.json.gz"
    write_corpus(path, ["a frog"], ["a cat"])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(moment, refuse(Killed()))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed does not clean up
        write_corpus(path, ["a dog"], [])
    assert read_prompts(path) == ["a frog"] and len(list(tmp_path.iterdir())) == 2
    write_corpus(path, ["a dog"], [])
    assert read_prompts(path) == ["a dog"]
    left = [other.name for other in tmp_path.iterdir() if other != path]
    assert len(left) == 1 and left[0].startswith(TEMPORARY)  # the killed process' own, and no more


def test_an_interruption_while_writing_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "new.json"
    write_corpus(path, ["a frog"], [])
    before = tree(tmp_path)

    def interrupted() -> Iterator[str]:
        yield "a dog"
        raise KeyboardInterrupt

    class Prompts(list[str]):
        def __iter__(self) -> Iterator[str]:
            return interrupted()

    with pytest.raises(KeyboardInterrupt):
        write_corpus(path, Prompts(["a dog", "a cat"]), [])
    assert tree(tmp_path) == before


def test_what_is_imported_can_be_read_whatever_the_limits():
    assert importing.judge("x" * MAX_CHARACTERS, Limits(max_characters=MAX_CHARACTERS))[1] == ""
    assert importing.MAX_RAW >= MAX_CHARACTERS
