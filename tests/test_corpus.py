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


def test_tinyworld_extras_are_as_frequent_as_asked() -> None:
    extras = {"count": [1.0, 3.0, 6.0], "part": 2.0, "pattern": 0.0, "support": 1.0}
    prompts = tinyworld_prompts(kinds=["car"], max_extras=1, extras=extras, size=3000)
    meanings = [meaning for prompt in prompts if (meaning := grammar.parse(prompt))]
    assert not any(meaning.pattern for meaning in meanings)
    # Some colours are in no training meaning, and of ten for a part one is the usual one.
    supported = sum(meaning.support is not None for meaning in meanings) / len(prompts)
    assert supported == pytest.approx(3 / 4 / 3, abs=0.05)
    recolored = sum(meaning.part_color != "black" for meaning in meanings) / len(prompts)
    assert recolored == pytest.approx(3 / 4 * 2 / 3 * 9 / 10, abs=0.05)


def test_two_extras_of_a_prompt_differ() -> None:
    extras = {"count": [0.0, 0.0, 1.0], "part": 50.0, "pattern": 0.0}
    prompts = tinyworld_prompts(kinds=["car"], extras=extras, size=300)
    meanings = [meaning for prompt in prompts if (meaning := grammar.parse(prompt))]
    assert all(meaning.support is not None for meaning in meanings)


def test_a_kind_named_twice_is_drawn_twice_as_often() -> None:
    shares = []
    for kinds in (["car", "ball"], ["car", "ball", "car"]):
        prompts = tinyworld_prompts(kinds=kinds, size=4000)
        shares.append(sum("car" in prompt for prompt in prompts) / 4000)
    odds = [share / (1 - share) for share in shares]
    assert odds[1] / odds[0] == pytest.approx(2, rel=0.1)
