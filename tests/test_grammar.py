"""The tinyworld's grammar: size, captions, splits and neighbours."""

import random
import subprocess
import sys

import pytest

from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.distractors import hard_distractors
from scaledreamer.tinyworld.grammar import KINDS, MISSION, Meaning


def test_world_is_as_large_as_promised():
    assert len(KINDS) >= 20 and len(grammar.COLORS) >= 10
    assert len(grammar.all_meanings()) >= 20_000
    assert len(set(grammar.all_meanings())) == len(grammar.all_meanings())
    assert sum(kind.has_front for kind in KINDS.values()) >= 8


def test_every_caption_means_what_it_says_and_nothing_else():
    said: dict[str, Meaning] = {}
    for meaning in random.Random(0).sample(grammar.all_meanings(), 1500):
        captions = grammar.captions(meaning)
        assert len(set(captions)) >= 2
        for text in captions:
            assert grammar.parse(text) == meaning, text
            assert said.setdefault(text, meaning) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "a red-eyed tree frog",
        "A tree frog with red eyes.",
        "red-eyed green tree frog",
        "a green tree frog with red eyes",
    ],
)
def test_mission_is_understood_and_held_out_by_name(text: str):
    assert grammar.parse(text) == MISSION
    assert grammar.split_of(MISSION) == "unseen"
    assert not grammar.is_unseen_pair("tree frog", "part_color", "red")


def test_caption_without_color_means_the_canonical_one():
    assert grammar.parse("a tree frog") == Meaning("tree frog", "green", KINDS["tree frog"].part_color)


@pytest.mark.parametrize(
    "text", ["", "a", "a dragon", "a red", "a cat on", "a cat with and", "a ball wearing a red hat"]
)
def test_what_the_grammar_does_not_say_is_not_parsed(text: str):
    assert grammar.parse(text) is None


def test_splits_have_their_sizes_and_do_not_overlap():
    sizes = {split: len(grammar.meanings_of(split)) for split in grammar.SPLITS}
    assert sum(sizes.values()) == len(grammar.all_meanings())
    without_pairs = sum(sizes.values()) - sizes["unseen_pairs"]
    assert sizes["validation"] / without_pairs == pytest.approx(0.05, abs=0.005)
    assert sizes["unseen"] / without_pairs == pytest.approx(0.10, abs=0.005)
    with pytest.raises(ValueError, match=r"split: got 'test'; accepted are seen, validation"):
        grammar.meanings_of("test")


def test_five_percent_of_pairs_never_occur_outside_their_split():
    pairs = {pair for meaning in grammar.all_meanings() for pair in grammar.attribute_pairs(meaning)}
    unseen = {pair for pair in pairs if grammar.is_unseen_pair(*pair)}
    assert 0.03 < len(unseen) / len(pairs) < 0.07
    for split in ("seen", "validation", "unseen"):
        met = {pair for meaning in grammar.meanings_of(split) for pair in grammar.attribute_pairs(meaning)}
        assert not met & unseen


def test_every_kind_is_in_training_with_its_canonical_color():
    assert {m.kind for m in grammar.meanings_of("seen") if m.color == KINDS[m.kind].color} == set(KINDS)


def test_splits_are_the_same_in_another_process():
    code = (
        "from scaledreamer.tinyworld import grammar as g; import hashlib;"
        "print(hashlib.sha256(''.join(g.split_of(m) for m in g.all_meanings()[::50]).encode()).hexdigest())"
    )
    out = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert out[0] == out[1]


@pytest.mark.parametrize("split", grammar.SPLITS)
def test_sample_meaning_stays_within_its_split_and_the_world(split: str):
    rng = random.Random(3)
    for _ in range(100):
        meaning = grammar.sample_meaning(rng, split)
        assert grammar.split_of(meaning) == split and grammar.is_valid(meaning)


def test_hard_distractors_differ_in_exactly_one_attribute():
    meaning = Meaning("cat", "red", "green", wear="hat", wear_color="blue")
    wrong = hard_distractors(meaning)
    assert {name for name, _ in wrong} == {"color", "part_color", "pattern", "wear", "wear_color", "support"}
    assert len(set(wrong)) == len(wrong) and meaning not in [other for _, other in wrong]
    for name, other in wrong:
        changed = {a for a in grammar.ATTRIBUTES if getattr(other, a) != getattr(meaning, a)}
        assert name in changed and changed <= {name, f"{name}_color"}
        assert grammar.caption(other) != grammar.caption(meaning)
