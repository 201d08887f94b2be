"""The shipped text encoder: tokens, vocabulary, and a linear probe that recovers every attribute."""

import os
import random
import subprocess
import sys

import pytest
import torch

from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.text import attribute_labels, build_tokenizer
from scaledreamer.weights.places import TINY_PRIOR


@pytest.fixture(scope="module")
def conditioner() -> TextConditioner:
    return TextConditioner.from_pretrained(TINY_PRIOR)


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in grammar.vocabulary())


def test_tokenizer_is_the_same_in_every_process():
    code = (
        "from scaledreamer.tinyworld.text import build_tokenizer as b; print(sorted(b().get_vocab().items()))"
    )
    run = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    ]
    assert "car</w>" in run[0] and run[0] == run[1]


def test_pooled_is_read_at_the_end_of_text(conditioner: TextConditioner):
    short, long = (
        conditioner(["a cat"]),
        conditioner(["a cat", "a striped red cat wearing a blue hat on a green box"]),
    )
    torch.testing.assert_close(short.pooled[0], long.pooled[0], atol=1e-5, rtol=1e-5)
    last = long.mask.sum(1) - 1
    assert long.mask.sum(1).tolist() == [4, 14]
    torch.testing.assert_close(long.pooled, long.tokens[torch.arange(2), last], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(long.pooled[0], long.pooled[1])


def test_long_prompts_are_cut_not_crashed(conditioner: TextConditioner):
    text = "a red cat " * 500
    assert conditioner.num_tokens(text) > conditioner.max_tokens
    assert conditioner([text]).mask.all()


def test_unknown_words_are_named_once_in_order(conditioner: TextConditioner):
    assert conditioner.unknown_words("A red-eyed Dragon, on the MOON: dragon!") == ["dragon", "moon"]
    assert conditioner.unknown_words("a red-eyed tree frog") == []


def test_saved_conditioner_is_the_same(conditioner: TextConditioner, tmp_path):
    conditioner.save_pretrained(tmp_path)
    again = TextConditioner.from_pretrained(tmp_path)
    torch.testing.assert_close(again(["a frog"]).pooled, conditioner(["a frog"]).pooled)
    assert again.words == conditioner.words


def test_missing_folder_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"conditioner .*: text_encoder/ and tokenizer/ cannot be loaded"):
        TextConditioner.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give at least one prompt"):
        TextConditioner.from_pretrained(TINY_PRIOR)([])


def test_a_linear_probe_recovers_every_attribute_of_held_out_captions(conditioner: TextConditioner):
    """At least 98 % on meanings that no probe has seen, by least squares: no network between text and
    attribute."""
    rng = random.Random(0)

    def encode(split: str, count: int):
        meanings = [grammar.sample_meaning(rng, split) for _ in range(count)]
        texts = [rng.choice(grammar.captions(meaning)) for meaning in meanings]
        pooled = torch.cat([conditioner(texts[i : i + 256]).pooled for i in range(0, count, 256)]).double()
        return torch.cat([pooled, torch.ones(count, 1, dtype=torch.double)], 1), attribute_labels(meanings)

    x, labels = encode("seen", 3000)
    x_held_out, labels_held_out = encode("unseen", 500)
    for name, label in labels.items():
        target = torch.nn.functional.one_hot(label).double()
        weights = torch.linalg.lstsq(x, target).solution
        predicted = (x_held_out @ weights).argmax(1)
        accuracy = (predicted == labels_held_out[name]).double().mean().item()
        assert accuracy >= 0.98, f"{name}: {accuracy:.3f}"
