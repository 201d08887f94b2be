"""What an export says of its training's prompts, and what is asked of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from scaledreamer.exported import SHIPPED
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompts.corpus import tinyworld_prompts
from scaledreamer.prompts.shard_writer import build_shards
from scaledreamer.prompts.shards import LocalFiles, ShardedPrompts
from scaledreamer.prompts.source import PromptList
from scaledreamer.prompts.words import WordCount, words_of
from scaledreamer.tinyworld import grammar
from scaledreamer.trained_on import FILE, TrainedOn, World
from scaledreamer.vocabulary import Vocabulary
from tests.support.tiny_export import tiny_pipeline

PROMPTS = ["a red frog", "a Green cat wearing a hat", "a blue-eyed frog"]
FEW = TrainedOn("tinyworld", 3, PromptList(PROMPTS).words(), World(("frog", "cat"), 1))


def pipe_of(trained_on: TrainedOn | None, *, has_open_vocabulary: bool = False) -> TextTo3D:
    pipe = tiny_pipeline()
    pipe.trained_on = trained_on
    if has_open_vocabulary:
        pipe.conditioner.words = None
    return pipe


def test_words_are_those_of_the_prompts_and_of_a_large_corpus_the_frequent_ones() -> None:
    assert FEW.words == frozenset(["a", "red", "frog", "green", "cat", "wearing", "hat", "blue", "eyed"])
    count = WordCount()
    count.add([*PROMPTS, "frog frog frog frog hat"])
    assert count.most_frequent(2) == {"a", "frog"} and count.most_frequent(3) == {"a", "frog", "hat"}


def test_shards_carry_the_words_that_the_corpus_has_in_memory(tmp_path: Path) -> None:
    build_shards(PROMPTS, tmp_path, shard_size=2, corpus="x")
    assert ShardedPrompts(LocalFiles(tmp_path)).words() == FEW.words
    manifest = json.loads((tmp_path / "shards.json").read_text())
    del manifest["words"]  # as of shards that another tool has made
    (tmp_path / "shards.json").write_text(json.dumps(manifest))
    assert ShardedPrompts(LocalFiles(tmp_path)).words() is None


@pytest.mark.parametrize("record", [FEW, TrainedOn("x", 5, None), TrainedOn("x", 5, frozenset("é蛙"))])
def test_a_record_is_read_as_it_was_written(record: TrainedOn, tmp_path: Path) -> None:
    pipe_of(record).save_pretrained(tmp_path / "generator")
    loaded = TextTo3D.from_pretrained(tmp_path / "generator", device="cpu")
    assert loaded.trained_on == record
    (tmp_path / "generator" / FILE).write_text(record.dumps().replace("corpus", "name"))
    with pytest.raises(ValueError, match=f"{FILE} is damaged, or of another generator"):
        TextTo3D.from_pretrained(tmp_path / "generator", device="cpu")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"corpus": "x", "num_prompts": 1, "words": "abc"}', "[" * 9**5]
)
def test_a_damaged_record_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(
        ValueError, match=rf"\Acheckpoint .*: {FILE} is damaged .*; copy it or export[^\n]*\Z"
    ):
        TrainedOn.read(tmp_path)


def test_words_known_are_those_of_the_training_and_not_of_the_text_encoder() -> None:
    pipe = pipe_of(FEW)
    assert pipe.check("a red frog") == [] == pipe.check("the red frog")
    (note,) = pipe.check("a yellow frog")
    assert "does not know and may misread: 'yellow'" in note
    with pytest.raises(ValueError, match="'a yellow teapot': this generator knows no word of the prompt"):
        pipe.check("a yellow teapot")
    assert pipe_of(dataclasses.replace(FEW, words=None, world=None)).check("a yellow teapot") == []


def test_an_open_vocabulary_is_noted_but_never_refused() -> None:
    pipe = pipe_of(FEW, has_open_vocabulary=True)
    (note,) = pipe.check("a yellow teapot")
    assert note == "words that its training hardly had and may misread: 'yellow', 'teapot'"
    assert pipe_of(None, has_open_vocabulary=True).check("a yellow teapot") == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red frog", None),
        ("A blue-eyed green cat.", None),
        ("a frog wearing a red cat", "the tinyworld has no such caption"),
        ("frog cat", "the tinyworld has no such caption"),
        ("a red tree frog", "it had no tree frog"),
        ("a red-eyed cat wearing a blue hat", "no objects with more than 1 extras"),
    ],
)
def test_combinations_beyond_the_training_are_told_from_those_in_it(prompt: str, message: str | None) -> None:
    found = FEW.outside(prompt)
    assert found is None if message is None else found is not None and message in found
    assert TrainedOn("a file", 3, FEW.words).outside(prompt) is None


def test_a_combination_outside_of_the_shipped_generators_world_is_noted() -> None:
    record = TrainedOn.read(SHIPPED)
    assert record is not None and record.words == PromptList(tinyworld_prompts()).words()
    assert record.world == World(tuple(grammar.KINDS), grammar.MAX_EXTRAS)
    shipped = Vocabulary.read(SHIPPED)
    (note,) = shipped.check("a car wearing a red hat")
    assert note.startswith("beyond what this generator was trained on: the tinyworld has no such caption")
    for meaning in grammar.meanings_of("validation")[::97]:
        caption = grammar.captions(meaning)[-1]
        assert shipped.check(caption) == [], caption


def test_a_training_that_went_on_from_another_had_both_trainings_prompts() -> None:
    more = TrainedOn("tinyworld", 4, frozenset(["dog"]), World(("dog", "frog"), 2))
    both = more.after(FEW)
    assert both.num_prompts == 7 and both.words == FEW.words | {"dog"} and both.corpus == "tinyworld"  # type: ignore[operator]
    assert both.world == World(("frog", "cat", "dog"), 2)
    assert TrainedOn("file.txt", 4, frozenset()).after(FEW).world is None
    assert more.after(None).words is None and more.after(None).world is None


def test_words_are_told_apart_as_in_any_language() -> None:
    assert words_of("A red-eyed, DON'T_stop 蛙 🐸!") == ["a", "red", "eyed", "don't", "stop", "蛙", "🐸"]
