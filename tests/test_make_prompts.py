"""The prompt corpora of data/prompts: as they are made, split without overlap, and like real captions."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.config import load_config
from scaledreamer.prompt_text import check_prompt
from scaledreamer.prompts import assembly
from scaledreamer.prompts.corpus import comparison_key, split_prompts
from tools.corpora import daily, lexicon, make_prompts, open_vocabulary

ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "data" / "prompts"
LIBRARIES = ROOT.parent / "shared" / "prompt_libraries"
CORPORA = ("core_15", "showcase_400", "compose_2500", "daily_17k", "open_100k")


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, list[str]]]:
    return {name: make_prompts.read_sections(name) for name in CORPORA}


@pytest.fixture(scope="module")
def open_counts(stored: Any) -> dict[str, Any]:
    return make_prompts.count(stored["open_100k"])


def everything(sections: dict[str, list[str]]) -> list[str]:
    return [prompt for prompts in sections.values() for prompt in prompts]


# --- what is stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("core_15", 15),
        ("showcase_400", 400),
        ("compose_2500", 2500),
        ("daily_17k", 17_000),
        ("open_100k", 100_000),
    ],
)
def test_corpus_has_its_size_without_repetitions(stored: Any, name: str, size: int) -> None:
    sections = stored[name]
    keys = [comparison_key(prompt) for prompt in everything(sections)]
    assert len(sections["train"]) + len(sections["held_out"]) >= size
    assert len(sections["held_out"]) >= 1
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("name", "holdout"), [("core_15", 0.2), ("showcase_400", 0.1), ("compose_2500", 0.1), ("daily_17k", 0.02)]
)
def test_split_is_that_of_split_prompts(stored: Any, name: str, holdout: float) -> None:
    train, held_out = stored[name]["train"], stored[name]["held_out"]
    assert split_prompts(train, holdout) == (train, [])
    assert split_prompts(held_out, holdout) == ([], held_out)


def test_every_stored_prompt_is_a_clean_prompt(stored: Any) -> None:
    for prompt in itertools.chain.from_iterable(everything(sections) for sections in stored.values()):
        check_prompt(prompt)
        assert prompt == " ".join(prompt.split())
        assert not set(prompt) & set("<>[]|~;_"), prompt


def test_articles_fit_the_words_that_follow(stored: Any) -> None:
    wrong = Counter()
    for prompt in itertools.chain.from_iterable(everything(sections) for sections in stored.values()):
        words = prompt.lower().split()
        for article, word in itertools.pairwise(words):
            is_vowel = word[0] in "aeiou" and not word.startswith(
                ("unicorn", "unicycle", "uniform", "university", "used", "utility", "one-", "ewe")
            )
            if article in ("a", "an") and (article == "an") != is_vowel:
                wrong[f"{article} {word}"] += 1
    spoken = {"an hourglass", "an suv", "a ufo", "a ukulele", "a urinal", "an x-ray"}
    assert set(wrong) <= spoken, wrong


def test_corpora_take_less_than_4_mb() -> None:
    assert sum(path.stat().st_size for path in PROMPTS.iterdir()) < 4_000_000
    assert sum(path.stat().st_size for path in (ROOT / "data" / "lexicon").iterdir()) < 400_000
    assert {path.name for path in PROMPTS.iterdir()} == {"README.md", *map(make_prompts.file_name, CORPORA)}


def test_readme_states_the_hash_of_each_file() -> None:
    text = (PROMPTS / "README.md").read_text(encoding="utf-8")
    for name in CORPORA:
        assert hashlib.sha256((PROMPTS / make_prompts.file_name(name)).read_bytes()).hexdigest() in text, name


def test_readme_states_how_many_prompts_each_file_has(stored: Any) -> None:
    text = (PROMPTS / "README.md").read_text(encoding="utf-8")
    for name, sections in stored.items():
        counts = " | ".join(f"{len(sections[part]):,}" for part in ("train", "held_out"))
        assert f"| `{make_prompts.file_name(name)}` | {counts} | " in text, name


def test_fifteen_prompts_of_core_15_are_trained_on(stored: Any) -> None:
    assert len(stored["core_15"]["train"]) == 15
    assert len(assembly.make_prompts(load_config("mg15").prompts)) == 15


@pytest.mark.skipif(not LIBRARIES.is_dir(), reason="the shared prompt libraries are not here")
def test_no_prompt_is_one_of_the_real_libraries(stored: Any) -> None:
    real = set()
    for path in LIBRARIES.glob("*.json"):
        real |= {comparison_key(prompt) for prompt in everything(make_prompts.read_sections(str(path)))}
    assert len(real) > 16_000
    for name, sections in stored.items():
        assert not real & {comparison_key(prompt) for prompt in everything(sections)}, name


def test_red_eyed_tree_frog_is_there(stored: Any) -> None:
    assert "a red-eyed tree frog" in everything(stored["core_15"]) + everything(stored["showcase_400"])


# --- made again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["core_15", "showcase_400", "compose_2500"])
def test_small_corpora_are_made_byte_for_byte(name: str) -> None:
    data = make_prompts.encoded(name, make_prompts.MAKERS[name]())
    assert data == (PROMPTS / make_prompts.file_name(name)).read_bytes()


def test_daily_is_made_as_it_is_stored(stored: Any) -> None:
    assert make_prompts.make_daily() == stored["daily_17k"]


def test_first_captions_of_open_are_stored(stored: Any) -> None:
    captions = [c.text for c in itertools.islice(open_vocabulary.captions(), 3000)]
    keys = {comparison_key(prompt) for prompt in everything(stored["open_100k"])}
    assert all(comparison_key(text) in keys for text in captions)


def test_captions_do_not_depend_on_hash_randomisation() -> None:
    program = (
        "import itertools; from tools.corpora import daily, open_vocabulary; "
        "daily.DAILY_SIZE = 300; print(daily.daily_prompts()); "
        "print([c.text for c in itertools.islice(open_vocabulary.captions(), 300)])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 20_000


def test_compressed_files_have_no_time_and_no_name() -> None:
    data = make_prompts.encoded("daily_17k", {"train": ["a"], "held_out": []})
    assert data[3] & 0b1000 == 0  # no file name
    assert data[4:8] == bytes(4)  # no time
    assert json.loads(gzip.decompress(data)) == {"train": ["a"], "held_out": []}


# --- open_100k reads like captions -------------------------------------------------------------------------


def test_open_has_many_openings_and_few_repeated_5_grams(open_counts: dict[str, Any]) -> None:
    assert open_counts["openings"] >= 2000
    assert open_counts["five_grams_over_50"] < 0.05 * open_counts["five_grams"]
    assert open_counts["five_gram_types_over_50"] < 0.05 * open_counts["five_gram_types"]


def test_open_lengths_are_spread_like_real_captions(open_counts: dict[str, Any]) -> None:
    words = open_counts["words"]
    assert words["min"] >= 3 and words["max"] <= 30
    assert 4 <= words["p5"] <= 6 and 7 <= words["p25"] <= 9
    assert 10 <= words["median"] <= 12 and 13 <= words["p75"] <= 15 and 17 <= words["p95"] <= 20


def test_open_has_4000_subjects_found_in_the_text_alone(stored: Any) -> None:
    found = make_prompts.subjects_in(everything(stored["open_100k"]))
    assert len(found) >= 4000
    assert found <= {noun.word for noun in lexicon.nouns()}


def test_grammar_draws_each_noun_and_common_ones_more_often() -> None:
    rng = random.Random("nouns")
    grammar = open_vocabulary
    nouns = grammar.nouns()
    assert len({noun.word.lower() for noun in nouns}) == len(nouns) >= 4000
    for noun in rng.sample(nouns, 400):  # the noun that the grammar reports stands in its caption
        text = grammar.caption(noun, rng, 12).lower()
        assert noun.word.lower() in text or grammar.plural(noun.word).lower() in text
    drawn = Counter(c.noun.is_common for c in itertools.islice(grammar.captions(), 2000))
    share = sum(noun.is_common for noun in nouns) / len(nouns)
    assert drawn[True] / 2000 > 1.5 * share


def test_every_category_of_the_lexicon_has_word_lists() -> None:
    lists = lexicon.lists()
    assert {noun.category for noun in lexicon.nouns()} <= set(lists)
    rng = random.Random(0)
    for category, entries in lists.items():
        for name in ("adj", "part", "pose", "mat", "hue", "clothes"):
            for template in entries.get(name, []):
                text = open_vocabulary.expand(template, rng, entries)
                assert text and not set(text) & set("<>[]|~"), (category, template)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("fox", "foxes"),
        ("field mouse", "field mice"),
        ("bowl of soup", "bowls of soup"),
        ("cherry", "cherries"),
        ("goldfish", "goldfish"),
        ("fisherman", "fishermen"),
        ("bookshelf", "bookshelves"),
    ],
)
def test_plural(noun: str, expected: str) -> None:
    assert lexicon.plural(noun) == expected


# --- daily_17k and compose_2500 ----------------------------------------------------------------------------


def test_daily_lengths_are_those_of_sentences_about_people(stored: Any) -> None:
    words = make_prompts.count(stored["daily_17k"])["words"]
    assert (
        7 <= words["min"] <= 8
        and 13 <= words["median"] <= 16
        and 18 <= words["p95"] <= 21
        and words["max"] <= 24
    )


def test_held_out_pairs_of_compose_never_occur_elsewhere(stored: Any) -> None:
    pairs = [
        (animal, other)
        for animal in daily.ANIMALS
        for other in (*daily.ACTIVITIES, *daily.OUTFITS)
        if daily.is_held_out_pair(animal, other)
    ]
    sections = stored["compose_2500"]
    assert len(pairs) >= 5
    for animal, other in pairs:
        for prompt in sections["train"] + sections["held_out"]:
            assert not (f" {animal} " in prompt and other in prompt), prompt
        assert any(f" {animal} " in prompt and other in prompt for prompt in sections["held_out_pairs"])
    for word in (*daily.ANIMALS, *daily.ACTIVITIES, *daily.OUTFITS, *daily.MATERIALS):  # but each part occurs
        assert any(word in prompt for prompt in sections["train"]), word


# --- counting and the command line -------------------------------------------------------------------------


def test_counts_agree_with_a_count_by_hand() -> None:
    sections = {
        "train": ["A red frog.", "a  red frog", "one two three four five six", "a blue cat"],
        "held_out": ["a blue cat!", "a dog"],
    }
    counts = make_prompts.count(sections)
    assert (counts["train"], counts["held_out"]) == (4, 2)
    assert counts["duplicates"] == 1 and counts["overlap"] == 1
    assert counts["five_grams"] == 2 and counts["five_gram_types"] == 2 and counts["five_grams_over_50"] == 0
    assert counts["openings"] == 4  # a red frog, one two three, a blue cat, a dog
    assert counts["words"]["min"] == 2 and counts["words"]["max"] == 6
    repeated = make_prompts.count({"train": ["a b c d e"] * 51 + ["a b c d f"] * 50, "held_out": []})
    assert (repeated["five_grams"], repeated["five_grams_over_50"]) == (101, 51)
    assert (repeated["five_gram_types"], repeated["five_gram_types_over_50"]) == (2, 1)


def test_stats_prints_one_json_object_of_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_prompts.main(["stats", "compose_2500", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["held_out_pairs"] > 0 and counts["overlap"] == 0 and counts["duplicates"] == 0
    flat = [v for value in counts.values() for v in (value.values() if isinstance(value, dict) else [value])]
    assert all(isinstance(value, int) for value in flat)


def test_stats_of_the_tinyworld_counts_its_deliberate_repetitions() -> None:
    command = [sys.executable, "-m", "tools.corpora.make_prompts", "stats", "tinyworld", "--json"]
    counts = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert counts["train"] == 20_000
    assert counts["duplicates"] > 0 and counts["held_out"] > 1000 and counts["overlap"] == 0


def test_files_of_other_libraries_are_read(tmp_path: Path) -> None:
    path = tmp_path / "library.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": ["a"]}))
    assert make_prompts.read_sections(str(path)) == {"train": ["a", "b"], "held_out": ["c", "a"]}
    text = tmp_path / "prompts.txt"
    text.write_text("# title\n\na red frog\n")
    assert make_prompts.read_sections(str(text)) == {"train": ["a red frog"], "held_out": []}


def test_sample_prints_as_many_lines_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_prompts.main(["sample", "showcase_400", "--count", "7", "--seed", "1"]) == 0
    first = capsys.readouterr().out
    assert len(first.splitlines()) == 7
    make_prompts.main(["sample", "showcase_400", "--count", "7", "--seed", "1"])
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["stats", "open_200k"], "open_200k: no such corpus; give one of core_15, "),
        (["stats", "nowhere.json"], "nowhere.json: no such file"),
        (["make", "tinyworld"], "tinyworld: no corpus to make; accepted are core_15, "),
        (["sample", "core_15", "--count", "0"], "--count: got 0; accepted are"),
    ],
)
def test_wrong_names_end_with_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert make_prompts.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == "" and captured.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"\x1f\x8b broken", b'{"train": 3}', b"[1]", b"{", b"\xff\xfe"])
def test_broken_files_end_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / ("a.json.gz" if content.startswith(b"\x1f") else "a.json")
    path.write_bytes(content)
    assert make_prompts.main(["stats", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1


def test_check_names_a_corpus_that_differs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(make_prompts, "MAKERS", {"core_15": make_prompts.make_core})
    monkeypatch.setattr(make_prompts, "FOLDER", tmp_path)
    assert make_prompts.main(["make", "core_15", "--out", str(tmp_path)]) == 0
    assert make_prompts.main(["check"]) == 0
    (tmp_path / "core_15.json").write_text('{"train": []}')
    capsys.readouterr()
    assert make_prompts.main(["check"]) == 1
    assert "core_15.json: differs" in capsys.readouterr().out
