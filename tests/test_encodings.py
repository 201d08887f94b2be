"""Remembered text encodings: bounded, in order, the same whatever was asked before."""

from __future__ import annotations

import torch

from scaledreamer.contracts import GeneratorText
from scaledreamer.prompts.encodings import EncodingCache, join_conditions


class Encoder:
    """One number for each text; remembers its requests."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    def __call__(self, texts: list[str]) -> torch.Tensor:
        self.requests.append(texts)
        return torch.tensor([float(len(text)) for text in texts])


def test_known_texts_are_encoded_once_and_alone() -> None:
    encoder = Encoder()
    cache = EncodingCache(encoder, torch.cat, capacity=3)
    assert cache(["a", "bb", "a"]).tolist() == [1, 2, 1]
    assert cache(["bb", "ccc"]).tolist() == [2, 3]
    assert encoder.requests == [["a"], ["bb"], ["ccc"]]


def test_the_least_recently_used_is_forgotten() -> None:
    encoder = Encoder()
    cache = EncodingCache(encoder, torch.cat, capacity=2)
    for texts in (["a"], ["bb"], ["a"], ["ccc"], ["a"], ["bb"]):
        cache(texts)
        assert len(cache) <= 2
    assert encoder.requests == [["a"], ["bb"], ["ccc"], ["bb"]]


def test_more_texts_than_fit_are_encoded_all_the_same() -> None:
    cache = EncodingCache(Encoder(), torch.cat, capacity=1)
    assert cache(["a", "bb", "ccc"]).tolist() == [1, 2, 3]
    assert len(cache) == 1


def test_without_capacity_each_request_is_one_batch() -> None:
    encoder = Encoder()
    cache = EncodingCache(encoder, torch.cat, capacity=0)
    assert cache(["a", "bb", "a"]).tolist() == [1, 2, 1]
    assert cache(["a"]).tolist() == [1]
    assert encoder.requests == [["a", "bb", "a"], ["a"]]


def test_conditions_are_joined_part_by_part() -> None:
    one = GeneratorText(torch.ones(1, 2), torch.ones(1, 3, 2), torch.ones(1, 3, dtype=torch.bool))
    both = join_conditions([one, one])
    assert both.pooled.shape == (2, 2) and both.tokens.shape == (2, 3, 2) and both.mask.all()
