"""Shapes that other people's prompt files have: each gives all of its prompts, or one line says why not."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scaledreamer.prompts.foreign import entries
from scaledreamer.prompts.foreign.json_files import MAX_SECTIONS
from scaledreamer.prompts.importing import import_prompts, report_json, total_dropped, total_joined
from tests.support.prompt_files import as_json, as_parquet, as_tar, imported

CAPTIONS = ["a red frog", "a blue house, old", "a green mug; chipped"]


def places(result) -> list[str]:  # noqa: ANN001
    return [place for place, _ in total_joined(result.tallies).examples]


# --- JSON ---------------------------------------------------------------------------------------------------

COCO = {
    "info": {"year": 2017, "description": "not a prompt"},
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(40)],
    "licenses": [],
    "annotations": [{"image_id": 7, "id": i, "caption": text} for i, text in enumerate(CAPTIONS)],
}
JSON_SHAPES: dict[str, object] = {
    "COCO captions": COCO,
    "captions by id": {f"a1b2{i}": text for i, text in enumerate(CAPTIONS)},
    "mappings by id": {f"a1b2{i}": {"caption": text, "score": 1} for i, text in enumerate(CAPTIONS)},
    "mappings with lists by id": {"a1": {"captions": CAPTIONS[:2]}, "a2": {"captions": CAPTIONS[2:]}},
    "mappings with lists": [{"captions": CAPTIONS[:1]}, {"captions": CAPTIONS[1:]}],
    "a column in capitals": [{"Prompt": text, "Category": "x"} for text in CAPTIONS],
}


@pytest.mark.parametrize("name", JSON_SHAPES)
def test_json_shapes_give_all_captions_for_training(name: str, tmp_path: Path) -> None:
    result = imported(tmp_path, "a.json", as_json(JSON_SHAPES[name]))
    assert (result.train, result.held_out, total_dropped(result.tallies)) == (CAPTIONS, [], {})


def test_places_in_json_name_the_entry(tmp_path: Path) -> None:
    def found(data: object) -> list[str]:
        (tmp_path / "a.json").write_bytes(as_json(data))
        return [entry.place for entry in entries(tmp_path / "a.json")]

    assert found(COCO) == ["annotations, entry 0", "annotations, entry 1", "annotations, entry 2"]
    assert found({"x y": "a frog", "z": None}) == ["id 'x y'", "id 'z'"]
    assert found([{"captions": ["a", "b"]}, {"captions": []}]) == [
        "entry 0, text 1",
        "entry 0, text 2",
        "entry 1",
    ]


def test_an_id_without_caption_is_counted(tmp_path: Path) -> None:
    result = imported(tmp_path, "a.json", as_json({"1": "a frog", "2": None, "3": ""}))
    assert result.train == ["a frog"]
    assert {r: n.examples[0][0] for r, n in total_dropped(result.tallies).items()} == {
        "not a text": "id '2'",
        "empty": "id '3'",
    }


def test_many_lists_by_name_are_lists_by_id_and_few_are_sections(tmp_path: Path) -> None:
    data = {f"id{i}": [f"frog {i}", f"frog {i} again"] for i in range(MAX_SECTIONS + 1)}
    result = imported(tmp_path, "a.json", as_json(data))
    assert len(result.train) == 2 * len(data) and len(result.tallies) == 1
    result = imported(tmp_path, "a.json", as_json({**data, "train": ["a cat"]}))
    assert result.train == ["a cat"] and len(result.held_out) == 2 * len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"caption": "a frog", "id": "7"}, "with its key 'caption' it may be the mapping of one prompt, or"),
        (
            {"1": "a frog", "2": ["a cat"]},
            "'1' of it is 'a frog', not a list; accepted are a list of prompts,",
        ),
        ({"annotations": [{"bbox": [1], "area": 2}]}, "name one of 'bbox', 'area' with --column"),
        ({"1": {"name": "a frog"}}, "name one of 'name' with --column"),
    ],
)
def test_json_of_unclear_shape_is_one_line(data: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"a.json: .*{message}"):
        imported(tmp_path, "a.json", as_json(data))


# --- tables -------------------------------------------------------------------------------------------------


def test_tsv_has_no_quoting_but_a_pair_around_a_field(tmp_path: Path) -> None:
    rows = ["a red frog", '"an old chair', "a plain table", 'a door marked go"', 'a "big" cat', '"a ""b"" c"']
    table = "caption\tkind\n" + "".join(f"{row}\t{i}\n" for i, row in enumerate(rows))
    result = imported(tmp_path, "a.tsv", table.encode())
    assert result.train == [*rows[:5], 'a "b" c']
    assert not total_dropped(result.tallies) and not places(result)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tsv_and_text_end_lines_alike(end: str, tmp_path: Path) -> None:
    table = end.join(["caption\tkind", "a red\u2028frog\t1", "", "a cat\x0b\t2"])
    assert imported(tmp_path, "a.tsv", table.encode()).train == ["a red frog", "a cat"]


def test_fields_that_run_over_lines_are_named_whatever_their_column(tmp_path: Path) -> None:
    table = b'id,caption,note\n1,"a frog\nwith a hat",x\n2,a cat,"old\n3,a dog,new\n4,a cow,"\n5,a bee,x\n'
    result = imported(tmp_path, "a.csv", table)
    assert result.train == ["a frog with a hat", "a cat", "a bee"]  # 3 and 4 are in the note of 2
    assert places(result) == ["lines 2-3", "lines 4-6"]
    assert json.loads(report_json(result))["joined"] == {
        "count": 2,
        "examples": [
            {"place": "lines 2-3", "text": "a frog with a hat"},
            {"place": "lines 4-6", "text": "a cat"},
        ],
    }


@pytest.mark.parametrize(
    ("name", "make", "place"),
    [
        ("a.json", lambda: as_json(["a frog\na cat", "a dog\n"]), "entry 0"),
        ("a.jsonl", lambda: b'"a dog"\n{"text": "a frog\\r\\na cat"}', "line 2"),
        ("a.tar", lambda: as_tar([("1.txt", b"a frog\na cat\n"), ("2.txt", b"a dog\n")]), "1.txt"),
        ("a.parquet", lambda: as_parquet({"text": ["a dog", "a frog\na cat"]}), "row 2"),
    ],
)
def test_prompts_of_several_lines_are_named_in_every_format(
    name: str, make: Callable[[], bytes], place: str, tmp_path: Path
) -> None:
    result = imported(tmp_path, name, make())
    assert sorted(result.train) == ["a dog", "a frog a cat"] and places(result) == [place]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv_of_any_delimiter_with_and_without_header(delimiter: str, header: bool, tmp_path: Path) -> None:
    def field(text: str) -> str:
        return f'"{text}"' if delimiter in text else text

    rows = [["id", "caption"]] * header + [[f"a{i}", field(text)] for i, text in enumerate(CAPTIONS)]
    table = "\r\n".join(map(delimiter.join, rows)).encode("utf-8-sig")
    assert imported(tmp_path, "a.csv", table, column=None if header else "2").train == CAPTIONS
    if not header:
        with pytest.raises(
            ValueError,
            match=r"name one of 'a0', 'a red frog' with --column, or give its number \(1 to 2\) if the first",
        ):
            imported(tmp_path, "a.csv", table)
        with pytest.raises(ValueError, match=r"got 'caption'; accepted is .*, or give its number \(1 to 2\)"):
            imported(tmp_path, "a.csv", table, column="caption")


def test_a_numbered_column_skips_a_header_that_is_one(tmp_path: Path) -> None:
    assert imported(tmp_path, "a.csv", b"id,Caption\n1,a frog\n", column="2").train == ["a frog"]
    assert imported(tmp_path, "a.tsv", b"1\ta cat\n2\ta frog\n", column="2").train == ["a cat", "a frog"]


def test_one_column_of_prompts_with_commas_is_no_semicolon_table(tmp_path: Path) -> None:
    table = b'prompt\n"a frog; red, old"\na cat; blue\na dog; green\n'
    assert imported(tmp_path, "a.csv", table).train == ["a frog; red, old", "a cat; blue", "a dog; green"]
    table = b"a frog; red\na cat\na dog\n"
    assert imported(tmp_path, "a.csv", table, column="1").train == ["a frog; red", "a cat", "a dog"]


def test_a_delimiter_is_told_from_the_beginning_of_a_large_file(tmp_path: Path) -> None:
    rows = "".join(f'{i};"frog, number\n{i}"\n' for i in range(4000))
    result = imported(tmp_path, "a.csv", f"id;text\n{rows}".encode())
    assert len(result.train) == 4000 and result.train[-1] == "frog, number 3999"


def test_lists_of_captions_in_parquet_give_one_prompt_each(tmp_path: Path) -> None:
    lists = [["a frog", "a red frog"], [], None, ["a cat", None]]
    result = imported(tmp_path, "a.parquet", as_parquet({"id": [1, 2, 3, 4], "captions": lists}))
    assert result.train == ["a frog", "a red frog", "a cat"]
    assert {r: [p for p, _ in n.examples] for r, n in total_dropped(result.tallies).items()} == {
        "empty": ["row 2"],
        "not a text": ["row 3", "row 4, text 2"],
    }


# --- tars ---------------------------------------------------------------------------------------------------

FIRST = as_tar([("0.txt", b"a red frog"), ("1.txt", b"a cat")])
SECOND = as_tar([("0.txt", b"a dog"), ("2.txt", b"a cow")])
ALL_FOUR = ["a red frog", "a cat", "a dog", "a cow"]


def one_mark(tar: bytes) -> bytes:
    """A tar that ends with its end mark alone, without the zeros that fill up a record."""
    return tar[: len(tar.rstrip(b"\0")) // 512 * 512 + 512 + 1024]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar", FIRST + SECOND),
        ("a.tar", one_mark(FIRST) + one_mark(SECOND)),
        ("a.tar", FIRST + b"\0" * 5000 + SECOND + b"\0" * 100),
        ("a.tar", as_tar([]) + FIRST + SECOND),
        ("a.tar.gz", gzip.compress(FIRST + SECOND)),
        ("a.tar.gz", gzip.compress(FIRST) + gzip.compress(SECOND)),
        ("a.tgz", gzip.compress(FIRST) + gzip.compress(SECOND)),
        ("a.TGZ", gzip.compress(FIRST[:700]) + gzip.compress(FIRST[700:] + SECOND)),
    ],
)
def test_tars_one_after_the_other_give_all_prompts(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    result = import_prompts([tmp_path / name])
    assert result.train == ALL_FOUR and not total_dropped(result.tallies)
    assert [entry.place for entry in entries(tmp_path / name)][2:] in (
        ["0.txt of tar 2", "2.txt of tar 2"],
        ["0.txt of tar 3", "2.txt of tar 3"],
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tar",
            FIRST + b"hello world",
            "a.tar: byte 10,240: b'hello wo', which begins no tar, follows the",
        ),
        ("a.tar", FIRST + b"\0" * 512 + b"x" * 600, "a.tar: byte 10,752: b'xxxxxxxx', which begins no tar"),
        ("a.tar", FIRST + SECOND[:700], r"a.tar: cannot be read \(unexpected end of data\)"),
        (
            "a.tar",
            FIRST + gzip.compress(SECOND),
            "a.tar: byte 10,240: .*, which begins no tar, follows the end",
        ),
        (
            "a.tgz",
            gzip.compress(FIRST + b"hello"),
            "a.tgz: byte 10,240: b'hello', which begins no tar, follows",
        ),
        (
            "a.tgz",
            gzip.compress(FIRST) + b"hello",
            r"a.tgz: cannot be read \(b'he', which is no gzip data, follows byte 10,240 of what is",
        ),
        (
            "a.txt.gz",
            gzip.compress(b"a frog\n") + b"a cat\n",
            r"a.txt.gz: cannot be read \(b'a ', which is no gzip data, follows byte 7 of what is unpacked\)",
        ),
    ],
)
def test_what_follows_an_end_mark_and_is_no_tar_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_prompts([tmp_path / name])


def test_a_tar_whose_texts_have_other_names_says_what_was_looked_for(tmp_path: Path) -> None:
    content = as_tar([("0.jpg", b"\xff"), ("0.caption", b"a frog"), ("1.jpg", b""), ("1.caption", b"a cat")])
    with pytest.raises(
        ValueError,
        match=r"a.tar: no member KEY\.txt in it, which is looked for; there are KEY\.jpg, KEY\.caption: name",
    ):
        imported(tmp_path, "a.tar", content)
    for column in ("caption", ".caption"):
        assert imported(tmp_path, "a.tar", content, column=column).train == ["a frog", "a cat"]
    with pytest.raises(ValueError, match=r"no member KEY\.txt in it.*KEY\.\b0\b"):
        imported(tmp_path, "a.tar", as_tar([(f"0.{i}", b"") for i in range(500)]))


def test_a_large_packed_tar_of_tars_is_unpacked_a_few_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = [0]
    rewind = gzip._GzipReader._rewind  # pyright: ignore[reportAttributeAccessIssue]

    def count(self: object) -> None:
        number[0] += 1
        rewind(self)

    monkeypatch.setattr(gzip._GzipReader, "_rewind", count)  # pyright: ignore[reportAttributeAccessIssue]
    tars = [as_tar([(f"{i}.txt", f"frog {i}".encode())]) for i in range(40)]
    assert len(imported(tmp_path, "a.tar.gz", b"".join(tars)).train) == 40
    assert number[0] <= 8


def test_a_member_that_is_no_file_is_no_prompt(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        about = tarfile.TarInfo("folder.txt")
        about.type = tarfile.DIRTYPE
        tar.addfile(about)
    with pytest.raises(ValueError, match="a.tar: no prompts in it"):
        imported(tmp_path, "a.tar", packed.getvalue())
