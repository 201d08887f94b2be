"""Prompt corpora: files read or refused by name, splits by stable hash, prompts of the tinyworld."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaledreamer.prompts.corpus import read_prompts, split_prompts, tinyworld_prompts
from scaledreamer.tinyworld import grammar

LIBRARIES = Path(__file__).parent.parent.parent / "shared" / "prompt_libraries"


def test_text_file_drops_comments_blank_lines_and_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# title\n\na  red\tfrog\nein grüner Frosch\r\na red frog\n", encoding="utf-8")
    assert read_prompts(path) == ["a red frog", "ein grüner Frosch"]


def test_json_list_and_sections(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["a", "b"]))
    assert read_prompts(path) == ["a", "b"]
    path.write_text(json.dumps({"train": ["a"], "val": ["c"]}))
    assert read_prompts(path) == ["a"]
    assert read_prompts(path, "val") == ["c"]


@pytest.mark.skipif(not LIBRARIES.is_dir(), reason="the shared prompt libraries are not here")
@pytest.mark.parametrize(
    ("name", "count"),
    [("magic3d_15", 15), ("dreamfusion_415", 415), ("att3d_2520", 2520), ("instant3d_17000", 13551)],
)
def test_real_libraries_are_read(name: str, count: int) -> None:
    assert len(read_prompts(LIBRARIES / f"{name}_prompt_library.json")) == count


def test_split_is_stable_and_of_the_given_size() -> None:
    prompts = [f"prompt {i}" for i in range(4000)]
    train, held_out = split_prompts(prompts, 0.1)
    assert 340 < len(held_out) < 460
    assert sorted(train + held_out) == sorted(prompts)
    assert set(split_prompts(prompts[:100], 0.1)[1]) == set(held_out) & set(prompts[:100])
    assert split_prompts(prompts, 0.0) == (prompts, [])


def test_tinyworld_prompts_mean_seen_meanings_only() -> None:
    prompts = tinyworld_prompts(size=600)
    meanings = [grammar.parse(prompt) for prompt in prompts]
    assert all(meaning is not None and grammar.split_of(meaning) == "seen" for meaning in meanings)
    kinds = {meaning.kind for meaning in meanings if meaning}
    assert kinds == set(grammar.KINDS)
    assert prompts == tinyworld_prompts(size=600)


def test_tinyworld_part_is_the_stated_part() -> None:
    prompts = tinyworld_prompts(kinds=["cat", "ball"], max_extras=1, limit=12)
    meanings = {grammar.parse(prompt) for prompt in prompts}
    assert len(meanings) == 12
    assert len(prompts) == 12 * 8
    assert {meaning.kind for meaning in meanings if meaning} == {"cat", "ball"}
    assert all(grammar.num_extras(meaning) <= 1 for meaning in meanings if meaning)
