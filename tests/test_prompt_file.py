"""Files of prompts mean the same to training, inference and tools; all of their bad entries are named."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scaledreamer.cli.infer_options import make_parser
from scaledreamer.cli.infer_prompts import read_prompts
from scaledreamer.cli.make_shards import load_corpus
from scaledreamer.config import PromptSettings
from scaledreamer.prompts.assembly import make_prompts
from scaledreamer.prompts.importing import import_prompts
from scaledreamer.prompts.prompt_file import (
    MAX_NAMED,
    check_no_problem,
    iter_prompt_file,
    problems_message,
    prompts_of_text,
)
from scaledreamer.vocabulary import Vocabulary

FOUR = ["a red frog on a box", "a blue house with a hat", "a green mug with a handle", "a yellow cube"]
TEXT = "a red frog\x85 on a box\na blue house\u2028with a hat\na green mug\x0bwith a handle\na yellow cube\n"


def of_import(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return import_prompts([path]).train


def of_training(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return make_prompts(PromptSettings(file=str(path)))


def of_inference(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return read_by_infer("--prompts-file", str(path))


def of_standard_input(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    return read_by_infer("--stdin")


def read_by_infer(*flags: str) -> list[str]:
    takes_any_word = Vocabulary(None, None)
    return read_prompts(make_parser().parse_args(list(flags)), takes_any_word)[0]


def of_shards(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return list(load_corpus(str(path), "train", keep_order=False))


def of_ordered_shards(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return list(load_corpus(str(path), "train", keep_order=True))


FILES: dict[str, tuple[str, bytes]] = {
    "separators within lines": ("a.txt", TEXT.encode()),
    "Windows, with a mark": ("a.txt", b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()),
    "lone carriage returns": ("a.txt", TEXT.replace("\n", "\r").encode()),
    "comments and blanks": ("a.txt", f"# title\n\n \t\n\u3000\n{TEXT}  # the end\n\ufeff\n\ufeff#x".encode()),
    "repetitions": ("a.txt", (TEXT + TEXT).encode()),
    "other white space": ("a.txt", TEXT.replace(" ", "\u00a0\t").encode()),
    "compressed": ("a.txt.gz", gzip.compress(TEXT.encode())),
    "two gzip members": ("a.TXT.GZ", gzip.compress(TEXT[:40].encode()) + gzip.compress(TEXT[40:].encode())),
    "JSON list": ("a.json", json.dumps(TEXT.strip().split("\n")).encode()),
    "JSON corpus, a line each": (
        "a.json",
        ('{"train": [\n' + ",\n".join(map(json.dumps, FOUR)) + '\n],\n"held_out": [\n]}\n').encode(),
    ),
    "JSON corpus, compressed": ("a.json.gz", gzip.compress(json.dumps({"train": FOUR, "val": []}).encode())),
}


READERS = [of_import, of_training, of_inference, of_shards, of_ordered_shards]
PLAIN_TEXT = [name for name, (file, _) in FILES.items() if file.endswith(".txt")]


@pytest.mark.parametrize(
    ("read", "name"),
    [*((read, name) for read in READERS for name in FILES), *((of_standard_input, n) for n in PLAIN_TEXT)],
)
def test_every_reader_finds_the_same_four_prompts(
    read: Callable[[Path, pytest.MonkeyPatch], list[str]],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, content = FILES[name]
    (tmp_path / file).write_bytes(content)
    found = read(tmp_path / file, monkeypatch)
    assert (sorted(found) if read is of_shards else found) == (sorted(FOUR) if read is of_shards else FOUR)


def test_places_count_all_lines_from_one_and_entries_from_zero(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"# title\n\na\x0b frog\r\n \ra cat")
    assert list(iter_prompt_file(tmp_path / "a.txt")) == [("line 3", "a frog", ""), ("line 5", "a cat", "")]
    (tmp_path / "a.json").write_text('{"val": ["a frog", "# 1 cat"]}')
    assert list(iter_prompt_file(tmp_path / "a.json", "val")) == [
        ("entry 0", "a frog", ""),
        ("entry 1", "# 1 cat", ""),
    ]
    assert prompts_of_text(b"\na frog", "--stdin") == [("line 2", "a frog", "")]


BAD = b"a frog\n\xff\n" + b"x" * 10_001 + b"\na \xfe cat\na dog\n"
SAID = (
    "3 entries cannot be prompts. line 2, line 4: not UTF-8 text; save it as UTF-8. line 3: the prompt has "
    "10001 characters; accepted are at most 10000: shorten it."
)


def test_all_bad_lines_are_named_at_once_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BAD)
    placed = list(iter_prompt_file(tmp_path / "a.txt", source="--prompts-file a.txt"))
    assert [entry[:2] for entry in placed if not entry.problem] == [("line 1", "a frog"), ("line 5", "a dog")]
    with pytest.raises(ValueError) as raised:
        check_no_problem("--prompts-file a.txt", placed)
    assert str(raised.value) == f"--prompts-file a.txt: {SAID}"
    for read in (of_training, of_inference):
        with pytest.raises(ValueError) as raised:
            read(tmp_path / "a.txt", pytest.MonkeyPatch())
        assert SAID in str(raised.value)


def test_a_message_of_many_problems_stays_short() -> None:
    same = [(f"line {i}", "not UTF-8") for i in range(1000)]
    assert problems_message("a.txt", same).endswith("line 19 and 980 more: not UTF-8.")
    different = [(f"line {i}", f"reason {i}") for i in range(1000)]
    message = problems_message("a.txt", different)
    assert f"reason {MAX_NAMED - 1}. 980 more." in message and "reason 20" not in message


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet", "a.tar", "a.tgz", "a.tar.gz"])
def test_formats_that_are_only_imported_say_so(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"a frog")
    with pytest.raises(ValueError, match=r"files are not read directly; make a corpus of it with"):
        read_by_infer("--prompts-file", str(tmp_path / name))


@pytest.mark.parametrize(
    "content", ["a frog".encode("utf-16"), "a frog".encode("utf-16-le"), gzip.compress(b"a")]
)
def test_binary_content_is_refused_as_a_whole(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8 text, but UTF-16 or a binary file"):
        list(iter_prompt_file(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="--stdin: not UTF-8 text, but UTF-16"):
        prompts_of_text(content, "--stdin")
